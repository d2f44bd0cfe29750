//! Promise: the gateway reaches listeners that are no agent of ours, by one rendezvous for each client, when the exposure
//! says so; otherwise it says what it found, and its clients are closed at once.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite::Message;
use smol::Async;
use smol::future::zip;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use support::{Listener, Socket, TestRelay, message, opened, target_of};
use umbilical_cloud::config::{Exposure, GatewayConfig, Listen, ListenerKind, RelayChoice, Transport};
use umbilical_cloud::connect::{Outcome, Route, code};
use umbilical_cloud::gateway::Gateway;
use umbilical_link::Io;
use umbilical_mux::{MAX_DATAGRAM, Shape};
use world::{
    Client, Folder, agent, echo, elsewhere, embedded, eventually, expose, exposure_of, linked, must_reset, pattern,
    relay_of, try_echo,
};

/// A gateway of `relay` with one exposure of `device`.
fn gateway(relay: &TestRelay, listener: ListenerKind) -> (Gateway, SocketAddr) {
    gateway_at(relay, listener, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
}

/// The same at that address.
fn gateway_at(relay: &TestRelay, listener: ListenerKind, listen: Listen) -> (Gateway, SocketAddr) {
    let exposure = Exposure {
        listen,
        device: "device".into(),
        service: "echo".into(),
        listener,
        allow: None,
        max_connections: None,
        idle_timeout: Duration::from_secs(2),
    };
    let config = GatewayConfig {
        relay: RelayChoice::Embedded,
        exposures: vec![exposure],
        shape: Shape { streams: 64, replay: 256 * 1024, receive: 256 * 1024 },
        keep_alive: Duration::from_secs(75),
        resume_for: Duration::from_secs(60),
        drain_for: Duration::ZERO,
        drain_after: Duration::ZERO,
        settle_for: Duration::ZERO,
        ask_agents: None,
    };
    let gateway = Gateway::start(world::executor(), &config, Some(&relay.relay)).unwrap();
    let address = gateway.addresses()[0];
    (gateway, address)
}

/// Answers the next sender as a classic listener does.
async fn accept(relay: &TestRelay, listener: &mut Listener) -> Socket {
    let invitation = listener.invitation().await;
    let offered = invitation.subprotocols().count();
    assert_eq!(offered, 0, "a classic sender offers no subprotocol");
    opened(relay.ask(target_of(&invitation), &[]).await).await.1
}

#[test]
fn each_client_has_a_rendezvous_and_its_bytes_are_messages() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (gateway, address) = gateway(&relay, ListenerKind::Plain);
        for _ in 0..2 {
            let (mut client, mut theirs) = zip(Client::connect(address), accept(&relay, &mut listener)).await;
            client.0.write_all(b"to the listener").await.unwrap();
            assert_eq!(message(&mut theirs).await, Message::binary(&b"to the listener"[..]));
            theirs.send(Message::text("to the ")).await.unwrap();
            theirs.send(Message::binary(&b""[..])).await.unwrap();
            theirs.send(Message::binary(&b"client"[..])).await.unwrap();
            let mut got = [0; 13];
            client.0.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"to the client");
            // the client's end is a close, and the listener's answer the end of it all
            client.0.get_ref().shutdown(Shutdown::Write).unwrap();
            match message(&mut theirs).await {
                Message::Close(Some(frame)) => assert_eq!((u16::from(frame.code), &*frame.reason), (1000, "Shutdown")),
                other => panic!("expected a close frame, got {other:?}"),
            }
            while theirs.next().await.is_some() {}
            assert_eq!(client.0.read(&mut got).await.unwrap(), 0);
        }
        assert_eq!(relay.relay.metrics().handed_over.load(Relaxed), 2);
        assert!(gateway.devices().await.is_empty(), "nothing is kept between clients");
        let status = eventually("the end of both clients", || async {
            Some(gateway.exposures().remove(0)).filter(|exposure| exposure.open == 0)
        })
        .await;
        assert_eq!((status.accepted, status.failed, status.bytes_in, status.bytes_out), (2, 0, 26, 30));
    });
}

