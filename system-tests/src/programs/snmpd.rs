//! snmpd: the agent of Net-SNMP, and its clients.

use std::{fs, net::SocketAddrV4, process::Command};

use tempfile::TempDir;

use super::{find, text};
use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// A running agent that anybody on this machine may ask.
pub struct Snmpd {
    /// Where it listens.
    pub address: SocketAddrV4,
    _process: Process,
    _folder: TempDir,
}

/// What it says of its place (`sysLocation`, RFC 3418).
pub const LOCATION: &str = "behind the tunnel";
const LOCATION_ID: &str = "1.3.6.1.2.1.1.6.0";

impl Snmpd {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Snmpd {
        let folder = TempDir::new().expect("a temporary folder");
        let address = ports::free();
        let file = folder.path().join("snmpd.conf");
        let configuration = format!("rocommunity public 127.0.0.1\nsysLocation {LOCATION}\nsysContact nobody\n");
        fs::write(&file, configuration).expect("the folder is ours");
        let mut agent = Command::new(find("snmpd"));
        agent.env("SNMP_PERSISTENT_DIR", folder.path()).env("SNMPCONFPATH", folder.path()).env("MIBS", "");
        agent.args(["-f", "-Lo", "-C", "-c", text(&file), "-p", text(&folder.path().join("pid"))]);
        agent.args(["-I", "system_mib,snmpv3mibs,usmUser,vacm_conf,vacm_vars,snmpEngine", &format!("udp:{address}")]);
        let process = Process::start("snmpd", &mut agent);
        process.line_with(&["NET-SNMP version"], wait::SOON);
        Snmpd { address, _process: process, _folder: folder }
    }
}

/// Its place, as `snmpget` reads it at `address`.
///
/// # Panics
/// There was no answer.
pub fn location(address: SocketAddrV4) -> String {
    let mut client = Command::new(find("snmpget"));
    client.args(["-v2c", "-c", "public", "-t", "2", "-r", "3", "-Oqv", &address.to_string(), LOCATION_ID]);
    client.env("MIBS", "");
    process::run("snmpget", &mut client, wait::SOON).trim().trim_matches('"').to_owned()
}

/// All that it knows of the system, as `snmpbulkwalk` reads it at `address`, so many values in one answer.
///
/// # Panics
/// There was no answer.
pub fn walk(address: SocketAddrV4, at_once: usize) -> String {
    let mut client = Command::new(find("snmpbulkwalk"));
    client.args(["-v2c", "-c", "public", "-t", "2", "-r", "3", "-On", &format!("-Cr{at_once}"), &address.to_string()]);
    client.env("MIBS", "");
    process::run("snmpbulkwalk", client.arg("1.3.6.1.2.1.1"), wait::SOON)
}
