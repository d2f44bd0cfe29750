//! Log lines that strangers can cause: often enough to be seen, seldom enough to drown nothing.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of the same kind are this far apart.
const APART: Duration = Duration::from_secs(10);

/// Lines about one thing. A line of another kind than the one before is always let through.
#[derive(Debug, Default)]
pub(crate) struct Paced {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<(u8, Instant)>,
    hidden: u64,
}

/// Lines that were not logged, as the end of the one that is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hidden(u64);

impl Paced {
    /// Whether a line of this kind may be logged `now`, and how many were not since the last one that was.
    pub(crate) fn admit(&self, kind: u8, now: Instant) -> Option<Hidden> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|(last, at)| last == kind && now.saturating_duration_since(at) < APART) {
            state.hidden += 1;
            return None;
        }
        state.last = Some((kind, now));
        Some(Hidden(std::mem::take(&mut state.hidden)))
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
        assert_eq!(paced.admit(2, start + APART), Some(Hidden(1)));
        assert_eq!(Hidden(500).to_string(), " (and 500 more like this before)");
        assert_eq!(Hidden(0).to_string(), "");
    }
}
