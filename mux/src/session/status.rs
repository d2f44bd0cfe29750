//! What a host may know of a session, for its logs and its operators.

use crate::ResetReason;

/// What a `Hello` led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// The session begins, or began anew because one side no longer knew it; streams of before were reset.
    Fresh,
    /// It goes on; so many records are sent again.
    Resumed {
        /// Records the peer had not received.
        resent: u64,
    },
}

impl core::fmt::Display for Resumption {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Fresh => f.write_str("session begins"),
            Self::Resumed { resent } => write!(f, "session goes on, {resent} records sent again"),
        }
    }
}

/// Counts since the session began. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams opened, by either side.
    pub streams_opened: u64,
    /// Streams that ended by a reset, from either side.
    pub streams_reset: Resets,
    /// Payload bytes read from ports.
    pub bytes_sent: u64,
    /// Payload bytes arrived for ports.
    pub bytes_received: u64,
    /// Records sent, those sent again included.
    pub records_sent: u64,
    /// Records to be sent again, counted when the new link came up.
    pub records_resent: u64,
    /// Bytes of records sent again on a new link.
    pub bytes_resent: u64,
    /// Records received.
    pub records_received: u64,
    /// Times that a stream had used up its credit and waited for the peer to grant more.
    pub credit_stalls: u64,
}

impl Counters {
    /// Adds what another session counted.
    pub fn add(&mut self, other: &Self) {
        self.streams_opened += other.streams_opened;
        self.streams_reset.add(&other.streams_reset);
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.records_sent += other.records_sent;
        self.records_resent += other.records_resent;
        self.bytes_resent += other.bytes_resent;
        self.records_received += other.records_received;
        self.credit_stalls += other.credit_stalls;
    }
}

/// Resets by reason; those with a number that this version does not know are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resets([u64; ResetReason::ALL.len() + 1]);

impl Resets {
    /// So many more for this reason.
    pub fn note(&mut self, reason: ResetReason, more: u64) {
        let last = self.0.len() - 1;
        if let Some(count) = self.0.get_mut(usize::from(reason.0).min(last)) {
            *count = count.saturating_add(more);
        }
    }

    /// Adds those of another count.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Each reason with its count; the last one is that of unknown numbers, as [`ResetReason`] 255.
    pub fn iter(&self) -> impl Iterator<Item = (ResetReason, u64)> + '_ {
        ResetReason::ALL.iter().copied().chain([ResetReason(u8::MAX)]).zip(self.0)
    }
}

/// What the link looks like from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEstimate {
    /// Smallest round trip of late in microseconds, and a smoothed one; `None` until something was acknowledged.
    pub round_trip_us: Option<(u32, u32)>,
    /// Bytes sent and not acknowledged.
    pub in_flight: u32,
    /// Bytes that may be.
    pub limit: u32,
}
