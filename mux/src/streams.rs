//! All streams of a session: opening, ending, and what they share - table, pool, credit, schedule.
//!
//! `receive.rs` takes frames in, `send.rs` writes them. Links, records and acknowledgements are the session's business.

use heapless::Deque;

use crate::credit::Budget;
use crate::pool::Pool;
use crate::schedule::Schedule;
use crate::table::{Control, Phase, Ready, StreamState, Table};
use crate::{Counters, End, Instant, MIN_RECORD, Mode, OpenError, Ports, ResetReason, Side, Slot, StreamId, Violation};

/// Runs of refused streams that are kept until their `Reset` can be written. One run is any number of streams that were
/// opened in a row, so that an honest peer never needs more than a few.
const REFUSED: usize = 32;

#[derive(Debug)]
pub(crate) struct Streams<B, S> {
    pub(crate) side: Side,
    pub(crate) table: Table<S>,
    pub(crate) pool: Pool<B>,
    pub(crate) budget: Budget,
    pub(crate) schedule: Schedule,
    /// Next stream id of this side, highest one of the peer's.
    pub(crate) next_stream: u32,
    pub(crate) peer_stream: u32,
    pub(crate) peer: Peer,
    /// First and last id of streams of the peer that found no slot, to be reset.
    pub(crate) refused: Deque<(u32, u32), REFUSED>,
    pub(crate) shutdown: Shutdown,
    /// When to look for streams with unused credit.
    pub(crate) idle_check: Option<Instant>,
    /// Numbers the records built, to tell short reads of the same one.
    pub(crate) visit: u16,
    pub(crate) counters: Counters,
}

/// What becomes of streams whose `Open` was not yet written when a session starts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unannounced {
    Stay,
    End,
}

/// What the peer announced in its `Hello`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) streams: u16,
    pub(crate) credit: u32,
    /// Bytes of a record.
    pub(crate) record: usize,
}

/// Which sides are going away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shutdown {
    /// This one, within so many milliseconds; whether `GoAway` was written.
    here: Option<u32>,
    said: bool,
    pub(crate) there: bool,
}

impl Shutdown {
    pub(crate) fn begin(&mut self, drain_ms: u32) {
        self.here.get_or_insert(drain_ms);
    }

    pub(crate) fn is_here(&self) -> bool {
        self.here.is_some()
    }

    pub(crate) fn is_unsaid(&self) -> bool {
        self.is_here() && !self.said
    }

    /// What `GoAway` is to say, once.
    pub(crate) fn announcement(&mut self) -> Option<u32> {
        self.here.filter(|_| !core::mem::replace(&mut self.said, true))
    }
}

