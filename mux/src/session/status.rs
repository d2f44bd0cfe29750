//! What a host may know of a session, for its logs and its operators.

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
    pub streams_reset: u64,
    /// Payload bytes read from ports.
    pub bytes_sent: u64,
    /// Payload bytes arrived for ports.
    pub bytes_received: u64,
    /// Records sent, those sent again included.
    pub records_sent: u64,
    /// Records sent again on a new link.
    pub records_resent: u64,
    /// Records received.
    pub records_received: u64,
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
