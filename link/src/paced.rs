//! Log lines that strangers can cause: often enough to be seen, seldom enough to drown nothing.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of the same kind are this far apart.
const APART: Duration = Duration::from_secs(10);

/// Lines about one thing, of a few kinds that are each paced by themselves.
#[derive(Debug, Default)]
pub struct Paced {
    kinds: Mutex<Vec<Kind>>,
}

#[derive(Debug)]
struct Kind {
    number: u8,
    said_at: Instant,
    hidden: u64,
}

/// Lines that were not logged, as the end of the one that is.
#[derive(Debug, PartialEq, Eq)]
pub struct Hidden(u64);

impl Paced {
    /// Whether a line of this kind may be logged `now`, and how many were not since the last one that was.
    #[must_use]
    pub fn admit(&self, kind: u8, now: Instant) -> Option<Hidden> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kind) = kinds.iter_mut().find(|known| known.number == kind) else {
            kinds.push(Kind { number: kind, said_at: now, hidden: 0 });
            return Some(Hidden(0));
        };
        if now.saturating_duration_since(kind.said_at) < APART {
            kind.hidden += 1;
            return None;
        }
        kind.said_at = now;
        Some(Hidden(std::mem::take(&mut kind.hidden)))
    }
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} more like this before)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_line_now_and_then() {
        let (paced, start) = (Paced::default(), Instant::now());
        assert_eq!(paced.admit(1, start), Some(Hidden(0)));
        for _ in 0..500 {
            assert_eq!(paced.admit(1, start + Duration::from_secs(9)), None);
        }
        assert_eq!(paced.admit(1, start + APART), Some(Hidden(500)));
        assert_eq!(paced.admit(1, start + APART), None);
        // other kinds are neither hidden by it nor do they bring it back
        assert_eq!(paced.admit(2, start + APART), Some(Hidden(0)));
        assert_eq!(paced.admit(1, start + APART), None);
        assert_eq!(paced.admit(1, start + 2 * APART), Some(Hidden(2)));
        assert_eq!(Hidden(500).to_string(), " (and 500 more like this before)");
        assert_eq!(Hidden(0).to_string(), "");
    }
}