#[test]
fn our_own_agent_may_be_reached_as_a_foreign_listener() {
    world::run(async {
        let folder = Folder::new();
        let text = format!("{}plain = true\n{}", embedded(&[("d1", "echo")]), expose("d1", "echo"));
        let cloud = folder.start(&text);
        let device = agent("d1", relay_of(&cloud), &[("echo", echo())]) + "[foreign]\nplain-service = \"echo\"\n";
        let _device = folder.start_device("d1", &device);
        linked(&cloud, "d1").await;
        let apart = format!("{}plain = true\n", elsewhere(relay_of(&cloud), "operator.key", &[("d1", "echo")]));
        let apart = folder.start(&apart);
        // in memory, by a session, through the relay
        for address in [exposure_of(&cloud, 0), exposure_of(&cloud, 1), exposure_of(&apart, 0)] {
            let mut client = Client::connect(address).await;
            client.round_trip(b"hello").await;
            let bytes = pattern(3_000_000);
            let mut writer = Async::new(client.0.get_ref().try_clone().unwrap()).unwrap();
            let say = async {
                writer.write_all(&bytes).await.unwrap();
                writer.get_ref().shutdown(Shutdown::Write).unwrap();
            };
            let mut back = Vec::new();
            let hear = async { client.0.read_to_end(&mut back).await.unwrap() };
            zip(say, hear).await;
            assert!(back == bytes, "something else came back");
        }
    });
}

#[test]
fn what_goes_wrong_closes_the_client_at_once() {
    world::run(async {
        let relay = support::start(&support::config());
        let (gateway, address) = gateway(&relay, ListenerKind::Plain);
        // nobody listens
        must_reset(address).await;
        let mut listener = relay.listen("device").await;
        // a refusal
        let refuse = async {
            let invitation = listener.invitation().await;
            relay.answer(&support::refusal_of(&invitation, 503, "Not now"), &[]).await
        };
        zip(must_reset(address), refuse).await;
        // a listener that goes without a close frame
        let (client, theirs) = zip(Client::connect(address), accept(&relay, &mut listener)).await;
        drop(theirs);
        client.must_be_reset().await;
        let failed = eventually("the end of all clients", || async {
            Some(gateway.exposures()[0].failed).filter(|failed| *failed == 2)
        });
        failed.await;
    });
}

#[test]
fn a_session_with_who_is_no_agent_closes_the_client_at_once() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (gateway, address) = gateway(&relay, ListenerKind::Agent);
        // it accepts, and has not heard of our subprotocol
        let before = Instant::now();
        let ignore = async {
            let invitation = listener.invitation().await;
            relay.open(target_of(&invitation), &[]).await
        };
        let _theirs = zip(must_reset(address), ignore).await;
        assert!(before.elapsed() < Duration::from_secs(8), "took {:?}", before.elapsed());
        // it says yes to anything, and then nothing: it is given up when no `Hello` came
        let silent = async {
            let invitation = listener.invitation().await;
            relay.open(target_of(&invitation), &[("Sec-WebSocket-Protocol", "umbilical.v1")]).await
        };
        let _theirs = zip(must_reset(address), silent).await;
        gateway.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn azbridge_is_asked_for_its_port_in_its_own_words() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (_gateway, address) = gateway(&relay, ListenerKind::Azbridge("22".into()));
        let (mut client, mut theirs) = zip(Client::connect(address), accept(&relay, &mut listener)).await;
        client.0.write_all(b"payload").await.unwrap();
        assert_eq!(message(&mut theirs).await, Message::binary(&[1_u8, 0, 0, 2][..]));
        assert_eq!(message(&mut theirs).await, Message::binary(&b"22"[..]));
        // payload waits for the answer, which may come in pieces
        theirs.send(Message::binary(&[1_u8][..])).await.unwrap();
        theirs.send(Message::binary(&[0_u8, 0, b'h', b'i'][..])).await.unwrap();
        assert_eq!(message(&mut theirs).await, Message::binary(&b"payload"[..]));
        let mut got = [0; 2];
        client.0.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hi");
    });
}

#[test]
fn a_port_without_a_name_is_asked_for_without_an_empty_message() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (_gateway, address) = gateway(&relay, ListenerKind::Azbridge("".into()));
        let (mut client, mut theirs) = zip(Client::connect(address), accept(&relay, &mut listener)).await;
        client.0.write_all(b"payload").await.unwrap();
        assert_eq!(message(&mut theirs).await, Message::binary(&[1_u8, 0, 0, 0][..]));
        theirs.send(Message::binary(&[1_u8, 0, 0][..])).await.unwrap();
        assert_eq!(message(&mut theirs).await, Message::binary(&b"payload"[..]));
    });
}

/// A UDP port that asks azbridge for `161U`.
fn udp_gateway(relay: &TestRelay) -> (Gateway, SocketAddr) {
    let listen = Listen { transport: Transport::Udp, address: (Ipv4Addr::LOCALHOST, 0).into() };
    gateway_at(relay, ListenerKind::Azbridge("161U".into()), listen)
}

fn udp_client(address: SocketAddr) -> Async<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(address).unwrap();
    Async::new(socket).unwrap()
}

fn framed(datagram: &[u8]) -> Vec<u8> {
    [&u16::try_from(datagram.len()).unwrap().to_be_bytes()[..], datagram].concat()
}

