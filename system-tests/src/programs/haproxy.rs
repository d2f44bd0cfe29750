//! HAProxy before several gateways: it asks each `/readyz`, and sends nobody to one that is not ready.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::SocketAddrV4,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{find, text};
use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// A gateway as HAProxy sees it.
#[derive(Debug, Clone)]
pub struct Server {
    /// What HAProxy calls it.
    pub name: String,
    /// The exposure that clients are sent to.
    pub exposure: SocketAddrV4,
    /// Where `/readyz` is.
    pub admin: SocketAddrV4,
}

/// A running HAProxy.
pub struct Haproxy {
    /// Where it listens.
    pub address: SocketAddrV4,
    _process: Process,
    folder: TempDir,
}

impl Haproxy {
    /// Starts it with `backend`, the lines of a configuration in which `@SERVERS@` stands for one `server` line for each of
    /// `servers`, and waits until it listens.
    ///
    /// # Panics
    /// It finds fault with the configuration, or does not start.
    pub fn start(backend: &str, servers: &[Server]) -> Haproxy {
        let folder = TempDir::new().expect("a temporary folder");
        let address = ports::free();
        let mut lines = String::new();
        for Server { name, exposure, admin } in servers {
            let _ = writeln!(lines, "    server {name} {exposure} check port {}", admin.port());
        }
        let configuration = format!(
            "global\n    stats socket {}/stats\n\
             defaults\n    timeout connect 10s\n    timeout client 60s\n    timeout server 60s\n\
             frontend clients\n    mode tcp\n    bind {address}\n    default_backend gateways\n{}",
            text(folder.path()),
            backend.replace("@SERVERS@", &lines)
        );
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, configuration).expect("the folder is ours");
        let program = find("haproxy");
        process::run("haproxy -c", Command::new(&program).args(["-c", "-f", text(&file)]), wait::SOON);
        let process = Process::start("haproxy", Command::new(&program).args(["-db", "-f", text(&file)]));
        wait::for_listener(address, wait::SOON);
        Haproxy { address, _process: process, folder }
    }

    /// Waits until it sends clients to a server, or no longer does.
    ///
    /// # Panics
    /// It did not change its mind within `within`.
    pub fn wait_for(&self, server: &Server, up: bool, within: Duration) {
        let wanted = if up { "UP" } else { "DOWN" };
        wait::for_some_of(
            || format!("{} to be {wanted}; haproxy says:\n{}", server.name, self.statistics()),
            within,
            || (self.column(server, "status")? == wanted).then_some(()),
        );
    }

    /// Connections that it has sent to a server.
    ///
    /// # Panics
    /// It does not say.
    pub fn sent_to(&self, server: &Server) -> u64 {
        let sent = self.column(server, "stot").and_then(|sent| sent.parse().ok());
        sent.unwrap_or_else(|| panic!("no sum of {}'s sessions in:\n{}", server.name, self.statistics()))
    }

    fn column(&self, server: &Server, name: &str) -> Option<String> {
        let statistics = self.statistics();
        let mut lines = statistics.lines();
        let at = lines.next()?.trim_start_matches("# ").split(',').position(|column| column == name)?;
        let row = lines.find(|line| line.starts_with(&format!("gateways,{},", server.name)))?;
        row.split(',').nth(at).map(str::to_owned)
    }

    /// What it counts, in its own format (CSV).
    fn statistics(&self) -> String {
        let socket: PathBuf = self.folder.path().join("stats");
        let mut text = String::new();
        let asked = UnixStream::connect(socket).and_then(|mut socket| {
            socket.write_all(b"show stat\n")?;
            socket.read_to_string(&mut text)
        });
        asked.map_or_else(|error| format!("(no statistics: {error})"), |_| text)
    }
}
