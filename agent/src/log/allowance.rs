//! How many lines one place of the program may log. A peer can bring the same event about again and again, and on a device
//! each line may be a write to flash memory.
//!
//! Each place has a bucket of its own, so that a flood of one event hides no other. Pure: time is an argument, counted from any
//! fixed point.

use std::time::Duration;

/// Lines at once: an evening of a bad network is told whole.
pub(super) const AT_ONCE: u32 = 50;
/// After them, one line in this time.
pub(super) const EVERY: Duration = Duration::from_secs(30);
/// Places that are remembered: more than the program has that a peer can reach.
const PLACES: usize = 32;

/// What is to be done with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Log it, and say how many like it were left out before it.
    Log {
        /// 0 for nearly every line.
        left_out: u32,
    },
    /// Log it, and say that those like it will be left out for a while.
    LogAsLast,
    /// Leave it out.
    LeaveOut,
}

/// Where a line comes from: the module and the line of its source.
pub(super) type Place = (&'static str, u32);

/// The buckets of all places that have logged something lately.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    buckets: Vec<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    place: Place,
    /// When the bucket is full again, if nothing more is taken from it.
    full_at: Duration,
    left_out: u32,
}

impl Allowance {
    /// Judges a line of `place` at `now`.
    pub(super) fn judge(&mut self, place: Place, now: Duration) -> Verdict {
        let bucket = self.bucket(place, now);
        let full_at = bucket.full_at.max(now) + EVERY;
        if full_at > now + EVERY * AT_ONCE {
            bucket.left_out = bucket.left_out.saturating_add(1);
            return Verdict::LeaveOut;
        }
        bucket.full_at = full_at;
        let left_out = std::mem::take(&mut bucket.left_out);
        let is_last = left_out == 0 && full_at + EVERY > now + EVERY * AT_ONCE;
        if is_last { Verdict::LogAsLast } else { Verdict::Log { left_out } }
    }

    /// The bucket of `place`. If there are too many, the one that comes nearest to a place that never logged makes room.
    fn bucket(&mut self, place: Place, now: Duration) -> &mut Bucket {
        let index = self.buckets.iter().position(|bucket| bucket.place == place).unwrap_or_else(|| {
            if self.buckets.len() == PLACES
                && let Some(fullest) = (0..PLACES).min_by_key(|&index| self.buckets[index].full_at)
            {
                self.buckets.swap_remove(fullest);
            }
            self.buckets.push(Bucket { place, full_at: now, left_out: 0 });
            self.buckets.len() - 1
        });
        &mut self.buckets[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = ("here", 1);

    fn judged(allowance: &mut Allowance, lines: u32, now: Duration) -> Vec<Verdict> {
        (0..lines).map(|_| allowance.judge(HERE, now)).collect()
    }

    #[test]
    fn a_flood_ends_with_a_word_and_is_counted() {
        let mut allowance = Allowance::default();
        let verdicts = judged(&mut allowance, AT_ONCE + 7, Duration::ZERO);
        let (logged, left_out) = verdicts.split_at(AT_ONCE as usize);
        let (last, whole) = logged.split_last().unwrap();
        assert!(whole.iter().all(|verdict| *verdict == Verdict::Log { left_out: 0 }));
        assert_eq!(*last, Verdict::LogAsLast);
        assert_eq!(left_out, [Verdict::LeaveOut; 7]);
        assert_eq!(judged(&mut allowance, 2, EVERY), [Verdict::Log { left_out: 7 }, Verdict::LeaveOut]);
        assert_eq!(judged(&mut allowance, 1, EVERY * 2), [Verdict::Log { left_out: 1 }]);
    }

    #[test]
    fn a_flood_of_hours_is_a_line_each_while() {
        let mut allowance = Allowance::default();
        let hours = EVERY * 1_000;
        let mut logged = 0;
        let mut now = Duration::ZERO;
        while now < hours {
            logged += u32::from(allowance.judge(HERE, now) != Verdict::LeaveOut);
            now += Duration::from_millis(100);
        }
        assert_eq!(logged, AT_ONCE + 999);
    }

    #[test]
    fn quiet_gives_everything_back() {
        let mut allowance = Allowance::default();
        judged(&mut allowance, AT_ONCE * 2, Duration::ZERO);
        let later = EVERY * (AT_ONCE + 1);
        assert_eq!(allowance.judge(HERE, later), Verdict::Log { left_out: AT_ONCE });
        let rest = judged(&mut allowance, AT_ONCE - 1, later);
        assert_eq!(rest.last(), Some(&Verdict::LogAsLast));
    }

    #[test]
    fn a_flood_hides_no_other_place() {
        let mut allowance = Allowance::default();
        judged(&mut allowance, 1_000, Duration::ZERO);
        assert_eq!(allowance.judge(("there", 1), Duration::ZERO), Verdict::Log { left_out: 0 });
        assert_eq!(allowance.judge(("here", 2), Duration::ZERO), Verdict::Log { left_out: 0 });
    }

    #[test]
    fn more_places_than_are_remembered_take_no_more_memory_and_leave_a_flood_known() {
        let mut allowance = Allowance::default();
        judged(&mut allowance, AT_ONCE, Duration::ZERO);
        for line in 0..10_000 {
            assert_eq!(allowance.judge(("there", line), Duration::ZERO), Verdict::Log { left_out: 0 });
        }
        assert_eq!(allowance.buckets.len(), PLACES);
        assert_eq!(allowance.judge(HERE, Duration::ZERO), Verdict::LeaveOut);
    }
}
