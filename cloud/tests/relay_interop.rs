//! Microsoft's own Node client for Hybrid Connections, unmodified, against the relay: as listener, as sender, as both.
//! Needs `node` and `npm`; the client comes from the npm registry at the first run.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use async_tungstenite::tungstenite::Message;
use smol::io::{AsyncBufReadExt, BufReader, Lines};
use smol::process::{Child, ChildStdout, Stdio};
use smol::stream::StreamExt;
use support::{Listener, TestRelay, certificate, closed, config, message, opened, run, start, target_of};
use umbilical_cloud::config::{Exposure, GatewayConfig, ListenerKind, RelayChoice};
use umbilical_cloud::gateway::Gateway;
use umbilical_cloud::relay::config::RelayConfig;

/// A folder with the scripts and what they need.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(scripts).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        // npm leaves this file when it is done
        let lock = fs::read(folder.join("package-lock.json")).unwrap();
        let installed = folder.join("installed-package-lock.json");
        if fs::read(&installed).ok().as_deref() != Some(&lock) {
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
            let output = npm.output().expect("these tests need npm: apt-get install npm");
            assert!(output.status.success(), "npm ci failed: {}", String::from_utf8_lossy(&output.stderr));
            fs::write(installed, lock).unwrap();
        }
        folder
    });
    &FOLDER
}

/// A script that runs, and what it tells.
struct Script {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    fn start(script: &str, arguments: &[&str]) -> Self {
        let mut process = smol::process::Command::new("node")
            .arg(folder().join(script))
            .args(arguments)
            .env("NODE_EXTRA_CA_CERTS", &certificate().file)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need node: apt-get install nodejs");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _process: process, lines }
    }

