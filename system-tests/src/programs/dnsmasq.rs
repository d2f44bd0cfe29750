//! dnsmasq: a name server that knows two names. It answers over UDP, and over TCP what is too long for that.

use std::{net::SocketAddrV4, process::Command};

use super::find;
use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// A running name server.
pub struct Dnsmasq {
    /// Where it listens, by UDP and TCP.
    pub address: SocketAddrV4,
    _process: Process,
}

/// A name and its address.
pub const NAME: (&str, &str) = ("plc.device.test", "192.0.2.7");
/// A name with this many bytes of text: more than a frame of Ethernet has.
pub const LONG_TEXT: (&str, usize) = ("long.device.test", 12 * 250);

impl Dnsmasq {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Dnsmasq {
        let address = ports::free();
        let long = vec!["x".repeat(250); LONG_TEXT.1 / 250].join(",");
        let mut server = Command::new(find("dnsmasq"));
        server.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--log-facility=-", "--user="]);
        server.args(["--bind-interfaces", "--no-resolv", "--no-hosts", "--cache-size=0", "--edns-packet-max=4096"]);
        server.arg(format!("--listen-address={}", address.ip()));
        server.arg(format!("--port={}", address.port()));
        server.arg(format!("--address=/{}/{}", NAME.0, NAME.1));
        server.arg(format!("--txt-record={},{long}", LONG_TEXT.0));
        let process = Process::start("dnsmasq", &mut server);
        wait::for_listener(address, wait::SOON);
        Dnsmasq { address, _process: process }
    }
}

/// What `dig` hears of a name; `options` are its own.
///
/// # Panics
/// There was no answer.
pub fn dig(server: SocketAddrV4, name: &str, kind: &str, options: &[&str]) -> String {
    let mut client = Command::new(find("dig"));
    client.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string(), "-r", name, kind, "+short"]);
    client.args(options);
    process::run("dig", &mut client, wait::SOON)
}
