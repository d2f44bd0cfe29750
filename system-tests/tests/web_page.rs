//! Promise: a device's web page is a URL of the relay: plain HTTP clients reach it with a token and nothing else, bodies of
//! any length in both directions, and it says so clearly when there is no page.

use std::{process::Command, time::Duration};

use umbilical_system_tests::{
    binaries,
    deployment::{DEVICE, OPERATOR_KEY, Setup, Topology},
    files::{self, Folder},
    ports,
    process::run,
    programs::web_service::WebService,
    tunnel::Tunnel,
    wait,
};

const MIB: u64 = 1 << 20;

/// What curl does at a page of the device, with a token of the operator's.
fn curl(tunnel: &Tunnel, page: &str, options: &[&str]) -> Command {
    let url = format!("https://localhost:{}/{DEVICE}{page}", tunnel.deployment.relay.port());
    let (key, resource) = (tunnel.deployment.path(OPERATOR_KEY), format!("http://localhost/{DEVICE}"));
    let mut token = Command::new(binaries::cloud());
    token.args(["token", "--key-name", "operator", "--key-file", &key, "--resource", &resource]);
    let token = run("umbilical-cloud token", &mut token, wait::SOON);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--cacert", &tunnel.deployment.path("ca.pem")]);
    curl.args(["--header", &format!("ServiceBusAuthorization: {token}"), "--max-time", "60"]);
    curl.args(options).arg(url);
    curl
}

fn asked(tunnel: &Tunnel, page: &str, options: &[&str]) -> String {
    run("curl", &mut curl(tunnel, page, options), Duration::from_secs(70))
}

fn status(tunnel: &Tunnel, page: &str, options: &[&str]) -> String {
    asked(tunnel, page, &[&["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"], options].concat())
}

fn tunnel(setup: Setup) -> Tunnel {
    // an exposure, for the deployment wants one
    Tunnel::start(setup.exposure("nothing"))
}

#[test]
fn pages_of_any_length_come_and_bodies_of_any_length_go() {
    let service = WebService::start();
    let tunnel = tunnel(Setup::new(Topology::Embedded).http(service.address));
    let prefix = format!("/{DEVICE}");
    assert_eq!(asked(&tunnel, "/path/x?a=1&b", &[]), format!("/path/x?a=1&b\n{prefix}\nhttps"));
    for bytes in [0, 1, 65_535, 65_536, 65_537, 10 * MIB] {
        assert_eq!(status(&tunnel, &format!("/bytes/{bytes}"), &[]), format!("200 {bytes}"));
    }
    assert_eq!(status(&tunnel, "/bytes/1000", &["--head"]), "200 0");
    assert_eq!(status(&tunnel, "/elsewhere", &[]), "404 22");

    let folder = Folder::new();
    for bytes in [0, 1, 65_535, 65_536, 65_537, 10 * MIB] {
        let file = folder.path("body");
        files::make_random(&file, bytes);
        let expected = format!("{} {bytes}", files::sha256(&file));
        let upload = format!("@{file}");
        assert_eq!(asked(&tunnel, "/hash", &["--data-binary", &upload]), expected, "with a length");
        let chunked = ["--header", "Transfer-Encoding: chunked", "--data-binary", &upload];
        assert_eq!(asked(&tunnel, "/hash", &chunked), expected, "in chunks");
    }
}

#[test]
fn a_slow_page_comes_as_it_is_made() {
    let service = WebService::start();
    let tunnel = tunnel(Setup::new(Topology::Embedded).http(service.address));
    let told = asked(&tunnel, "/slow", &["--no-buffer", "--write-out", "%{time_starttransfer} %{time_total}"]);
    let (page, times) = told.rsplit_once('\n').expect("a line of times");
    assert_eq!(page, "one\ntwo\nthree");
    let times: Vec<f64> = times.split(' ').map(|time| time.parse().expect("a number")).collect();
    assert!(times[1] - times[0] > 0.5, "the first byte came with the last: {times:?}");
}

#[test]
fn whoever_has_no_page_or_no_token_is_told_so() {
    let closed = ports::free();
    let absent = tunnel(Setup::new(Topology::Embedded).http(closed));
    let said = asked(&absent, "/", &["--include"]);
    assert!(said.contains(" 502 The HTTP service of this device is not reached"), "{said}");
    let url = format!("https://localhost:{}/{DEVICE}/", absent.deployment.relay.port());
    let mut stranger = Command::new("curl");
    stranger.args(["--silent", "--include", "--noproxy", "*", "--cacert", &absent.deployment.path("ca.pem"), &url]);
    let said = run("curl", &mut stranger, wait::SOON);
    assert!(said.starts_with("HTTP/1.1 401 "), "{said}");

    let without = tunnel(Setup::new(Topology::Embedded));
    let said = asked(&without, "/", &["--include"]);
    assert!(said.contains(" 501 This device serves no HTTP: its configuration has no [http]"), "{said}");
}
