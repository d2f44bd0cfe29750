//! A socket that is read in large pieces, however small the pieces it is asked for.
//!
//! rustls asks its socket for 4 KiB at a time (`READ_SIZE` of its deframer), which is four system calls for one full
//! record. Read ahead into one buffer, one call brings what the kernel has. Writing goes straight through.
//!
//! The buffer is small until a read has filled it. A client, of which a device has a few, keeps the large one then: its
//! memory is bounded and not taken twice. A server, which may have ten thousand connections and hears from a few at a time,
//! gives its buffer back when little came and nothing more is there.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

/// Bytes read at once: four full TLS records, as many as the longest message has.
pub const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Bytes of a connection that has little to say.
const SMALL_BYTES: usize = 4 * 1024;

/// A TCP socket with a buffer before it.
#[derive(Debug)]
pub struct ReadAhead {
    socket: Async<TcpStream>,
    /// `[start..end]` bytes read and not asked for yet.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the last read. Fewer than there was room for: the kernel has no more, until it says so.
    filled: usize,
    gives_back: bool,
}

impl ReadAhead {
    /// With a buffer of its own for good.
    pub(crate) fn keeping(socket: Async<TcpStream>) -> Self {
        Self { socket, buffer: Box::default(), start: 0, end: 0, filled: 0, gives_back: false }
    }

    /// With a buffer only while there is something to read.
    pub(crate) fn giving_back(socket: Async<TcpStream>) -> Self {
        Self { gives_back: true, ..Self::keeping(socket) }
    }

    pub(crate) fn socket(&self) -> &Async<TcpStream> {
        &self.socket
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.filled < self.buffer.len() {
            // A read that would find nothing is a system call saved.
            ready!(self.socket.poll_readable(cx))?;
        } else if self.buffer.len() < READ_AHEAD_BYTES {
            let bytes = if self.buffer.is_empty() { SMALL_BYTES } else { READ_AHEAD_BYTES };
            self.buffer = vec![0; bytes].into_boxed_slice();
        }
        Pin::new(&mut self.socket).poll_read(cx, &mut self.buffer)
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, wanted: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.start == this.end {
            let read = this.poll_fill(cx);
            if read.is_pending() && this.gives_back && this.filled < SMALL_BYTES {
                (this.buffer, this.filled) = (Box::default(), 0);
            }
            this.filled = ready!(read)?;
            (this.start, this.end) = (0, this.filled);
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
