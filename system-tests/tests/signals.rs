//! Promise: signals do what service managers expect. SIGTERM lets open streams finish, SIGHUP takes up a changed
//! configuration, and streams that the change does not touch go on.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddrV4, TcpStream},
    time::Duration,
};

use nix::sys::signal::Signal;
use umbilical_system_tests::{
    deployment::{Setup, Topology},
    echo,
    tunnel::Tunnel,
    wait,
};

#[test]
fn an_agent_told_to_stop_lets_open_streams_finish() {
    let mut tunnel = tunnel();
    let mut open = Echoing::connect(tunnel.exposure("echo"));
    tunnel.agent.signal(Signal::SIGTERM);
    wait::for_some("new streams to be refused", wait::SOON, || refused(tunnel.exposure("echo")));

    open.round_trip(b"still here");
    assert!(tunnel.agent.is_running(), "the agent left although a stream was open");
    open.finish();
    assert_eq!(tunnel.agent.ended(wait::SOON).code(), Some(0));
}

#[test]
fn a_cloud_told_to_stop_lets_open_streams_finish() {
    let mut tunnel = tunnel();
    let address = tunnel.exposure("echo");
    let mut open = Echoing::connect(address);
    tunnel.gateway().signal(Signal::SIGTERM);
    wait::for_some("the public port to close", wait::SOON, || TcpStream::connect(address).is_err().then_some(()));

    open.round_trip(b"still here");
    open.finish();
    let mut cloud = tunnel.cloud.remove(0);
    assert_eq!(cloud.ended(wait::SOON).code(), Some(0));
}

#[test]
fn an_idle_tunnel_stops_at_once() {
    let mut tunnel = tunnel();
    Echoing::connect(tunnel.exposure("echo")).finish();
    tunnel.agent.signal(Signal::SIGTERM);
    assert_eq!(tunnel.agent.ended(Duration::from_secs(5)).code(), Some(0));
    tunnel.gateway().signal(Signal::SIGTERM);
    assert_eq!(tunnel.cloud.remove(0).ended(Duration::from_secs(5)).code(), Some(0));
}

#[test]
fn a_reload_adds_a_service_while_a_stream_goes_on() {
    let mut tunnel = Tunnel::start(Setup::new(Topology::Embedded).service("echo", echo::start()).exposure("later"));
    let mut open = Echoing::connect(tunnel.exposure("echo"));
    let later = tunnel.exposure("later");
    wait::for_some("the service that does not exist yet to be refused", wait::SOON, || refused(later));

    tunnel.deployment.add_service("later", echo::start());
    tunnel.agent.signal(Signal::SIGHUP);
    wait::for_some("the new service to answer", wait::SOON, || smol::block_on(echo::exchange(later, 1, 1_000)).ok());
    open.round_trip(b"not disturbed");
    open.finish();
}

#[test]
fn a_reload_of_a_broken_file_changes_nothing() {
    let tunnel = tunnel();
    let mut open = Echoing::connect(tunnel.exposure("echo"));
    tunnel.deployment.write_file("agent.toml", "[relay\n");
    tunnel.agent.signal(Signal::SIGHUP);
    tunnel.agent.line_with(&["agent.toml"], wait::SOON);
    open.round_trip(b"not disturbed");
    smol::block_on(echo::exchange(tunnel.exposure("echo"), 1, 1_000)).unwrap();
}

fn tunnel() -> Tunnel {
    Tunnel::start(Setup::new(Topology::Embedded).service("echo", echo::start()))
}

/// Whether a connection ends without an echo. An answer means: not refused yet.
fn refused(address: SocketAddrV4) -> Option<()> {
    smol::block_on(echo::exchange(address, 1, 100)).err().map(drop)
}

/// A client of the echo service that takes its time.
struct Echoing(TcpStream);

impl Echoing {
    /// Connects, and waits for a first echo: the stream is open all the way.
    fn connect(address: SocketAddrV4) -> Echoing {
        let stream = TcpStream::connect(address).expect("the exposure listens");
        stream.set_read_timeout(Some(wait::SOON)).expect("not zero");
        let mut echoing = Echoing(stream);
        echoing.round_trip(b"hello");
        echoing
    }

    fn round_trip(&mut self, bytes: &[u8]) {
        let mut back = vec![0; bytes.len()];
        let done = self.0.write_all(bytes).and_then(|()| self.0.read_exact(&mut back));
        done.unwrap_or_else(|error| panic!("an open stream broke: {error}"));
        assert_eq!(back, bytes);
    }

    /// Ends its side and waits for the end of the other.
    fn finish(mut self) {
        let ended = self.0.shutdown(Shutdown::Write).and_then(|()| io::copy(&mut self.0, &mut io::sink()));
        assert_eq!(ended.expect("a clean end"), 0);
    }
}
