//! Sockets that many may connect to at once.

use std::io;
use std::net::{SocketAddr, TcpListener};

use smol::Async;
use socket2::{Domain, Protocol, Socket, Type};

use crate::handed;

/// Connections that the kernel may hold for us: all devices come at once when the network is back.
const BACKLOG: i32 = 1024;

/// Starts to listen, on the socket that the service manager holds for this address if there is one.
///
/// # Errors
/// The system's, when the address is taken, not this machine's, or not allowed.
pub(crate) fn listen(address: SocketAddr) -> io::Result<Async<TcpListener>> {
    if let Some(socket) = handed::socket(address) {
        return Async::new(socket?);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Async::new(TcpListener::from(socket))
}
