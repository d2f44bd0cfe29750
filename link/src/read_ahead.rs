//! A socket that is read in large pieces, however small the pieces it is asked for.
//!
//! rustls asks its socket for 4 KiB at a time (`READ_SIZE` of its deframer), which is four system calls for one full
//! record. Read ahead into one buffer, one call brings what the kernel has. Writing goes straight through.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

/// Bytes read at once: two full TLS records.
pub const READ_AHEAD_BYTES: usize = 32 * 1024;

/// A TCP socket with a buffer before it.
#[derive(Debug)]
pub struct ReadAhead {
    socket: Async<TcpStream>,
    /// `[start..end]` bytes read and not asked for yet.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadAhead {
    pub(crate) fn new(socket: Async<TcpStream>) -> Self {
        Self { socket, buffer: vec![0; READ_AHEAD_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(crate) fn socket(&self) -> &Async<TcpStream> {
        &self.socket
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, wanted: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.start == this.end {
            this.end = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut this.buffer))?;
            this.start = 0;
        }
        let count = wanted.len().min(this.end - this.start);
        wanted[..count].copy_from_slice(&this.buffer[this.start..this.start + count]);
        this.start += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(cx)
    }
}
