//! Frames out: fills a record, control frames first, then by reading ports straight into it.

use crate::frame::{Frame, MAX_CONTROL, MAX_HEAD, data_head};
use crate::limits::IDLE_CREDIT_MS;
use crate::streams::Streams;
use crate::table::{Phase, Ready, StreamState};
use crate::{Instant, MAX_DATAGRAM, MAX_SERVICE, MIN_RECORD, Mode, Ports, Read, ResetReason, Slot, StreamId};

/// A read of fewer bytes than this is not worth a frame at the end of a record.
const MIN_PAYLOAD: usize = 64;

/// What a record is filled under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) now: Instant,
    /// Of the link, in microseconds; 0 while it is not known.
    pub(crate) round_trip: u32,
    /// Bytes that a stream may send in its turn.
    pub(crate) quantum: u32,
    /// Whether busy streams may be read, not only sparse ones.
    pub(crate) bulk: bool,
}

/// A record being filled.
pub(crate) struct Room<'r> {
    bytes: &'r mut [u8],
    used: usize,
}

impl<'r> Room<'r> {
    pub(crate) fn new(bytes: &'r mut [u8]) -> Self {
        Self { bytes, used: 0 }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.used
    }

    fn rest(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    /// Writes a frame without payload; the caller made sure that it fits.
    fn write(&mut self, frame: Frame<'_>) {
        let written = frame.encode(self.rest());
        debug_assert!(written.is_some(), "no room for {frame:?}");
        self.used += written.unwrap_or(0);
    }
}

impl<B, S> Streams<B, S>
where
    B: AsRef<[u8]> + AsMut<[u8]>,
    S: AsRef<[StreamState]> + AsMut<[StreamState]>,
{
    /// Something that should not wait behind bulk: control frames, a sparse stream.
    pub(crate) fn has_urgent(&self) -> bool {
        self.has_control() || self.schedule.has_sparse()
    }

    pub(crate) fn has_control(&self) -> bool {
        self.schedule.has_control() || !self.refused.is_empty() || self.shutdown.is_unsaid()
    }

    /// Whether a stream waits that was not just found to have little to say.
    pub(crate) fn has_more(&self) -> bool {
        let next = self.schedule.peek().and_then(|slot| self.table.get(slot));
        let has_more = |state: &StreamState| {
            state.sending.visited != self.visit || (state.ready == Ready::Busy && state.mode == Mode::Datagram)
        };
        self.has_control() || next.is_some_and(has_more)
    }

    /// Whether a port may have something to read.
    pub(crate) fn has_ready(&self) -> bool {
        self.schedule.has_ready()
    }

    /// The next port to read gives datagrams, which need the room of a whole record.
    pub(crate) fn next_is_datagram(&self) -> bool {
        let next = self.schedule.peek().and_then(|slot| self.table.get(slot));
        next.is_some_and(|state| state.mode == Mode::Datagram)
    }

    /// Fills `room`.
    pub(crate) fn fill(&mut self, turn: Turn, room: &mut Room<'_>, ports: &mut impl Ports) {
        self.visit = self.visit.wrapping_add(1);
        self.fill_control(turn, room, ports);
        while room.left() >= MAX_HEAD && (turn.bulk || self.schedule.has_sparse()) {
            let Some(slot) = self.schedule.peek() else { return };
            let Some(state) = self.table.get(slot) else { return };
            let tried = state.sending.visited == self.visit;
            let no_room = match state.mode {
                Mode::Datagram => room.left() < MIN_RECORD,
                Mode::Stream => room.left() < data_head(state.id) + MIN_PAYLOAD,
            };
            if tried || no_room {
                return;
            }
            self.fill_from_next(turn, room, ports);
            if self.schedule.has_control() {
                // A port that ended or failed has a word to add.
                self.fill_control(turn, room, ports);
            }
        }
    }

    fn fill_control(&mut self, turn: Turn, room: &mut Room<'_>, ports: &mut impl Ports) {
        if room.left() >= MAX_CONTROL
            && let Some(drain_ms) = self.shutdown.announcement()
        {
            room.write(Frame::GoAway { drain_ms });
        }
        while room.left() >= MAX_CONTROL
            && let Some((first, last)) = self.refused.front_mut()
        {
            room.write(Frame::Reset { stream: StreamId(*first), reason: ResetReason::BUSY });
            if first == last {
                self.refused.pop_front();
            } else {
                *first += 2;
            }
        }
        while let Some(slot) = self.schedule.next_control(&mut self.table) {
            if room.left() < MAX_HEAD {
                self.schedule.put_back_control(&mut self.table, slot);
                return;
            }
            self.control_of(turn, slot, room, ports);
        }
    }

    /// Writes the control frames of one stream: at most `Open`, or `Credit`, `Return` and `Fin`, or `Reset`.
    fn control_of(&mut self, turn: Turn, slot: Slot, room: &mut Room<'_>, ports: &mut impl Ports) {
        let Some(state) = self.table.get_mut(slot) else { return };
        match state.phase {
            Phase::Free => {}
            Phase::Opening if !(1..=MAX_SERVICE).contains(&ports.service(slot).len()) => {
                self.reset(slot, ResetReason::NOT_ALLOWED, ports);
            }
            Phase::Opening => {
                let stream = StreamId(self.next_stream);
                self.next_stream += 2;
                (state.phase, state.sending.credit) = (Phase::Open, self.peer.credit);
                room.write(Frame::Open { stream, mode: state.mode, service: ports.service(slot) });
                self.table.index(slot, stream);
                self.enlist(slot);
            }
            Phase::Open => {
                let stream = state.id;
                let control = core::mem::take(&mut state.control);
                if control.credit {
                    let bytes = self.budget.grant(turn.now, turn.round_trip, &mut state.receiving);
                    if bytes > 0 {
                        room.write(Frame::Credit { stream, bytes });
                    }
                }
                if control.give_back {
                    let bytes = state.sending.credit.saturating_sub(self.peer.credit);
                    if bytes > 0 {
                        state.sending.credit -= bytes;
                        room.write(Frame::Return { stream, bytes });
                    }
                }
                if control.fin {
                    room.write(Frame::Fin { stream });
                    self.end_if_over(slot, ports);
                }
            }
            Phase::Resetting => {
                room.write(Frame::Reset { stream: state.id, reason: state.reset });
                self.free(slot);
            }
        }
    }

    /// Gives the next stream its turn.
    fn fill_from_next(&mut self, turn: Turn, room: &mut Room<'_>, ports: &mut impl Ports) {
        let Some((slot, was)) = self.schedule.next(&mut self.table, turn.quantum) else { return };
        let alone = !self.schedule.has_ready();
        let visit = self.visit;
        let Some(state) = self.table.get_mut(slot) else { return };
        let (stream, mode, head) = (state.id, state.mode, data_head(state.id));
        let sending = &mut state.sending;
        let most = match mode {
            Mode::Datagram => MAX_DATAGRAM,
            // With nobody else waiting there is nothing to share, and one read fills the record.
            Mode::Stream if alone => usize::try_from(sending.credit).unwrap_or(usize::MAX),
            Mode::Stream => usize::try_from(sending.credit.min(sending.quantum_left)).unwrap_or(usize::MAX),
        };
        let asked = most.min(room.left() - head);
        let read = match room.rest().get_mut(head..head + asked) {
            Some(buffer) => ports.read(slot, buffer),
            None => Read::Pending,
        };
        let count = match read {
            Read::Data(count) => count.min(asked),
            Read::Pending => {
                (sending.readable, sending.backlogged) = (false, false);
                return;
            }
            Read::End => {
                (sending.readable, sending.ended) = (false, true);
                state.control.fin = true;
                self.schedule.add_control(&mut self.table, slot);
                return;
            }
            Read::Failed(reason) => {
                self.reset(slot, reason, ports);
                return;
            }
        };
        let length = u16::try_from(count).unwrap_or(u16::MAX);
        room.write(match mode {
            Mode::Stream => Frame::Data { stream, length },
            Mode::Datagram => Frame::Datagram { stream, length },
        });
        room.used += count;
        self.counters.bytes_sent += u64::from(length);
        sending.sent_at = turn.now.stamp();
        sending.quantum_left = sending.quantum_left.saturating_sub(u32::from(length));
        if mode == Mode::Stream {
            sending.credit -= u32::from(length);
            if sending.credit == 0 {
                sending.backlogged = true;
                self.counters.credit_stalls += 1;
                return;
            }
        }
        if count < asked || mode == Mode::Datagram {
            // Little to say, it seems; whether that is all is asked once the record is on its way.
            sending.visited = visit;
        }
        if self.schedule.is_spent(sending) {
            self.schedule.add(&mut self.table, slot, Ready::Busy);
        } else if sending.visited == visit && !(was == Ready::Busy && mode == Mode::Datagram) {
            self.schedule.add(&mut self.table, slot, was);
        } else {
            // Nor is a turn over with the one datagram that finds room in a record.
            self.schedule.put_back(&mut self.table, slot, was);
        }
    }

    /// Makes streams that said nothing for [`IDLE_CREDIT_MS`] give back what they were granted beyond the start.
    pub(crate) fn give_idle_credit_back(&mut self, now: Instant) {
        self.idle_check = None;
        for slot in self.table.used() {
            let Some(state) = self.table.get_mut(slot).filter(|state| state.phase == Phase::Open) else { continue };
            if state.sending.credit <= self.peer.credit || state.sending.ended {
                continue;
            }
            if u64::from(now.micros_since_stamp(state.sending.sent_at)) >= IDLE_CREDIT_MS * 1_000 {
                state.control.give_back = true;
                self.schedule.add_control(&mut self.table, slot);
            } else {
                self.idle_check = Some(now.after_millis(IDLE_CREDIT_MS));
            }
        }
    }
}
