//! Who may send how much: windows backed by the receive pool.
//!
//! A quarter of the pool is shared out equally: each stream may always count on its *floor*, whatever the others do,
//! and starts with it. The rest is *elastic*. A stream's window is its floor doubled as often as its rate times round
//! trip asks; where the windows asked for do not fit the pool together, all are cut to the same share and those that ask
//! for less keep what they ask for (max-min fairness). So one stream alone gets most of the pool and many share it.
//!
//! A stream *holds* what it was granted and has not sent, and what arrived and its port has not taken. What it holds
//! cannot be taken away: a share that shrank shows in later grants.

use crate::pool::credit_for;
use crate::table::{Receiving, StreamState, Table};
use crate::{Instant, Slot};

/// A window grows while it is less than what its stream uses up, twice, in two round trips and this many microseconds: a
/// stream that waits for its turn among many busy ones is not slow.
const GROW_SLACK_US: u32 = 20_000;

/// A grant of this many bytes is worth a frame, however large the window: a long link is kept busy by many small grants,
/// and what is sent on each is no burst.
const GRANT: u32 = 16 * 1024;

/// How often a floor can be doubled: the smallest floor to the largest pool.
const LEVELS: usize = 17;

#[derive(Debug)]
pub(crate) struct Budget {
    /// Bytes each stream may count on.
    floor: u32,
    /// Bytes beyond the floors; of them, held.
    elastic: u32,
    used: u32,
    /// How many streams have doubled their window so often; those at 0 are not counted.
    levels: [u16; LEVELS],
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
        Self {
            floor,
            elastic: u32::try_from(credit.saturating_sub(floors)).unwrap_or(u32::MAX),
            used: 0,
            levels: [0; LEVELS],
        }
    }

    /// Takes note that `stream` now holds another amount.
    pub(crate) fn hold(&mut self, receiving: &mut Receiving, change: impl FnOnce(&mut Receiving)) {
        let before = receiving.held().saturating_sub(self.floor);
        change(receiving);
        let after = receiving.held().saturating_sub(self.floor);
        self.used = self.used.saturating_add(after).saturating_sub(before);
    }

    /// Lets the window of `receiving` be the floor doubled `level` times.
    fn set_level(&mut self, receiving: &mut Receiving, level: u8) {
        for (level, change) in [(receiving.level, -1), (level, 1)] {
            if let Some(streams) = self.levels.get_mut(usize::from(level)).filter(|_| level > 0) {
                *streams = streams.saturating_add_signed(change);
            }
        }
        receiving.level = level;
    }

    /// A window for a stream that is new, idle, or ending.
    pub(crate) fn shrink(&mut self, receiving: &mut Receiving) {
        self.set_level(receiving, 0);
    }

    /// The window that a stream at `level` asks for.
    fn window(&self, level: u8) -> u32 {
        let doubled = u64::from(self.floor) << level;
        u32::try_from(doubled).unwrap_or(u32::MAX).min(self.floor.saturating_add(self.elastic))
    }

    /// The window that no stream may exceed now, so that all that ask for as much can have it.
    fn fair(&self) -> u32 {
        let mut left = self.elastic;
        let mut streams: u32 = self.levels.iter().map(|count| u32::from(*count)).sum();
        for (level, count) in (0u8..).zip(self.levels) {
            let beyond = self.window(level) - self.floor;
            if count > 0 && beyond > left / streams {
                return self.floor + left / streams;
            }
            left -= beyond * u32::from(count);
            streams -= u32::from(count);
        }
        self.floor + self.elastic
    }

    /// Bytes that `receiving` may be granted now, and the window that makes.
    fn room(&self, receiving: &Receiving) -> (u32, u32) {
        let window = self.window(receiving.level).min(self.fair());
        let held = receiving.held();
        let free = self.elastic.saturating_sub(self.used).saturating_add(self.floor.saturating_sub(held));
        (window.saturating_sub(held).min(free), window)
    }

    /// Whether a grant is worth a frame: a quarter of the window or [`GRANT`], or anything for a sender that has nothing left.
    pub(crate) fn is_due(&self, receiving: &Receiving) -> bool {
        let (room, window) = self.room(receiving);
        let worth_it = room >= (window / 4).min(GRANT) || receiving.window == 0;
        room > 0 && worth_it && !receiving.ended
    }

    /// Grants what a stream may have: the bytes for its `Credit` frame, 0 if there is no reason for one.
    pub(crate) fn grant(&mut self, now: Instant, round_trip: u32, receiving: &mut Receiving) -> u32 {
        if receiving.ended {
            return 0;
        }
        let since = u64::from(now.micros_since_stamp(receiving.granted_at));
        let horizon = u64::from(round_trip) * 2 + u64::from(GROW_SLACK_US);
        let window = self.window(receiving.level);
        let used = u64::from(window.saturating_sub(receiving.held()));
        if used * horizon * 2 > u64::from(window) * since
            && window < self.floor + self.elastic
            && usize::from(receiving.level) + 1 < LEVELS
        {
            self.set_level(receiving, receiving.level + 1);
        }
        let (bytes, _) = self.room(receiving);
        if bytes > 0 {
            self.hold(receiving, |receiving| receiving.window += bytes);
            receiving.granted_at = now.stamp();
        }
        bytes
    }

    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    /// Bytes that there are beyond the floors.
    pub(crate) fn elastic(&self) -> u32 {
        self.elastic
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
