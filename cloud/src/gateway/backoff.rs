//! How long to wait before a device is dialled again. Pure: randomness comes in as an argument.
//!
//! Full jitter: each delay is drawn evenly from zero to a ceiling that doubles from 0.5 s, so that a thousand devices
//! that were lost at the same moment are not dialled at the same moment. The end of a link that held is no failure:
//! its device is dialled at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);

/// Ceiling that doubling ends at.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// The same while streams wait for a link: they will be given up before long.
pub(crate) const LONGEST_WAITED_FOR: Duration = Duration::from_secs(8);

/// A link that held this long was a good one. Also the shortest time between dials that are made at once, so a path that
/// breaks every few seconds is worth having.
const STABLE: Duration = Duration::from_secs(1);

/// Longest `Retry-After` that is obeyed; a longer one would make devices unreachable by a slip of the other side.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// The failures since the last good link.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after a dial that failed, or a link that was lost soon. `random` is any evenly spread number; the delay
    /// is never shorter than what the relay `asked` for, nor more than twice as long: it spreads its clients itself.
    pub(crate) fn after_failure(&mut self, longest: Duration, asked: Option<Duration>, random: u32) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
        asked + part(if asked.is_zero() { ceiling } else { ceiling.min(asked) }, random)
    }

    /// The delay after a refusal that time alone does not cure: the upper half of `longest`.
    pub(crate) fn after_refusal(&mut self, longest: Duration, asked: Option<Duration>, random: u32) -> Duration {
        self.failures = self.failures.saturating_add(1);
        asked.unwrap_or_default().min(LONGEST_ASKED).max(longest / 2) + part(longest / 2, random)
    }

    /// The delay after a link was lost that had held for so long.
    pub(crate) fn after_link(&mut self, held: Duration, longest: Duration, random: u32) -> Duration {
        if held < STABLE {
            return self.after_failure(longest, None, random);
        }
        self.failures = 0;
        Duration::ZERO
    }
}

/// `random` as a fraction of `whole`.
fn part(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGHEST: u32 = u32::MAX;

    #[test]
    fn ceilings_double_from_half_a_second() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<f64> = (0..9).map(|_| backoff.after_failure(LONGEST, None, HIGHEST).as_secs_f64()).collect();
        assert_eq!(ceilings, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        assert_eq!(backoff.after_failure(LONGEST_WAITED_FOR, None, HIGHEST), LONGEST_WAITED_FOR);
        assert_eq!(backoff.after_failure(LONGEST, None, 0), Duration::ZERO);
    }

    #[test]
    fn a_link_that_held_makes_the_next_dial_immediate() {
        let mut backoff = Backoff { failures: 5 };
        assert_eq!(backoff.after_link(STABLE - Duration::from_millis(1), LONGEST, HIGHEST), Duration::from_secs(16));
        assert_eq!(backoff.after_link(STABLE, LONGEST, HIGHEST), Duration::ZERO);
        assert_eq!(backoff.after_failure(LONGEST, None, HIGHEST), FIRST);
    }

    #[test]
    fn the_relay_is_obeyed_up_to_a_limit() {
        let asked = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(Backoff::default().after_failure(LONGEST, asked(7), HIGHEST), Duration::from_millis(7500));
        assert_eq!(Backoff { failures: 9 }.after_failure(LONGEST, asked(7), HIGHEST), Duration::from_secs(14));
        assert_eq!(Backoff::default().after_failure(LONGEST, asked(1 << 40), 0), LONGEST_ASKED);
        assert_eq!(Backoff::default().after_refusal(LONGEST, None, 0), LONGEST / 2);
        assert_eq!(Backoff::default().after_refusal(LONGEST, asked(90), 0), Duration::from_secs(90));
    }
}
