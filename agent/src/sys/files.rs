//! How many files, sockets among them, this process may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as an unprivileged process may, and gives it: each stream is a socket, and the usual 1024 is
/// for programs that still use select(2).
///
/// # Errors
/// The kernel's.
pub fn raise_file_limit() -> nix::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(usize::try_from(hard).unwrap_or(usize::MAX))
}
