//! All streams of a session: opening, ending, and what they share - table, pool, credit, schedule.
//!
//! `receive.rs` takes frames in, `send.rs` writes them. Links, records and acknowledgements are the session's business.

use heapless::Deque;

use crate::credit::Budget;
use crate::pool::Pool;
use crate::schedule::Schedule;
use crate::table::{Control, Phase, Ready, StreamState, Table};
use crate::{Counters, End, Instant, Mode, OpenError, Ports, ResetReason, Side, Slot, StreamId};

/// Streams of the peer that can be refused between two records for lack of a slot.
const REFUSED: usize = 64;

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
    /// Streams of the peer that found no slot, to be reset.
    pub(crate) refused: Deque<StreamId, REFUSED>,
    pub(crate) shutdown: Shutdown,
    /// When to look for streams with unused credit.
    pub(crate) idle_check: Option<Instant>,
    /// Numbers the records built, to tell short reads of the same one.
    pub(crate) visit: u16,
    pub(crate) counters: Counters,
}

/// What the peer announced in its `Hello`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) streams: u16,
    pub(crate) credit: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shutdown {
    pub(crate) here: bool,
    pub(crate) there: bool,
    /// `GoAway` still to be written, with its milliseconds.
    pub(crate) announce: Option<u32>,
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
            peer: Peer { streams: u16::MAX, credit: 0 },
            refused: Deque::new(),
            shutdown: Shutdown::default(),
            idle_check: None,
            visit: 0,
            counters: Counters::default(),
        }
    }

    /// Opens a stream from this side; `Open` is written with the next record.
    pub(crate) fn open(&mut self, now: Instant, mode: Mode) -> Result<Slot, OpenError> {
        if self.shutdown.here || self.shutdown.there {
            return Err(OpenError::GoingAway);
        }
        if self.next_stream > u32::MAX - 2 {
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
        (state.receiving.target, state.receiving.granted_at) = (floor, now.stamp());
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
        let ready = if sending.backlogged { Ready::Busy } else { Ready::Sparse };
        self.schedule.add(&mut self.table, slot, ready);
    }

    /// Ends a stream at once, in both directions, and tells the peer if it was told of the stream.
    pub(crate) fn reset(&mut self, slot: Slot, reason: ResetReason, ports: &mut impl Ports) {
        let Some(state) = self.table.get(slot).filter(|state| state.is_live()) else { return };
        let told = state.phase == Phase::Open;
        self.counters.streams_reset += 1;
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
    }

    /// Ends all streams with `reason`, without a word to the peer, who forgot them; numbers begin anew.
    pub(crate) fn start_over(&mut self, ports: &mut impl Ports, reason: ResetReason) {
        for slot in self.table.used() {
            let Some(state) = self.table.get(slot) else { continue };
            let phase = state.phase;
            if state.is_live() {
                self.counters.streams_reset += 1;
                ports.release(slot, End::Reset(reason));
            }
            if phase != Phase::Free {
                self.free(slot);
            }
        }
        self.refused.clear();
        (self.next_stream, self.peer_stream, self.shutdown.there) = (self.side.first_stream(), 0, false);
    }

    /// No streams, and nothing left to say about any.
    pub(crate) fn is_quiet(&self) -> bool {
        self.table.live() == 0 && self.refused.is_empty() && self.shutdown.announce.is_none()
    }
}
