//! What must hold at each step, by name: a check that fails says which of them is broken.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// Each byte of a stream arrives once and in order, and then its end; datagrams come whole, in order, at most once.
    Bytes,
    /// Nobody sends more than it was granted.
    Credit,
    /// What a side granted and what waits for its ports fits its receive pool.
    Pool,
    /// What a side sent and was not acknowledged fits its replay ring.
    Ring,
    /// A record is sent again as it was sent first.
    Resending,
    /// While there is a link that works, something moves if anything can.
    Progress,
    /// Then each stream that can move does.
    Fairness,
    /// A stream ends for lack of a link only if it lacked one for `resume-for`, or a side forgot the session.
    Unbroken,
    /// No stale, forged or replayed `Hello` is taken, and refusing it changes nothing.
    Refusal,
    /// Neither session accuses the other of breaking a rule.
    Peace,
    /// Afterwards all memory is free again.
    Memory,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "every byte once and in order",
            Self::Credit => "credit never exceeded",
            Self::Pool => "pool never over budget",
            Self::Ring => "ring never over budget",
            Self::Resending => "records are sent again as they were",
            Self::Progress => "progress while there is a link",
            Self::Fairness => "no stream starves",
            Self::Unbroken => "streams wait for a link",
            Self::Refusal => "only the session's own links are taken",
            Self::Peace => "neither side breaks a rule",
            Self::Memory => "memory is free again",
        })
    }
}

impl Invariant {
    /// # Panics
    /// With the invariant's name and `what` was found, unless it `holds`.
    #[track_caller]
    pub fn require(self, holds: bool, what: impl FnOnce() -> String) {
        assert!(holds, "{self}: {}", what());
    }
}
