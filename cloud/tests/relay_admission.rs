//! Who gets as far as being asked what it wants: malformed, slow and too many connections, and sources that do not
//! take no for an answer.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use support::{Answer, SHORT, TestRelay, certificate, config, eventually, opened, run, start, target_of, token};
use umbilical_cloud::relay::config::{Endpoint, RelayConfig};
use umbilical_cloud::relay::{Relay, RelayError};
use umbilical_link::tls;

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn plain() -> RelayConfig {
    RelayConfig { endpoints: vec![Endpoint { address: loopback(), tls: None }], ..config() }
}

/// What these bytes are answered on a relay without TLS.
async fn answer(relay: &TestRelay, bytes: &[u8]) -> Answer {
    let mut transport = relay.dial().await;
    transport.write_all(bytes).await.unwrap();
    Answer::read(&mut transport).await
}

fn handshake(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MTMtMTc5NTQ3MTM3NTUxMg==\r\n\r\n"
    )
}

#[test]
fn malformed_requests_are_answered_with_what_is_wrong() {
    run(async {
        let relay = start(&plain());
        let good = handshake("/$hc/device?sb-hc-action=listen");
        for (request, status, text) in [
            ("\x16\x03\x01\r\n\r\n".to_owned(), 400, "Malformed HTTP request"),
            ("GET /$hc/device SPDY/3\r\n\r\n".to_owned(), 400, "Malformed HTTP request"),
            (format!("GET /$hc/device HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(33_000)), 431, "larger than 32 KiB"),
            (format!("GET /$hc/device HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200)), 431, "more than 100"),
            (good.replace("Upgrade: websocket\r\n", ""), 400, "WebSocket handshake is expected"),
            (good.replace("Version: 13", "Version: 8"), 426, "version 13"),
            (good.replace("Sec-WebSocket-Key", "X-Key"), 400, "Sec-WebSocket-Key"),
            (good.replace("=listen", "=sing"), 400, "sb-hc-action"),
            (handshake("/$hc/device?sb-hc-action=accept&sb-hc-statusCode=x"), 403, "rendezvous"),
            (handshake("/$hc/device?sb-hc-action=request&sb-hc-id=x"), 403, "rendezvous"),
        ] {
            let answer = answer(&relay, request.as_bytes()).await;
            assert_eq!((answer.status, answer.reason.contains(text)), (status, true), "{request}: {answer:?}");
            assert!(answer.header("Date").is_some());
        }
        let token = format!("\r\nServiceBusAuthorization: {}\r\n", token("device", "listen"));
        for host in ["", "Host: a b\r\n", "Host: user@host\r\n", "Host: host/path\r\n"] {
            let request = good.replace("Host: localhost\r\n", host).replacen("\r\n\r\n", &format!("{token}\r\n"), 1);
            let answer = answer(&relay, request.as_bytes()).await;
            assert_eq!((answer.status, answer.reason.contains("Host")), (400, true), "{host}: {answer:?}");
        }
        assert_eq!(relay.relay.metrics().listeners.load(Relaxed), 0);
    });
}

#[test]
fn who_is_too_slow_is_not_waited_for() {
    run(async {
        let mut config = config();
        config.deadlines.handshake = SHORT;
        let relay = start(&config);
        // no TLS at all
        let mut silent = Async::<TcpStream>::connect(relay.address).await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        eventually("it is counted", || relay.relay.metrics().tls_failures.load(Relaxed) == 1).await;
        // half a request
        let mut slow = relay.dial().await;
        slow.write_all(b"GET /$hc/device HTTP/1.1\r\nHost: loc").await.unwrap();
        assert_eq!(Answer::read(&mut slow).await.status, 408);
        // something else than TLS
        let mut other = Async::<TcpStream>::connect(relay.address).await.unwrap();
        other.write_all(handshake("/$hc/device").as_bytes()).await.unwrap();
        let mut told = Vec::new();
        let _ = other.read_to_end(&mut told).await;
        assert!(!told.starts_with(b"HTTP"), "{told:?}");
    });
}

#[test]
fn beyond_the_connection_limit_clients_are_told_to_come_again() {
    run(async {
        let mut config = config();
        config.limits.connections = 1;
        let relay = start(&config);
        let listener = relay.listen("device").await;
        let answer = relay.answer("/$hc/device", &[]).await;
        assert_eq!(answer.status, 503);
        let seconds: u32 = answer.header("Retry-After").unwrap().parse().unwrap();
        assert!((1..=10).contains(&seconds), "{seconds}");
        assert_eq!(relay.relay.metrics().shed.load(Relaxed), 1);
        drop(listener);
        eventually("room again", || relay.relay.metrics().connections.load(Relaxed) == 0).await;
        assert_eq!(relay.answer("/$hc/device", &[]).await.status, 401);
    });
}

#[test]
fn who_is_turned_away_takes_nobodys_place() {
    run(async {
        let mut config = plain();
        config.limits.handshakes = 2;
        let relay = start(&config);
        let metrics = relay.relay.metrics();
        let mut served = vec![relay.dial().await, relay.dial().await];
        eventually("two in progress", || metrics.handshakes.load(Relaxed) == 2).await;
        let _turned_away = relay.dial().await;
        eventually("a third", || metrics.shedding.load(Relaxed) == 1).await;

        // one of those who were there first is done, the one who will be turned away is not
        drop(served.pop());
        eventually("two in progress again", || metrics.handshakes.load(Relaxed) == 2).await;
        assert_eq!(relay.answer("/$hc/device", &[]).await.status, 401);
        assert_eq!(metrics.shed.load(Relaxed), 0);
    });
}

#[test]
fn beyond_the_handshake_limit_clients_are_told_to_come_again_and_beyond_twice_that_they_wait() {
    run(async {
        let mut config = plain();
        config.limits.handshakes = 2;
        let relay = start(&config);
        let metrics = relay.relay.metrics();
        let mut stuck = vec![relay.dial().await, relay.dial().await];
        eventually("two in progress", || metrics.handshakes.load(Relaxed) == 2).await;
        assert_eq!(relay.answer("/$hc/device", &[]).await.status, 503);
        eventually("two in progress again", || metrics.handshakes.load(Relaxed) == 2).await;

        stuck.push(relay.dial().await);
        eventually("three in progress", || metrics.handshakes.load(Relaxed) == 3).await;
        stuck.push(relay.dial().await);
        eventually("four in progress", || metrics.handshakes.load(Relaxed) == 4).await;
        let accepted = metrics.accepted.load(Relaxed);
        let mut queued = relay.ask("/$hc/device", &[]).await;
        let answered = async { Some(Answer::read(&mut queued).await) };
        let patient = async {
            smol::Timer::after(SHORT).await;
            None
        };
        assert!(smol::future::or(answered, patient).await.is_none());
        assert_eq!(metrics.accepted.load(Relaxed), accepted);

        stuck.clear();
        assert_ne!(Answer::read(&mut queued).await.status, 101);
        assert!(metrics.accepted.load(Relaxed) > accepted);
    });
}

#[test]
fn a_client_that_is_refused_again_and_again_is_slowed_down_and_its_neighbours_are_not() {
    run(async {
        let mut config = plain();
        config.limits.refusals = 2;
        config.limits.refusal_pause = Duration::from_secs(2);
        let relay = start(&config);
        let start = Instant::now();
        for _ in 0..2 {
            assert_eq!(relay.answer("/$hc/device", &[]).await.status, 401);
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let slowed = async {
            assert_eq!(relay.answer("/$hc/device", &[]).await.status, 401);
            start.elapsed()
        };
        let good = async {
            relay.listen("device").await;
            start.elapsed()
        };
        let (slowed, good) = smol::future::zip(slowed, good).await;
        assert!(slowed > Duration::from_secs(2), "{slowed:?}");
        assert!(good < Duration::from_secs(2), "{good:?}");
    });
}

#[test]
fn without_tls_listeners_are_invited_without_tls() {
    run(async {
        let relay = start(&plain());
        let mut listener = relay.listen("device").await;
        let mut sender = relay.send("device", &[]).await;
        let invitation = listener.invitation().await;
        let origin = format!("ws://localhost:{}/$hc/device?", relay.address.port());
        assert!(invitation.address.starts_with(&origin), "{}", invitation.address);
        let _there = relay.open(target_of(&invitation), &[]).await;
        assert_eq!(Answer::read(&mut sender).await.status, 101);
    });
}

#[test]
fn endpoints_come_and_go_with_the_configuration() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        config.endpoints.push(Endpoint { address: (Ipv4Addr::new(127, 0, 0, 2), 0).into(), tls: None });
        relay.relay.reload(&config).unwrap();
        let addresses = relay.relay.addresses();
        assert_eq!(addresses[0], relay.address);
        let second = TestRelay { address: addresses[1], tls: false, relay: relay.relay.clone() };
        let _sender = second.send("device", &[]).await;
        listener.invitation().await;

        config.endpoints.remove(0);
        relay.relay.reload(&config).unwrap();
        assert_eq!(relay.relay.addresses(), [second.address]);
        refused(relay.address).await;
        let _sender = second.send("device", &[]).await;
        listener.invitation().await;
    });
}

/// Waits until nobody listens at `address` any more.
async fn refused(address: SocketAddr) {
    while Async::<TcpStream>::connect(address).await.is_ok() {
        smol::future::yield_now().await;
    }
}

#[test]
fn a_new_certificate_is_shown_to_who_comes_next() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        let directory = tempfile::tempdir().unwrap();
        let (file, key_file) = (directory.path().join("new.pem"), directory.path().join("new.key"));
        let key = KeyPair::generate().unwrap();
        let new = CertificateParams::new(vec!["renewed.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(&file, new.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        config.endpoints[0].tls = Some(tls::server_config(&file, &key_file).unwrap());
        relay.relay.reload(&config).unwrap();
        let dial = async || Async::<TcpStream>::connect(relay.address).await.unwrap();
        assert!(tls::connect(&certificate().client, "localhost", dial().await).await.is_err());
        let client =
            tls::client_config(&tls::Roots::File(file), std::sync::Arc::new(tls::DefaultTimeProvider)).unwrap();
        tls::connect(&client, "renewed.example", dial().await).await.unwrap();
    });
}

#[test]
fn a_port_in_use_is_named_and_changes_nothing() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        config.endpoints[0].address = relay.address;
        let error = Relay::start(support::executor(), &config).err().unwrap();
        assert!(matches!(&error, RelayError::Listen { address, .. } if *address == relay.address));
        let text = error.to_string();
        assert!(text.contains(&relay.address.to_string()) && text.contains("choose another port"), "{text}");

        let other = start(&support::config());
        let _listener = other.listen("device").await;
        config.hybrid_connections.clear();
        assert!(other.relay.reload(&config).is_err());
        let token = token("device", "listen");
        let target = "/$hc/device?sb-hc-action=listen";
        opened(other.ask(target, &[("ServiceBusAuthorization", &token)]).await).await;

        config.public_origin = Some("relay.example".into());
        let error = Relay::start(support::executor(), &config).err().unwrap().to_string();
        assert!(error.contains("wss://host[:port]"), "{error}");
    });
}
