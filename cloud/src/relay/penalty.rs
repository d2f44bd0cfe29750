//! Who was refused how often: spaces out the answers to sources that try again at once.
//!
//! A leaky bucket per source. It leaks one refusal per pause; what is above the allowance waits. A client that waits
//! for each answer thus ends up at one try per pause, and costs one idle socket. Nobody else behind the same address
//! is slowed down: only refusals are. The table is bounded; while it is full of active sources, new ones go free.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sources remembered at most.
const MAX_SOURCES: usize = 8192;

/// The longest wait, in pauses: more than that no client listens for.
const MAX_PAUSES: u32 = 5;

#[derive(Default)]
pub(crate) struct Penalties {
    sources: Mutex<HashMap<Source, Bucket>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Source(u64);

struct Bucket {
    level: u32,
    leaked_at: Instant,
}

impl Penalties {
    /// Notes a refusal of `ip` and says how long to keep it waiting for its answer.
    pub(crate) fn refused(&self, ip: IpAddr, allowance: u32, pause: Duration, now: Instant) -> Duration {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let source = Source::of(ip);
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            sources.retain(|_, bucket| bucket.leak(pause, now) > 0);
            if sources.len() >= MAX_SOURCES {
                return Duration::ZERO;
            }
        }
        let bucket = sources.entry(source).or_insert(Bucket { level: 0, leaked_at: now });
        let level = bucket.leak(pause, now) + 1;
        bucket.level = level.min(allowance.saturating_add(MAX_PAUSES));
        pause * bucket.level.saturating_sub(allowance)
    }
}

impl Source {
    /// A whole /64 is one source: whoever has one IPv6 address has all of those.
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self(u64::from(ip.to_bits())),
            IpAddr::V6(ip) => Self((ip.to_bits() >> 64) as u64),
        }
    }
}

impl Bucket {
    fn leak(&mut self, pause: Duration, now: Instant) -> u32 {
        while self.level > 0 && self.leaked_at + pause <= now {
            self.level -= 1;
            self.leaked_at += pause;
        }
        if self.level == 0 {
            self.leaked_at = now;
        }
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);
    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn a_client_that_retries_at_once_ends_up_at_one_try_per_pause() {
        let penalties = Penalties::default();
        let start = Instant::now();
        let mut now = start;
        for _ in 0..100 {
            now += penalties.refused(ONE, 10, PAUSE, now);
        }
        let spent = now - start;
        assert!(spent >= PAUSE * 89 && spent <= PAUSE * 91, "{spent:?}");
    }

    #[test]
    fn others_and_those_who_wait_are_not_penalised() {
        let penalties = Penalties::default();
        let mut now = Instant::now();
        for _ in 0..50 {
            penalties.refused(ONE, 10, PAUSE, now);
        }
        assert_eq!(penalties.refused(ONE, 10, PAUSE, now), PAUSE * MAX_PAUSES);
        assert_eq!(penalties.refused(OTHER, 10, PAUSE, now), Duration::ZERO);
        now += PAUSE * 15;
        assert_eq!(penalties.refused(ONE, 10, PAUSE, now), Duration::ZERO);
    }

    #[test]
    fn addresses_of_one_network_are_one_source_and_mapped_ones_are_what_they_map() {
        let penalties = Penalties::default();
        let now = Instant::now();
        let refuse = |ip: &str| penalties.refused(ip.parse().unwrap(), 1, PAUSE, now);
        assert_eq!(refuse("2001:db8::1"), Duration::ZERO);
        assert_eq!(refuse("2001:db8::2"), PAUSE);
        assert_eq!(refuse("2001:db8:0:1::1"), Duration::ZERO);
        assert_eq!(refuse("192.0.2.1"), Duration::ZERO);
        assert_eq!(refuse("::ffff:192.0.2.1"), PAUSE);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_quiet_ones() {
        let penalties = Penalties::default();
        let now = Instant::now();
        for n in 0..20_000 {
            penalties.refused(IpAddr::V4(std::net::Ipv4Addr::from_bits(n)), 1, PAUSE, now);
        }
        assert_eq!(penalties.sources.lock().unwrap().len(), MAX_SOURCES);
        penalties.refused(IpAddr::V4(std::net::Ipv4Addr::from_bits(30_000)), 1, PAUSE, now + PAUSE);
        assert_eq!(penalties.sources.lock().unwrap().len(), 1);
    }
}
