//! What the service manager is told (sd_notify(3)), where there is one that asks: `NOTIFY_SOCKET`, `WATCHDOG_USEC`.
//!
//! ```text
//! READY=1                           the configuration is good and the agent runs; it does not wait for a relay
//! STATUS=...                        how it stands with its relays, whenever that changes
//! RELOADING=1 MONOTONIC_USEC=...    SIGHUP came; READY=1 follows
//! STOPPING=1 EXTEND_TIMEOUT_USEC=.. SIGTERM came; open streams have `drain-for`
//! WATCHDOG=1                        the loop that does everything turns
//! ```
//!
//! A device without a network has started as well as it can, and what comes behind it in the boot order must not wait for a
//! modem: whether it is connected is what `STATUS` says.

use std::{env, os::unix::net::UnixDatagram, rc::Rc, time::Duration};

use log::warn;
use sd_notify::NotifyState;
use smol::Timer;

use crate::health::Health;

/// The agent runs.
pub fn ready(health: &Health) {
    tell(&[NotifyState::Ready, NotifyState::Status(&health.line())]);
}

/// The configuration is being read again; [`ready`] follows.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!("no monotonic clock for the service manager: {error}"),
    }
}

/// The agent ends, within so long.
pub fn stopping(health: &Health, within: Duration) {
    let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(within), NotifyState::Status(&health.line())]);
}

/// Tells what changes, for ever.
pub async fn follow(health: Rc<Health>) {
    let mut told = String::new();
    loop {
        let news = health.news();
        let line = health.line();
        if line != told {
            tell(&[NotifyState::Status(&line)]);
            told = line;
        }
        news.await;
    }
}

/// Says that the loop it runs in turns, twice in each period of the watchdog. Returns at once where there is none.
pub async fn feed_watchdog() {
    let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else { return };
    loop {
        tell(&[NotifyState::Watchdog]);
        Timer::after(period / 2).await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    // not by `sd_notify::notify`: it waits for a service manager that is stuck, and nothing here may
    let told = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.connect(&path)?;
        socket.send(message.as_bytes())
    });
    if let Err(error) = told {
        warn!("can't tell the service manager at NOTIFY_SOCKET: {error}");
    }
}
