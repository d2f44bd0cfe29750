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
    /// Judges a link last heard of at `heard_at`, `pinged` or not since, that is `busy` if it owes acknowledgements.
    pub(crate) fn judge(&self, now: Instant, heard_at: Instant, pinged: bool, busy: bool) -> Verdict {
        let silence = Duration::from_micros(now.micros_since(heard_at));
        let (ping_after, dead_after) =
            if busy { (self.dead_after_busy / 2, self.dead_after_busy) } else { (self.ping_after, self.dead_after) };
        if pinged && silence >= dead_after {
            return Verdict::Dead(silence);
        }
        if !pinged && silence >= ping_after {
            return Verdict::Ping;
        }
        let next = if pinged { dead_after } else { ping_after };
        Verdict::Fine(heard_at.after_micros(u64::try_from(next.as_micros()).unwrap_or(u64::MAX)))
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
            (59, false, false, Verdict::Fine(at(60))),
            (60, false, false, Verdict::Ping),
            (74, true, false, Verdict::Fine(at(75))),
            (75, true, false, Verdict::Dead(Duration::from_secs(75))),
            (4, false, true, Verdict::Fine(at(5))),
            (5, false, true, Verdict::Ping),
            (9, true, true, Verdict::Fine(at(10))),
            (10, true, true, Verdict::Dead(Duration::from_secs(10))),
        ] {
            assert_eq!(keep_alive.judge(at(now), at(0), pinged, busy), verdict, "after {now} s");
        }
    }
}
