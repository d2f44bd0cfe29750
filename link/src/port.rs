//! One far end of a stream: a socket or pipe of this machine, perhaps still being dialled.
//!
//! What gives datagrams is `datagrams`; here it is only one of the kinds there are.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};
use socket2::SockRef;
use umbilical_mux::{End, Mode, ResetReason};

use crate::datagrams::Datagrams;

/// Both directions of something that is neither a TCP nor a Unix socket.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A service being dialled.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Io, ResetReason>> + Send>>;

/// Called once when the stream is over.
pub type OnEnd = Box<dyn FnOnce(&Ended) + Send>;

/// What a port reads from and writes to.
pub enum Io {
    /// A TCP connection.
    Tcp(Async<TcpStream>),
    /// A Unix socket.
    Unix(Async<UnixStream>),
    /// Anything else: a pair of pipes, a test's own.
    Other(Box<dyn Duplex>),
    /// Whole datagrams instead of bytes.
    Datagrams(Box<dyn Datagrams>),
    /// A connection that is not there yet.
    Dialing(Dialing),
}

/// How a stream went.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// Bytes from the port to the peer, and to the port.
    pub sent: u64,
    /// Bytes from the peer that the port took.
    pub received: u64,
    /// How long it was open.
    pub lasted: Duration,
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Other(_) => "Other",
            Self::Datagrams(_) => "Datagrams",
            Self::Dialing(_) => "Dialing",
        })
    }
}

impl Io {
    /// A connected TCP socket, tuned for small messages.
    ///
    /// # Errors
    /// The kernel's, when it refuses the option.
    pub fn tcp(socket: Async<TcpStream>) -> io::Result<Self> {
        socket.get_ref().set_nodelay(true)?;
        Ok(Self::Tcp(socket))
    }

    /// What a stream with this far end carries.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self {
            Self::Datagrams(_) => Mode::Datagram,
            Self::Tcp(_) | Self::Unix(_) | Self::Other(_) | Self::Dialing(_) => Mode::Stream,
        }
    }

    /// Bytes, if it has bytes to give.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Other(other) => Pin::new(other).poll_read(cx, buffer),
            Self::Datagrams(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
            Self::Dialing(_) => Poll::Pending,
        }
    }

    /// Ready when a read may find something; errors are for the read to tell.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(socket) => socket.poll_readable(cx).map(|_| ()),
            Self::Unix(socket) => socket.poll_readable(cx).map(|_| ()),
            Self::Other(_) | Self::Datagrams(_) | Self::Dialing(_) => Poll::Ready(()),
        }
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, chunks: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, chunks),
            Self::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, chunks),
            Self::Other(other) => Pin::new(other).poll_write_vectored(cx, chunks),
            Self::Datagrams(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
            Self::Dialing(_) => Poll::Pending,
        }
    }

    /// Tells the far end that no more comes. Datagrams have no word for it.
    pub(crate) fn finish(&mut self, cx: &mut Context<'_>) {
        // A socket that is gone already is reported by the next read.
        let _ = match self {
            Self::Tcp(socket) => socket.get_ref().shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.get_ref().shutdown(Shutdown::Write),
            Self::Other(other) => {
                let _ = Pin::new(other).poll_close(cx);
                Ok(())
            }
            Self::Datagrams(_) | Self::Dialing(_) => Ok(()),
        };
    }

    /// Makes a TCP far end see a reset instead of an orderly end when it is dropped.
    pub(crate) fn abort(&self) {
        if let Self::Tcp(socket) = self {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// The reason a broken connection to a service is reset with.
#[must_use]
pub fn reset_reason(error: &io::Error) -> ResetReason {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        NotFound, PermissionDenied, ResourceBusy, TimedOut,
    };
    match error.kind() {
        ConnectionReset | ConnectionAborted | BrokenPipe => ResetReason::ABORTED,
        ConnectionRefused | NotFound | PermissionDenied => ResetReason::REFUSED,
        HostUnreachable | NetworkUnreachable => ResetReason::UNREACHABLE,
        TimedOut => ResetReason::TIMED_OUT,
        ResourceBusy => ResetReason::BUSY,
        _ => ResetReason::FAILED,
    }
}
