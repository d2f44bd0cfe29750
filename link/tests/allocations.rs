//! What moving payload costs in allocations, on the device's side of a real link.
//!
//! `mux` has no allocator, the WebSocket's buffers are made once, and a port reads and writes in place: on a bare link
//! there are none. Under TLS they are those of rustls, which keeps each record it has not sent, or decrypted, in memory of
//! its own:
//!
//! | direction | allocations per full record | for |
//! | --- | --- | --- |
//! | to the cloud | 1 to 1.5 | the encrypted record, until the socket takes it; acknowledgements that come |
//! | from the cloud | 1 to 2 | the decrypted record, until the session takes it; room for the next one |
//!
//! rustls lets that room go whenever all that came is read, and then doubles it up to a record again: four allocations. How
//! often that is depends on when bytes come, and it only adds; so the least of several transfers counts.
//!
//! The reactor, which has two allocations whenever it wakes somebody, is not measured.
//!
//! To see the figures: `cargo test -p umbilical-link --test allocations -- --nocapture`

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::task::Poll;
use std::thread;

use smol::{Async, LocalExecutor};
use umbilical_link::port::{Dialing, OnEnd};
use umbilical_link::tls;
use umbilical_link::transport::{Transport, prepare_socket};
use umbilical_link::upgrade::{Role, Upgraded};
use umbilical_link::{Driver, DriverConfig, Io, KeepAlive, NewLink, NewStream, NoServices, Services, WebSocket};
use umbilical_mux::{Config, Hello, MAX_RECORD, Mode, ResetReason, SessionId, Shape, Side};

use support::Authority;

const SHAPE: Shape = Shape { streams: 16, replay: 512 * 1024, receive: 512 * 1024 };

/// Bytes of the short and of the long transfer; what both have in common is no matter of records.
const SHORT: u64 = 16 << 20;
const LONG: u64 = 64 << 20;

/// Bytes of payload in a full TLS record.
const RECORD: u64 = 16 * 1024;

#[derive(Clone, Copy, Debug)]
enum Direction {
    ToCloud,
    FromCloud,
}

struct Target(SocketAddr);

impl Services for Target {
    fn dial(&mut self, _: &str, _: Mode) -> Result<(Io, OnEnd), ResetReason> {
        let address = self.0;
        let dialing: Dialing = Box::pin(async move {
            let socket = Async::<TcpStream>::connect(address).await.map_err(|_| ResetReason::REFUSED)?;
            Io::tcp(socket).map_err(|_| ResetReason::FAILED)
        });
        Ok((Io::Dialing(dialing), Box::new(|_| {})))
    }
}

fn config(side: Side) -> DriverConfig {
    DriverConfig {
        session: Config {
            side,
            id: SessionId([7; 16]),
            shape: SHAPE,
            record: MAX_RECORD,
            resume_for_ms: 10_000,
            features: 0,
        },
        name: "test".into(),
        keep_alive: KeepAlive::default(),
    }
}

fn websocket(transport: Transport, role: Role) -> WebSocket {
    WebSocket::new(Upgraded {
        transport,
        leftover: Vec::new(),
        role,
        subprotocol: None,
        date: None,
        zero_mask: false,
        answers_pings: false,
    })
}

/// Sends or takes `bytes` on a blocking socket, on a thread of its own.
fn far_end(socket: TcpStream, sends: bool, bytes: u64) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut socket = socket;
        let mut piece = vec![0x5A; 64 * 1024];
        let mut moved = 0;
        while sends && moved < bytes {
            let count = piece.len().min(usize::try_from(bytes - moved).unwrap());
            socket.write_all(&piece[..count]).unwrap();
            moved += count as u64;
        }
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        while let Ok(count @ 1..) = socket.read(&mut piece) {
            moved += count as u64;
        }
        moved
    })
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Bare,
    Tls,
}

