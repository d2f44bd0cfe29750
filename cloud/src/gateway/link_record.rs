//! What is counted of a device's links: no session knows it, for they come and go with links or outlive them.
//!
//! ```text
//! offline ── came up ──► online ── lost, with a cause; left ──► offline
//!                          └────── came up: the link before was replaced ──► online
//! ```

use std::time::{Duration, Instant};

use umbilical_link::LinkEnd;
use umbilical_mux::Resumption;

/// Why a link was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The other end, or the relay, closed it.
    Closed,
    /// The connection or the WebSocket broke.
    Broken,
    /// Nothing was heard any more.
    Silent,
    /// A newer one took its place.
    Replaced,
}

impl Cut {
    const ALL: [Self; 4] = [Self::Closed, Self::Broken, Self::Silent, Self::Replaced];

    /// The cause in one word.
    fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Silent => "silent",
            Self::Replaced => "replaced",
        }
    }

    /// The cause behind a link's end; `None` if it never was up.
    pub(crate) fn of(end: &LinkEnd) -> Option<Self> {
        match end {
            LinkEnd::Closed(..) => Some(Self::Closed),
            LinkEnd::Broken(_) => Some(Self::Broken),
            LinkEnd::Silent(_) => Some(Self::Silent),
            LinkEnd::Refused(_) | LinkEnd::NoHello => None,
        }
    }
}

/// The record of one device.
#[derive(Debug)]
pub(crate) struct LinkRecord {
    up: bool,
    /// Since when it is up, or not.
    since: Instant,
    offline: Duration,
    links: u64,
    resumes: u64,
    cuts: [u64; Cut::ALL.len()],
}

/// What a record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkFigures {
    /// Links that came up.
    pub links: u64,
    /// Of them, those on which the streams of before went on.
    pub resumes: u64,
    /// Links that were cut, by cause; causes that have not occurred are left out.
    pub cuts: Vec<(&'static str, u64)>,
    /// Time without a link, that which still goes on included.
    pub offline: Duration,
}

impl LinkRecord {
    /// Without a link since `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self { up: false, since: now, offline: Duration::ZERO, links: 0, resumes: 0, cuts: Default::default() }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    pub(crate) fn came_up(&mut self, now: Instant, resumption: Resumption) {
        if self.up {
            self.cuts[Cut::Replaced as usize] += 1;
        } else {
            self.offline += now.saturating_duration_since(self.since);
        }
        (self.up, self.since) = (true, now);
        self.links += 1;
        self.resumes += u64::from(matches!(resumption, Resumption::Resumed { .. }));
    }

    /// The link is lost. Nothing if there was none.
    pub(crate) fn cut(&mut self, now: Instant, cut: Cut) {
        if self.up {
            self.cuts[cut as usize] += 1;
        }
        self.left(now);
    }

    /// There is no link for new streams any more.
    pub(crate) fn left(&mut self, now: Instant) {
        if std::mem::replace(&mut self.up, false) {
            self.since = now;
        }
    }

    pub(crate) fn figures(&self, now: Instant) -> LinkFigures {
        let lasting = if self.up { Duration::ZERO } else { now.saturating_duration_since(self.since) };
        let cuts = Cut::ALL.map(Cut::word).into_iter().zip(self.cuts).filter(|(_, count)| *count > 0).collect();
        LinkFigures { links: self.links, resumes: self.resumes, cuts, offline: self.offline + lasting }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_cuts_and_the_time_between_are_counted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut record = LinkRecord::new(at(0));
        // nothing to cut yet
        record.cut(at(1), Cut::Silent);
        record.came_up(at(2), Resumption::Fresh);
        record.came_up(at(5), Resumption::Resumed { resent: 3 });
        assert_eq!(record.figures(at(9)).offline, Duration::from_secs(2), "a link that is replaced leaves no gap");
        record.cut(at(10), Cut::Broken);
        record.cut(at(11), Cut::Closed);
        let figures = record.figures(at(14));
        let cuts = vec![("broken", 1), ("replaced", 1)];
        assert_eq!(figures, LinkFigures { links: 2, resumes: 1, cuts, offline: Duration::from_secs(6) });
        record.came_up(at(20), Resumption::Fresh);
        record.left(at(21));
        assert_eq!(record.figures(at(22)).offline, Duration::from_secs(13));
    }
}