    /// A listener of `device` that echoes, once it is registered.
    async fn listener(relay: &TestRelay) -> Self {
        let mut script = Self::start("listener.js", &[&uri(relay, "device", "listen"), "listen", "key of listen"]);
        assert_eq!(script.told().await, r#"{"event":"listening"}"#);
        script
    }

    fn sender(relay: &TestRelay, key: &str, more: &[&str]) -> Self {
        Self::start("sender.js", &[&[uri(relay, "device", "connect").as_str(), "send", key], more].concat())
    }

    async fn told(&mut self) -> String {
        self.lines.next().await.expect("the script says more").unwrap()
    }

    /// What a sender tells whose every word came back.
    async fn heard_everything(&mut self, protocol: &str) {
        assert_eq!(self.told().await, format!(r#"{{"event":"open","protocol":"{protocol}"}}"#));
        for bytes in [7, 100_000, 0] {
            assert_eq!(self.told().await, format!(r#"{{"event":"message","bytes":{bytes},"same":true}}"#));
        }
        assert_eq!(self.told().await, r#"{"event":"close","code":4321,"reason":"that was it"}"#);
    }
}

/// By hand: the package's own helpers know no port but 443.
fn uri(relay: &TestRelay, path: &str, action: &str) -> String {
    format!("wss://localhost:{}/$hc/{path}?sb-hc-action={action}", relay.address.port())
}

#[test]
fn hyco_ws_talks_to_hyco_ws() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        for (offered, chosen) in [(&[][..], ""), (&["p1,p2"][..], "p1")] {
            Script::sender(&relay, "key of send", offered).heard_everything(chosen).await;
            assert_eq!(listener.told().await, format!(r#"{{"event":"open","protocol":"{chosen}"}}"#));
            assert_eq!(listener.told().await, r#"{"event":"close","code":4321,"reason":"that was it"}"#);
        }
    });
}

#[test]
fn hyco_ws_listens_for_another_sender() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        let headers = [("Sec-WebSocket-Extensions", "permessage-deflate"), ("Sec-WebSocket-Protocol", "p1, p2")];
        let (answer, mut sender) = opened(relay.send("device/suffix?a=1", &headers).await).await;
        assert_eq!(answer.header("Sec-WebSocket-Protocol"), Some("p1"));
        assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
        assert_eq!(listener.told().await, r#"{"event":"open","protocol":"p1"}"#);
        for said in [Message::text("hello"), Message::binary(vec![1; 1 << 20]), Message::text("")] {
            sender.send(said.clone()).await.unwrap();
            assert_eq!(message(&mut sender).await, said);
        }
        sender.close(None).await.unwrap();
        closed(&mut sender).await;
        assert!(listener.told().await.starts_with(r#"{"event":"close","code":"#));
    });
}

#[test]
fn hyco_ws_sends_to_another_listener() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut sender = Script::sender(&relay, "key of send", &["p1,p2"]);
        let mut rendezvous = accept(&relay, &mut listener, "p2").await;
        let echoing = async {
            loop {
                match message(&mut rendezvous).await {
                    Message::Close(_) => break while rendezvous.next().await.is_some() {},
                    said => rendezvous.send(said).await.unwrap(),
                }
            }
        };
        smol::future::zip(sender.heard_everything("p2"), echoing).await;
    });
}

async fn accept(relay: &TestRelay, listener: &mut Listener, protocol: &str) -> support::Socket {
    let invitation = listener.invitation().await;
    let rendezvous = relay.ask(target_of(&invitation), &[("Sec-WebSocket-Protocol", protocol)]).await;
    opened(rendezvous).await.1
}

#[test]
fn hyco_ws_is_told_why_it_is_refused_and_slowed_down_when_it_insists() {
    run(async {
        let mut config = config();
        config.limits.refusals = 3;
        let relay = start(&config);
        let mut sender = Script::sender(&relay, "another key", &[]);
        assert!(sender.told().await.contains("unexpected server response (401)"));
        let mut listener = Script::start("listener.js", &[&uri(&relay, "device", "listen"), "listen", "another key"]);
        let start = std::time::Instant::now();
        for _ in 0..4 {
            let told = listener.told().await;
            assert!(told.contains("401"), "{told}");
        }
        // left alone, it would have tried hundreds of times by now
        assert!(start.elapsed() > config.limits.refusal_pause, "{:?}", start.elapsed());
        let refused = relay.relay.metrics().rejections().map(|(_, times)| times).sum::<u64>();
        assert!(refused < 10, "{refused}");
    });
}

#[test]
fn hyco_ws_comes_back_when_its_channel_was_closed() {
    run(async {
        let config = config();
        let relay = start(&config);
        let mut listener = Script::listener(&relay).await;
        let without = RelayConfig { hybrid_connections: Vec::new(), ..config.clone() };
        relay.relay.reload(&without).unwrap();
        let told = listener.told().await;
        assert!(told.contains("404"), "{told}");
        relay.relay.reload(&config).unwrap();
        while listener.told().await != r#"{"event":"listening"}"# {}
        Script::sender(&relay, "key of send", &[]).heard_everything("").await;
    });
}

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
            listen: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
            device: "device".into(),
            service: "echo".into(),
            listener: ListenerKind::Plain,
            allow: None,
            max_connections: None,
        };
        let config = GatewayConfig {
            relay: RelayChoice::Embedded,
            exposures: vec![exposure],
            shape: umbilical_mux::Shape { streams: 64, replay: 256 * 1024, receive: 256 * 1024 },
            keep_alive: support::LONG,
            resume_for: support::LONG,
            drain_for: std::time::Duration::ZERO,
        };
        let gateway = Gateway::start(world::executor(), &config, Some(&relay.relay)).unwrap();
        let mut client = world::Client::connect(gateway.addresses()[0]).await;
        client.round_trip(&world::pattern(10_000)).await;
        client.finish().await;
        assert_eq!(listener.told().await, r#"{"event":"open","protocol":""}"#);
        assert_eq!(listener.told().await, r#"{"event":"close","code":1000,"reason":"Shutdown"}"#);
    });
}
