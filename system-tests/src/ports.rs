//! Ports for programs that can't take port 0 and tell.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
};

/// A loopback address that nobody listens on, by TCP or UDP.
///
/// The port lies below the range that the kernel gives to outgoing connections: between this call and the program's own
/// `bind` no client can be given it.
///
/// # Panics
/// A hundred ports in a row were taken.
pub fn free() -> SocketAddrV4 {
    let end = first_ephemeral_port();
    (0..100)
        .map(|_| SocketAddrV4::new(Ipv4Addr::LOCALHOST, fastrand::u16(10_000..end)))
        .find(|address| TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok())
        .expect("a free port among a hundred between 10000 and the ephemeral range")
}

fn first_ephemeral_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|&first| first > 11_000)
        .unwrap_or(32_768)
}
