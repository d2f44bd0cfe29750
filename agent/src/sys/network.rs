//! News of the network from the kernel (rtnetlink(7)): a device that lost its relay because its modem was away need not
//! wait out a delay when the modem is back.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use smol::Async;

/// Addresses and routes of IPv4 and IPv6 (`RTMGRP_*` of linux/rtnetlink.h).
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;
/// Message types, same source.
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
/// Length of `struct nlmsghdr`, and offset of the prefix length in the `struct rtmsg` behind it.
const HEADER: usize = 16;
const PREFIX_LENGTH: usize = HEADER + 1;

/// Hears of changes of this machine's addresses and routes, from its making on.
#[derive(Debug)]
pub(super) struct NetworkNews(Async<OwnedFd>);

impl NetworkNews {
    /// Starts to listen.
    ///
    /// # Errors
    /// The kernel's, also where a sandbox does not allow `AF_NETLINK`.
    pub(super) fn new() -> io::Result<NetworkNews> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let news = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(news.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(NetworkNews(Async::new(news)?))
    }

    /// Waits until an address or a default route is new.
    ///
    /// # Errors
    /// The kernel's; no more news will come.
    pub(super) async fn better(&self) -> io::Result<()> {
        let mut buffer = [0; 2048];
        loop {
            match self.0.read_with(|news| Ok(recv(news.as_raw_fd(), &mut buffer, MsgFlags::empty())?)).await {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) if is_better(&buffer[..count]) => return Ok(()),
                Ok(_) => {}
                // more happened than the kernel could keep for us: surely something of interest
                Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_better(mut messages: &[u8]) -> bool {
    while let Some(&[l0, l1, l2, l3, t0, t1]) = messages.first_chunk() {
        match u16::from_ne_bytes([t0, t1]) {
            NEW_ADDRESS => return true,
            NEW_ROUTE if messages.get(PREFIX_LENGTH) == Some(&0) => return true,
            _ => {}
        }
        // each message starts at a multiple of four
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        messages = match messages.get(length.next_multiple_of(4)..) {
            Some(rest) if length >= HEADER => rest,
            _ => return false,
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut message = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], payload].concat();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn a_new_address_or_default_route_is_better_and_nothing_else() {
        let route_to = |prefix_length| message(NEW_ROUTE, &[2, prefix_length, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0]);
        let address_gone = message(21, &[2, 24, 0, 0, 1, 0, 0, 0]);
        assert!(is_better(&message(NEW_ADDRESS, &[2, 24, 0, 0, 1, 0, 0, 0])));
        assert!(is_better(&route_to(0)));
        assert!(!is_better(&route_to(24)));
        assert!(!is_better(&address_gone));
        assert!(is_better(&[address_gone, route_to(24), route_to(0)].concat()));
    }

    #[test]
    fn nonsense_ends() {
        let cut = &message(21, &[0; 3])[..9];
        let length_zero = [0, 0, 0, 0, 21, 0, 0, 0];
        for messages in [&[][..], &[1], cut, &length_zero, &[0xff; 40]] {
            assert!(!is_better(messages));
        }
    }
}
