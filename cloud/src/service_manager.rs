//! What the service manager is told (sd_notify(3)), where there is one that asks: `NOTIFY_SOCKET`, `WATCHDOG_USEC`.
//!
//! ```text
//! READY=1 STATUS=...                every port is open; after each reload again
//! RELOADING=1 MONOTONIC_USEC=...    SIGHUP came
//! STOPPING=1 EXTEND_TIMEOUT_USEC=.. SIGTERM came; new clients have `drain-after`, open streams `drain-for`
//! WATCHDOG=1                        the loop that hears of sockets turns
//! ```

use std::env;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use log::warn;
use sd_notify::NotifyState;
use smol::Timer;

/// It serves.
pub(crate) fn ready(status: &str) {
    // a line of its own would be a message of its own
    let status = status.replace(char::is_control, " ");
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The configuration is being read again; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => warn!("no monotonic clock for the service manager: {error}"),
    }
}

/// It ends, within so long.
pub(crate) fn stopping(within: Duration) {
    let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    let status = NotifyState::Status("stopping, open streams may finish");
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(within), status]);
}

/// Says that the executor it runs on runs tasks, twice in each period of the watchdog. Returns at once where there is none.
///
/// Only the thread that hears of sockets and timers calls the others to help (`threads`): when it is stuck, this is too.
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
