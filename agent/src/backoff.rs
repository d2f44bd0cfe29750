//! How long to wait before the next attempt. Pure: randomness and time come in as arguments.
//!
//! Full jitter: each delay is drawn evenly from zero to a ceiling that doubles from 0.5 s to 60 s, so that a thousand
//! agents that lost the same relay at the same moment come back spread out. A refusal by the relay (a wrong key, an
//! unknown hybrid connection) is drawn from the upper half of the last ceiling at once: trying sooner changes nothing.

use std::time::Duration;

/// Ceiling of the first delay after a loss.
const FIRST: Duration = Duration::from_millis(500);
/// Ceiling that doubling ends at.
const LAST: Duration = Duration::from_secs(60);
/// A connection that held this long was a good one: its loss is a new event, not one more failure.
const STABLE: Duration = Duration::from_secs(60);
/// Ceiling of the delay when the network is back.
const RETURN: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that is obeyed; a longer one would make the device unreachable by a slip of the other side.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

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

    /// The delay after an attempt that failed or a connection that was lost. `random` is any evenly spread number;
    /// `retry_after` is what the relay asked for, and the delay is never shorter (up to an hour).
    pub fn after_loss(&mut self, random: u32, retry_after: Option<Duration>) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        asked(retry_after) + part(ceiling, random)
    }

    /// The delay after the relay refused for a reason that time alone does not cure: 30 to 60 s.
    pub fn after_refusal(&mut self, random: u32, retry_after: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        asked(retry_after).max(LAST / 2) + part(LAST / 2, random)
    }

    /// The delay when the network has just come back: at most a second, for many devices hear of it at the same moment.
    #[must_use]
    pub fn after_return(random: u32) -> Duration {
        part(RETURN, random)
    }

    /// A connection ended that had lasted for `held`: the count starts again if that was long enough to be no failure.
    pub fn connection_held(&mut self, held: Duration) {
        if held >= STABLE {
            self.failures = 0;
        }
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
        let ceilings: Vec<f32> = (0..10).map(|_| backoff.after_loss(HIGHEST, None).as_secs_f32()).collect();
        assert_eq!(ceilings, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]);
    }

    #[test]
    fn the_ceiling_stays_after_any_number_of_failures() {
        let mut backoff = Backoff { failures: u32::MAX - 1 };
        assert_eq!(backoff.after_loss(HIGHEST, None), LAST);
        assert_eq!(backoff.after_loss(HIGHEST, None), LAST);
    }

    #[test]
    fn jitter_is_full_and_even() {
        let draws = 10_000;
        let step = HIGHEST / draws;
        let mut below_half = 0;
        for index in 0..draws {
            let delay = Backoff { failures: 3 }.after_loss(index * step, None);
            assert!(delay <= Duration::from_secs(4));
            below_half += u32::from(delay < Duration::from_secs(2));
        }
        assert!(below_half.abs_diff(draws / 2) <= 1, "{below_half} of {draws} in the lower half");
        assert_eq!(Backoff { failures: 3 }.after_loss(0, None), Duration::ZERO);
    }

    #[test]
    fn retry_after_is_a_floor_with_a_limit() {
        let asked = Some(Duration::from_secs(7));
        assert_eq!(Backoff::new().after_loss(0, asked), Duration::from_secs(7));
        assert_eq!(Backoff::new().after_loss(HIGHEST, asked), Duration::from_millis(7500));
        assert_eq!(Backoff::new().after_refusal(0, Some(Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(Backoff::new().after_loss(0, Some(Duration::MAX)), LONGEST_ASKED);
    }

    #[test]
    fn a_refusal_is_slow_from_the_first() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.after_refusal(0, None), Duration::from_secs(30));
        assert_eq!(backoff.after_refusal(HIGHEST, None), Duration::from_secs(60));
    }

    #[test]
    fn only_a_stable_connection_starts_again() {
        let mut backoff = Backoff::new();
        for _ in 0..5 {
            backoff.after_loss(0, None);
        }
        backoff.connection_held(STABLE - Duration::from_millis(1));
        assert_eq!(backoff.after_loss(HIGHEST, None), Duration::from_secs(16));
        backoff.connection_held(STABLE);
        assert_eq!(backoff.after_loss(HIGHEST, None), FIRST);
    }
}
