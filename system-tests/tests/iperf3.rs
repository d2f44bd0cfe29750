//! Promise: bulk transfers flow in both directions and beside each other, and none of them starves.

use std::time::Duration;

use umbilical_system_tests::{
    deployment::{Setup, Topology},
    programs::iperf3::{self, Direction, Iperf3},
    tunnel::Tunnel,
};

const DURATION: Duration = Duration::from_secs(3);

#[test]
fn both_directions_alone_and_at_once() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let (_iperf3, tunnel) = tunnel(topology);
        for direction in [Direction::Up, Direction::Down, Direction::Both] {
            let received = iperf3::measure(tunnel.exposure("iperf3"), direction, 1, DURATION);
            // The slowest tunnel known moves more than this; what is tested is that bytes flow all the time.
            assert!(received.iter().all(|&bytes| bytes > 30_000_000), "{topology:?} {direction:?}: {received:?}");
        }
    }
}

#[test]
fn twenty_streams_share_fairly() {
    let (_iperf3, tunnel) = tunnel(Topology::Embedded);
    for direction in [Direction::Up, Direction::Down] {
        let received = iperf3::measure(tunnel.exposure("iperf3"), direction, 20, DURATION);
        let mean = received.iter().sum::<u64>() / received.len() as u64;
        let least = received.iter().min().copied().unwrap_or_default();
        assert!(least >= mean / 2, "{direction:?}: the smallest share is {least} of a mean of {mean}: {received:?}");
    }
}

fn tunnel(topology: Topology) -> (Iperf3, Tunnel) {
    let iperf3 = Iperf3::start();
    let tunnel = Tunnel::start(Setup::new(topology).service("iperf3", iperf3.address));
    (iperf3, tunnel)
}
