//! nginx, and `wrk` to press it.

use std::{fs, net::SocketAddrV4, process::Command, time::Duration};

use nix::unistd::getuid;
use tempfile::TempDir;

use super::{find, text};
use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// A running nginx that serves a page and a large file.
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddrV4,
    _process: Process,
    _folder: TempDir,
}

impl Nginx {
    /// Starts it with `page` at `/` and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(page: &[u8]) -> Nginx {
        let folder = TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join("index.html"), page).expect("the folder is ours");
        let address = ports::free();
        // Workers of a privileged nginx would become somebody who can't read this folder.
        let user = if getuid().is_root() { "user root;" } else { "" };
        let folder_path = text(folder.path());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder_path}/{kind};\n"))
            .concat();
        let configuration = format!(
            "daemon off;\n{user}\nworker_processes 1;\npid {folder_path}/pid;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\naccess_log off;\nkeepalive_requests 10000000;\n{temporary}\
             server {{ listen {address} backlog=1024; root {folder_path}; }}\n}}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration).expect("the folder is ours");
        let process = Process::start(
            "nginx",
            Command::new(find("nginx")).args(["-e", "stderr", "-p", folder_path, "-c", text(&file)]),
        );
        wait::for_listener(address, wait::SOON);
        Nginx { address, _folder: folder, _process: process }
    }
}

/// What `wrk` counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Pressed {
    /// Requests that were answered.
    pub requests: u64,
    /// What it says of failed connections, reads, writes, time-outs and statuses; empty when there were none.
    pub errors: Vec<String>,
}

/// Runs `wrk` against the page at `address`: so many connections, for so long.
///
/// # Panics
/// `wrk` can't run or says something unknown.
pub fn press(address: SocketAddrV4, connections: usize, duration: Duration) -> Pressed {
    let mut wrk = Command::new(find("wrk"));
    wrk.args(["--threads", "2", "--timeout", "10"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", duration.as_secs())])
        .arg(format!("http://{address}/"));
    let output = process::run("wrk", &mut wrk, duration + Duration::from_secs(30));
    let requests = output
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .unwrap_or_else(|| panic!("wrk counted no requests:\n{output}"));
    let errors = output
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("Socket errors") || line.starts_with("Non-2xx"))
        .map(str::to_owned)
        .collect();
    Pressed { requests, errors }
}