/// Allocations while `future` is polled: its own, and not the reactor's.
async fn counted(future: impl Future<Output = ()>) -> u64 {
    let mut future = std::pin::pin!(future);
    let mut count = 0;
    smol::future::poll_fn(|cx| {
        let mut polled = Poll::Pending;
        count += allocation_counter::measure(|| polled = future.as_mut().poll(cx)).count_total;
        polled.map(|()| count)
    })
    .await
}

/// Allocations of the device's session while `bytes` go through one stream, from its first to its last.
fn allocations(link: Link, direction: Direction, bytes: u64) -> u64 {
    let authority = Authority::new();
    let (server, client) = (authority.server("localhost"), authority.client());
    let links = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let public = TcpListener::bind("127.0.0.1:0").unwrap();
    let (link_to, target_at) = (links.local_addr().unwrap(), target.local_addr().unwrap());

    let device = thread::spawn(move || {
        let (driver, handle, socket) = smol::block_on(async {
            let socket = Async::<TcpStream>::connect(link_to).await.unwrap();
            prepare_socket(&socket).unwrap();
            let transport = match link {
                Link::Bare => Transport::Plain(socket),
                Link::Tls => tls::connect(&client, "localhost", socket).await.unwrap(),
            };
            let (driver, handle) = Driver::new(config(Side::Agent), Target(target_at)).unwrap();
            (driver, handle, websocket(transport, Role::Client))
        });
        smol::block_on(async {
            let mut socket = socket;
            let hello = Hello::decode(&socket.next_message().await.unwrap()).unwrap();
            handle.link(NewLink { socket, hello: Some(hello) }).unwrap();
            // The gateway's end of the link is the end of the session: its owner, this handle, lets it go then.
            let lost = async {
                while let Some(event) = handle.event().await {
                    if matches!(event, umbilical_link::Event::LinkLost(_)) {
                        handle.stop();
                    }
                }
            };
            smol::future::zip(counted(driver.run()), lost).await.0
        })
    });

    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let socket = Async::new(links.accept().unwrap().0).unwrap();
        prepare_socket(&socket).unwrap();
        let transport = match link {
            Link::Bare => Transport::Plain(socket),
            Link::Tls => tls::accept(&server, socket).await.unwrap(),
        };
        let (driver, handle) = Driver::new(config(Side::Gateway), NoServices).unwrap();
        let running = executor.spawn(driver.run());
        handle.link(NewLink { socket: websocket(transport, Role::Server), hello: None }).unwrap();
        let client = TcpStream::connect(public.local_addr().unwrap()).unwrap();
        let io = Io::tcp(Async::new(public.accept().unwrap().0).unwrap()).unwrap();
        handle.open(NewStream { service: Arc::from("x"), io, on_end: Box::new(|_| {}) }).unwrap();
        let service = smol::unblock(move || target.accept().unwrap().0).await;
        let from_device = matches!(direction, Direction::ToCloud);
        let ends = [far_end(service, from_device, bytes), far_end(client, !from_device, bytes)];
        for end in ends {
            assert_eq!(smol::unblock(move || end.join().unwrap()).await, bytes);
        }
        handle.stop();
        running.await;
    }));
    device.join().unwrap()
}

/// What is allocated for each [`RECORD`] bytes.
fn per_record(link: Link, direction: Direction) -> f64 {
    let more = allocations(link, direction, LONG).saturating_sub(allocations(link, direction, SHORT));
    more as f64 / ((LONG - SHORT) / RECORD) as f64
}

#[test]
fn a_bare_link_allocates_nothing() {
    for direction in [Direction::ToCloud, Direction::FromCloud] {
        let per_record = per_record(Link::Bare, direction);
        assert!(per_record < 0.01, "{direction:?}: {per_record:.3} allocations per record");
    }
}

#[test]
fn tls_allocates_not_more_than_twice_per_record() {
    for (direction, limit) in [(Direction::ToCloud, 1.5), (Direction::FromCloud, 2.0)] {
        let least = (0..5).map(|_| per_record(Link::Tls, direction)).fold(f64::INFINITY, f64::min);
        assert!(least <= limit, "{direction:?}: {least:.2} allocations per record, expected {limit} at most");
    }
}
