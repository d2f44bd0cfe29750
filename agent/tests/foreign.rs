//! Promise: senders that are no gateway are bridged to the one service they are welcome at, a configured number at once;
//! all others are told why not.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::{net::TcpListener, time::Duration};

use async_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};
use log::Level;
use smol::{
    Async, Timer, future,
    io::{AsyncReadExt, AsyncWriteExt},
    stream::StreamExt,
};
use support::{
    logs,
    relay::Control,
    soon,
    world::{World, noise},
};
use umbilical_agent::sys::Request;
use umbilical_link::transport::Transport;
use umbilical_mux::MAX_DATAGRAM;

type Sender = WebSocketStream<Transport>;

fn plain(port: u16) -> String {
    format!("services.ssh.target = 'tcp:127.0.0.1:{port}'\nforeign.plain-service = 'ssh'\n")
}

/// A world in which the echo service `ssh` is open to foreign senders, with `lines` more.
fn with_echo(lines: &str, script: impl AsyncFnOnce(&World, &mut Control)) {
    World::run("", async |world| {
        world.configure(&(plain(world.echo()) + lines));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        logs::line(Level::Info, "foreign connections at most from now on").await;
        script(world, &mut control).await;
    });
}

/// Sends a sender that offers `subprotocols` to the device; it must come.
async fn sender(world: &World, control: &mut Control, subprotocols: &str) -> Sender {
    control.accept(&world.relay.rendezvous("r"), subprotocols).await;
    let handshake = world.relay.handshake().await;
    assert!(handshake.target.refusal().is_none(), "{:?}", handshake.target.refusal());
    let upgraded = handshake.upgrade().await;
    let first = subprotocols.split(',').next().map(str::trim).filter(|first| !first.is_empty());
    assert_eq!(upgraded.subprotocol.as_deref(), first);
    WebSocketStream::from_raw_socket(upgraded.transport, Role::Server, None).await
}

/// The same for one that must be refused: status and reason.
async fn refused(world: &World, control: &mut Control, subprotocols: &str) -> (u16, String) {
    control.accept(&world.relay.rendezvous("r"), subprotocols).await;
    let handshake = world.relay.handshake().await;
    let refusal = handshake.target.refusal().expect("a refusal");
    let told = (refusal.status, refusal.description.clone());
    handshake.refuse("410 Gone", "").await;
    told
}

async fn echo(sender: &mut Sender, bytes: &[u8]) {
    sender.send(Message::binary(bytes.to_vec())).await.unwrap();
    let mut back = Vec::new();
    while back.len() < bytes.len() {
        match soon("an echo", sender.next()).await.unwrap().unwrap() {
            Message::Binary(piece) => back.extend_from_slice(&piece),
            other => panic!("expected bytes, got {other:?}"),
        }
    }
    assert!(back == bytes, "something else came back");
}

/// Ends in order, and waits until the device has.
async fn finish(mut sender: Sender) {
    sender.close(None).await.unwrap();
    while let Some(Ok(message)) = soon("the device's close", sender.next()).await {
        assert!(message.is_close(), "{message:?}");
    }
}

#[test]
fn a_sender_without_a_subprotocol_gets_the_plain_service() {
    with_echo("", async |world, control| {
        let mut sender = sender(world, control, "").await;
        echo(&mut sender, &noise(1_000_000)).await;
        sender.send(Message::text("text is bytes")).await.unwrap();
        assert_eq!(soon("an echo", sender.next()).await.unwrap().unwrap(), Message::binary(&b"text is bytes"[..]));
        finish(sender).await;
        logs::line(Level::Debug, "sender 203.0.113.9:4711: bridge to ssh ended: closed by both sides").await;
        logs::line(Level::Debug, "ssh: closed after ").await;
    });
}

#[test]
fn of_several_subprotocols_the_first_is_chosen() {
    with_echo("", async |world, control| {
        let mut sender = sender(world, control, "chat, mqtt").await;
        echo(&mut sender, b"hello").await;
    });
}

#[test]
fn a_gateway_of_another_version_is_not_taken_for_a_foreign_sender() {
    with_echo("", async |world, control| {
        let (status, reason) = refused(world, control, "umbilical.v2").await;
        assert_eq!(status, 400);
        assert!(reason.contains("umbilical.v1 only, offered was umbilical.v2"), "{reason}");
        // and one of this version is none either
        world.connected(control, 1).await;
    });
}