impl<B, S> Streams<B, S>
where
    B: AsRef<[u8]> + AsMut<[u8]>,
    S: AsRef<[StreamState]> + AsMut<[StreamState]>,
{
    pub(crate) fn new(side: Side, table: S, pool: B) -> Self {
        Self {
            side,
            table: Table::new(table),
            pool: Pool::new(pool),
            budget: Budget::new(0, 0),
            schedule: Schedule::new(),
            next_stream: side.first_stream(),
            peer_stream: 0,
            peer: Peer { streams: u16::MAX, credit: 0, record: MIN_RECORD },
            refused: Deque::new(),
            shutdown: Shutdown::default(),
            idle_check: None,
            visit: 0,
            counters: Counters::default(),
        }
    }

    /// Opens a stream from this side; `Open` is written with the next record.
    pub(crate) fn open(&mut self, now: Instant, mode: Mode) -> Result<Slot, OpenError> {
        if self.shutdown.is_here() || self.shutdown.there {
            return Err(OpenError::GoingAway);
        }
        // Those already opened take their ids only when `Open` is written.
        if u32::MAX - self.next_stream <= 2 * u32::from(self.table.live()) + 2 {
            return Err(OpenError::Exhausted);
        }
        if self.table.live() >= self.peer.streams {
            return Err(OpenError::Full);
        }
        let slot = self.table.claim().ok_or(OpenError::Full)?;
        self.counters.streams_opened += 1;
        if let Some(state) = self.table.get_mut(slot) {
            state.mode = mode;
            state.sending.sent_at = now.stamp();
        }
        self.grant_floor(now, slot);
        self.schedule.add_control(&mut self.table, slot);
        Ok(slot)
    }

    /// A new stream's window: the floor, as `Hello` announced it.
    pub(crate) fn grant_floor(&mut self, now: Instant, slot: Slot) {
        let floor = self.budget.floor();
        let Some(state) = self.table.get_mut(slot) else { return };
        if state.mode == Mode::Stream {
            self.budget.hold(&mut state.receiving, |receiving| receiving.window = floor);
        }
        state.receiving.granted_at = now.stamp();
    }

    /// The port at `slot` has, or may have, bytes to read, or ended.
    pub(crate) fn handle_readable(&mut self, slot: Slot) {
        let Some(state) = self.table.get_mut(slot).filter(|state| state.is_live()) else { return };
        state.sending.readable = true;
        self.enlist(slot);
    }

    /// Puts a stream that can be read from among those that are.
    pub(crate) fn enlist(&mut self, slot: Slot) {
        let Some(state) = self.table.get(slot) else { return };
        let sending = &state.sending;
        let can = state.phase == Phase::Open && sending.readable && !sending.ended;
        if !can || state.mode == Mode::Stream && sending.credit == 0 {
            return;
        }
        let busy = sending.backlogged || self.schedule.is_spent(sending);
        let ready = if busy { Ready::Busy } else { Ready::Sparse };
        self.schedule.add(&mut self.table, slot, ready);
    }

    /// Ends a stream at once, in both directions, and tells the peer if it was told of the stream.
    pub(crate) fn reset(&mut self, slot: Slot, reason: ResetReason, ports: &mut impl Ports) {
        let Some(state) = self.table.get(slot).filter(|state| state.is_live()) else { return };
        let told = state.phase == Phase::Open;
        self.counters.streams_reset.note(reason, 1);
        ports.release(slot, End::Local(reason));
        if told {
            self.refuse(slot, reason);
        } else {
            self.free(slot);
        }
    }

    /// Ends a stream that the host does not, or no longer, know.
    pub(crate) fn refuse(&mut self, slot: Slot, reason: ResetReason) {
        self.schedule.remove(&mut self.table, slot);
        self.empty_receiving(slot);
        if let Some(state) = self.table.get_mut(slot) {
            (state.phase, state.reset, state.control) = (Phase::Resetting, reason, Control::default());
        }
        self.schedule.add_control(&mut self.table, slot);
    }

    /// Notes that a stream of the peer found no slot.
    pub(crate) fn refuse_busy(&mut self, id: StreamId) -> Result<(), Violation> {
        match self.refused.back_mut() {
            Some((_, last)) if id.0 - *last == 2 => *last = id.0,
            _ => self.refused.push_back((id.0, id.0)).map_err(|_| Violation::TooManyRefused(id))?,
        }
        Ok(())
    }

    /// Releases a stream whose halves are both closed.
    pub(crate) fn end_if_over(&mut self, slot: Slot, ports: &mut impl Ports) {
        if self.table.get(slot).is_some_and(StreamState::is_over) {
            ports.release(slot, End::Closed);
            self.free(slot);
        }
    }

    /// Frees a slot; the host was told.
    pub(crate) fn free(&mut self, slot: Slot) {
        self.schedule.remove(&mut self.table, slot);
        self.empty_receiving(slot);
        self.table.free(slot);
    }

    /// Gives what a stream holds of the pool back.
    fn empty_receiving(&mut self, slot: Slot) {
        let Some(state) = self.table.get_mut(slot) else { return };
        let pool = &mut self.pool;
        self.budget.hold(&mut state.receiving, |receiving| {
            pool.clear(&mut receiving.queue);
            receiving.window = 0;
        });
        self.budget.shrink(&mut state.receiving);
    }

    /// Ends streams with `reason`, without a word to the peer, who forgot them; numbers begin anew. Streams that the
    /// peer never heard of go on if `unannounced` do.
    pub(crate) fn start_over(&mut self, ports: &mut impl Ports, reason: ResetReason, unannounced: Unannounced) {
        for slot in self.table.used() {
            let Some(state) = self.table.get(slot) else { continue };
            let (phase, live) = (state.phase, state.is_live());
            if phase == Phase::Free || phase == Phase::Opening && unannounced == Unannounced::Stay {
                continue;
            }
            if live {
                self.counters.streams_reset.note(reason, 1);
                ports.release(slot, End::Reset(reason));
            }
            self.free(slot);
        }
        self.refused.clear();
        (self.next_stream, self.peer_stream) = (self.side.first_stream(), 0);
        (self.shutdown.said, self.shutdown.there) = (false, false);
    }

    /// No streams, and nothing left to say about any.
    pub(crate) fn is_quiet(&self) -> bool {
        self.table.live() == 0 && self.refused.is_empty() && !self.shutdown.is_unsaid()
    }
}
