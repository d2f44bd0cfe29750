//! What time it is, on a device that may not know.
//!
//! Certificates and tokens need a date, and a device without a battery-backed clock starts in 1970. Three sources, from
//! weak to strong:
//!
//! - the *floor*: the time this program was made (`SOURCE_DATE_EPOCH`, else the release). It can't be earlier;
//! - the system's clock, believed when it is past the floor;
//! - the relay's `Date` header, carried on by the time since boot, which neither a suspend nor a step of the system's
//!   clock disturbs.
//!
//! Tokens are dated by the relay's clock as soon as it is known, because the relay judges them. Certificates are judged
//! by it only where the system's clock is known to be unset: a relay that is wrong about the date can't talk a device
//! with a working clock into an expired certificate. Where neither is known, a certificate of after the floor is judged as of
//! its first day ([`DeviceClock`]).

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_rustls::{pki_types::UnixTime, rustls::time_provider::TimeProvider};
use umbilical_link::tls::DeviceClock;

use crate::sys::boot_time;

/// When this version was released, in seconds since 1970: the floor of builds that set no `SOURCE_DATE_EPOCH`.
const RELEASED: u64 = 1_793_000_000;

/// A difference that is no news, in seconds: `Date` has no fractions, and it travelled.
const TOLERANCE: u64 = 5;

/// The device's idea of the date.
#[derive(Debug)]
pub struct Clock {
    floor: u64,
    relay: Mutex<Option<Anchor>>,
}

/// The relay said `date` when the device had been up for `uptime`.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    date: u64,
    uptime: Duration,
}

/// What time it is for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenTime {
    /// Seconds since 1970.
    pub unix: u64,
    /// Whether it is the relay's own time, and not only what this device believes.
    pub is_confirmed: bool,
}

/// How far the system's clock is from the relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The same within a few seconds.
    None,
    /// The system's clock is behind by this many seconds.
    Behind(u64),
    /// The system's clock is ahead by this many seconds.
    Ahead(u64),
}

impl Clock {
    /// A clock that knows only its floor and the system.
    #[must_use]
    pub fn new() -> Clock {
        Clock { floor: build_time(), relay: Mutex::new(None) }
    }

    /// Now, for tokens.
    #[must_use]
    pub fn token_time(&self) -> TokenTime {
        self.token_time_at(system_time(), boot_time())
    }

    /// Now, for certificates: seconds since 1970.
    #[must_use]
    pub fn certificate_time(&self) -> u64 {
        self.certificate_time_at(system_time(), boot_time())
    }

    /// The relay's `Date` arrived over an authenticated connection; tells how far the system's clock is off.
    pub fn learn(&self, date: u64) -> Difference {
        self.learn_at(date, system_time(), boot_time())
    }

    fn token_time_at(&self, system: u64, uptime: Duration) -> TokenTime {
        match self.relay_time(uptime) {
            Some(unix) => TokenTime { unix, is_confirmed: true },
            None => TokenTime { unix: system.max(self.floor), is_confirmed: false },
        }
    }

    fn certificate_time_at(&self, system: u64, uptime: Duration) -> u64 {
        if system >= self.floor { system } else { self.relay_time(uptime).unwrap_or(self.floor) }
    }

    fn is_unset_at(&self, system: u64, uptime: Duration) -> bool {
        system < self.floor && self.relay_time(uptime).is_none()
    }

    fn learn_at(&self, date: u64, system: u64, uptime: Duration) -> Difference {
        // A relay from before this program was made is wrong itself; tokens dated by it would be no better.
        if date >= self.floor {
            *self.anchor() = Some(Anchor { date, uptime });
        }
        match date.abs_diff(system) {
            0..=TOLERANCE => Difference::None,
            seconds if date > system => Difference::Behind(seconds),
            seconds => Difference::Ahead(seconds),
        }
    }

    fn relay_time(&self, uptime: Duration) -> Option<u64> {
        self.anchor().map(|anchor| anchor.date + uptime.saturating_sub(anchor.uptime).as_secs())
    }

