//! Promise: behind a load balancer that asks `/readyz`, gateways and relays are restarted one after the other and no new
//! connection fails. The balancer is HAProxy, as `docs/operations.md` configures it, and tries no connection twice.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    fs, io,
    net::SocketAddrV4,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::Signal;
use umbilical_system_tests::{
    deployment::{Deployment, Setup, Topology},
    echo, ports,
    process::Process,
    programs::haproxy::{Haproxy, Server},
    tunnel::Tunnel,
    wait,
};

/// Bytes of each connection, both ways.
const LENGTH: usize = 2_000;

/// Connections that are waited for by way of each gateway, and by way of the other while one is away.
const SOME: u64 = 20;

/// Clients that come all the time, each with a breath between two connections.
const CLIENTS: u64 = 3;
const BREATH: Duration = Duration::from_millis(5);

#[test]
fn gateways_of_one_relay() {
    let deployment = Setup::new(Topology::Apart).service("echo", echo::start()).write();
    let mut gateways = [Cloud::first(&deployment), Cloud::second(&deployment, None)];
    let relay = Process::start("relay", &mut deployment.cloud_command("run", "relay.toml")).stopped_by(Signal::SIGKILL);
    relay.line_with(&["relay listens on"], wait::SOON);
    roll(&deployment, &mut gateways);
}

#[test]
fn relays_with_their_gateways() {
    let deployment = Setup::new(Topology::Embedded).service("echo", echo::start()).write();
    let second = ports::free();
    let mut clouds = [Cloud::first(&deployment), Cloud::second(&deployment, Some(second))];
    listen_at_both(&deployment, second);
    roll(&deployment, &mut clouds);
}

/// One gateway, and no balancer: its link goes on over the relay that drains, while the device listens at the next one already.
#[test]
fn a_relay_whose_successor_starts_while_it_drains() {
    let deployment = Setup::new(Topology::Apart).service("echo", echo::start()).write();
    let mut tunnel = Tunnel::start_deployment(deployment);
    let exposure = tunnel.exposure("echo");
    let echoes = || smol::block_on(echo::exchange(exposure, 1, LENGTH)).ok();
    wait::for_some("an echo", wait::SOON, echoes);
    let clients = Clients::start(exposure);
    let comes = |more: &str| {
        let served = clients.served();
        wait::for_some(more, wait::SOON, || (clients.served() >= served + SOME).then_some(()));
    };
    comes("connections before");
    let old = &mut tunnel.cloud[0];
    old.signal(Signal::SIGTERM);
    old.line_with(&["relay no longer listens"], wait::SOON);
    let new = Process::start("successor", &mut tunnel.deployment.cloud_command("run", "relay.toml"));
    let new = new.stopped_by(Signal::SIGKILL);
    new.line_with(&["listener", "connected"], wait::SOON);
    comes("connections by way of both");
    // the end of its drain
    old.signal(Signal::SIGTERM);
    assert_eq!(old.ended(wait::SOON).code(), Some(0));
    comes("connections by way of the successor");
    let failures = clients.stop();
    assert!(failures.is_empty(), "{} connections failed, the first: {:?}", failures.len(), failures.first());
}

/// Starts both, and restarts them one after the other under a steady stream of new connections.
fn roll(deployment: &Deployment, clouds: &mut [Cloud; 2]) {
    for cloud in &mut *clouds {
        cloud.start(deployment);
    }
    let _agent = deployment.start_agent();
    let haproxy = Haproxy::start(&documented_backend(), &clouds.each_ref().map(|cloud| cloud.server.clone()));
    for cloud in &*clouds {
        haproxy.wait_for(&cloud.server, true, wait::SOON);
    }
    let clients = Clients::start(haproxy.address);
    for cloud in clouds {
        let server = cloud.server.clone();
        let sent = haproxy.sent_to(&server);
        let comes = || (haproxy.sent_to(&server) >= sent + SOME).then_some(());
        wait::for_some("connections by way of it", wait::SOON, comes);
        let mut process = cloud.process.take().unwrap();
        process.signal(Signal::SIGTERM);
        haproxy.wait_for(&server, false, wait::SOON);
        let served = clients.served();
        let goes_on = || (clients.served() >= served + SOME).then_some(());
        wait::for_some("connections by way of the other", wait::SOON, goes_on);
        assert_eq!(process.ended(wait::SOON).code(), Some(0));
        cloud.start(deployment);
        haproxy.wait_for(&server, true, wait::SOON);
    }
    let failures = clients.stop();
    assert!(failures.is_empty(), "{} connections failed, the first: {:?}", failures.len(), failures.first());
}

