//! Whether a link is alive: when to ask the peer for a sign, when to give it up. Pure arithmetic on time.
//!
//! A ping here is the session's own, a `Solicit` that the peer's session answers ([`Session::probe`]), and silence is that of
//! the peer. WebSocket's pings and pongs are no such sign: a relay may answer them itself, and Azure's is reported to cut
//! off those who send them.
//!
//! [`Session::probe`]: umbilical_mux::Session::probe

use std::time::Duration;

use umbilical_mux::Instant;

/// How much silence a link may keep.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// Silence after which the peer of an idle link is pinged.
    pub ping_after: Duration,
    /// Silence after which a link that was pinged is dead.
    pub dead_after: Duration,
    /// The same while records are unacknowledged: a ping at half of it.
    pub dead_after_busy: Duration,
}

impl Default for KeepAlive {
    /// A ping a minute: about 90 KiB of TLS payload a day. Dead links are noticed within 75 s, busy ones within 10 s.
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(60),
            dead_after: Duration::from_secs(75),
            dead_after_busy: Duration::from_secs(10),
        }
    }
}

/// What to do about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing, until then.
    Fine(Instant),
    /// Ping it.
    Ping,
    /// Give it up after this much silence.
    Dead(Duration),
}

impl KeepAlive {
    /// Judges a link last heard of at `heard_at`, and pinged since at `pinged_at` if at all, that is `busy` if it owes
    /// acknowledgements. The answer has the time that is left to the limit when a ping is due, even if it comes due earlier.
    pub(crate) fn judge(&self, now: Instant, heard_at: Instant, pinged_at: Option<Instant>, busy: bool) -> Verdict {
        let (ping_after, dead_after) =
            if busy { (self.dead_after_busy / 2, self.dead_after_busy) } else { (self.ping_after, self.dead_after) };
        let (since, patience) = match pinged_at {
            Some(pinged_at) => (pinged_at, dead_after.saturating_sub(ping_after)),
            None => (heard_at, ping_after),
        };
        let due = since.after_micros(u64::try_from(patience.as_micros()).unwrap_or(u64::MAX));
        match pinged_at {
            _ if now < due => Verdict::Fine(due),
            Some(_) => Verdict::Dead(Duration::from_micros(now.micros_since(heard_at))),
            None => Verdict::Ping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_link_is_pinged_then_given_up() {
        let keep_alive = KeepAlive::default();
        let at = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
        for (now, pinged, busy, verdict) in [
            (59, None, false, Verdict::Fine(at(60))),
            (60, None, false, Verdict::Ping),
            (74, Some(60), false, Verdict::Fine(at(75))),
            (75, Some(60), false, Verdict::Dead(Duration::from_secs(75))),
            (4, None, true, Verdict::Fine(at(5))),
            (5, None, true, Verdict::Ping),
            (9, Some(5), true, Verdict::Fine(at(10))),
            (10, Some(5), true, Verdict::Dead(Duration::from_secs(10))),
            // busy all at once, while the answer is on its way
            (61, Some(60), true, Verdict::Fine(at(65))),
            (65, Some(60), true, Verdict::Dead(Duration::from_secs(65))),
            // asked before it was due
            (3, Some(2), false, Verdict::Fine(at(17))),
            (17, Some(2), false, Verdict::Dead(Duration::from_secs(17))),
        ] {
            assert_eq!(keep_alive.judge(at(now), at(0), pinged.map(at), busy), verdict, "after {now} s");
        }
    }
}
