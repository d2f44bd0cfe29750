//! Promise: the gateway finds a device that is there, whatever else is at the relay in its place, and says what it found.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite::Message;
use smol::future::zip;
use umbilical_cloud::config::{Exposure, GatewayConfig, ListenerKind, RelayChoice};
use umbilical_cloud::gateway::{Gateway, Sender, SenderError};
use umbilical_link::SUBPROTOCOL;
use umbilical_mux::{FEATURE_REPORT, Hello, MAX_HELLO, Shape};
use world::{Folder, echo, eventually, must_reset, try_echo};

/// A gateway with one exposure, of the service `echo` of `device`.
fn gateway(relay: &support::TestRelay) -> (Gateway, SocketAddr) {
    gateway_that_asks(relay, None)
}

/// The same, which asks agents how they are doing as often as that.
fn gateway_that_asks(relay: &support::TestRelay, ask_agents: Option<Duration>) -> (Gateway, SocketAddr) {
    let exposure = Exposure {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into(),
        device: "device".into(),
        service: "echo".into(),
        listener: ListenerKind::Agent,
        allow: None,
        max_connections: None,
        idle_timeout: Duration::from_secs(60),
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
        ask_agents,
    };
    let gateway = Gateway::start(world::executor(), &config, Some(&relay.relay)).unwrap();
    let address = gateway.addresses()[0];
    (gateway, address)
}

/// A folder for an agent that finds that relay.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("relay.pem", &std::fs::read_to_string(&support::certificate().file).unwrap());
    folder.write("device.key", "key of listen");
    folder
}

#[test]
fn who_does_not_speak_our_protocol_is_no_agent() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut stranger = relay.listen("device").await;
        let sender = Sender::Embedded(relay.relay.clone());
        let meet = async {
            let accept = stranger.invitation().await;
            relay.open(support::target_of(&accept), &[]).await
        };
        let (outcome, _socket) = zip(sender.dial("device"), meet).await;
        let error = outcome.expect_err("it is not an agent");
        assert!(matches!(error, SenderError::NotAnAgent), "{error}");
        assert!(error.to_string().contains("not an umbilical agent") && error.is_lasting());
    });
}

#[test]
fn a_refusal_by_the_device_is_told_in_its_words() {
    world::run(async {
        let relay = support::start(&support::config());
        let mut listener = relay.listen("device").await;
        let sender = Sender::Embedded(relay.relay.clone());
        let refuse = async {
            let accept = listener.invitation().await;
            let rendezvous = umbilical_relay_protocol::Rendezvous::parse(&accept.address).unwrap();
            relay.answer(&rendezvous.rejection_target(503, "Come back later"), &[]).await
        };
        let (outcome, _) = zip(sender.dial("device"), refuse).await;
        assert_eq!(outcome.expect_err("refused").to_string(), "refused with status 503: Come back later");
        let error = sender.dial("nobody").await.expect_err("not there");
        assert_eq!(error.to_string(), "the device is not connected to the relay (Endpoint does not exist: 'nobody')");
    });
}

