//! Conditions with a deadline.

use std::{
    fs,
    net::SocketAddrV4,
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
pub fn for_some<T>(what: &str, within: Duration, ask: impl FnMut() -> Option<T>) -> T {
    for_some_of(|| what.to_owned(), within, ask)
}

/// The same; what was waited for in vain is only put into words then.
///
/// # Panics
/// As there.
pub fn for_some_of<T>(what: impl Fn() -> String, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain for {}", what());
        thread::sleep(POLL);
    }
}

/// Waits until somebody listens at an IPv4 `address`.
///
/// It asks the kernel and connects to nobody: a tunnel's first connection is the test's.
///
/// # Panics
/// Nobody did `within` that time.
pub fn for_listener(address: SocketAddrV4, within: Duration) {
    for_some(&format!("a listener on {address}"), within, || is_listening(address).then_some(()));
}

/// A line of proc_net_tcp(5) is `sl local_address rem_address st ...`: address and port in hexadecimal, the address as
/// the memory of this machine has it; state 0A is LISTEN.
fn is_listening(address: SocketAddrV4) -> bool {
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&local) && fields.nth(1) == Some("0A")
    })
}
