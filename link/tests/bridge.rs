//! Promise: a WebSocket and a socket are joined: every byte once and in order, ends in order, breaks as breaks, in memory
//! of fixed size.

#![allow(clippy::unwrap_used)]

mod support;

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::Role as TheirRole;
use smol::future::{or, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use smol::{Async, Task, Timer};
use socket2::{SockFilter, SockRef};
use support::{drain, pair, pattern, run};
use umbilical_link::Io;
use umbilical_link::bridge::{Bridge, Bridged, Cause};
use umbilical_link::byte_stream::{ByteStream, MAX_PAYLOAD, StreamError};
use umbilical_link::frame::{FrameHeader, MAX_HEADER_BYTES, Opcode, apply_mask};
use umbilical_link::transport::Transport;
use umbilical_link::upgrade::{Role, Upgraded};
use umbilical_mux::{End, ResetReason};

const NEVER: Duration = Duration::from_secs(3600);

/// A bridge that runs, and the far ends of its two sides.
struct World {
    bridge: Task<Bridged>,
    peer: Peer,
    port: Async<TcpStream>,
}

/// The other end of the bridge's WebSocket.
struct Peer {
    socket: Async<TcpStream>,
    mask: Option<[u8; 4]>,
}

async fn world() -> World {
    world_with(Role::Client, b"", NEVER).await
}

/// `leftover` are frames that came with the handshake.
async fn world_with(role: Role, leftover: &[u8], keep_alive: Duration) -> World {
    let ((near, peer), (io, port)) = zip(pair(), pair()).await;
    let leftover = leftover.to_vec();
    let upgraded = Upgraded {
        transport: Transport::Plain(near),
        leftover,
        role,
        subprotocol: None,
        date: None,
        zero_mask: false,
        answers_pings: false,
    };
    let bridge = Bridge::new(ByteStream::new(upgraded), Io::tcp(io).unwrap(), keep_alive);
    let mask = if role == Role::Server { Some([0xA5, 0, 0xFF, 7]) } else { None };
    World { bridge: smol::spawn(bridge.run()), peer: Peer { socket: peer, mask }, port }
}

impl Peer {
    fn frame(&self, fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = [0; MAX_HEADER_BYTES];
        let header = FrameHeader { fin, opcode, mask: self.mask, length: payload.len() as u64 };
        let head = header.encode(&mut out);
        let mut bytes = [&out[..head], payload].concat();
        if let Some(mask) = self.mask {
            apply_mask(&mut bytes[head..], mask, 0);
        }
        bytes
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        self.socket.write_all(&self.frame(true, opcode, payload)).await.unwrap();
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<(Opcode, Vec<u8>)> {
        let mut bytes = Vec::new();
        let (header, head) = loop {
            match FrameHeader::parse(&bytes).unwrap() {
                Some(header) => break header,
                None => {
                    let mut byte = [0];
                    match self.socket.read(&mut byte).await {
                        Ok(0) => return None,
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                        read => bytes.extend_from_slice(&byte[..read.unwrap()]),
                    }
                }
            }
        };
        assert_eq!(bytes.len(), head);
        assert!(header.fin, "what is sent is never in fragments");
        assert_eq!(header.mask.is_some(), self.mask.is_none(), "a client masks, a server does not");
        assert!(header.length <= MAX_PAYLOAD as u64);
        let mut payload = vec![0; usize::try_from(header.length).unwrap()];
        self.socket.read_exact(&mut payload).await.unwrap();
        if let Some(mask) = header.mask {
            apply_mask(&mut payload, mask, 0);
        }
        Some((header.opcode, payload))
    }

    /// All bytes up to the close frame, and that one's payload.
    async fn until_close(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut all = Vec::new();
        loop {
            match self.next().await.expect("a close frame") {
                (Opcode::Binary, payload) => {
                    assert!(!payload.is_empty(), "an empty message reads as an end");
                    all.extend(payload);
                }
                (Opcode::Close, payload) => return (all, payload),
                (opcode, _) => panic!("{opcode:?} frame out of place"),
            }
        }
    }
}

const SHUTDOWN: &[u8] = b"\x03\xe8Shutdown";

/// The peer's way of saying `bytes`: text, binary, fragments, empty messages, pongs between them.
fn oddly(peer: &Peer, bytes: &[u8]) -> Vec<u8> {
    let (mut wire, mut rest, mut length) = (Vec::new(), bytes, 1);
    while !rest.is_empty() {
        let (message, later) = rest.split_at(length.min(rest.len()));
        let (first, second) = message.split_at(message.len() / 3);
        match length % 4 {
            0 => wire.extend(peer.frame(true, Opcode::Text, message)),
            1 => wire.extend(peer.frame(true, Opcode::Binary, message)),
            2 => {
                wire.extend(peer.frame(false, Opcode::Binary, first));
                wire.extend(peer.frame(true, Opcode::Pong, b"between"));
                wire.extend(peer.frame(false, Opcode::Continuation, b""));
                wire.extend(peer.frame(true, Opcode::Continuation, second));
            }
            _ => {
                wire.extend(peer.frame(true, Opcode::Binary, b""));
                wire.extend(peer.frame(false, Opcode::Text, message));
                wire.extend(peer.frame(true, Opcode::Continuation, b""));
            }
        }
        rest = later;
        length = length * 7 % 40_009;
    }
    wire
}

#[test]
fn every_byte_arrives_however_it_is_cut() {
    run(async {
        for role in [Role::Client, Role::Server] {
            let World { bridge, mut peer, mut port } = world_with(role, b"", NEVER).await;
            let (up, down) = (pattern(2_000_003), pattern(1_500_001));
            let wire = [oddly(&peer, &up), peer.frame(true, Opcode::Close, b"")].concat();
            let mut peer_out = peer.socket.get_ref().try_clone().map(Async::new).unwrap().unwrap();
            let mut port_out = port.get_ref().try_clone().map(Async::new).unwrap().unwrap();
            let say = async {
                let mut length = 1;
                let mut rest = &wire[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(length.min(rest.len()));
                    peer_out.write_all(now).await.unwrap();
                    rest = later;
                    length = length * 5 % 20_011;
                }
            };
            let answer = async {
                port_out.write_all(&down).await.unwrap();
                port_out.get_ref().shutdown(Shutdown::Write).unwrap();
            };
            let mut got = Vec::new();
            let hear = async { port.read_to_end(&mut got).await.unwrap() };
            let ((_, (heard, close)), _) = zip(zip(say, peer.until_close()), zip(answer, hear)).await;
            assert!(got == up && heard == down, "something else arrived");
            assert_eq!(close, SHUTDOWN);
            drop((peer, peer_out));
            let Bridged { ended, cause } = bridge.await;
            assert!(matches!(cause, Cause::Closed), "{cause}");
            assert_eq!((ended.end, ended.received, ended.sent), (End::Closed, up.len() as u64, down.len() as u64));
        }
    });
}

#[test]
fn what_came_with_the_handshake_is_not_lost() {
    run(async {
        let World { bridge: _bridge, peer: _peer, mut port } = world_with(Role::Client, b"\x82\x05hello", NEVER).await;
        let mut got = [0; 5];
        port.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    });
}

#[test]
fn the_library_of_others_understands_it() {
    run(async {
        let World { bridge, peer, mut port } = world().await;
        let mut theirs = WebSocketStream::from_raw_socket(peer.socket, TheirRole::Server, None).await;
        theirs.send(Message::text("grüezi")).await.unwrap();
        let mut got = [0; 7];
        port.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, "grüezi".as_bytes());
        port.write_all(b"answer").await.unwrap();
        assert_eq!(theirs.next().await.unwrap().unwrap(), Message::binary(&b"answer"[..]));
        port.get_ref().shutdown(Shutdown::Write).unwrap();
        match theirs.next().await.unwrap().unwrap() {
            Message::Close(Some(frame)) => assert_eq!((u16::from(frame.code), &*frame.reason), (1000, "Shutdown")),
            other => panic!("expected a close frame, got {other:?}"),
        }
        // it answers a close frame with one of its own
        while theirs.next().await.is_some() {}
        assert!(drain(&mut port).await.is_empty());
        assert!(matches!(bridge.await.cause, Cause::Closed));
    });
}

#[test]
fn the_peers_close_ends_its_own_direction_only() {
    run(async {
        for close in [&b""[..], b"\x03\xe8Shutdown", b"\x10\xe1that was it"] {
            let World { bridge, mut peer, mut port } = world().await;
            peer.send(Opcode::Binary, b"the last").await;
            peer.send(Opcode::Close, close).await;
            assert_eq!(drain(&mut port).await, b"the last");
            for said in [&b"still"[..], b"talking"] {
                port.write_all(said).await.unwrap();
                assert_eq!(peer.next().await.unwrap(), (Opcode::Binary, said.to_vec()));
            }
            drop(port);
            assert_eq!(peer.until_close().await, (Vec::new(), SHUTDOWN.to_vec()));
            drop(peer);
            assert!(matches!(bridge.await.cause, Cause::Closed));
        }
    });
}

#[test]
fn the_ports_end_is_a_close_and_the_peer_may_go_on() {
    run(async {
        let World { bridge, mut peer, mut port } = world().await;
        port.write_all(b"the last").await.unwrap();
        port.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.until_close().await, (b"the last".to_vec(), SHUTDOWN.to_vec()));
        for said in [&b"still"[..], b"talking"] {
            peer.send(Opcode::Binary, said).await;
            let mut got = vec![0; said.len()];
            port.read_exact(&mut got).await.unwrap();
            assert_eq!(got, said);
        }
        // after its close frame a side may not even answer a ping
        peer.send(Opcode::Ping, b"?").await;
        peer.send(Opcode::Close, b"").await;
        assert!(drain(&mut port).await.is_empty());
        assert_eq!(peer.next().await, None);
        drop(peer);
        assert!(matches!(bridge.await.cause, Cause::Closed));
    });
}