    fn anchor(&self) -> std::sync::MutexGuard<'_, Option<Anchor>> {
        self.relay.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.certificate_time())))
    }
}

impl DeviceClock for Clock {
    fn is_unset(&self) -> bool {
        self.is_unset_at(system_time(), boot_time())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::None => f.write_str("this device's clock agrees with the relay's"),
            Difference::Behind(seconds) => write!(f, "this device's clock is {seconds} s behind the relay's"),
            Difference::Ahead(seconds) => write!(f, "this device's clock is {seconds} s ahead of the relay's"),
        }
    }
}

fn build_time() -> u64 {
    let made = option_env!("SOURCE_DATE_EPOCH").and_then(|seconds| seconds.parse().ok());
    made.unwrap_or(RELEASED)
}

fn system_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: u64 = 1_800_000_000;
    const UP: Duration = Duration::from_secs(1000);

    fn clock() -> Clock {
        Clock { floor: FLOOR, relay: Mutex::new(None) }
    }

    #[test]
    fn an_unset_system_clock_is_lifted_to_the_floor() {
        assert_eq!(clock().token_time_at(17, UP).unix, FLOOR);
        assert_eq!(clock().certificate_time_at(17, UP), FLOOR);
    }

    #[test]
    fn it_is_unset_until_the_system_or_the_relay_tells_the_time() {
        let clock = clock();
        assert!(clock.is_unset_at(17, UP));
        assert!(!clock.is_unset_at(FLOOR, UP));
        clock.learn_at(FLOOR - 1, 17, UP);
        assert!(clock.is_unset_at(17, UP), "a relay from before the floor tells nothing");
        clock.learn_at(FLOOR + 1, 17, UP);
        assert!(!clock.is_unset_at(17, UP));
    }

    #[test]
    fn a_set_system_clock_is_believed_until_the_relay_speaks() {
        assert!(!clock().token_time_at(FLOOR + 9, UP).is_confirmed);
        assert_eq!(clock().token_time_at(FLOOR + 9, UP).unix, FLOOR + 9);
        assert_eq!(clock().certificate_time_at(FLOOR + 9, UP), FLOOR + 9);
    }

    #[test]
    fn tokens_follow_the_relay_through_a_step_of_the_system_clock() {
        let clock = clock();
        assert_eq!(clock.learn_at(FLOOR + 5000, 17, UP), Difference::Behind(FLOOR + 5000 - 17));
        let later = UP + Duration::from_secs(60);
        assert_eq!(clock.token_time_at(17 + 60, later).unix, FLOOR + 5060);
        assert_eq!(clock.token_time_at(FLOOR + 9_000_000, later).unix, FLOOR + 5060, "the system's clock was stepped");
        assert_eq!(clock.certificate_time_at(17 + 60, later), FLOOR + 5060);
        assert!(clock.token_time_at(17, later).is_confirmed);
    }

    #[test]
    fn certificates_follow_a_system_clock_that_is_set() {
        let clock = clock();
        assert_eq!(clock.learn_at(FLOOR + 1000, FLOOR + 90_000, UP), Difference::Ahead(89_000));
        assert_eq!(clock.certificate_time_at(FLOOR + 90_000, UP), FLOOR + 90_000);
        assert_eq!(clock.token_time_at(FLOOR + 90_000, UP).unix, FLOOR + 1000);
    }

    #[test]
    fn a_relay_from_before_the_floor_is_not_followed() {
        let clock = clock();
        assert_eq!(clock.learn_at(FLOOR - 1, FLOOR + 100, UP), Difference::Ahead(101));
        assert_eq!(clock.token_time_at(FLOOR + 100, UP).unix, FLOOR + 100);
    }

    #[test]
    fn a_few_seconds_are_no_difference() {
        assert_eq!(clock().learn_at(FLOOR + 100, FLOOR + 105, UP), Difference::None);
        assert_eq!(clock().learn_at(FLOOR + 106, FLOOR + 100, UP), Difference::Behind(6));
    }
}