#[test]
fn a_device_that_comes_back_is_not_kept_waiting_by_its_ghost() {
    world::run(async {
        let relay = support::start(&support::config());
        // what is left of a connection that was cut: registered, and silent
        let mut ghost = relay.listen_as("device", "same").await;
        let (gateway, _) = gateway(&relay);
        ghost.invitation().await;
        let mut back = relay.listen_as("device", "same").await;
        let before = Instant::now();
        back.invitation().await;
        assert!(before.elapsed() < Duration::from_secs(10), "took {:?}", before.elapsed());
        gateway.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn a_device_that_arrives_is_linked_at_once_whatever_the_pause() {
    world::run(async {
        let relay = support::start(&support::config());
        let (gateway, address) = gateway(&relay);
        // enough failures for a pause that would be felt
        for _ in 0..12 {
            must_reset(address).await;
        }
        let folder = folder();
        let _device = folder.device("device", relay.address, &[("echo", echo())]);
        let before = Instant::now();
        eventually("a link", || async { gateway.devices().await[0].linked.then_some(()) }).await;
        assert!(before.elapsed() < Duration::from_secs(10), "took {:?}", before.elapsed());
        assert_eq!(relay.relay.metrics().handed_over.load(Relaxed), 1);
        gateway.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn an_agent_without_room_for_another_session_says_so() {
    world::run(async {
        let relay = support::start(&support::config());
        let folder = folder();
        let _device = folder.device("device", relay.address, &[("echo", echo())]);
        // it has room for four, and all of them are in use
        let gateways: Vec<_> = (0..4).map(|_| gateway(&relay)).collect();
        for (_, address) in &gateways {
            eventually("an answer", || async { try_echo(*address).await.ok() }).await;
        }
        let (fifth, address) = gateway(&relay);
        must_reset(address).await;
        // one leaves, another has its place
        gateways[0].0.shutdown(Duration::ZERO).await;
        eventually("an answer", || async { try_echo(address).await.ok() }).await;
        fifth.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn a_device_that_nobody_has_configured_is_linked_as_soon_as_it_comes() {
    world::run(async {
        let folder = Folder::new();
        let relay = "[relay]\nlisten = '127.0.0.1:0'\ncertificate-file = '@relay.pem'\nkey-file = '@relay.key'\n\
                     [relay.on-demand]\npattern = 'd*'\n\
                     [relay.keys.listen]\nsecret-file = '@device.key'\nrights = ['listen']\n[gateway]\n";
        let cloud = folder.start(&format!("{relay}{}", world::expose("d9", "echo")));
        let exposure = world::exposure_of(&cloud, 0);
        assert!(try_echo(exposure).await.is_err(), "nobody is there yet");
        let _device = folder.device("d9", world::relay_of(&cloud), &[("echo", echo())]);
        eventually("an answer", || async { try_echo(exposure).await.ok() }).await;
    });
}

/// Takes the gateway's link as an agent with these features would, and says nothing more.
async fn silent_agent(relay: &support::TestRelay, gateway: &Gateway, features: u32) -> support::Socket {
    let mut listener = relay.listen("device").await;
    let accept = listener.invitation().await;
    let protocol = [("Sec-WebSocket-Protocol", SUBPROTOCOL)];
    let mut socket = relay.open(support::target_of(&accept), &protocol).await;
    let Message::Binary(hello) = support::message(&mut socket).await else { panic!("no hello") };
    let hello = Hello::decode(&hello).unwrap();
    assert_eq!(hello.features & FEATURE_REPORT, FEATURE_REPORT, "the gateway says that it may ask");
    let answer = Hello { features, ..hello }.encode(&mut [0; MAX_HELLO]).to_vec();
    socket.send(Message::Binary(answer.into())).await.unwrap();
    eventually("a link", || async { gateway.devices().await[0].linked.then_some(()) }).await;
    socket
}

#[test]
fn an_agent_that_cannot_tell_how_it_is_doing_is_not_asked() {
    world::run(async {
        let relay = support::start(&support::config());
        let (gateway, _) = gateway_that_asks(&relay, Some(Duration::ZERO));
        let _socket = silent_agent(&relay, &gateway, !FEATURE_REPORT).await;
        gateway.ask_agents().await;
        let device = gateway.devices().await.remove(0);
        assert!(device.agent.is_none() && device.counters.streams_opened == 0, "{device:?}");
        gateway.shutdown(Duration::ZERO).await;
    });
}

#[test]
fn an_agent_that_does_not_answer_holds_nobody_up() {
    world::run(async {
        let relay = support::start(&support::config());
        let (gateway, _) = gateway_that_asks(&relay, Some(Duration::ZERO));
        let _socket = silent_agent(&relay, &gateway, FEATURE_REPORT).await;
        let before = Instant::now();
        gateway.ask_agents().await;
        assert!(before.elapsed() < Duration::from_secs(15), "took {:?}", before.elapsed());
        let agent = gateway.devices().await.remove(0).agent.unwrap();
        assert!(!agent.answered && agent.last.is_none(), "{agent:?}");
        // nothing is left of the question
        eventually("its end", || async { (gateway.devices().await[0].streams == 0).then_some(()) }).await;
        gateway.shutdown(Duration::ZERO).await;
    });
}
