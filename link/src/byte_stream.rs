//! An open WebSocket as a stream of bytes, in two buffers of fixed size: what peers speak that have no session.
//!
//! - Messages of either type are bytes; an empty one is none. What is sent goes out as binary messages of 1 byte to
//!   [`MAX_PAYLOAD`], each one frame; an empty message is never sent, since .NET takes it for the end.
//! - A close frame ends its own direction: the peer may be written to until this side closes as well. Codes 1000, 1005
//!   (none) and those of applications (3000 to 4999) are such an end; others say that something went wrong, and are errors.
//! - Pings are answered while this side has not closed.
//!
//! Owns: both buffers, what is answered to control frames. Leaves to others: the handshake (`upgrade`), what the bytes are
//! joined with (`bridge`), how frames are taken apart (`pieces`).

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::frame::{ClosePayload, FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, MaskSource, Opcode, apply_mask};
use crate::pieces::{Piece, Pieces, PiecesError};
use crate::transport::Transport;
use crate::unacknowledged::Unacknowledged;
use crate::upgrade::{Role, Upgraded};

/// The longest payload sent in one message: with its header it is one TLS record.
pub const MAX_PAYLOAD: usize = 16 * 1024 - MAX_HEADER_BYTES;

/// Bytes read at once at most: the payload of a TLS record.
const IN_BYTES: usize = 16 * 1024;

/// A message with its header. Control frames are shorter.
const OUT_BYTES: usize = MAX_HEADER_BYTES + MAX_PAYLOAD;

/// Memory of one stream's buffers, in bytes.
pub const BUFFER_BYTES: usize = IN_BYTES + OUT_BYTES;

/// The code of a close frame that says none (RFC 6455, section 7.1.5).
const NO_STATUS: u16 = 1005;

/// How long an ended WebSocket may take to say goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// A WebSocket that carries bytes.
pub struct ByteStream {
    transport: Transport,
    role: Role,
    masks: MaskSource,
    pieces: Pieces,
    /// `[start..ready]` bytes of the stream, `[ready..end]` bytes not looked at.
    input: Box<[u8]>,
    start: usize,
    ready: usize,
    end: usize,
    /// How the peer closed.
    closed: Option<(u16, String)>,
    /// `[written..filled]` bytes to write.
    output: Box<[u8]>,
    written: usize,
    filled: usize,
    /// The last ping that is still to be answered.
    pong: Option<(usize, [u8; MAX_CONTROL_BYTES])>,
    close_sent: bool,
    spoke_at: Instant,
    acknowledgements: Unacknowledged,
}