#[test]
fn a_service_that_is_not_there_is_a_refused_handshake() {
    World::run(&plain(closed_port()), async |world| {
        let mut control = world.relay.listener().await;
        let refusal = refused(world, &mut control, "").await;
        assert_eq!(refusal, (502, "Service ssh of this device does not take connections".to_owned()));
        logs::line(Level::Warn, "refused sender 203.0.113.9:4711: Service ssh of this device does not take").await;
    });
}

#[test]
fn one_sender_too_many_is_refused_until_another_leaves() {
    with_echo("foreign.connections = 2\n", async |world, control| {
        let mut one = sender(world, control, "").await;
        let mut two = sender(world, control, "").await;
        echo(&mut one, b"1").await;
        echo(&mut two, b"2").await;
        let (status, reason) = refused(world, control, "").await;
        assert_eq!(status, 503);
        assert_eq!(reason, "This device has 2 foreign connections, which is all it takes");
        finish(one).await;
        logs::line(Level::Debug, "ssh: closed after ").await;
        let mut three = sender(world, control, "").await;
        echo(&mut three, b"3").await;
        echo(&mut two, b"still here").await;
    });
}

#[test]
fn the_services_own_limit_counts_foreign_senders_and_streams() {
    with_echo("services.ssh.max-streams = 1\n", async |world, control| {
        let gateway = world.connected(control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(b"1").await;
        let (status, reason) = refused(world, control, "").await;
        assert_eq!((status, &*reason), (503, "Service ssh of this device takes no more connections"));
        drop(stream);
        logs::line(Level::Debug, " bytes to the cloud, ").await;
        let mut sender = sender(world, control, "").await;
        echo(&mut sender, b"2").await;
    });
}

#[test]
fn a_sender_that_did_not_come_leaves_its_seat_and_its_stream() {
    with_echo("foreign.connections = 1\nservices.ssh.max-streams = 1\n", async |world, control| {
        for times in 1..=3 {
            control.accept(&world.relay.rendezvous("r"), "").await;
            world.relay.handshake().await.refuse("403 The rendezvous address is unknown", "").await;
            let said = async {
                while logs::all().matches("can't answer sender 203.0.113.9:4711").count() < times {
                    future::yield_now().await;
                }
            };
            soon("another line", said).await;
        }
        let mut sender = sender(world, control, "").await;
        echo(&mut sender, b"hello").await;
    });
}

#[test]
fn an_abort_travels_on_both_ways() {
    let socket = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let port = socket.get_ref().local_addr().unwrap().port();
    World::run(&plain(port), async |world| {
        let mut control = world.relay.listener().await;
        let accepted = async { soon("a connection", socket.accept()).await.unwrap().0 };
        let (gone, mut service) = future::zip(sender(world, &mut control, ""), accepted).await;
        drop(gone);
        let error = soon("a reset", service.read(&mut [0])).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let accepted = async { soon("a connection", socket.accept()).await.unwrap().0 };
        let (mut sender, service) = future::zip(sender(world, &mut control, ""), accepted).await;
        socket2::SockRef::from(&service).set_linger(Some(Duration::ZERO)).unwrap();
        drop(service);
        let end = soon("an end", sender.next()).await;
        assert!(!matches!(end, Some(Ok(Message::Close(_)))), "an abort looks like an end: {end:?}");
    });
}

#[test]
fn a_reload_is_for_those_who_come_after_it() {
    with_echo("", async |world, control| {
        let mut sender = sender(world, control, "").await;
        echo(&mut sender, b"before").await;
        world.configure("");
        world.request(Request::Reload);
        logs::line(Level::Info, "0 foreign connections at most from now on, 0 bytes of memory").await;
        assert_eq!(refused(world, control, "").await.0, 400);
        echo(&mut sender, b"after").await;
    });
}

#[test]
fn an_agent_that_stops_lets_foreign_connections_finish() {
    with_echo("session.drain-for = '1h'\n", async |world, control| {
        let mut sender = sender(world, control, "").await;
        echo(&mut sender, b"before").await;
        world.request(Request::Stop);
        logs::line(Level::Info, "so have 1 foreign connections").await;
        // the control channel is closed in order when the agent begins to wait for them, not before
        assert_eq!(control.closed().await, Some(1000));
        echo(&mut sender, b"after").await;
        finish(sender).await;
        logs::line(Level::Info, "stopped").await;
    });
}

#[test]
fn a_service_that_speaks_first_is_heard() {
    let socket = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let port = socket.get_ref().local_addr().unwrap().port();
    World::run(&plain(port), async |world| {
        let mut control = world.relay.listener().await;
        let greeting = async {
            let mut service = soon("a connection", socket.accept()).await.unwrap().0;
            service.write_all(b"SSH-2.0-test\r\n").await.unwrap();
            service
        };
        let (mut sender, _service) = future::zip(sender(world, &mut control, ""), greeting).await;
        let heard = soon("a greeting", sender.next()).await.unwrap().unwrap();
        assert_eq!(heard, Message::binary(&b"SSH-2.0-test\r\n"[..]));
    });
}

/// A world in which azbridge's senders may name the echo service `ssh`, a service `dead`, or the UDP echo service `mail`.
fn with_azbridge(script: impl AsyncFnOnce(&World, &mut Control, u16)) {
    World::run("", async |world| {
        let (port, nobody, mail) = (world.echo(), closed_port(), world.udp_echo());
        world.configure(&format!(
            "services.ssh.target = 'tcp:127.0.0.1:{port}'\nservices.dead.target = 'tcp:127.0.0.1:{nobody}'\n\
             services.mail.target = 'udp:127.0.0.1:{mail}'\nservices.mail.idle-timeout = '1s'\n\
             foreign.azbridge = true\nforeign.connections = 2\n"
        ));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        logs::line(Level::Info, "foreign connections at most from now on").await;
        script(world, &mut control, port).await;
    });
}

/// A port that nobody listens on.
fn closed_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

async fn say(sender: &mut Sender, words: &[&[u8]]) {
    for word in words {
        sender.send(Message::binary(word.to_vec())).await.unwrap();
    }
}

async fn hear(sender: &mut Sender) -> Option<Message> {
    soon("a message", sender.next()).await.and_then(Result::ok)
}

#[test]
fn azbridge_names_a_service_by_name_or_by_port() {
    with_azbridge(async |world, control, port| {
        let number = port.to_string();
        let head = |name: &str| [1, 0, 0, u8::try_from(name.len()).unwrap()];
        // two messages, as azbridge writes it
        let mut one = sender(world, control, "").await;
        say(&mut one, &[&head("ssh"), b"ssh"]).await;
        assert_eq!(hear(&mut one).await, Some(Message::binary(&[1_u8, 0, 0][..])));
        echo(&mut one, &noise(100_000)).await;
        finish(one).await;
        // byte by byte, and with payload right behind it
        let mut two = sender(world, control, "").await;
        let mut words = [&head(&number)[..], number.as_bytes()].concat();
        words.extend_from_slice(b"payload");
        for byte in words {
            say(&mut two, &[&[byte]]).await;
        }
        assert_eq!(hear(&mut two).await, Some(Message::binary(&[1_u8, 0, 0][..])));
        let mut back = Vec::new();
        while back.len() < 7 {
            back.extend_from_slice(&hear(&mut two).await.unwrap().into_data());
        }
        assert_eq!(back, b"payload");
        logs::line(Level::Debug, "sender 203.0.113.9:4711: bridged to ssh").await;
    });
}

#[test]
fn azbridge_is_refused_in_its_own_words() {
    with_azbridge(async |world, control, _| {
        for (words, reply, line) in [
            // another version, and something else altogether
            (&[2, 0, 0, 3, b's', b's', b'h'][..], &[0, 0, 0][..], "refused, it does not speak azbridge's preamble"),
            (b"GET / HTTP/1.1\r\n", &[0, 0, 0], "refused, it does not speak azbridge's preamble"),
            // datagrams of a service that takes a stream
            (&[1, 0, 1, 3, b's', b's', b'h'], &[0, 0, 0xFF], "refused, it asked service ssh for datagrams"),
            // and a stream of one that takes datagrams
            (&[1, 0, 0, 4, b'm', b'a', b'i', b'l'], &[0, 0, 1], "refused, it asked service mail for a stream"),
            // no such port: not a word
            (&[1, 0, 0, 3, b'S', b'S', b'H'], &[], "refused, it asked for the port \"SSH\""),
            (&[1, 0, 0, 0], &[], "refused, it asked for the port \"\""),
            (&[1, 0, 0, 1, 0xFF], &[], "refused, it asked for the port \"\u{FFFD}\""),
        ] {
            let mut sender = sender(world, control, "").await;
            say(&mut sender, &[words]).await;
            if !reply.is_empty() {
                assert_eq!(hear(&mut sender).await, Some(Message::binary(reply.to_vec())), "{words:?}");
            }
            match hear(&mut sender).await {
                Some(Message::Close(Some(frame))) => assert_eq!((u16::from(frame.code), &*frame.reason), (1000, "")),
                other => panic!("expected a close frame, got {other:?}"),
            }
            logs::line(Level::Warn, line).await;
        }
    });
}

#[test]
fn azbridge_is_accepted_before_its_service_is_dialled() {
    with_azbridge(async |world, control, _| {
        let mut sender = sender(world, control, "").await;
        say(&mut sender, &[&[1, 0, 0, 4], b"dead"]).await;
        assert_eq!(hear(&mut sender).await, Some(Message::binary(&[1_u8, 0, 0][..])));
        match hear(&mut sender).await {
            Some(Message::Close(Some(frame))) => {
                assert_eq!((u16::from(frame.code), &*frame.reason), (1011, "service dead: refused"));
            }
            other => panic!("expected a close frame, got {other:?}"),
        }
    });
}

/// A sender that has been given the UDP echo service.
async fn datagrams(world: &World, control: &mut Control) -> Sender {
    let mut sender = sender(world, control, "").await;
    say(&mut sender, &[&[1, 0, 1, 4], b"mail"]).await;
    assert_eq!(hear(&mut sender).await, Some(Message::binary(&[1_u8, 0, 1][..])));
    sender
}

fn framed(datagram: &[u8]) -> Vec<u8> {
    [&u16::try_from(datagram.len()).unwrap().to_be_bytes()[..], datagram].concat()
}

#[test]
fn azbridges_datagrams_come_back_with_their_borders_whatever_the_messages() {
    with_azbridge(async |world, control, _| {
        let mut sender = datagrams(world, control).await;
        for length in [0, 1, 1_472, MAX_DATAGRAM] {
            let message = framed(&noise(length));
            say(&mut sender, &[&message]).await;
            assert!(hear(&mut sender).await == Some(Message::binary(message)), "{length} bytes came back changed");
        }
        // two in one message, and one byte by byte
        say(&mut sender, &[&[framed(b"one"), framed(b"two")].concat()]).await;
        for byte in framed(b"three") {
            say(&mut sender, &[&[byte]]).await;
        }
        for word in [&b"one"[..], b"two", b"three"] {
            assert_eq!(hear(&mut sender).await, Some(Message::binary(framed(word))));
        }
        // more than a datagram may have: skipped to its end
        say(&mut sender, &[&framed(&noise(MAX_DATAGRAM + 1)), &framed(&noise(65_535)), &framed(b"next")]).await;
        assert_eq!(hear(&mut sender).await, Some(Message::binary(framed(b"next"))));
        logs::line(Level::Warn, "a datagram of 16313 bytes from the cloud was dropped").await;
    });
}

#[test]
fn azbridges_datagrams_end_with_their_sender_and_not_before() {
    with_azbridge(async |world, control, _| {
        let mut sender = datagrams(world, control).await;
        let mut other = datagrams(world, control).await;
        // longer than the service's own streams may be silent: azbridge would not hear of the end
        Timer::after(Duration::from_millis(1_500)).await;
        say(&mut sender, &[&framed(b"still here")]).await;
        assert_eq!(hear(&mut sender).await, Some(Message::binary(framed(b"still here"))));
        finish(sender).await;
        logs::line(Level::Debug, "bridge to mail ended: closed by both sides").await;
        // its seat is free
        let mut third = datagrams(world, control).await;
        for sender in [&mut other, &mut third] {
            say(sender, &[&framed(b"hello")]).await;
            assert_eq!(hear(sender).await, Some(Message::binary(framed(b"hello"))));
        }
    });
}
