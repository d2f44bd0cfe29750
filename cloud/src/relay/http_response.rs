//! What a sender is told: a 100, then the head and the body of a listener's response.
//!
//! Pieces of a body are written as they come, in chunks where the length is not known, and dropped where the response has
//! none to the sender's mind. Leaves to others: where pieces come from.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use smol::io::AsyncWriteExt;
use umbilical_relay_protocol::Response;

use super::halves::Half;
use super::http_head::{Extent, Shape, for_sender};
use crate::deadline;

/// The way back to a sender.
pub(crate) struct Outbound<'t> {
    half: Half<'t>,
    /// How long one piece may take.
    patience: Duration,
    /// Whether a response has begun: then nothing else can be answered any more.
    begun: &'t AtomicBool,
    extent: Extent,
    /// One piece with what is around it, so that it leaves in one write.
    buf: Vec<u8>,
}

impl<'t> Outbound<'t> {
    pub(crate) fn new(half: Half<'t>, patience: Duration, begun: &'t AtomicBool) -> Self {
        Self { half, patience, begun, extent: Extent::Absent, buf: Vec::new() }
    }

    /// Asks for the body (RFC 9110, section 10.1.1).
    ///
    /// # Errors
    /// The sender is gone, or does not read.
    pub(crate) async fn proceed(&mut self) -> io::Result<()> {
        self.buf.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        self.flush().await
    }

    /// Begins the response. `length` is the body's, if it is known.
    ///
    /// # Errors
    /// The sender is gone, or does not read.
    pub(crate) async fn begin(
        &mut self,
        response: &Response,
        shape: &Shape,
        length: Option<usize>,
        keep_alive: bool,
    ) -> io::Result<()> {
        let bare = matches!(response.status, 204 | 304);
        let told = match length {
            _ if bare => Extent::Absent,
            // what a GET would have brought; some clients end a connection on which they are told neither
            Some(0) | None if shape.head_only && shape.reads_chunks => Extent::Chunked,
            Some(length) => Extent::Length(length),
            None if shape.reads_chunks => Extent::Chunked,
            None => Extent::ToTheEnd,
        };
        self.extent = if shape.head_only { Extent::Absent } else { told };
        self.begun.store(true, Relaxed);
        self.buf.extend_from_slice(&for_sender(response, &shape.host, told, keep_alive));
        // a body that is there leaves with its head
        if matches!(length, Some(1..)) && self.extent != Extent::Absent { Ok(()) } else { self.flush().await }
    }

    /// Writes a piece of the body.
    ///
    /// # Errors
    /// The sender is gone, or does not read.
    pub(crate) async fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        match self.extent {
            // an empty chunk would be the end
            _ if piece.is_empty() => return Ok(()),
            Extent::Absent => return Ok(()),
            Extent::Length(_) | Extent::ToTheEnd => self.buf.extend_from_slice(piece),
            Extent::Chunked => {
                self.buf.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                self.buf.extend_from_slice(piece);
                self.buf.extend_from_slice(b"\r\n");
            }
        }
        self.flush().await
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The sender is gone, or does not read.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        if self.extent == Extent::Chunked {
            self.buf.extend_from_slice(b"0\r\n\r\n");
        }
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        let Self { half, buf, .. } = self;
        let writing = async {
            half.write_all(buf).await?;
            half.flush().await
        };
        let written = deadline::within(self.patience, writing).await;
        self.buf.clear();
        written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }
}
