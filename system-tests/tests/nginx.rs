//! Promise: a web server behind the tunnel serves hundreds of connections at once without a single error.

use std::{process::Command, time::Duration};

use umbilical_system_tests::{
    deployment::{Setup, Topology},
    process::run,
    programs::nginx::{self, Nginx},
    tunnel::Tunnel,
    wait,
};

const CONNECTIONS: usize = 200;

#[test]
fn two_hundred_connections_without_an_error_through_one_process() {
    presses(Topology::Embedded);
}

#[test]
fn two_hundred_connections_without_an_error_through_relay_and_gateway_apart() {
    presses(Topology::Apart);
}

fn presses(topology: Topology) {
    let page = b"the page of the device";
    let nginx = Nginx::start(page);
    // 64 streams is the default; here each of the connections needs one.
    let setup = Setup::new(topology).service("web", nginx.address).memory("streams = 256\nreceive = \"2M\"");
    let tunnel = Tunnel::start(setup);
    let address = tunnel.exposure("web");

    let pressed = nginx::press(address, CONNECTIONS, Duration::from_secs(5));
    assert_eq!(pressed.errors, [] as [String; 0]);
    // Fewer would mean that some connection never got its turn.
    assert!(pressed.requests >= CONNECTIONS as u64, "{pressed:?}");

    // And what comes through is the page.
    let mut curl = Command::new("curl");
    let body = run(
        "curl",
        curl.args(["--silent", "--show-error", "--noproxy", "*", &format!("http://{address}/")]),
        wait::SOON,
    );
    assert_eq!(body.as_bytes(), page);
}
