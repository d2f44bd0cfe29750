//! What a sender says behind the head of its request: the body, then perhaps already its next request.
//!
//! Read in pieces of up to 16 KiB, one at a time: a sender is read no faster than a listener takes. Leaves to others:
//! deadlines, who gets the pieces.

use std::fmt;
use std::io;

use smol::io::AsyncReadExt;
use umbilical_link::chunked::{ChunkedDecoder, ChunkedError};

use super::halves::Half;
use super::http_head::Framing;

/// Bytes read at a time, and read ahead of what is asked for.
const READ_BYTES: usize = 16 * 1024;

/// A sender's side of its connection.
pub(crate) struct Inbound<'t> {
    half: Half<'t>,
    /// `[start..]` is read and not looked at.
    buf: Vec<u8>,
    start: usize,
    body: Body,
}

enum Body {
    /// So many bytes are left.
    Counted(u64),
    Chunked(ChunkedDecoder),
}

impl<'t> Inbound<'t> {
    /// A sender whose head has been read, and `leftover` behind it.
    pub(crate) fn new(half: Half<'t>, leftover: Vec<u8>, framing: Framing) -> Self {
        let body = match framing {
            Framing::None => Body::Counted(0),
            Framing::Length(length) => Body::Counted(length),
            Framing::Chunked => Body::Chunked(ChunkedDecoder::new()),
        };
        Self { half, buf: leftover, start: 0, body }
    }

    /// Whether the body, if there is one, has been read to its end.
    pub(crate) fn is_complete(&self) -> bool {
        self.left() == Some(0)
    }

    /// How many bytes of the body are still to come, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match &self.body {
            Body::Counted(left) => Some(*left),
            Body::Chunked(decoder) => decoder.is_done().then_some(0),
        }
    }

    /// Whether anything has come that was not looked at.
    pub(crate) fn has_more(&self) -> bool {
        self.start < self.buf.len()
    }

    /// The next piece of the body, and how many bytes are still to come behind it, if that is known; `None` at the end.
    /// Loses nothing when dropped.
    ///
    /// # Errors
    /// The sender is gone, or what it sends is no body.
    pub(crate) async fn piece(&mut self) -> Result<Option<(&[u8], Option<u64>)>, BodyError> {
        while !self.is_complete() {
            if !self.has_more() {
                self.fill().await?;
            }
            let start = self.start;
            let (end, more) = match &mut self.body {
                Body::Counted(left) => {
                    let ahead = self.buf.len() - start;
                    let length = usize::try_from(*left).map_or(ahead, |left| left.min(ahead));
                    *left -= length as u64;
                    self.start += length;
                    (self.start, Some(*left))
                }
                Body::Chunked(decoder) => {
                    let mut end = start;
                    // chunks that came together stay together: listeners do not take any number of fragments
                    while self.start < self.buf.len() && !decoder.is_done() {
                        let decoded = decoder.decode(&self.buf[self.start..]).map_err(BodyError::Chunked)?;
                        let payload = self.start + decoded.payload.start..self.start + decoded.payload.end;
                        let length = payload.len();
                        self.buf.copy_within(payload, end);
                        end += length;
                        self.start += decoded.taken;
                    }
                    (end, decoder.is_done().then_some(0))
                }
            };
            if end > start {
                return Ok(Some((&self.buf[start..end], more)));
            }
        }
        Ok(None)
    }

    /// Appends the rest of the body to `gathered`. What has come is in there also if this is dropped.
    ///
    /// # Errors
    /// As for [`Inbound::piece`].
    pub(crate) async fn gather(&mut self, gathered: &mut Vec<u8>) -> Result<(), BodyError> {
        while let Some((piece, _)) = self.piece().await? {
            gathered.extend_from_slice(piece);
        }
        Ok(())
    }

    /// Waits until the sender gives up. What it says meanwhile is kept; after too much of it nobody listens any more.
    /// Loses nothing when dropped. A sender that has shut down its side counts as gone, as it does for other proxies.
    pub(crate) async fn abandoned(&mut self) -> io::Error {
        self.buf.drain(..self.start);
        self.start = 0;
        while self.buf.len() < READ_BYTES {
            match self.read(READ_BYTES / 8).await {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
        smol::future::pending().await
    }

    /// What has come behind the body.
    pub(crate) fn into_leftover(mut self) -> Vec<u8> {
        self.buf.split_off(self.start)
    }

    async fn fill(&mut self) -> Result<(), BodyError> {
        self.buf.clear();
        self.start = 0;
        match self.read(READ_BYTES).await {
            Ok(0) => Err(BodyError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(BodyError::Io(error)),
        }
    }

    /// Appends up to `most` bytes.
    async fn read(&mut self, most: usize) -> io::Result<usize> {
        let filled = self.buf.len();
        let mut room = Room { buf: &mut self.buf, filled };
        room.buf.resize(filled + most, 0);
        let n = self.half.read(&mut room.buf[filled..]).await?;
        room.filled += n;
        Ok(n)
    }
}

/// Room behind what a buffer holds. It is gone again also when a read is dropped.
struct Room<'b> {
    buf: &'b mut Vec<u8>,
    filled: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.buf.truncate(self.filled);
    }
}

/// Why there is no more of a body.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The sender is gone.
    Io(io::Error),
    /// Its chunks are none.
    Chunked(ChunkedError),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Chunked(error) => error.fmt(f),
        }
    }
}
