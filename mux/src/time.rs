//! Time as an argument: a monotonic instant that the host reads and hands in.

/// A point in monotonic time, in microseconds since an origin that the host chose.
///
/// Only differences matter. The host must never hand in a smaller value than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// The instant `micros` microseconds after the host's origin.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the host's origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The instant `micros` microseconds later.
    #[must_use]
    pub const fn after_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The instant `millis` milliseconds later.
    #[must_use]
    pub const fn after_millis(self, millis: u64) -> Self {
        self.after_micros(millis.saturating_mul(1_000))
    }

    /// Microseconds from `earlier` to here; zero if `earlier` is later.
    #[must_use]
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The low 32 bits in microseconds, for stamps that are compared within an hour.
    #[expect(clippy::cast_possible_truncation, reason = "a stamp keeps the low bits on purpose")]
    pub(crate) const fn stamp(self) -> u32 {
        self.0 as u32
    }

    /// Microseconds since a [`stamp`](Self::stamp) taken less than 71 minutes ago.
    pub(crate) const fn micros_since_stamp(self, stamp: u32) -> u32 {
        self.stamp().wrapping_sub(stamp)
    }
}