/// A gateway, perhaps with its relay in the same process.
struct Cloud {
    server: Server,
    file: &'static str,
    process: Option<Process>,
}

impl Cloud {
    /// That of the deployment.
    fn first(deployment: &Deployment) -> Cloud {
        Cloud::write(deployment, "one", "cloud.toml", deployment.exposure("echo"), |text| text)
    }

    /// Another one beside it, with a relay of its own at `relay` if it is to have one.
    fn second(deployment: &Deployment, relay: Option<SocketAddrV4>) -> Cloud {
        let exposure = ports::free();
        Cloud::write(deployment, "two", "second.toml", exposure, |text| {
            let text = text.replace(&deployment.exposure("echo").to_string(), &exposure.to_string());
            match relay {
                Some(relay) => text.replace(&deployment.relay.to_string(), &relay.to_string()),
                None => text,
            }
        })
    }

    fn write(
        deployment: &Deployment,
        name: &str,
        file: &'static str,
        exposure: SocketAddrV4,
        change: impl FnOnce(String) -> String,
    ) -> Cloud {
        let admin = ports::free();
        let text = fs::read_to_string(deployment.path("cloud.toml")).unwrap();
        // the first file may have them already
        let text = text.split("[admin]").next().unwrap().replace(ROLLING, "");
        let text = change(text.replace("[gateway]\n", &format!("[gateway]\n{ROLLING}")));
        deployment.write_file(file, &format!("{text}[admin]\nlisten = \"{admin}\"\n"));
        let server = Server { name: name.to_owned(), exposure, admin };
        Cloud { server, file, process: None }
    }

    fn start(&mut self, deployment: &Deployment) {
        let process = Process::start(&self.server.name, &mut deployment.cloud_command("run", self.file));
        wait::for_listener(self.server.exposure, wait::SOON);
        // the end of the test is no time for a drain
        self.process = Some(process.stopped_by(Signal::SIGKILL));
    }
}

/// The balancer has two seconds to see that a gateway is not ready. A gateway has until the end of the test's patience to get
/// its devices back.
const ROLLING: &str = "drain-after = \"2s\"\nsettle-for = \"1h\"\n";

/// Makes the agent listen at the relays of both.
fn listen_at_both(deployment: &Deployment, second: SocketAddrV4) {
    let text = fs::read_to_string(deployment.path("agent.toml")).unwrap();
    let (relay, services) = text.split_at(text.find("[services").unwrap());
    let relay = relay.replace("[relay.auth]", "[relays.auth]").replace("[relay]", "[[relays]]");
    let other = relay.replace(&format!(":{}/", deployment.relay.port()), &format!(":{}/", second.port()));
    assert_ne!(relay, other);
    deployment.write_file("agent.toml", &format!("{relay}{other}{services}"));
}

/// The backend of `docs/operations.md`, but for its servers, and stricter: HAProxy would try a connection that is refused again,
/// and hide what this test looks for.
fn documented_backend() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let shown = page.split("```haproxy\n").nth(1).unwrap().split("```").next().unwrap();
    let (backend, servers) = shown.split_at(shown.find("    server ").unwrap());
    assert_eq!(servers.lines().count(), 2, "what stands behind the servers is lost here:\n{servers}");
    format!("{backend}    retries 0\n@SERVERS@")
}

/// Clients that connect, say something, hear it back, and come again.
struct Clients {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<io::Error>>>,
}

impl Clients {
    fn start(address: SocketAddrV4) -> Clients {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |seed| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Relaxed) {
                    match smol::block_on(echo::exchange(address, seed, LENGTH)) {
                        Ok(()) => _ = served.fetch_add(1, Relaxed),
                        Err(error) => failures.push(error),
                    }
                    thread::sleep(BREATH);
                }
                failures
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Clients { stop, served, threads }
    }

    fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// Ends them, and gives what failed.
    fn stop(self) -> Vec<io::Error> {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}
