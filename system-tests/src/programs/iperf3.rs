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
    let mut client = Command::new(find("iperf3"));
    client.args(["--json", "--client", &address.ip().to_string(), "--port", &address.port().to_string()]);
    client.args(["--parallel", &streams.to_string(), "--time", &duration.as_secs().to_string()]);
    match direction {
        Direction::Up => {}
        Direction::Down => _ = client.arg("--reverse"),
        Direction::Both => _ = client.arg("--bidir"),
    }
    let output = process::run("iperf3 --client", &mut client, duration + Duration::from_secs(40));
    let report: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("iperf3: {error}:\n{output}"));
    let of_each = report["end"]["streams"].as_array().unwrap_or_else(|| panic!("iperf3 failed:\n{output}"));
    let received: Vec<u64> = of_each.iter().filter_map(|stream| stream["receiver"]["bytes"].as_u64()).collect();
    let expected = if direction == Direction::Both { 2 * streams } else { streams };
    assert_eq!(received.len(), expected, "iperf3 did not report each stream:\n{output}");
    received
}
