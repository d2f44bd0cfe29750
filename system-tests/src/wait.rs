//! Conditions with a deadline.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// How long anything that should be quick may take on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(10);

/// Asks until there is an answer.
///
/// # Panics
/// There was none `within` that time; the message names `what` was waited for.
pub fn for_some<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for {what}");
        thread::sleep(POLL);
    }
}

/// Waits until somebody accepts connections at `address`.
///
/// # Panics
/// Nobody did `within` that time.
pub fn for_listener(address: SocketAddr, within: Duration) {
    for_some(&format!("a listener on {address}"), within, || TcpStream::connect(address).ok());
}