#[test]
fn azbridge_is_asked_for_datagrams_by_each_client_of_a_udp_port() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (gateway, address) = udp_gateway(&relay);
        let mut rendezvous = Vec::new();
        for _ in 0..2 {
            let client = udp_client(address);
            // what comes before the answer waits for it
            for datagram in [&b"one"[..], b"", &[7; MAX_DATAGRAM]] {
                client.send(datagram).await.unwrap();
            }
            let mut theirs = accept(&relay, &mut listener).await;
            assert_eq!(message(&mut theirs).await, Message::binary(&[1_u8, 0, 1, 4][..]));
            assert_eq!(message(&mut theirs).await, Message::binary(&b"161U"[..]));
            theirs.send(Message::binary(&[1_u8, 0, 1][..])).await.unwrap();
            for datagram in [&b"one"[..], b"", &[7; MAX_DATAGRAM]] {
                assert!(message(&mut theirs).await == Message::binary(framed(datagram)), "something else was sent");
            }
            rendezvous.push((client, theirs));
        }
        for (client, theirs) in &mut rendezvous {
            theirs.send(Message::binary([framed(b"two"), framed(b"")].concat())).await.unwrap();
            theirs.send(Message::binary(framed(&[1; MAX_DATAGRAM + 1]))).await.unwrap();
            theirs.send(Message::binary(framed(&[9; MAX_DATAGRAM]))).await.unwrap();
            for datagram in [&b"two"[..], b"", &[9; MAX_DATAGRAM]] {
                let mut buffer = vec![0; 65_536];
                let count = client.recv(&mut buffer).await.unwrap();
                assert!(buffer[..count] == *datagram, "something else came back");
            }
        }
        assert_eq!(gateway.exposures()[0].dropped, 2);
        // silence is the end, and not answered by azbridge
        for (_, theirs) in &mut rendezvous {
            match message(theirs).await {
                Message::Close(Some(frame)) => assert_eq!((u16::from(frame.code), &*frame.reason), (1000, "Shutdown")),
                other => panic!("expected a close frame, got {other:?}"),
            }
        }
        eventually("the end of both clients", || async { (gateway.exposures()[0].open == 0).then_some(()) }).await;
        assert_eq!((gateway.exposures()[0].accepted, gateway.exposures()[0].failed), (2, 0));
    });
}

#[test]
fn an_answer_that_is_no_yes_costs_a_client_its_datagrams() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (gateway, address) = udp_gateway(&relay);
        let client = udp_client(address);
        for (failed, answer) in (1..).zip([&[1_u8, 0, 0][..], &[0, 0, 0xFF]]) {
            // after a failure the port rests for a moment
            let asking = async {
                loop {
                    client.send(b"anybody?").await.unwrap();
                    smol::Timer::after(Duration::from_millis(50)).await;
                }
            };
            let mut theirs = smol::future::or(accept(&relay, &mut listener), asking).await;
            theirs.send(Message::binary(answer.to_vec())).await.unwrap();
            eventually("the failure", || async { (gateway.exposures()[0].failed == failed).then_some(()) }).await;
        }
    });
}

#[test]
fn our_agent_understands_our_gateway_as_azbridge_with_datagrams() {
    world::run(async {
        let folder = Folder::new();
        let service = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = service.local_addr().unwrap().port();
        let text = embedded(&[("d1", "bridge")]).replace("\"127.0.0.1:0\"\ndevice", "\"udp:127.0.0.1:0\"\ndevice");
        let cloud = folder.start(&format!("{text}azbridge = \"{port}U\"\n"));
        let mail = format!("[services.mail]\ntarget = \"udp:127.0.0.1:{port}\"\n[foreign]\nazbridge = true\n");
        let _device = folder.start_device("d1", &(agent("d1", relay_of(&cloud), &[("one", echo())]) + &mail));
        let listening = || async { (cloud.relay().unwrap().metrics().listeners.load(Relaxed) == 1).then_some(()) };
        eventually("the listener", listening).await;
        let (client, service) = (udp_client(exposure_of(&cloud, 0)), Async::new(service).unwrap());
        let mut buffer = vec![0; 65_536];
        for length in [0, 1, MAX_DATAGRAM] {
            client.send(&pattern(length)).await.unwrap();
            let (count, peer) = service.recv_from(&mut buffer).await.unwrap();
            service.send_to(&buffer[..count], peer).await.unwrap();
            let count = client.recv(&mut buffer).await.unwrap();
            assert!(buffer[..count] == pattern(length), "something else came back");
        }
    });
}

