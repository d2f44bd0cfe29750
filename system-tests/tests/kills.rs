//! Promise: a program that is killed takes with it what was its own and nothing else. Whoever used it hears of it soon, and
//! what comes back, or is left, serves at once.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use umbilical_system_tests::{
    binaries,
    deployment::{Deployment, Setup, Topology},
    echo,
    fault_proxy::FaultProxy,
    ports,
    process::Process,
    tunnel::{LISTENING, Tunnel},
    wait,
};

/// Until who had a stream to a killed agent hears of it.
const HEARS_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn clients_of_a_killed_agent_are_reset_and_new_ones_served_as_soon_as_it_is_back() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let mut tunnel = Tunnel::start(Setup::new(topology).service("echo", echo::start()));
        let address = tunnel.exposure("echo");
        let mut open = Client::connect(address);
        open.round_trip();

        let killed = Instant::now();
        tunnel.restart_agent();
        open.is_reset(HEARS_WITHIN.saturating_sub(killed.elapsed()));
        println!("{topology:?}: reset {:?} after the agent was killed", killed.elapsed());
        served_at_once(address);
    }
}

#[test]
fn a_device_that_returns_while_its_old_connections_look_alive_is_served_at_once() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let deployment = Setup::new(topology).service("echo", echo::start()).write();
        let path = FaultProxy::start(deployment.relay);
        deployment.agent_dials(path.address);
        let mut tunnel = Tunnel::start_deployment(deployment);
        let address = tunnel.exposure("echo");
        Client::connect(address).round_trip();

        // the device loses its power and its network, and has both again
        assert!(path.vanish() >= 2, "a control channel and a link");
        tunnel.restart_agent();
        served_at_once(address);
    }
}

#[test]
fn streams_outlive_a_relay_that_is_killed_and_started_again() {
    let mut tunnel = Tunnel::start(Setup::new(Topology::Apart).service("echo", echo::start()));
    let mut stream = Client::connect(tunnel.exposure("echo"));
    stream.round_trip();
    for _ in 0..3 {
        let killed = Instant::now();
        tunnel.restart_relay();
        let back = killed.elapsed();
        stream.round_trip();
        println!("the relay was back {back:?} after it was killed, the stream went on after {:?}", killed.elapsed());
        served_at_once(tunnel.exposure("echo"));
    }
}

#[test]
fn streams_of_one_gateway_do_not_notice_that_another_was_killed() {
    let tunnel = Tunnel::start(Setup::new(Topology::Apart).service("echo", echo::start()));
    let other_address = ports::free();
    let other = second_gateway(&tunnel.deployment, other_address);
    wait::for_listener(other_address, wait::SOON);
    let (mut of_the_killed, mut of_the_other) =
        (Client::connect(tunnel.exposure("echo")), Client::connect(other_address));
    of_the_killed.round_trip();
    of_the_other.round_trip();
    let relay = tunnel.deployment.relay;
    assert_eq!(tunnel.agent.connections_to(relay), 3, "a control channel and two links");
    let begun = |agent: &Process| agent.output().matches("begins").count();
    let before = begun(&tunnel.agent);

    let exchanged = thread::spawn(move || smol::block_on(echo::exchange(other_address, 1, 64 << 20)));
    tunnel.cloud[1].signal(Signal::SIGKILL);
    let mut longest = Duration::ZERO;
    wait::for_some("the agent to have lost a link", wait::SOON, || {
        longest = longest.max(of_the_other.round_trip());
        (tunnel.agent.connections_to(relay) == 2).then_some(())
    });
    assert_eq!(of_the_killed.0.read(&mut [0]).unwrap_or(0), 0, "whose gateway is gone");
    exchanged.join().expect("it does not panic").expect("every byte comes back");
    of_the_other.round_trip();
    println!("longest round trip of the other gateway's stream: {longest:?}");
    assert_eq!(begun(&tunnel.agent), before, "the other's session has begun anew");
    assert_eq!(tunnel.agent.connections_to(relay), 2, "the other's link is another");
    // the streams of the killed one would be waited for
    tunnel.agent.signal(Signal::SIGKILL);
    drop((of_the_other, other));
}