#[test]
fn a_peer_that_closes_and_leaves_is_not_waited_for() {
    run(async {
        let World { bridge, mut peer, mut port } = world().await;
        peer.send(Opcode::Close, b"").await;
        assert_eq!(port.read(&mut [0]).await.unwrap(), 0);
        drop(peer);
        let Bridged { ended, cause } = bridge.await;
        assert!(matches!(cause, Cause::Left), "{cause}");
        assert_eq!(ended.end, End::Reset(ResetReason::ABORTED));
        // a port that has seen the end of the other direction sees the reset when it writes
        assert_eq!(port.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn pings_are_answered_with_what_they_hold() {
    run(async {
        let World { bridge: _bridge, mut peer, port: _port } = world().await;
        for payload in [&b""[..], b"are you there", &[7; 125]] {
            peer.send(Opcode::Ping, payload).await;
            assert_eq!(peer.next().await.unwrap(), (Opcode::Pong, payload.to_vec()));
        }
    });
}

#[test]
fn silence_is_broken_by_pongs() {
    run(async {
        let World { bridge: _bridge, mut peer, mut port } =
            world_with(Role::Client, b"", Duration::from_millis(10)).await;
        for _ in 0..3 {
            assert_eq!(peer.next().await.unwrap(), (Opcode::Pong, Vec::new()));
        }
        port.write_all(b"x").await.unwrap();
        port.get_ref().shutdown(Shutdown::Write).unwrap();
        while let Some((opcode, _)) = peer.next().await {
            if opcode == Opcode::Close {
                break;
            }
        }
        // several times the silence: none after the close frame
        let silent = async {
            Timer::after(Duration::from_millis(60)).await;
            None
        };
        assert_eq!(or(peer.next(), silent).await, None);
    });
}

#[test]
fn a_peer_that_breaks_off_resets_the_port() {
    run(async {
        let World { bridge, mut peer, mut port } = world().await;
        peer.send(Opcode::Binary, b"half").await;
        let mut got = [0; 4];
        port.read_exact(&mut got).await.unwrap();
        drop(peer);
        must_be_reset(&mut port).await;
        let Bridged { ended, cause } = bridge.await;
        assert!(matches!(cause, Cause::Peer(StreamError::Ended)), "{cause}");
        assert_eq!(ended.end, End::Reset(ResetReason::ABORTED));
    });
}

#[test]
fn a_close_that_tells_of_trouble_resets_the_port() {
    run(async {
        for code in [1001_u16, 1002, 1008, 1011] {
            let World { bridge, mut peer, mut port } = world().await;
            peer.send(Opcode::Close, &[&code.to_be_bytes()[..], b"trouble"].concat()).await;
            must_be_reset(&mut port).await;
            let Bridged { ended, cause } = bridge.await;
            assert_eq!(cause.to_string(), format!("closed by the peer with code {code}: trouble"));
            assert_eq!(ended.end, End::Reset(ResetReason::ABORTED));
        }
    });
}

#[test]
fn a_port_that_breaks_off_ends_the_websocket_without_a_close() {
    run(async {
        let World { bridge, mut peer, port } = world().await;
        SockRef::from(&port).set_linger(Some(Duration::ZERO)).unwrap();
        drop(port);
        assert_eq!(peer.next().await, None);
        let Bridged { ended, cause } = bridge.await;
        assert!(matches!(cause, Cause::Port(_)), "{cause}");
        assert_eq!(ended.end, End::Local(ResetReason::ABORTED));
    });
}

#[test]
fn the_last_words_of_a_port_that_takes_no_more_are_not_lost() {
    run(async {
        let World { bridge, mut peer, mut port } = world().await;
        port.write_all(b"the last").await.unwrap();
        drop(port);
        // far more than is on the way when the port's refusal of it is noticed
        let frame = peer.frame(true, Opcode::Binary, &pattern(1_000_000));
        let mut socket = peer.socket.get_ref().try_clone().map(Async::new).unwrap().unwrap();
        for _ in 0..8 {
            socket.write_all(&frame).await.unwrap();
        }
        assert_eq!(peer.until_close().await, (b"the last".to_vec(), SHUTDOWN.to_vec()));
        drop((peer, socket));
        let Bridged { ended, cause } = bridge.await;
        assert!(matches!(cause, Cause::Port(_)), "{cause}");
        assert_eq!(ended.end, End::Local(ResetReason::ABORTED));
    });
}

#[test]
fn a_peer_that_speaks_no_websocket_is_told_so_and_the_port_is_reset() {
    run(async {
        let World { bridge, mut peer, mut port } = world().await;
        peer.send(Opcode::Continuation, b"of nothing").await;
        let (_, close) = peer.until_close().await;
        assert_eq!(close, b"\x03\xeaa continuation frame where no message has begun");
        must_be_reset(&mut port).await;
        drop(peer);
        assert_eq!(bridge.await.ended.end, End::Local(ResetReason::FAILED));
    });
}

#[test]
fn a_bridge_that_is_given_up_cuts_both_sides_off() {
    run(async {
        let World { bridge, mut peer, mut port } = world().await;
        port.write_all(b"x").await.unwrap();
        peer.next().await.unwrap();
        drop(bridge);
        assert_eq!(peer.next().await, None);
        must_be_reset(&mut port).await;
    });
}

/// Far more than two sockets hold between them.
const MUCH: usize = 64 * 1024 * 1024;

#[test]
fn who_does_not_read_stops_who_writes_and_loses_nothing() {
    run(async {
        let bytes = pattern(MUCH);
        let World { bridge, peer, mut port } = world().await;
        let wire = [peer.frame(true, Opcode::Binary, &bytes), peer.frame(true, Opcode::Close, b"")].concat();
        let (written, mut socket) = (Cell::new(0), peer.socket);
        let say = async { write_all(&mut socket, &wire, &written).await };
        let hear = async {
            stalled(&written).await;
            assert!(written.get() < wire.len() / 2, "{} bytes lie in between", written.get());
            let mut got = Vec::with_capacity(bytes.len());
            port.read_to_end(&mut got).await.unwrap();
            assert!(got == bytes, "something else arrived");
        };
        zip(say, hear).await;
        drop((socket, port));
        bridge.await;

        let World { bridge, mut peer, port } = world().await;
        let (written, mut socket) = (Cell::new(0), port);
        let say = async {
            write_all(&mut socket, &bytes, &written).await;
            socket.get_ref().shutdown(Shutdown::Write).unwrap();
        };
        let hear = async {
            stalled(&written).await;
            assert!(written.get() < MUCH / 2, "{} bytes lie in between", written.get());
            assert!(peer.until_close().await.0 == bytes, "something else arrived");
        };
        zip(say, hear).await;
        drop((socket, peer));
        bridge.await;
    });
}

async fn write_all(socket: &mut Async<TcpStream>, mut bytes: &[u8], written: &Cell<usize>) {
    while !bytes.is_empty() {
        let count = socket.write(bytes).await.unwrap();
        written.set(written.get() + count);
        bytes = &bytes[count..];
    }
}

/// Waits until nothing was written for a while.
async fn stalled(written: &Cell<usize>) {
    let mut before = usize::MAX;
    while before != written.get() {
        before = written.get();
        Timer::after(Duration::from_millis(100)).await;
    }
}

async fn must_be_reset(port: &mut Async<TcpStream>) {
    let error = port.read(&mut [0]).await.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn words_before_the_bridge_are_read_and_written_whole() {
    run(async {
        let (near, peer) = pair().await;
        let transport = Transport::Plain(near);
        let upgraded = Upgraded {
            transport,
            leftover: Vec::new(),
            role: Role::Client,
            subprotocol: None,
            date: None,
            zero_mask: false,
            answers_pings: false,
        };
        let (mut stream, mut peer) = (ByteStream::new(upgraded), Peer { socket: peer, mask: None });
        peer.send(Opcode::Binary, b"pre").await;
        peer.send(Opcode::Ping, b"?").await;
        peer.send(Opcode::Text, b"amble and more").await;
        let mut got = [0; 8];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"preamble");
        assert_eq!(peer.next().await.unwrap(), (Opcode::Pong, b"?".to_vec()));
        stream.write(b"\x01\x00\x00").await.unwrap();
        assert_eq!(peer.next().await.unwrap(), (Opcode::Binary, b"\x01\x00\x00".to_vec()));

        let (io, mut port) = pair().await;
        let bridge = smol::spawn(Bridge::new(stream, Io::tcp(io).unwrap(), NEVER).run());
        let mut got = [0; 9];
        port.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b" and more");
        drop(bridge);
    });
}

/// From now on nothing that is sent to this socket arrives, and nobody hears of it: not even its kernel answers.
fn cut_off(socket: &Async<TcpStream>) {
    // a packet filter of one instruction: of each packet, keep nothing (BPF_RET | BPF_K of linux/filter.h)
    SockRef::from(socket).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
}

const SOON: Duration = Duration::from_millis(100);

#[test]
fn a_dead_way_is_noticed_by_the_pongs_that_nobody_acknowledges() {
    run(async {
        let World { bridge, mut peer, mut port } = world_with(Role::Client, b"", SOON).await;
        assert_eq!(peer.next().await.unwrap(), (Opcode::Pong, Vec::new()));
        cut_off(&peer.socket);
        let cause = bridge.await.cause;
        assert!(
            matches!(&cause, Cause::Peer(StreamError::Unacknowledged(silence)) if silence.as_secs() >= 1),
            "{cause}"
        );
        assert_eq!(port.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

/// A bridge whose peer takes nothing, although its service has much to say.
async fn stuffed() -> World {
    let mut world = world_with(Role::Client, b"", SOON).await;
    let say = async {
        loop {
            world.port.write_all(&[0; 64 * 1024]).await.unwrap();
        }
    };
    // it takes some megabytes, and then nothing more
    or(say, async { _ = Timer::after(Duration::from_millis(500)).await }).await;
    world
}

#[test]
fn a_peer_that_takes_nothing_is_alive() {
    run(async {
        let World { bridge, peer: _peer, port: _port } = stuffed().await;
        let longer = async {
            Timer::after(Duration::from_secs(3)).await;
            None
        };
        let ended = or(async { Some(bridge.await) }, longer).await;
        assert!(ended.is_none(), "{ended:?}");
    });
}

#[test]
fn a_peer_that_takes_nothing_and_whose_kernel_is_silent_too_is_dead() {
    run(async {
        let World { bridge, peer, port: _port } = stuffed().await;
        cut_off(&peer.socket);
        let cause = bridge.await.cause;
        assert!(matches!(&cause, Cause::Peer(StreamError::Unacknowledged(_))), "{cause}");
    });
}
