//! A UDP service as the far end of one stream: a socket of its own, connected to the target.
//!
//! A connected socket hears its target and nobody else, and of an ICMP error (connection refused). Its buffer in the kernel
//! is the only queue, as large as `net.core.rmem_default`: while the link is slow or gone the datagrams that find no room
//! there are dropped, which are the newest.
//!
//! Owns: sending and receiving, what comes before the target's name is resolved, the end after silence. Leaves to others:
//! which services there are (`services`).

use std::{
    future::Future,
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use log::{debug, warn};
use nix::{
    errno::Errno,
    sys::socket::{self, MsgFlags},
};
use smol::{Async, Timer, future};
use umbilical_link::{
    datagrams::{Datagrams, IdleTimer},
    paced::Paced,
};
use umbilical_mux::MAX_DATAGRAM;

/// How long the name of a target may take to resolve.
const RESOLVE: Duration = Duration::from_secs(10);

/// Datagrams that are kept while it does, and their bytes in all.
const HELD: usize = 16;
const HELD_BYTES: usize = MAX_DATAGRAM;

/// Datagrams that are too long, taken in a row before others have their turn.
const TURNS: usize = 16;

/// Where datagrams go, and what logs call it.
#[derive(Debug, Clone)]
pub(crate) struct UdpTarget {
    /// The service's name.
    pub(crate) service: Arc<str>,
    /// Name or address.
    pub(crate) host: String,
    /// 1 to 65535.
    pub(crate) port: u16,
    /// Both, as the configuration has them.
    pub(crate) shown: String,
    /// The lines about it; all its streams share them.
    pub(crate) said: Arc<Paced>,
}

/// One stream's socket.
pub(crate) struct UdpPort {
    target: UdpTarget,
    socket: Socket,
    idle: IdleTimer,
    active_at: Instant,
}

enum Socket {
    Resolving { resolving: Resolving, held: Vec<Box<[u8]>> },
    Connected(Async<UdpSocket>),
}

type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// What the log tells of, each in its own lines.
#[derive(Clone, Copy)]
enum Told {
    TooLong,
    Refused,
    NoRoom,
    Broken,
}

impl UdpPort {
    /// A stream that ends when it was silent for `idle`.
    ///
    /// # Errors
    /// There is no socket to be had, or no way to the target.
    pub(crate) fn open(target: UdpTarget, idle: Duration) -> io::Result<UdpPort> {
        let socket = match target.host.parse() {
            Ok(address) => Socket::Connected(connect(&[SocketAddr::new(address, target.port)])?),
            Err(_) => Socket::Resolving { resolving: resolve(target.host.clone(), target.port), held: Vec::new() },
        };
        Ok(UdpPort { target, socket, idle: IdleTimer::new(idle), active_at: Instant::now() })
    }

    /// The socket, once there is one.
    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&Async<UdpSocket>>> {
        if let Socket::Resolving { resolving, held } = &mut self.socket {
            let resolved = std::task::ready!(resolving.as_mut().poll(cx));
            let socket = match resolved.and_then(|addresses| connect(&addresses)) {
                Ok(socket) => socket,
                Err(error) => return Poll::Ready(Err(self.broken(error))),
            };
            let held = std::mem::take(held);
            self.socket = Socket::Connected(socket);
            for datagram in held {
                self.send(&datagram)?;
            }
        }
        match &self.socket {
            Socket::Connected(socket) => Poll::Ready(Ok(socket)),
            Socket::Resolving { .. } => Poll::Pending,
        }
    }

    fn tell(&self, told: Told, what: &dyn std::fmt::Display) {
        let UdpTarget { service, shown, said, .. } = &self.target;
        match said.admit(told as u8, Instant::now()) {
            Some(hidden) => warn!("service {service} at {shown}: {what}{hidden}"),
            None => debug!("service {service} at {shown}: {what}"),
        }
    }

    fn broken(&self, error: io::Error) -> io::Error {
        match error.kind() {
            ErrorKind::ConnectionRefused => {
                self.tell(Told::Broken, &"nobody takes datagrams there (connection refused)");
            }
            _ => self.tell(Told::Broken, &error),
        }
        error
    }
}

impl Datagrams for UdpPort {
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<usize>>> {
        for _ in 0..TURNS {
            let socket = match self.poll_socket(cx) {
                Poll::Ready(socket) => socket?,
                Poll::Pending => return self.idle.poll(cx, self.active_at).map(|()| Ok(None)),
            };
            // with this flag the kernel tells the length of a datagram that was cut off as well
            match socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) => {
                    self.active_at = Instant::now();
                    if length <= buffer.len() {
                        return Poll::Ready(Ok(Some(length)));
                    }
                    self.tell(Told::TooLong, &TooLong { from: "the service", length });
                }
                Err(Errno::EAGAIN) => {
                    if socket.poll_readable(cx)?.is_pending() {
                        return self.idle.poll(cx, self.active_at).map(|()| Ok(None));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Poll::Ready(Err(self.broken(error.into()))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.active_at = Instant::now();
        let socket = match &mut self.socket {
            Socket::Connected(socket) => socket,
            Socket::Resolving { held, .. } => {
                let bytes: usize = held.iter().map(|datagram| datagram.len()).sum();
                if held.len() < HELD && bytes + datagram.len() <= HELD_BYTES {
                    held.push(datagram.into());
                } else {
                    self.tell(Told::NoRoom, &"a datagram was dropped while the name is being resolved");
                }
                return Ok(());
            }
        };
        loop {
            return match socket::send(socket.as_raw_fd(), datagram, MsgFlags::empty()) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error @ (Errno::EAGAIN | Errno::ENOBUFS | Errno::EMSGSIZE)) => {
                    self.tell(
                        Told::NoRoom,
                        &format_args!("a datagram of {} bytes was dropped: {error}", datagram.len()),
                    );
                    Ok(())
                }
                Err(error) => Err(self.broken(error.into())),
            };
        }
    }

    fn refuse(&mut self, length: usize) {
        self.tell(Told::Refused, &TooLong { from: "the cloud", length });
    }
}

/// A datagram that was dropped for its length.
struct TooLong {
    from: &'static str,
    length: usize,
}

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, length } = self;
        write!(
            f,
            "a datagram of {length} bytes from {from} was dropped, the longest that can be carried has {MAX_DATAGRAM}"
        )
    }
}

