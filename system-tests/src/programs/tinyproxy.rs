//! tinyproxy: the HTTP proxy a company puts between its devices and the world.

use std::{fs, net::SocketAddrV4, process::Command};

use tempfile::TempDir;

use super::{find, text};
use crate::{ports, process::Process, wait};

/// A running proxy that lets through CONNECT requests with the right user and password.
pub struct Tinyproxy {
    /// Where it listens.
    pub address: SocketAddrV4,
    /// Its output names each request.
    pub process: Process,
    _folder: TempDir,
}

/// The user it knows.
pub const USER: &str = "device";
/// That user's password.
pub const PASSWORD: &str = "let-me-out";

impl Tinyproxy {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Tinyproxy {
        let folder = TempDir::new().expect("a temporary folder");
        let address = ports::free();
        let configuration = format!(
            "Listen {}\nPort {}\nTimeout 600\nMaxClients 50\nLogLevel Connect\nBasicAuth {USER} {PASSWORD}\n",
            address.ip(),
            address.port()
        );
        let file = folder.path().join("tinyproxy.conf");
        fs::write(&file, configuration).expect("the folder is ours");
        let process = Process::start("tinyproxy", Command::new(find("tinyproxy")).args(["-d", "-c", text(&file)]));
        wait::for_listener(address, wait::SOON);
        Tinyproxy { address, process, _folder: folder }
    }
}