#[test]
fn of_two_agents_the_other_serves_when_one_is_killed() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let first = says("first");
        let mut tunnel = Tunnel::start(Setup::new(topology).service("name", first));
        let address = tunnel.exposure("name");
        assert_eq!(heard(address), "first");
        let second = second_agent(&tunnel.deployment, says("second"), first);
        second.line_with(LISTENING, wait::SOON);
        assert_eq!(heard(address), "first", "the session is with the one that was there before");

        let mut open = TcpStream::connect(address).unwrap();
        open.set_read_timeout(Some(HEARS_WITHIN)).unwrap();
        let mut name = [0; 5];
        open.read_exact(&mut name).unwrap();
        tunnel.agent.signal(Signal::SIGKILL);
        tunnel.agent.ended(wait::SOON);
        wait::for_some("the other to serve", wait::SOON, || (heard(address) == "second").then_some(()));
        let end = open.read(&mut name).expect_err("a stream of the killed one ends with a reset");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset, "{topology:?}");
    }
}

/// Each round trip carries another number.
struct Client(TcpStream, u64);

impl Client {
    fn connect(address: SocketAddrV4) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(wait::SOON)).unwrap();
        Client(stream, 0)
    }

    fn round_trip(&mut self) -> Duration {
        self.try_round_trip().unwrap()
    }

    fn try_round_trip(&mut self) -> io::Result<Duration> {
        let since = Instant::now();
        self.1 += 1;
        self.0.write_all(&self.1.to_be_bytes())?;
        let mut answer = [0; 8];
        self.0.read_exact(&mut answer)?;
        assert_eq!(u64::from_be_bytes(answer), self.1);
        Ok(since.elapsed())
    }

    fn is_reset(&mut self, within: Duration) {
        self.0.set_read_timeout(Some(within)).unwrap();
        let error = self.0.read(&mut [0]).expect_err("an orderly end would be a lie");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "within {within:?}: {error}");
    }
}

/// Who comes now is served before long, unless in the very moment in which the gateway hears of the change. How long it took
/// is the benchmark's business.
fn served_at_once(address: SocketAddrV4) {
    let since = Instant::now();
    let served = || TcpStream::connect(address).and_then(|stream| Client(stream, 0).try_round_trip()).ok();
    wait::for_some("a client to be served", wait::SOON, served);
    assert!(since.elapsed() < Duration::from_secs(2), "a new connection was served after {:?}", since.elapsed());
}

/// A gateway for the same device, with its exposure elsewhere.
fn second_gateway(deployment: &Deployment, exposure: SocketAddrV4) -> Process {
    deployment.write_copy(
        "cloud.toml",
        "gateway-2.toml",
        &deployment.exposure("echo").to_string(),
        &exposure.to_string(),
    );
    Process::start("second gateway", &mut deployment.cloud_command("run", "gateway-2.toml"))
}

/// An agent with the same name, whose service is another.
fn second_agent(deployment: &Deployment, target: SocketAddrV4, instead_of: SocketAddrV4) -> Process {
    deployment.write_copy("agent.toml", "agent-2.toml", &instead_of.to_string(), &target.to_string());
    let mut agent = Command::new(binaries::agent());
    agent.args(["--config", &deployment.path("agent-2.toml")]);
    // its service leaves connections open
    Process::start("second agent", &mut agent).stopped_by(Signal::SIGKILL)
}

/// A service that says its name, and holds the connection.
fn says(name: &'static str) -> SocketAddrV4 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            // whoever has gone needs no name
            let _ = stream.write_all(name.as_bytes());
            held.push(stream);
        }
    });
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// What a new connection hears; nothing if it is closed.
fn heard(address: SocketAddrV4) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(wait::SOON)).unwrap();
    let mut said = [0; 16];
    let count = stream.read(&mut said).unwrap_or(0);
    String::from_utf8_lossy(&said[..count]).into_owned()
}
