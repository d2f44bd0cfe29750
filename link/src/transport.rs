//! One connection of bytes, whoever dialled it and whether or not TLS is around it.
//!
//! Owns: reading and writing, and how the TCP socket below is tuned. Leaves to others: dialling (`dial`),
//! TLS settings and handshakes (`tls`), WebSocket (`upgrade`, `frame`).

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_rustls::rustls::ProtocolVersion;
use futures_rustls::{client, server};
use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};
use socket2::SockRef;

use crate::read_ahead::ReadAhead;

/// Bytes the kernel may hold that it has not sent yet, before the socket counts as not writable.
///
/// What lies there can't be overtaken any more: a keystroke waits until it has left. One full record (16 KiB of TLS)
/// keeps the socket busy while the loop is away for a scheduling turn; a record on a slow line is smaller than that
/// and held back by the session's own in-flight limit.
pub const NOT_SENT_LOW_WATER_BYTES: u32 = 16 * 1024;

/// A connected socket, bare or under TLS.
#[derive(Debug)]
pub enum Transport {
    /// TCP without TLS.
    Plain(Async<TcpStream>),
    /// TLS in which this side is the client.
    TlsClient(Box<client::TlsStream<ReadAhead>>),
    /// TLS in which this side is the server.
    TlsServer(Box<server::TlsStream<ReadAhead>>),
}

impl Transport {
    /// The TCP socket below.
    pub fn socket(&self) -> &Async<TcpStream> {
        match self {
            Self::Plain(socket) => socket,
            Self::TlsClient(stream) => stream.get_ref().0.socket(),
            Self::TlsServer(stream) => stream.get_ref().0.socket(),
        }
    }

    /// Whether TLS is around it.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Who is at the other end of the TCP connection: a proxy, if one was dialled.
    ///
    /// # Errors
    /// The kernel's, when the connection is already gone.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.socket().get_ref().peer_addr()
    }

    /// Payload bytes of one full TCP segment towards the peer, as the kernel reckons at this moment (`TCP_MAXSEG`;
    /// it follows path MTU discovery). `None` if the kernel does not say.
    pub fn segment_size(&self) -> Option<u16> {
        let size = SockRef::from(self.socket()).tcp_mss().ok()?;
        u16::try_from(size).ok().filter(|&size| size > 0)
    }

    /// Bytes that TLS adds to each write of up to 16 KiB: header, tag, and content type (RFC 8446, section 5.2) or
    /// explicit nonce (RFC 5288, section 3; ChaCha20 has none).
    pub fn record_overhead(&self) -> u16 {
        let version = match self {
            Self::Plain(_) => return 0,
            Self::TlsClient(stream) => stream.get_ref().1.protocol_version(),
            Self::TlsServer(stream) => stream.get_ref().1.protocol_version(),
        };
        if version == Some(ProtocolVersion::TLSv1_2) { 5 + 8 + 16 } else { 5 + 1 + 16 }
    }

    /// Whether TLS holds bytes that the socket has not taken: then `poll_flush` is what makes progress.
    pub fn has_unsent(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::TlsClient(stream) => stream.get_ref().1.wants_write(),
            Self::TlsServer(stream) => stream.get_ref().1.wants_write(),
        }
    }
}

/// Tunes a fresh TCP socket for a link: no Nagle, little unsent data ([`NOT_SENT_LOW_WATER_BYTES`]).
///
/// `TCP_USER_TIMEOUT` and TCP keep-alive stay off on purpose: whether a peer is dead is the session's decision, by
/// pings at the configured pace. The kernel's would be a second opinion that kills links a modem's pause would spare.
///
/// # Errors
/// The kernel's, when it refuses an option.
pub fn prepare_socket(socket: &Async<TcpStream>) -> io::Result<()> {
    socket.get_ref().set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    SockRef::from(socket).set_tcp_notsent_lowat(NOT_SENT_LOW_WATER_BYTES)?;
    Ok(())
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::TlsClient(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsServer(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::TlsClient(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsServer(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::TlsClient(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::TlsServer(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::TlsClient(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsServer(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Says that nothing more will come (under TLS with its own farewell) and half-closes the socket: the peer sees an
    /// end, and what it still sends can be read. smol's own close of a socket does neither.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(match this {
            Self::Plain(socket) => Pin::new(socket).poll_close(cx),
            Self::TlsClient(stream) => Pin::new(stream).poll_close(cx),
            Self::TlsServer(stream) => Pin::new(stream).poll_close(cx),
        })?;
        match this.socket().get_ref().shutdown(Shutdown::Write) {
            // The peer was faster: there is nobody left to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}