impl ByteStream {
    /// Takes over an open WebSocket.
    #[must_use]
    pub fn new(upgraded: Upgraded) -> Self {
        let Upgraded { transport, leftover, role, .. } = upgraded;
        let mut input = vec![0; IN_BYTES.max(leftover.len())].into_boxed_slice();
        input[..leftover.len()].copy_from_slice(&leftover);
        Self {
            transport,
            role,
            masks: MaskSource::new(),
            pieces: Pieces::new(role),
            input,
            start: 0,
            ready: 0,
            end: leftover.len(),
            closed: None,
            output: vec![0; OUT_BYTES].into_boxed_slice(),
            written: 0,
            filled: 0,
            pong: None,
            close_sent: false,
            spoke_at: Instant::now(),
            acknowledgements: Unacknowledged::default(),
        }
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// [`StreamError`]; an end within is [`StreamError::Ended`].
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), StreamError> {
        let mut filled = 0;
        poll_fn(|cx| {
            while filled < buffer.len() {
                let there = self.poll_bytes(cx)?.map(|bytes| bytes.map(<[u8]>::len));
                // a ping may have come
                let _ = self.poll_flush(cx)?;
                if ready!(there).is_none() {
                    return Poll::Ready(Err(StreamError::Ended));
                }
                let bytes = &self.input[self.start..self.ready];
                let count = bytes.len().min(buffer.len() - filled);
                buffer[filled..filled + count].copy_from_slice(&bytes[..count]);
                self.consume(count);
                filled += count;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends `bytes` as one message.
    ///
    /// # Errors
    /// [`StreamError`].
    ///
    /// # Panics
    /// `bytes` has none, or more than [`MAX_PAYLOAD`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.send(bytes.len())?;
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Closes for a reason, in order, whatever the peer still says.
    pub async fn close(mut self, code: u16, reason: &str) {
        let farewell = async {
            poll_fn(|cx| self.poll_flush(cx)).await?;
            self.send_close(code, reason)?;
            self.goodbye().await
        };
        let _ = within(GOODBYE_WITHIN, farewell).await;
    }

    /// The bytes there are, at least one, or `None` once the peer has closed. They stay until they are
    /// [consumed](Self::consume).
    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<&[u8]>, StreamError>> {
        while self.start == self.ready {
            match &self.closed {
                None => {}
                Some((code, _)) if is_an_end(*code) => return Poll::Ready(Ok(None)),
                Some((code, reason)) => return Poll::Ready(Err(StreamError::Closed(*code, reason.clone()))),
            }
            let (taken, piece) = self.pieces.next(&mut self.input[self.ready..self.end])?;
            let from = self.ready;
            (self.start, self.ready) = (from + taken, from + taken);
            match piece {
                Some(piece) => self.take(from, piece)?,
                None => ready!(self.poll_fill(cx))?,
            }
        }
        Poll::Ready(Ok(Some(&self.input[self.start..self.ready])))
    }

    /// Done with so many of the bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.ready - self.start, "only what there is");
        self.start += count;
    }

    /// Attends to a piece of what was taken at `from`.
    fn take(&mut self, from: usize, piece: Piece) -> Result<(), StreamError> {
        match piece {
            Piece::Data(_, range, _) => self.start = from + range.start,
            Piece::Ping(range) => {
                let mut payload = [0; MAX_CONTROL_BYTES];
                payload[..range.len()].copy_from_slice(&self.input[from + range.start..from + range.end]);
                self.pong = Some((range.len(), payload)).filter(|_| !self.close_sent);
            }
            Piece::Pong => {}
            Piece::Close(range) => {
                let close = ClosePayload::parse(&self.input[from + range.start..from + range.end]);
                let close = close.map_err(PiecesError::Frame)?;
                self.closed =
                    Some(close.map_or((NO_STATUS, String::new()), |close| (close.code, close.reason.to_owned())));
            }
        }
        Ok(())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        // what is left is less than a header with a control frame
        self.input.copy_within(self.ready..self.end, 0);
        (self.start, self.ready, self.end) = (0, 0, self.end - self.ready);
        match ready!(Pin::new(&mut self.transport).poll_read(cx, &mut self.input[self.end..])) {
            Ok(0) => Poll::Ready(Err(StreamError::Ended)),
            Ok(count) => {
                self.end += count;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(StreamError::Io(error))),
        }
    }

    /// Ready when the peer, which has closed, is gone altogether.
    pub(crate) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Ok(1..) = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut self.input)) {}
        Poll::Ready(())
    }