fn resolve(host: String, port: u16) -> Resolving {
    let late = async {
        Timer::after(RESOLVE).await;
        Err(ErrorKind::TimedOut.into())
    };
    Box::pin(future::or(async move { smol::net::resolve((host, port)).await }, late))
}

/// A socket that is connected to the first address that there is a way to.
fn connect(addresses: &[SocketAddr]) -> io::Result<Async<UdpSocket>> {
    let mut error = ErrorKind::NotFound.into();
    for address in addresses {
        match connect_to(*address) {
            Ok(socket) => return Ok(socket),
            Err(other) => error = other,
        }
    }
    Err(error)
}

fn connect_to(address: SocketAddr) -> io::Result<Async<UdpSocket>> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Async::new(socket)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn target(host: &str, port: u16) -> UdpTarget {
        UdpTarget { service: "snmp".into(), host: host.to_owned(), port, shown: String::new(), said: Arc::default() }
    }

    /// A service on this machine, and a stream to it.
    fn pair(address: &str, host: &str, idle: Duration) -> (Async<UdpSocket>, UdpPort) {
        let service = Async::new(UdpSocket::bind((address, 0)).unwrap()).unwrap();
        let port = service.get_ref().local_addr().unwrap().port();
        (service, UdpPort::open(target(host, port), idle).unwrap())
    }

    async fn receive(port: &mut UdpPort, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let late = async {
            Timer::after(Duration::from_secs(20)).await;
            panic!("nothing was received");
        };
        future::or(poll_fn(|cx| port.poll_receive(cx, buffer)), late).await
    }

    #[test]
    fn datagrams_of_every_length_go_both_ways() {
        for (address, host) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "localhost")] {
            smol::block_on(async {
                let (service, mut port) = pair(address, host, LONG);
                let (mut there, mut back) = (vec![0; 65_536], vec![0; MAX_DATAGRAM]);
                for length in [0, 1, 1_472, MAX_DATAGRAM] {
                    let datagram = vec![u8::try_from(length % 251).unwrap(); length];
                    port.send(&datagram).unwrap();
                    let (count, from) = future::or(service.recv_from(&mut there), async {
                        // a name is resolved while somebody waits for an answer
                        receive(&mut port, &mut back).await.unwrap();
                        unreachable!("nothing was answered yet")
                    })
                    .await
                    .unwrap();
                    assert!(there[..count] == datagram, "{length} bytes became {count}");
                    service.send_to(&datagram, from).await.unwrap();
                    assert_eq!(receive(&mut port, &mut back).await.unwrap(), Some(length));
                    assert!(back[..length] == datagram);
                }
            });
        }
    }

    #[test]
    fn what_is_too_long_is_dropped_and_the_next_one_is_not() {
        smol::block_on(async {
            let (service, mut port) = pair("127.0.0.1", "127.0.0.1", LONG);
            port.send(b"hello").unwrap();
            let (_, from) = service.recv_from(&mut [0; 16]).await.unwrap();
            // more of them than are looked at in one turn
            for length in [MAX_DATAGRAM + 1, 65_507, 20_000].iter().cycle().take(TURNS * 2) {
                service.send_to(&vec![1; *length], from).await.unwrap();
                if length % 2 == 0 {
                    service.send_to(b"fits", from).await.unwrap();
                    let mut buffer = vec![0; MAX_DATAGRAM];
                    assert_eq!(receive(&mut port, &mut buffer).await.unwrap(), Some(4));
                    assert_eq!(&buffer[..4], b"fits");
                }
            }
        });
    }

    #[test]
    fn silence_is_the_end_and_a_word_in_time_is_not() {
        smol::block_on(async {
            let idle = Duration::from_millis(300);
            let (_service, mut port) = pair("127.0.0.1", "127.0.0.1", idle);
            let since = Instant::now();
            // the timer is set for the beginning; what is said after it counts
            Timer::after(Duration::from_millis(200)).await;
            port.send(b"still here").unwrap();
            assert_eq!(receive(&mut port, &mut [0; 16]).await.unwrap(), None);
            assert!(since.elapsed() >= Duration::from_millis(500), "{:?}", since.elapsed());
        });
    }

    #[test]
    fn a_service_that_is_not_there_is_told_by_the_kernel() {
        smol::block_on(async {
            let (service, mut port) = pair("127.0.0.1", "127.0.0.1", LONG);
            drop(service);
            port.send(b"anybody?").unwrap();
            let error = receive(&mut port, &mut [0; 16]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            // or by the next one to be sent
            port.send(b"anybody?").unwrap();
            let error = port.send(b"anybody?").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn little_is_held_for_a_name_that_takes_its_time() {
        let (service, mut port) = pair("127.0.0.1", "localhost", LONG);
        for number in 0..100_u8 {
            port.send(&[number; 1_000]).unwrap();
        }
        smol::block_on(async {
            let mut seen = Vec::new();
            let mut buffer = [0; 2_000];
            let resolve = async { receive(&mut port, &mut [0; 16]).await.map(|_| ()) };
            let collect = async {
                while seen.len() < HELD {
                    let count = service.recv(&mut buffer).await?;
                    assert_eq!(count, 1_000);
                    seen.push(buffer[0]);
                }
                Ok(())
            };
            future::or(resolve, collect).await.unwrap();
            assert_eq!(seen, (0..16).collect::<Vec<u8>>());
        });
        assert!(service.get_ref().recv(&mut [0; 1]).is_err(), "more than was held came");
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        let mut port = UdpPort::open(target("no-such-host.invalid", 161), LONG).unwrap();
        smol::block_on(receive(&mut port, &mut [0; 16])).unwrap_err();
    }

    #[test]
    fn a_datagram_costs_no_allocation() {
        smol::block_on(async {
            let (service, mut port) = pair("127.0.0.1", "127.0.0.1", LONG);
            port.send(b"hello").unwrap();
            let (_, from) = service.recv_from(&mut [0; 16]).await.unwrap();
            for _ in 0..50 {
                service.send_to(&[7; 1_000], from).await.unwrap();
            }
            let mut buffer = vec![0; MAX_DATAGRAM];
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let allocations = allocation_counter::measure(|| {
                for _ in 0..50 {
                    assert!(matches!(port.poll_receive(&mut cx, &mut buffer), Poll::Ready(Ok(Some(1_000)))));
                    port.send(&buffer[..1_000]).unwrap();
                }
            });
            assert_eq!(allocations.count_total, 0);
        });
    }
}
