//! What a relay keeps in memory, measured from outside: it runs in a process of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_tungstenite::tungstenite::Message;
use smol::future::{self, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use support::{Listener, TestRelay, certificate, config, entity, message, opened, rule, run, start, token};
use umbilical_cloud::relay::config::RelayConfig;
use umbilical_link::frame::{FrameHeader, MAX_HEADER_BYTES, Opcode};
use umbilical_link::tls;
use umbilical_link::transport::Transport;
use umbilical_relay_protocol::Right;

const CERTIFICATE: &str = "RELAY_CERTIFICATE";
const KEY: &str = "RELAY_KEY";
const READY: &str = "the relay listens on ";

/// Enough for an average; each takes two or four sockets of this process.
const MANY: usize = 200;

fn many() -> RelayConfig {
    let mut config = config();
    let rules = || vec![rule("listen", "key of listen", &[Right::Listen])];
    config.hybrid_connections.extend((0..MANY).map(|n| entity(&format!("many/{n}"), rules(), false)));
    config
}

#[test]
#[ignore = "this is the relay: the other tests here run it in a process of its own"]
fn relay() {
    let variable = |name| std::env::var_os(name).expect("started by the other tests");
    let mut config = many();
    let tls = tls::server_config(Path::new(&variable(CERTIFICATE)), Path::new(&variable(KEY))).unwrap();
    config.endpoints[0].tls = Some(tls);
    let relay = start(&config);
    println!("{READY}{}", relay.address);
    smol::block_on(future::pending::<()>());
}

/// The relay's process, and how to reach it.
struct Process {
    child: Child,
    relay: TestRelay,
}

impl Process {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "relay", "--ignored", "--nocapture"])
            .env(CERTIFICATE, &certificate().file)
            .env(KEY, &certificate().key_file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = |line: String| line.split_once(READY).map(|(_, address)| address.parse().unwrap());
        let address = lines.map(Result::unwrap).find_map(ready).expect("the relay listens");
        // only its address is of use: the relay itself is the other process
        let relay = TestRelay { address, ..start(&config()) };
        Self { child, relay }
    }

    /// Resident memory in bytes: now (`VmRSS`), or at most since [`Process::forget_peak`] (`VmHWM`).
    fn memory(&self, field: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one message of `bytes` without ever having it whole.
async fn send_large(to: &mut Transport, bytes: u64) {
    let mut header = [0; MAX_HEADER_BYTES];
    let n = FrameHeader::whole(Opcode::Binary, Some([0; 4]), bytes).encode(&mut header);
    to.write_all(&header[..n]).await.unwrap();
    let chunk = [7; 64 * 1024];
    for _ in 0..bytes / chunk.len() as u64 {
        to.write_all(&chunk).await.unwrap();
    }
    to.flush().await.unwrap();
}

async fn hear_large(from: &mut Transport, bytes: u64) {
    let mut header = [0; 10];
    from.read_exact(&mut header).await.unwrap();
    assert_eq!(FrameHeader::parse(&header), Ok(Some((FrameHeader::whole(Opcode::Binary, None, bytes), 10))));
    let mut chunk = [0; 64 * 1024];
    for _ in 0..bytes / chunk.len() as u64 {
        from.read_exact(&mut chunk).await.unwrap();
        assert!(chunk.iter().all(|byte| *byte == 7));
    }
}

#[test]
fn a_message_of_64_mib_passes_in_bounded_memory() {
    run(async {
        let process = Process::start();
        let mut listener = process.relay.listen("device").await;
        let (mut here, mut there) = process.relay.join_raw(&mut listener, "device").await;
        for bytes in [1 << 20, 64 << 20] {
            process.forget_peak();
            let before = process.memory("VmRSS");
            zip(send_large(&mut here, bytes), hear_large(&mut there, bytes)).await;
            zip(send_large(&mut there, bytes), hear_large(&mut here, bytes)).await;
            let grown = process.memory("VmHWM").saturating_sub(before);
            assert!(grown < 1 << 20, "{grown} bytes more for {bytes}");
        }
    });
}

#[test]
fn an_idle_listener_and_an_idle_join_take_little() {
    run(async {
        let process = Process::start();
        let relay = &process.relay;
        let mut warm = relay.listen("device").await;
        let _warm = relay.join(&mut warm, "device").await;

        let before = process.memory("VmRSS");
        let mut listeners = Vec::new();
        for n in 0..MANY {
            listeners.push(listen(relay, n).await);
        }
        let each = (process.memory("VmRSS") - before) / MANY;
        println!("{each} bytes for each idle listener");
        assert!(each < 48 * 1024, "{each} bytes for each idle listener");

        let before = process.memory("VmRSS");
        let mut joins = Vec::new();
        for (n, listener) in listeners.iter_mut().enumerate() {
            let (mut here, mut there) = relay.join(listener, &format!("many/{n}")).await;
            // what was needed once must not stay
            for said in [Message::binary(vec![1; 50_000]), Message::text("x")] {
                let (sent, heard) = zip(here.send(said.clone()), message(&mut there)).await;
                sent.unwrap();
                assert_eq!(heard, said);
                let (sent, heard) = zip(there.send(said.clone()), message(&mut here)).await;
                sent.unwrap();
                assert_eq!(heard, said);
            }
            joins.push((here, there));
        }
        let each = (process.memory("VmRSS") - before) / MANY;
        println!("{each} bytes for each idle join");
        assert!(each < 64 * 1024, "{each} bytes for each idle join");
    });
}

async fn listen(relay: &TestRelay, n: usize) -> Listener {
    let path = format!("many/{n}");
    let token = token(&path, "listen");
    let target = format!("/$hc/{path}?sb-hc-action=listen");
    let (_, control) = opened(relay.ask(&target, &[("ServiceBusAuthorization", &token)]).await).await;
    Listener { control, relay: relay.clone() }
}
