//! A device's web service: Python's own HTTP server, with the pages of `packages/web-service/service.py`.

use std::{net::SocketAddrV4, path::Path, process::Command};

use super::find;
use crate::{ports, process::Process, wait};

/// A running service.
pub struct WebService {
    /// Where it listens.
    pub address: SocketAddrV4,
    _process: Process,
}

impl WebService {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> WebService {
        let address = ports::free();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packages/web-service/service.py");
        let mut python = Command::new(find("python3"));
        python.arg(script).arg(address.port().to_string());
        let process = Process::start("web service", &mut python);
        wait::for_listener(address, wait::SOON);
        WebService { address, _process: process }
    }
}
