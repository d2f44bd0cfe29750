//! The programs on both ends of the tunnel, each run from a folder of its own with a configuration of its own.

pub mod azurite;
pub mod dnsmasq;
pub mod haproxy;
pub mod iperf3;
pub mod nginx;
pub mod postgresql;
pub mod snmpd;
pub mod sshd;
pub mod tinyproxy;
pub mod web_service;

use std::{
    env,
    path::{Path, PathBuf},
};

/// Where a program is. Servers of Debian lie in folders that an ordinary user's `PATH` lacks.
///
/// # Panics
/// It is not installed.
pub(crate) fn find(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed; ./test.sh installs what the tests need"))
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("the folder for temporary files has a name in UTF-8")
}