    /// Where the payload of the next message goes. Only after a [flush](Self::poll_flush).
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.output[MAX_HEADER_BYTES..]
    }

    /// Sends the first bytes of the [room](Self::room).
    pub(crate) fn send(&mut self, length: usize) -> Result<(), StreamError> {
        assert!((1..=MAX_PAYLOAD).contains(&length), "a message is neither empty nor longer than its buffer");
        self.frame(Opcode::Binary, length)
    }

    /// Gives a sign of life if nothing was said for so long, and says when to ask again. Only after a
    /// [flush](Self::poll_flush), and before the [close](Self::send_close).
    pub(crate) fn speak_after(&mut self, silence: Duration) -> Result<Instant, StreamError> {
        if self.spoke_at.elapsed() >= silence {
            self.frame(Opcode::Pong, 0)?;
        }
        Ok(self.spoke_at + silence)
    }

    /// How long the other end of the connection has acknowledged nothing although it should have, as far as was seen: to be
    /// asked now and then.
    pub(crate) fn unacknowledged(&mut self) -> Result<Duration, StreamError> {
        self.acknowledgements.look(self.transport.socket().get_ref()).map_err(StreamError::Io)
    }

    /// Says that nothing more comes, once. Only after a [flush](Self::poll_flush).
    pub(crate) fn send_close(&mut self, code: u16, reason: &str) -> Result<(), StreamError> {
        if std::mem::replace(&mut self.close_sent, true) {
            return Ok(());
        }
        self.pong = None;
        let mut payload = [0; MAX_CONTROL_BYTES];
        let length = ClosePayload { code, reason }.encode(&mut payload);
        self.room()[..length].copy_from_slice(&payload[..length]);
        self.frame(Opcode::Close, length)
    }

    /// Whether this side has closed.
    pub(crate) fn has_closed(&self) -> bool {
        self.close_sent
    }

    /// Puts the header before the first bytes of the room, and masks those.
    fn frame(&mut self, opcode: Opcode, length: usize) -> Result<(), StreamError> {
        debug_assert_eq!(self.written, self.filled, "only after a flush");
        let mask = match self.role {
            Role::Client => Some(self.masks.next_mask().map_err(|error| StreamError::Io(error.into()))?),
            Role::Server => None,
        };
        let mut header = [0; MAX_HEADER_BYTES];
        let head = FrameHeader::whole(opcode, mask, length as u64).encode(&mut header);
        if let Some(mask) = mask {
            apply_mask(&mut self.room()[..length], mask, 0);
        }
        self.output[MAX_HEADER_BYTES - head..MAX_HEADER_BYTES].copy_from_slice(&header[..head]);
        (self.written, self.filled) = (MAX_HEADER_BYTES - head, MAX_HEADER_BYTES + length);
        self.spoke_at = Instant::now();
        Ok(())
    }

    /// Ready when everything is with the kernel.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            while self.written < self.filled {
                let bytes = &self.output[self.written..self.filled];
                match ready!(Pin::new(&mut self.transport).poll_write(cx, bytes)).map_err(StreamError::Io)? {
                    0 => return Poll::Ready(Err(StreamError::Io(io::ErrorKind::WriteZero.into()))),
                    count => self.written += count,
                }
            }
            (self.written, self.filled) = (0, 0);
            if self.transport.has_unsent() {
                ready!(Pin::new(&mut self.transport).poll_flush(cx)).map_err(StreamError::Io)?;
            }
            match self.pong.take() {
                Some((length, payload)) => {
                    self.room()[..length].copy_from_slice(&payload[..length]);
                    self.frame(Opcode::Pong, length)?;
                }
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Sends what is left, then closes the connection. Of two that have both closed the server is to leave first, and
    /// whoever leaves with bytes unread would tear down what the peer has not read yet.
    pub(crate) async fn shut_down(mut self) {
        let _ = within(GOODBYE_WITHIN, self.goodbye()).await;
    }

    async fn goodbye(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_flush(cx)).await?;
        self.transport.close().await.map_err(StreamError::Io)?;
        while self.transport.read(&mut self.input).await.map_err(StreamError::Io)? > 0 {}
        Ok(())
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the buffers hold what others say to each other
        f.debug_struct("ByteStream").field("role", &self.role).field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// Why a stream broke.
#[derive(Debug)]
pub enum StreamError {
    /// The connection broke.
    Io(io::Error),
    /// It ended without a close frame, or before it should have.
    Ended,
    /// What was sent was not acknowledged for so long, not even by the other end's kernel.
    Unacknowledged(Duration),
    /// The peer closed it with a code that is no orderly end: code and reason.
    Closed(u16, String),
    /// What the peer sent is no WebSocket.
    Invalid(PiecesError),
}

impl From<PiecesError> for StreamError {
    fn from(error: PiecesError) -> Self {
        Self::Invalid(error)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection broke: {error}"),
            Self::Ended => f.write_str("connection ended without a proper end"),
            Self::Unacknowledged(silence) => {
                write!(f, "connection is dead: nothing sent was acknowledged for {} s", silence.as_secs())
            }
            Self::Closed(code, reason) if reason.is_empty() => write!(f, "closed by the peer with code {code}"),
            Self::Closed(code, reason) => write!(f, "closed by the peer with code {code}: {reason}"),
            Self::Invalid(error) => write!(f, "peer broke the WebSocket protocol: {error}"),
        }
    }
}

impl Error for StreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Invalid(error) => Some(error),
            Self::Ended | Self::Unacknowledged(_) | Self::Closed(..) => None,
        }
    }
}

/// Whether a peer that closes with `code` has said all it had to say.
const fn is_an_end(code: u16) -> bool {
    matches!(code, 1000 | 1005 | 3000..=4999)
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(time).await;
        None
    };
    async { Some(work.await) }.or(late).await
}
