//! Frames in: payload straight to the ports, the rest into the receive pool.

use crate::frame::Frame;
use crate::limits::IDLE_CREDIT_MS;
use crate::streams::Streams;
use crate::table::{Phase, StreamState};
use crate::{End, Instant, MAX_SERVICE, Mode, Ports, ResetReason, Slot, StreamId, Violation, Write};

/// Credit that a stream may have in all; more is nonsense.
const MAX_CREDIT: u32 = u32::MAX / 2;

impl<B, S> Streams<B, S>
where
    B: AsRef<[u8]> + AsMut<[u8]>,
    S: AsRef<[StreamState]> + AsMut<[StreamState]>,
{
    /// Takes one frame of a record.
    pub(crate) fn handle_frame(
        &mut self,
        now: Instant,
        frame: Frame<'_>,
        payload: &[u8],
        ports: &mut impl Ports,
    ) -> Result<(), Violation> {
        match frame {
            Frame::Hello => Err(Violation::Misplaced("hello")),
            Frame::Ack { .. } => Err(Violation::Misplaced("ack")),
            Frame::Solicit { .. } => Err(Violation::Misplaced("solicit")),
            Frame::Open { stream, mode, service } => self.on_open(now, stream, mode, service, ports),
            Frame::Data { stream, .. } => self.on_data(stream, payload, ports),
            Frame::Datagram { stream, .. } => self.on_datagram(stream, payload, ports),
            Frame::Credit { stream, bytes } => self.on_credit(now, stream, bytes),
            Frame::Return { stream, bytes } => self.on_return(stream, bytes),
            Frame::Fin { stream } => self.on_fin(stream, ports),
            Frame::Reset { stream, reason } => self.on_reset(stream, reason, ports),
            Frame::GoAway { .. } => {
                self.shutdown.there = true;
                Ok(())
            }
        }
    }

    /// The port at `slot` can take bytes again: gives it what waits for it in the pool.
    pub(crate) fn handle_writable(&mut self, slot: Slot, ports: &mut impl Ports) {
        loop {
            let Some(state) = self.table.get_mut(slot).filter(|state| state.is_live()) else { return };
            if state.receiving.queue.len() == 0 {
                break;
            }
            let (offered, written) = {
                let pieces = self.pool.front(&state.receiving.queue);
                (pieces.iter().map(|piece| piece.len()).sum::<usize>(), ports.write(slot, &pieces))
            };
            match written {
                Write::Failed(reason) => return self.reset(slot, reason, ports),
                Write::Taken(count) => {
                    let pool = &mut self.pool;
                    self.budget.hold(&mut state.receiving, |receiving| pool.consume(&mut receiving.queue, count));
                    self.note_room(slot);
                    if count < offered {
                        return;
                    }
                }
            }
        }
        self.finish_if_drained(slot, ports);
    }

    fn on_open(
        &mut self,
        now: Instant,
        id: StreamId,
        mode: Mode,
        service: &str,
        ports: &mut impl Ports,
    ) -> Result<(), Violation> {
        let theirs = self.side.peer().first_stream() % 2;
        if id.0 == 0 || id.0 % 2 != theirs || id.0 <= self.peer_stream {
            return Err(Violation::BadStreamId(id));
        }
        if service.is_empty() || service.len() > MAX_SERVICE {
            return Err(Violation::BadService);
        }
        self.peer_stream = id.0;
        let Some(slot) = self.table.claim() else {
            return self.refuse_busy(id);
        };
        self.table.index(slot, id);
        if let Some(state) = self.table.get_mut(slot) {
            (state.phase, state.mode) = (Phase::Open, mode);
            state.sending.credit = self.peer.credit;
            state.sending.sent_at = now.stamp();
        }
        if self.shutdown.is_here() {
            self.refuse(slot, ResetReason::GOING_AWAY);
            return Ok(());
        }
        self.grant_floor(now, slot);
        match ports.accept(slot, service, mode) {
            Ok(()) => self.counters.streams_opened += 1,
            Err(reason) => self.refuse(slot, reason),
        }
        Ok(())
    }

    /// The slot of a stream that is there. Streams that ended may still be spoken of for a round trip.
    fn known(&self, id: StreamId) -> Result<Option<Slot>, Violation> {
        if let Some(slot) = self.table.find(id) {
            return Ok(self.table.get(slot).is_some_and(StreamState::is_live).then_some(slot));
        }
        let ours = id.0 % 2 == self.side.first_stream() % 2;
        let ever = if ours { id.0 < self.next_stream } else { id.0 <= self.peer_stream };
        if id.0 == 0 || !ever { Err(Violation::UnknownStream(id)) } else { Ok(None) }
    }

    fn on_data(&mut self, id: StreamId, payload: &[u8], ports: &mut impl Ports) -> Result<(), Violation> {
        let Some(slot) = self.known(id)? else { return Ok(()) };
        let Some(state) = self.table.get_mut(slot) else { return Ok(()) };
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if state.mode != Mode::Stream {
            return Err(Violation::WrongMode(id));
        }
        if state.receiving.ended {
            return Err(Violation::AfterFin(id));
        }
        if bytes > state.receiving.window {
            return Err(Violation::CreditExceeded(id, bytes - state.receiving.window));
        }
        self.counters.bytes_received += u64::from(bytes);
        let waiting = state.receiving.queue.len() > 0;
        let taken = if waiting || payload.is_empty() {
            0
        } else {
            match ports.write(slot, &[payload]) {
                Write::Taken(count) => count.min(payload.len()),
                Write::Failed(reason) => {
                    self.reset(slot, reason, ports);
                    return Ok(());
                }
            }
        };
        let rest = payload.get(taken..).unwrap_or_default();
        let pool = &mut self.pool;
        self.budget.hold(&mut state.receiving, |receiving| {
            receiving.window -= bytes;
            let stored = pool.store(&mut receiving.queue, rest);
            debug_assert_eq!(stored, rest.len(), "the pool backs all credit");
        });
        if taken > 0 {
            self.note_room(slot);
        }
        Ok(())
    }

    fn on_datagram(&mut self, id: StreamId, payload: &[u8], ports: &mut impl Ports) -> Result<(), Violation> {
        let Some(slot) = self.known(id)? else { return Ok(()) };
        let Some(state) = self.table.get(slot) else { return Ok(()) };
        if state.mode != Mode::Datagram {
            return Err(Violation::WrongMode(id));
        }
        if state.receiving.ended {
            return Err(Violation::AfterFin(id));
        }
        self.counters.bytes_received += payload.len() as u64;
        if let Write::Failed(reason) = ports.write(slot, &[payload]) {
            self.reset(slot, reason, ports);
        }
        Ok(())
    }

    fn on_credit(&mut self, now: Instant, id: StreamId, bytes: u32) -> Result<(), Violation> {
        let Some(slot) = self.known(id)? else { return Ok(()) };
        let Some(state) = self.table.get_mut(slot) else { return Ok(()) };
        let credit = state.sending.credit.checked_add(bytes).filter(|credit| *credit <= MAX_CREDIT);
        state.sending.credit = credit.ok_or(Violation::BadCredit(id))?;
        self.enlist(slot);
        self.idle_check.get_or_insert(now.after_millis(IDLE_CREDIT_MS));
        Ok(())
    }

    fn on_return(&mut self, id: StreamId, bytes: u32) -> Result<(), Violation> {
        let Some(slot) = self.known(id)? else { return Ok(()) };
        let Some(state) = self.table.get_mut(slot) else { return Ok(()) };
        if bytes > state.receiving.window {
            return Err(Violation::BadCredit(id));
        }
        self.budget.hold(&mut state.receiving, |receiving| receiving.window -= bytes);
        self.budget.shrink(&mut state.receiving);
        Ok(())
    }

    fn on_fin(&mut self, id: StreamId, ports: &mut impl Ports) -> Result<(), Violation> {
        let Some(slot) = self.known(id)? else { return Ok(()) };
        let Some(state) = self.table.get_mut(slot) else { return Ok(()) };
        if state.receiving.ended {
            return Err(Violation::AfterFin(id));
        }
        self.budget.hold(&mut state.receiving, |receiving| {
            receiving.ended = true;
            receiving.window = 0;
        });
        self.budget.shrink(&mut state.receiving);
        self.finish_if_drained(slot, ports);
        Ok(())
    }

    fn on_reset(&mut self, id: StreamId, reason: ResetReason, ports: &mut impl Ports) -> Result<(), Violation> {
        self.known(id)?;
        let Some(slot) = self.table.find(id) else { return Ok(()) };
        if self.table.get(slot).is_some_and(StreamState::is_live) {
            self.counters.streams_reset.note(reason, 1);
            ports.release(slot, End::Reset(reason));
        }
        self.free(slot);
        Ok(())
    }

    /// A port took bytes: perhaps its sender may have more credit.
    fn note_room(&mut self, slot: Slot) {
        let Some(state) = self.table.get_mut(slot) else { return };
        if self.budget.is_due(&state.receiving) {
            state.control.credit = true;
            self.schedule.add_control(&mut self.table, slot);
        }
    }

    /// Half-closes the port once all was delivered, and ends the stream if its other half is closed too.
    fn finish_if_drained(&mut self, slot: Slot, ports: &mut impl Ports) {
        let Some(state) = self.table.get_mut(slot) else { return };
        let receiving = &mut state.receiving;
        if receiving.ended && !receiving.finished && receiving.queue.len() == 0 {
            receiving.finished = true;
            ports.finish(slot);
        }
        self.end_if_over(slot, ports);
    }
}
