//! How long to wait before the next attempt. Pure: randomness and time come in as arguments.
//!
//! Full jitter: each delay is drawn evenly from zero to a ceiling that doubles from 0.5 s to 60 s, or to 8 s while streams
//! wait, so that a thousand agents that lost the same relay at the same moment come back spread out. A refusal by the relay (a wrong key, an
//! unknown hybrid connection) is drawn from the upper half of the last ceiling at once: trying sooner changes nothing.
//!
//! A connection that had proved itself and was cut is opened again without a delay: most of the time it was the path, and
//! streams wait. If the relay is gone, that is one attempt more, which costs it nothing.

use std::time::Duration;

/// Ceiling of the first delay after a loss.
const FIRST: Duration = Duration::from_millis(500);
/// Ceiling that doubling ends at.
const LONGEST: Duration = Duration::from_secs(60);
/// The same while streams wait for a link: they will be given up before long.
const LONGEST_WAITED_FOR: Duration = Duration::from_secs(8);
/// A connection that held this long was a good one: its loss is a new event, not one more failure. Also the shortest
/// time between attempts that are made at once, so a path that breaks every few seconds is worth having.
const STABLE: Duration = Duration::from_secs(1);
/// Ceiling of the delay when the network is back.
const RETURN: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that is obeyed; a longer one would make the device unreachable by a slip of the other side.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// The ceiling that doubling ends at.
#[must_use]
pub const fn longest(waited_for: bool) -> Duration {
    if waited_for { LONGEST_WAITED_FOR } else { LONGEST }
}

/// The failures since the last good connection.
#[derive(Debug, Default, Clone)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub const fn new() -> Backoff {
        Backoff { failures: 0 }
    }

    /// The delay after an attempt that failed. `longest` is what [`longest`] says, `random` any evenly spread number;
    /// `retry_after` is what the relay asked for, and the delay is never shorter (up to an hour), nor more than twice as long: a
    /// relay that names a time spreads its clients itself.
    pub fn after_failure(&mut self, longest: Duration, retry_after: Option<Duration>, random: u32) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        let asked = asked(retry_after);
        asked + part(if asked.is_zero() { ceiling } else { ceiling.min(asked) }, random)
    }

    /// The delay after the relay refused for a reason that time alone does not cure: 30 to 60 s.
    pub fn after_refusal(&mut self, retry_after: Option<Duration>, random: u32) -> Duration {
        self.failures = self.failures.saturating_add(1);
        asked(retry_after).max(LONGEST / 2) + part(LONGEST / 2, random)
    }

    /// The delay when the network has just come back: at most a second, for many devices hear of it at the same moment.
    #[must_use]
    pub fn after_return(random: u32) -> Duration {
        part(RETURN, random)
    }

    /// The delay after a connection was lost that had `held` for so long. One that the relay `closed` by its own decision
    /// was closed to others as well: they are not to come back together.
    pub fn after_connection(&mut self, held: Duration, closed: bool, longest: Duration, random: u32) -> Duration {
        if held >= STABLE {
            self.failures = 0;
            if !closed {
                return Duration::ZERO;
            }
        }
        self.after_failure(longest, None, random)
    }
}

fn asked(retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or_default().min(LONGEST_ASKED)
}

/// `random` as a fraction of `whole`.
fn part(whole: Duration, random: u32) -> Duration {
    let nanos = whole.as_nanos() * u128::from(random) / u128::from(u32::MAX);
    Duration::from_nanos(u64::try_from(nanos).expect("a fraction of at most a minute"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGHEST: u32 = u32::MAX;

    #[test]
    fn ceilings_double_from_half_a_second_to_a_minute() {
        let mut backoff = Backoff::new();
        let ceilings: Vec<f32> = (0..10).map(|_| backoff.after_failure(LONGEST, None, HIGHEST).as_secs_f32()).collect();
        assert_eq!(ceilings, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
        assert_eq!(backoff.after_failure(longest(true), None, HIGHEST), Duration::from_secs(8));
    }

    #[test]
    fn the_ceiling_stays_after_any_number_of_failures() {
        let mut backoff = Backoff { failures: u32::MAX - 1 };
        assert_eq!(backoff.after_failure(LONGEST, None, HIGHEST), LONGEST);
        assert_eq!(backoff.after_failure(LONGEST, None, HIGHEST), LONGEST);
    }

    #[test]
    fn jitter_is_full_and_even() {
        let draws = 10_000;
        let step = HIGHEST / draws;
        let mut below_half = 0;
        for index in 0..draws {
            let delay = Backoff { failures: 3 }.after_failure(LONGEST, None, index * step);
            assert!(delay <= Duration::from_secs(4));
            below_half += u32::from(delay < Duration::from_secs(2));
        }
        assert!(below_half.abs_diff(draws / 2) <= 1, "{below_half} of {draws} in the lower half");
        assert_eq!(Backoff { failures: 3 }.after_failure(LONGEST, None, 0), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_a_floor_with_a_limit() {
        let asked = Some(Duration::from_secs(7));
        assert_eq!(Backoff::new().after_failure(LONGEST, asked, 0), Duration::from_secs(7));
        assert_eq!(Backoff::new().after_failure(LONGEST, asked, HIGHEST), Duration::from_millis(7500));
        assert_eq!(Backoff { failures: 9 }.after_failure(LONGEST, asked, HIGHEST), Duration::from_secs(14));
        assert_eq!(Backoff::new().after_refusal(Some(Duration::from_secs(90)), 0), Duration::from_secs(90));
        assert_eq!(Backoff::new().after_failure(LONGEST, Some(Duration::MAX), 0), LONGEST_ASKED);
    }

    #[test]
    fn a_refusal_is_slow_from_the_first() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.after_refusal(None, 0), Duration::from_secs(30));
        assert_eq!(backoff.after_refusal(None, HIGHEST), Duration::from_secs(60));
    }

    #[test]
    fn a_connection_that_had_proved_itself_is_opened_again_at_once() {
        let mut backoff = Backoff { failures: 5 };
        for _ in 0..100 {
            assert_eq!(backoff.after_connection(STABLE, false, LONGEST, HIGHEST), Duration::ZERO);
        }
        assert_eq!(backoff.after_failure(LONGEST, None, HIGHEST), FIRST, "the attempt that was made at once");
    }

    #[test]
    fn a_connection_that_is_lost_soon_is_one_more_failure() {
        let mut backoff = Backoff { failures: 5 };
        let soon = STABLE - Duration::from_millis(1);
        assert_eq!(backoff.after_connection(soon, false, LONGEST, HIGHEST), Duration::from_secs(16));
        assert_eq!(backoff.after_connection(soon, false, LONGEST, HIGHEST), Duration::from_secs(32));
    }

    #[test]
    fn a_connection_that_the_relay_closed_is_not_opened_again_by_all_at_once() {
        let mut backoff = Backoff { failures: 5 };
        assert_eq!(backoff.after_connection(STABLE, true, LONGEST, HIGHEST), FIRST);
        assert_eq!(backoff.after_connection(STABLE, true, LONGEST, 0), Duration::ZERO);
    }
}
