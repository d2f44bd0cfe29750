//! Promise: Microsoft's own Node client for WebSockets, hyco-ws, works with our agent and our gateway where they are told
//! to speak plainly, and is told why not where they are not.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;

use support::npm::{Script, uri};
use support::{TestRelay, certificate, config, run, start};
use umbilical_cloud::config::{Exposure, GatewayConfig, ListenerKind, RelayChoice};
use umbilical_cloud::gateway::Gateway;

/// An agent of `device` whose service `echo` is open to foreign senders.
fn agent(relay: &TestRelay, foreign: &str) -> (world::Folder, world::Device) {
    let folder = world::Folder::new();
    folder.write("relay.pem", &fs::read_to_string(&certificate().file).unwrap());
    folder.write("device.key", "key of listen");
    let services = [("echo", world::echo())];
    let device = folder.start_device("device", &(world::agent("device", relay.address, &services) + foreign));
    (folder, device)
}

async fn listening(relay: &TestRelay) {
    support::eventually("a listener", || relay.relay.listeners("device") == 1).await;
}

#[test]
fn hyco_ws_reaches_the_plain_service_of_our_agent() {
    run(async {
        let relay = start(&config());
        let _agent = agent(&relay, "[foreign]\nplain-service = \"echo\"\n");
        listening(&relay).await;
        let uri = uri(&relay, "device", "connect");
        let mut sender = Script::start("plain-sender.js", &[&uri, "send", "key of send"]);
        for told in [
            r#"{"event":"open"}"#,
            r#"{"event":"heard","bytes":1000010,"same":true}"#,
            // it tells its own words, once the answer to them has come
            r#"{"event":"close","code":1000,"reason":"that was it"}"#,
        ] {
            assert_eq!(sender.told().await, told);
        }
    });
}

#[test]
fn hyco_ws_is_told_what_our_agent_speaks_when_foreign_senders_are_not_welcome() {
    run(async {
        let relay = start(&config());
        let _agent = agent(&relay, "");
        listening(&relay).await;
        let uri = uri(&relay, "device", "connect");
        let mut sender = Script::start("plain-sender.js", &[&uri, "send", "key of send"]);
        assert_eq!(sender.told().await, r#"{"event":"error","message":"unexpected server response (400)"}"#);
    });
}

#[test]
fn our_gateway_reaches_hyco_ws_plainly() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        let exposure = Exposure {
            listen: std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0)).into(),
            device: "device".into(),
            service: "echo".into(),
            listener: ListenerKind::Plain,
            allow: None,
            max_connections: None,
            idle_timeout: std::time::Duration::from_secs(60),
        };
        let config = GatewayConfig {
            relay: RelayChoice::Embedded,
            exposures: vec![exposure],
            shape: umbilical_mux::Shape { streams: 64, replay: 256 * 1024, receive: 256 * 1024 },
            keep_alive: support::LONG,
            resume_for: support::LONG,
            drain_for: std::time::Duration::ZERO,
            drain_after: std::time::Duration::ZERO,
            settle_for: std::time::Duration::ZERO,
            ask_agents: None,
        };
        let gateway = Gateway::start(world::executor(), &config, Some(&relay.relay)).unwrap();
        let mut client = world::Client::connect(gateway.addresses()[0]).await;
        client.round_trip(&world::pattern(10_000)).await;
        client.finish().await;
        assert!(listener.told().await.starts_with(r#"{"event":"open","protocol":""#));
        assert_eq!(listener.told().await, r#"{"event":"close","code":1000,"reason":"Shutdown"}"#);
    });
}
