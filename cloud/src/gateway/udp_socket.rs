//! A public UDP socket: it knows to which address of this machine each datagram was sent, so that an answer leaves from
//! there (`IP_PKTINFO`, `IPV6_PKTINFO`). A socket that listens on all addresses would otherwise answer from whichever the
//! route prefers, and the client takes that for a stranger's.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use smol::Async;
use socket2::{Domain, Protocol, Socket, Type};

pub(super) struct UdpSocket {
    socket: Async<std::net::UdpSocket>,
    address: SocketAddr,
}

/// Where a datagram came from: one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// The client's address, as the socket has it: an IPv4 one may come mapped into IPv6.
    pub(super) peer: SocketAddr,
    /// The address of this machine that it wrote to.
    local: IpAddr,
}

/// Memory for what the kernel says beside a datagram.
pub(super) struct Beside(Vec<u8>);

impl Beside {
    pub(super) fn new() -> Self {
        Self(nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo))
    }
}

impl UdpSocket {
    /// Takes the port.
    ///
    /// # Errors
    /// The system's, when the address is taken, not this machine's, or not allowed.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
        socket.bind(&address.into())?;
        let socket = std::net::UdpSocket::from(socket);
        Ok(Self { address: socket.local_addr()?, socket: Async::new(socket)? })
    }

    /// As the system made it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram, and its length: if that is more than `buffer` has, the rest is lost.
    ///
    /// # Errors
    /// The system's; [`WouldBlock`](io::ErrorKind::WouldBlock) if there is none.
    pub(super) fn receive(&self, buffer: &mut [u8], beside: &mut Beside) -> io::Result<(Origin, usize)> {
        let mut pieces = [IoSliceMut::new(buffer)];
        // with this flag the kernel tells the length of a datagram that was cut off as well
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_TRUNC);
        let message = recvmsg::<SockaddrStorage>(fd, &mut pieces, Some(&mut beside.0), flags)?;
        let peer = message.address.as_ref().and_then(socket_address).ok_or(io::ErrorKind::InvalidData)?;
        let local = message.cmsgs()?.find_map(|beside| match beside {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes())),
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        });
        Ok((Origin { peer, local: local.unwrap_or(self.address.ip()) }, message.bytes))
    }

    /// Answers a client.
    ///
    /// # Errors
    /// The system's; [`WouldBlock`](io::ErrorKind::WouldBlock) if there is no room.
    pub(super) fn send(&self, datagram: &[u8], to: &Origin) -> io::Result<()> {
        let peer = SockaddrStorage::from(to.peer);
        let send = |from: ControlMessage<'_>| {
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::empty());
            sendmsg(fd, &[IoSlice::new(datagram)], &[from], flags, Some(&peer))
        };
        match to.local {
            IpAddr::V4(local) => send(ControlMessage::Ipv4PacketInfo(&libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                ipi_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::UNSPECIFIED) },
            })),
            IpAddr::V6(local) => send(ControlMessage::Ipv6PacketInfo(&libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: local.octets() },
                ipi6_ifindex: 0,
            })),
        }?;
        Ok(())
    }

    /// Whether an answer to such a client is worth sending: not to a port that is none, nor to this socket itself, which
    /// would take it for a question.
    pub(super) fn may_answer(&self, to: &Origin) -> bool {
        to.peer.port() != 0 && (to.peer.ip(), to.peer.port()) != (to.local, self.address.port())
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram from a client that is bound to `client`, to the socket's port at `local`; and an answer.
    fn exchange(socket: &UdpSocket, client: &str, local: &str, length: usize) -> (Origin, usize) {
        let client = std::net::UdpSocket::bind((client, 0)).unwrap();
        // connected, so that it hears no other address than the one it writes to
        client.connect((local, socket.address().port())).unwrap();
        client.send(&vec![7; length]).unwrap();
        smol::block_on(socket.readable()).unwrap();
        let (mut buffer, mut beside) = ([0; 1_000], Beside::new());
        let (origin, count) = socket.receive(&mut buffer, &mut beside).unwrap();
        assert!(buffer[..count.min(1_000)].iter().all(|byte| *byte == 7));
        assert_eq!(origin.peer.ip().to_canonical(), client.local_addr().unwrap().ip());
        assert!(socket.may_answer(&origin));
        socket.send(b"answer", &origin).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        (origin, count)
    }

    #[test]
    fn answers_leave_from_the_address_that_was_asked() {
        let socket = UdpSocket::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let (one, _) = exchange(&socket, "127.0.0.1", "127.0.0.1", 0);
        let (two, _) = exchange(&socket, "127.0.0.1", "127.0.0.77", 1);
        assert_eq!((one.local, two.local), (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 77])));
        // both kinds by one socket
        let socket = UdpSocket::bind("[::]:0".parse().unwrap()).unwrap();
        exchange(&socket, "127.0.0.1", "127.0.0.78", 1_000);
        exchange(&socket, "::1", "::1", 1_000);
    }

    #[test]
    fn the_length_of_what_is_too_long_is_told() {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(exchange(&socket, "127.0.0.1", "127.0.0.1", 1_001).1, 1_001);
        assert_eq!(exchange(&socket, "127.0.0.1", "127.0.0.1", 65_507).1, 65_507);
    }

    #[test]
    fn it_does_not_talk_to_itself_or_to_nobody() {
        let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let origin = |peer: SocketAddr| Origin { peer, local: [127, 0, 0, 1].into() };
        assert!(!socket.may_answer(&origin(socket.address())));
        assert!(!socket.may_answer(&origin(([127, 0, 0, 1], 0).into())));
        assert!(socket.may_answer(&origin(([127, 0, 0, 2], socket.address().port()).into())));
    }
}
