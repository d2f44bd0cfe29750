//! The clock that sessions are driven by.

use std::time::{Duration, Instant as StdInstant};

use umbilical_mux::Instant;

/// Reads monotonic time as the session wants it: microseconds since this clock was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: StdInstant,
}

impl Clock {
    /// A clock that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: StdInstant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When `instant` is on the system's clock, for timers.
    #[must_use]
    pub fn system_time_of(&self, instant: Instant) -> StdInstant {
        self.origin + Duration::from_micros(instant.as_micros())
    }
}
