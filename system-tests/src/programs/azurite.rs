//! Azurite, Microsoft's storage service for one's own machine, and the official Python SDKs as its clients.

use std::{net::SocketAddrV4, process::Command, time::Duration};

use tempfile::TempDir;

use super::{find, text};
use crate::{packages, ports, process, process::Process, wait};

/// A running account: an endpoint for each kind of storage, nothing kept.
pub struct Azurite {
    /// Blobs.
    pub blob: SocketAddrV4,
    /// Queues.
    pub queue: SocketAddrV4,
    /// Tables.
    pub table: SocketAddrV4,
    // Before the folder: fields are dropped in this order.
    _process: Process,
    _folder: TempDir,
}

impl Azurite {
    /// Starts it and waits until all three listen.
    ///
    /// # Panics
    /// It can't be installed, or does not start.
    pub fn start() -> Azurite {
        let packages = packages::npm("azurite");
        let folder = TempDir::new().expect("a temporary folder");
        let [blob, queue, table] = [(); 3].map(|()| ports::free());
        let mut azurite = Command::new(find("node"));
        azurite.arg(packages.join("node_modules/azurite/dist/src/azurite.js"));
        // The SDKs are newer than it, and say so.
        azurite.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location", text(folder.path())]);
        for (name, address) in [("blob", blob), ("queue", queue), ("table", table)] {
            azurite.args([format!("--{name}Host"), address.ip().to_string()]);
            azurite.args([format!("--{name}Port"), address.port().to_string()]);
        }
        let process = Process::start("azurite", &mut azurite);
        for address in [blob, queue, table] {
            wait::for_listener(address, wait::SOON);
        }
        Azurite { blob, queue, table, _process: process, _folder: folder }
    }
}

/// What a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Uploads and downloads a file.
    Blob,
    /// Sends and receives messages in order.
    Queue,
    /// Inserts and queries rows.
    Table,
}

/// Lets the SDK for `storage` do its work at `address`; `file` is what a blob is made of.
///
/// # Panics
/// Anything went wrong, or differs from what was stored.
pub fn use_storage(storage: Storage, address: SocketAddrV4, file: &str) {
    let packages = packages::pip("azure-sdk");
    let kind = format!("{storage:?}").to_lowercase();
    let mut client = Command::new(find("python3"));
    client.arg(packages.join("storage.py")).args([&kind, &address.port().to_string(), file]);
    client.env("PYTHONPATH", &packages).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = process::run(&format!("the SDK for {kind}s"), &mut client, Duration::from_secs(120));
    assert!(output.ends_with("done"), "{output}");
}
