//! Who may send how much: windows backed by the receive pool.
//!
//! A quarter of the pool is shared out equally: each stream may always count on its *floor*, whatever the others do,
//! and starts with it. The rest is *elastic*. A stream may hold its floor and [`ALPHA`] times the elastic bytes that
//! nobody holds (the dynamic threshold of Choudhury and Hahne, 1998), so one alone gets most of the pool, many share it,
//! and a newcomer always finds some. Within that, a window grows only as its stream's rate times round trip asks.
//!
//! A stream *holds* what it was granted and has not sent, and what arrived and its port has not taken.

use crate::pool::credit_for;
use crate::table::{Receiving, StreamState, Table};
use crate::{Instant, Slot};

/// How many times the free elastic bytes one stream may hold.
const ALPHA: u32 = 8;

/// Grants that follow each other this much faster than two round trips make the window grow, in microseconds.
const GROW_SLACK_US: u32 = 1_000;

#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes each stream may count on.
    floor: u32,
    /// Bytes beyond the floors; of them, held.
    elastic: u32,
    used: u32,
}

/// The floor for a pool that backs `credit` bytes for `streams` streams.
pub(crate) fn floor(credit: usize, streams: usize) -> u32 {
    let share = u32::try_from(credit / 4 / streams.max(1)).unwrap_or(u32::MAX);
    share.clamp(crate::limits::MIN_INITIAL_CREDIT, crate::limits::MAX_INITIAL_CREDIT)
}

impl Budget {
    /// A budget for `memory` bytes of pool and `streams` streams.
    pub(crate) fn new(memory: usize, streams: usize) -> Self {
        let credit = credit_for(memory, streams);
        let floor = floor(credit, streams);
        let floors = usize::try_from(floor).unwrap_or(usize::MAX).saturating_mul(streams);
        Self { floor, elastic: u32::try_from(credit.saturating_sub(floors)).unwrap_or(u32::MAX), used: 0 }
    }

    /// Takes note that `stream` now holds another amount.
    pub(crate) fn hold(&mut self, receiving: &mut Receiving, change: impl FnOnce(&mut Receiving)) {
        let before = receiving.held().saturating_sub(self.floor);
        change(receiving);
        let after = receiving.held().saturating_sub(self.floor);
        self.used = self.used.saturating_add(after).saturating_sub(before);
    }

    /// Bytes that `stream` may hold now.
    fn share(&self, receiving: &Receiving) -> u32 {
        let beyond = receiving.held().saturating_sub(self.floor);
        let free = self.elastic.saturating_sub(self.used);
        let share = self.floor.saturating_add(ALPHA.saturating_mul(free));
        let most = self.floor.saturating_add(beyond).saturating_add(free);
        receiving.target.max(self.floor).min(share).min(most)
    }

    /// Whether a grant to `stream` is worth a frame: half of what it may hold.
    pub(crate) fn is_due(&self, receiving: &Receiving) -> bool {
        let share = self.share(receiving);
        let room = share.saturating_sub(receiving.held());
        room > 0 && (room >= share / 2 || receiving.window == 0) && !receiving.ended
    }

    /// Grants what `stream` may have: the bytes for its `Credit` frame, 0 if there is no reason for one.
    pub(crate) fn grant(&mut self, now: Instant, round_trip: u32, receiving: &mut Receiving) -> u32 {
        if receiving.ended {
            return 0;
        }
        let since = now.micros_since_stamp(receiving.granted_at);
        if since < round_trip.saturating_mul(2).saturating_add(GROW_SLACK_US) {
            let most = self.floor.saturating_add(self.elastic);
            receiving.target = receiving.target.saturating_mul(2).min(most);
        }
        let bytes = self.share(receiving).saturating_sub(receiving.held());
        if bytes > 0 {
            self.hold(receiving, |receiving| receiving.window += bytes);
            receiving.granted_at = now.stamp();
        }
        bytes
    }

    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    /// Bytes that streams hold beyond their floors.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// In debug builds: the sum over all streams is what was counted, and within the pool.
    pub(crate) fn check<S>(&self, table: &Table<S>)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        if cfg!(debug_assertions) {
            let beyond =
                |slot: Slot| table.get(slot).map_or(0, |state| state.receiving.held().saturating_sub(self.floor));
            let used: u32 = table.used().map(beyond).sum();
            debug_assert_eq!(used, self.used, "bytes held beyond the floors");
            debug_assert!(used <= self.elastic, "{used} bytes held of {} elastic ones", self.elastic);
        }
    }
}