#[test]
fn an_answer_that_is_no_yes_closes_the_client() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (gateway, address) = gateway(&relay, ListenerKind::Azbridge("22".into()));
        let answers: [&[u8]; 6] = [&[0, 0, 0], &[0, 0, 1], &[0, 0, 0xFF], &[1, 0, 1], b"SSH-2.0", &[]];
        for answer in answers {
            let (client, mut theirs) = zip(Client::connect(address), accept(&relay, &mut listener)).await;
            if !answer.is_empty() {
                theirs.send(Message::binary(answer.to_vec())).await.unwrap();
            }
            theirs.close(None).await.unwrap();
            client.must_be_reset().await;
        }
        eventually("six failures", || async { (gateway.exposures()[0].failed == 6).then_some(()) }).await;
    });
}

#[test]
fn our_agent_understands_our_gateway_as_azbridge() {
    world::run(async {
        let folder = Folder::new();
        let (one, two) = (echo(), echo());
        let mut text = embedded(&[]);
        for port in ["one", &two.port().to_string(), "three"] {
            text += &format!("{}azbridge = \"{port}\"\n", expose("d1", "bridge"));
        }
        let cloud = folder.start(&text);
        let device = agent("d1", relay_of(&cloud), &[("one", one), ("two", two)]) + "[foreign]\nazbridge = true\n";
        let _device = folder.start_device("d1", &device);
        for number in [0, 1] {
            eventually("an answer", || async { try_echo(exposure_of(&cloud, number)).await.ok() }).await;
        }
        must_reset(exposure_of(&cloud, 2)).await;
    });
}

#[test]
fn connect_reaches_foreign_listeners_and_says_what_it_found() {
    world::run(async {
        let folder = Folder::new();
        let cloud = folder.start(&embedded(&[]));
        let by = cloud_config(&folder, relay_of(&cloud));
        let plain = agent("d1", relay_of(&cloud), &[("echo", echo())]) + "[foreign]\nplain-service = \"echo\"\n";
        let azbridge = agent("d2", relay_of(&cloud), &[("echo", echo())]) + "[foreign]\nazbridge = true\n";
        let _devices = (folder.start_device("d1", &plain), folder.start_device("d2", &azbridge));
        let listening = || async { (cloud.relay().unwrap().metrics().listeners.load(Relaxed) == 2).then_some(()) };
        eventually("both listeners", listening).await;

        let route = |device: &str| Route::by_config(&by, device, "echo").unwrap();
        assert_eq!(over(route("d1").to(ListenerKind::Plain)).await, (CLOSED, b"hello".to_vec()));
        assert_eq!(over(route("d2").to(ListenerKind::Azbridge("echo".into()))).await, (CLOSED, b"hello".to_vec()));
        let (outcome, _) = over(route("d2").to(ListenerKind::Azbridge("other".into()))).await;
        assert_eq!(outcome.code, code::NOT_ALLOWED);
        assert!(outcome.message.unwrap().contains("did not open the port \"other\": it closed without an answer"));
    });
}

const CLOSED: Outcome = Outcome { code: code::CLOSED, message: None };

/// What a gateway of that relay would be configured with.
fn cloud_config(folder: &Folder, relay: SocketAddr) -> umbilical_cloud::config::Config {
    folder.write("connect.toml", &elsewhere(relay, "operator.key", &[]));
    umbilical_cloud::config::Config::load(&folder.path("connect.toml")).unwrap().0
}

/// Says hello over a route: how it ended and what came back.
async fn over(route: Route) -> (Outcome, Vec<u8>) {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let (mut near, far) = (Async::new(near).unwrap(), Async::new(far).unwrap());
    let talk = async {
        let mut back = Vec::new();
        let said = near.write_all(b"hello").await;
        let _ = near.get_ref().shutdown(Shutdown::Write);
        if said.is_ok() {
            // what was not taken of a refused one is a reset
            let _ = near.read_to_end(&mut back).await;
        }
        back
    };
    zip(route.connect(world::executor(), Io::Unix(far)), talk).await
}

#[test]
fn clients_may_finish_when_the_gateway_stops_and_are_cut_off_when_they_do_not() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let (gateway, address) = gateway(&relay, ListenerKind::Plain);
        let (mut client, mut theirs) = zip(Client::connect(address), accept(&relay, &mut listener)).await;
        let finishing = async {
            theirs.send(Message::text("still here")).await.unwrap();
            let mut got = [0; 10];
            client.0.read_exact(&mut got).await.unwrap();
            client.0.get_ref().shutdown(Shutdown::Write).unwrap();
            while theirs.next().await.is_some() {}
        };
        let before = Instant::now();
        zip(gateway.shutdown(Duration::from_secs(3600)), finishing).await;
        assert!(before.elapsed() < Duration::from_secs(30), "took {:?}", before.elapsed());

        let (gateway, address) = self::gateway(&relay, ListenerKind::Plain);
        let (client, _theirs) = zip(Client::connect(address), accept(&relay, &mut listener)).await;
        zip(gateway.shutdown(Duration::from_millis(1)), client.must_be_reset()).await;
    });
}
