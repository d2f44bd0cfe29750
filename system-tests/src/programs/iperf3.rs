//! iperf3, server and client.

use std::{net::SocketAddrV4, process::Command, time::Duration};

use serde_json::Value;

use super::find;
use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// A running iperf3 server.
pub struct Iperf3 {
    /// Where it listens.
    pub address: SocketAddrV4,
    _process: Process,
}

impl Iperf3 {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Iperf3 {
        let address = ports::free();
        let mut server = Command::new(find("iperf3"));
        server.args(["--server", "--forceflush", "--bind", &address.ip().to_string()]);
        server.args(["--port", &address.port().to_string()]);
        let process = Process::start("iperf3 --server", &mut server);
        process.line_with(&["Server listening on"], wait::SOON);
        Iperf3 { address, _process: process }
    }
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
    /// Both at once.
    Both,
}

/// Runs the client against `address`, so many streams in parallel, for so long, and returns the bytes that each stream's receiver counted.
///
/// # Panics
/// `iperf3` reports an error, or says something unknown.
pub fn measure(address: SocketAddrV4, direction: Direction, streams: usize, duration: Duration) -> Vec<u64> {
    let mut client = client(address);
    client.args(["--parallel", &streams.to_string(), "--time", &duration.as_secs().to_string()]);
    match direction {
        Direction::Up => {}
        Direction::Down => _ = client.arg("--reverse"),
        Direction::Both => _ = client.arg("--bidir"),
    }
    let (report, output) = report(&mut client, duration);
    let of_each = report["end"]["streams"].as_array().unwrap_or_else(|| panic!("iperf3 failed:\n{output}"));
    let received: Vec<u64> = of_each.iter().filter_map(|stream| stream["receiver"]["bytes"].as_u64()).collect();
    let expected = if direction == Direction::Both { 2 * streams } else { streams };
    assert_eq!(received.len(), expected, "iperf3 did not report each stream:\n{output}");
    received
}

/// What became of the datagrams of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// How many were sent.
    pub sent: u64,
    /// How many did not arrive.
    pub lost: u64,
    /// How many did after a later one.
    pub out_of_order: u64,
}

/// Sends datagrams of `length` bytes at `bits_per_second` (a number with `K`, `M`) for so long; in reverse from the server.
///
/// # Panics
/// As for [`measure`].
pub fn measure_datagrams(
    address: SocketAddrV4,
    reverse: bool,
    bits_per_second: &str,
    length: usize,
    duration: Duration,
) -> Flow {
    let mut client = client(address);
    client.args(["--udp", "--bitrate", bits_per_second, "--length", &length.to_string()]);
    client.args(["--time", &duration.as_secs().to_string()]);
    if reverse {
        client.arg("--reverse");
    }
    let (report, output) = report(&mut client, duration);
    let flow = &report["end"]["streams"][0]["udp"];
    let figure = |name: &str| flow[name].as_u64().unwrap_or_else(|| panic!("iperf3 did not report {name}:\n{output}"));
    Flow { sent: figure("packets"), lost: figure("lost_packets"), out_of_order: figure("out_of_order") }
}

fn client(address: SocketAddrV4) -> Command {
    let mut client = Command::new(find("iperf3"));
    client.args(["--json", "--client", &address.ip().to_string(), "--port", &address.port().to_string()]);
    client
}

fn report(client: &mut Command, duration: Duration) -> (Value, String) {
    let output = process::run("iperf3 --client", client, duration + Duration::from_secs(40));
    let report = serde_json::from_str(&output).unwrap_or_else(|error| panic!("iperf3: {error}:\n{output}"));
    (report, output)
}
