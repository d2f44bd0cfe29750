//! A socket that is read in large pieces, however small the pieces it is asked for.
//!
//! rustls asks its socket for 4 KiB at a time (`READ_SIZE` of its deframer), which is four system calls for one full
//! record. Read ahead into one buffer, one call brings what the kernel has. Writing goes straight through.
//!
//! A client, of which a device has a few, keeps its buffer: its memory is fixed. A server, which may have ten thousand
//! connections and hears from a few at a time, gives it back whenever there is nothing to read.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

/// Bytes read at once: four full TLS records, as many as the longest message has.
pub const READ_AHEAD_BYTES: usize = 64 * 1024;

/// A TCP socket with a buffer before it.
#[derive(Debug)]
pub struct ReadAhead {
    socket: Async<TcpStream>,
    /// `[start..end]` bytes read and not asked for yet.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read was given less than it had room for: the kernel has no more, until it says so.
    drained: bool,
    gives_back: bool,
}

impl ReadAhead {
    /// With a buffer of its own for good.
    pub(crate) fn keeping(socket: Async<TcpStream>) -> Self {
        Self { socket, buffer: buffer(), start: 0, end: 0, drained: false, gives_back: false }
    }

    /// With a buffer only while there is something to read.
    pub(crate) fn giving_back(socket: Async<TcpStream>) -> Self {
        Self { socket, buffer: Box::default(), start: 0, end: 0, drained: false, gives_back: true }
    }

    pub(crate) fn socket(&self) -> &Async<TcpStream> {
        &self.socket
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.drained {
            // A read that would find nothing is a system call saved.
            ready!(self.socket.poll_readable(cx))?;
        }
        Pin::new(&mut self.socket).poll_read(cx, &mut self.buffer)
    }
}

fn buffer() -> Box<[u8]> {
    vec![0; READ_AHEAD_BYTES].into_boxed_slice()
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, wanted: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.start == this.end {
            if this.buffer.is_empty() {
                this.buffer = buffer();
            }
            let read = this.poll_fill(cx);
            if read.is_pending() && this.gives_back {
                this.buffer = Box::default();
            }
            this.end = ready!(read)?;
            this.start = 0;
            this.drained = this.end < this.buffer.len();
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
