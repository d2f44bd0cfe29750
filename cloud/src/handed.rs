//! Sockets that the service manager has opened for this process (sd_listen_fds(3)) and keeps while it is restarted: a client who
//! comes meanwhile waits, and is not refused.
//!
//! ```text
//! LISTEN_PID=ours LISTEN_FDS=2    descriptors 3 and 4 are sockets that listen
//! ```
//!
//! A socket is found by its address: what is configured to listen there gets it. Its name (`LISTEN_FDNAMES`) could say nothing
//! that the address does not.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use log::info;
use socket2::{Domain, Socket, Type};

/// They are this process's for its whole life: who stops to listen gives up a copy, and a reload may listen again.
static HANDED: OnceLock<Vec<(SocketAddr, TcpListener)>> = OnceLock::new();

/// Takes what was handed to this process, if anything. To be called once, before anything else opens a file.
///
/// # Errors
/// The environment makes no sense, or something is no TCP socket that listens.
pub fn take() -> Result<(), HandedError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(HandedError { descriptor: None, source: io::ErrorKind::AlreadyExists.into() });
    }
    // it also makes sure that each is open, and will be of no program that is started
    let given = sd_notify::listen_fds().map_err(|source| HandedError { descriptor: None, source })?;
    let mut handed = Vec::with_capacity(given.len());
    for descriptor in given {
        let (address, socket) =
            adopt(descriptor).map_err(|source| HandedError { descriptor: Some(descriptor), source })?;
        info!("{address} is held for us by the service manager");
        handed.push((address, socket));
    }
    HANDED.get_or_init(|| handed);
    Ok(())
}

/// Where they listen.
pub(crate) fn addresses() -> impl Iterator<Item = SocketAddr> {
    HANDED.get().into_iter().flatten().map(|(address, _)| *address)
}

/// A copy of the one that listens at this address.
pub(crate) fn socket(address: SocketAddr) -> Option<io::Result<TcpListener>> {
    let mut handed = HANDED.get().into_iter().flatten();
    handed.find(|(listens, _)| *listens == address).map(|(_, socket)| socket.try_clone())
}

fn adopt(descriptor: RawFd) -> io::Result<(SocketAddr, TcpListener)> {
    #[allow(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the descriptor is open (`listen_fds` has set a flag of it), and nothing else owns it: it was there before this
    // program began, its environment says that it is meant for this process, and `take` does this only once.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let socket = Socket::from(owned);
    let is_tcp = socket.r#type()? == Type::STREAM && [Domain::IPV4, Domain::IPV6].contains(&socket.domain()?);
    if !is_tcp || !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no TCP socket that listens"));
    }
    let listener = TcpListener::from(socket);
    Ok((listener.local_addr()?, listener))
}

/// What the service manager has handed over can't be used.
#[derive(Debug)]
pub struct HandedError {
    descriptor: Option<RawFd>,
    source: io::Error,
}

impl fmt::Display for HandedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("can't take ")?;
        match self.descriptor {
            Some(descriptor) => write!(f, "descriptor {descriptor} from the service manager")?,
            None => f.write_str("sockets from the service manager")?,
        }
        write!(f, ": {}; a socket unit holds ListenStream=ADDRESS:PORT for us, and Accept=no", self.source)
    }
}

impl std::error::Error for HandedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
