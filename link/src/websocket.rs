//! Whole binary messages over an open WebSocket, in two buffers of bounded size.
//!
//! A message goes out as one frame, and the next one is taken when it is with the kernel. Where frames need no mask (a
//! server's, or [`Upgraded::zero_mask`]) it is encrypted from where it lies; a masked one is copied once. A message comes in
//! as one frame or several (a relay may cut them); it is put together and unmasked in place. Pings are answered here.
//! No message is longer than [`MAX_MESSAGE`]; a peer that announces a longer one is told off before a byte of it is read.
//! A buffer is small until a message needs the large one, so that an idle link costs little.
//!
//! The session's messages do not go through the WebSocket library: it would copy each into a message of its own on the
//! heap, and zero its buffer for every read (docs/decisions).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smol::io::{AsyncRead, AsyncWrite};
use umbilical_mux::MAX_MESSAGE;

use crate::frame::{
    ClosePayload, FrameError, FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, MaskSource, Opcode, apply_mask,
    copy_masked,
};
use crate::transport::Transport;
use crate::upgrade::{Role, Upgraded};

/// Bytes read at once at most: one message with its header, and what comes right behind it.
const IN_BYTES: usize = MAX_MESSAGE + 2 * 1024;

/// Bytes that may wait to be written: a message with its header, and a pong.
const OUT_BYTES: usize = 2 * MAX_HEADER_BYTES + MAX_MESSAGE + MAX_CONTROL_BYTES;

/// Bytes of either buffer as long as nothing longer comes or goes.
const SMALL_BYTES: usize = 1024;

/// Memory of one WebSocket in bytes at most, for the agent's budget.
pub const BUFFER_BYTES: usize = IN_BYTES + OUT_BYTES;

/// A WebSocket that carries a session.
#[derive(Debug)]
pub struct WebSocket {
    transport: Transport,
    role: Role,
    /// None of its frames are masked, or with zeros.
    bare: bool,
    masks: MaskSource,
    /// `[0..assembled]` fragments of a message, `[start..end]` bytes not looked at.
    input: Box<[u8]>,
    assembled: usize,
    start: usize,
    end: usize,
    /// Fragments have come and the last one has not.
    in_message: bool,
    /// `[written..filled]` bytes to write.
    output: Box<[u8]>,
    written: usize,
    filled: usize,
    /// The last ping that is still to be answered.
    pong: Option<(usize, [u8; MAX_CONTROL_BYTES])>,
    close_sent: bool,
    /// Bytes read and written in all, as the transport sees them.
    bytes_in: u64,
    bytes_out: u64,
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message, unmasked.
    Message(&'a [u8]),
    /// A pong, or a ping that will be answered.
    Pong,
    /// The peer closed: its code, 1005 if it gave none, and reason.
    Closed(u16, String),
}

/// The WebSocket can't be used any more.
#[derive(Debug)]
pub enum WebSocketError {
    /// The connection broke.
    Io(io::Error),
    /// The connection ended without a close frame.
    Ended,
    /// A frame breaks RFC 6455.
    Frame(FrameError),
    /// A message of more than [`MAX_MESSAGE`] bytes was announced.
    TooLong(u64),
    /// A text message, or a continuation of nothing, or a message within a message.
    Unexpected(Opcode),
}

impl std::fmt::Display for WebSocketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection broke: {error}"),
            Self::Ended => f.write_str("connection ended without a close frame"),
            Self::Frame(error) => error.fmt(f),
            Self::TooLong(bytes) => write!(f, "message of {bytes} bytes is longer than the {MAX_MESSAGE} allowed"),
            Self::Unexpected(opcode) => write!(f, "{opcode:?} frame where a session has none"),
        }
    }
}

impl std::error::Error for WebSocketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Frame(error) => Some(error),
            Self::Ended | Self::TooLong(_) | Self::Unexpected(_) => None,
        }
    }
}

impl WebSocket {
    /// Takes over an open WebSocket.
    #[must_use]
    pub fn new(upgraded: Upgraded) -> Self {
        let Upgraded { transport, leftover, role, zero_mask, .. } = upgraded;
        let mut input = vec![0; SMALL_BYTES.max(leftover.len())].into_boxed_slice();
        input[..leftover.len()].copy_from_slice(&leftover);
        Self {
            transport,
            role,
            bare: zero_mask || role == Role::Server,
            masks: MaskSource::new(),
            input,
            assembled: 0,
            start: 0,
            end: leftover.len(),
            in_message: false,
            output: vec![0; SMALL_BYTES].into_boxed_slice(),
            written: 0,
            filled: 0,
            pong: None,
            close_sent: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The connection below.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Bytes that a message of one packet or more has around it on TCP: WebSocket header with mask, TLS record.
    #[must_use]
    pub fn framing(&self) -> u16 {
        let header = match self.role {
            Role::Client => 8,
            Role::Server => 4,
        };
        header + self.transport.record_overhead()
    }

    /// Bytes read and written so far, WebSocket framing included, TLS not.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        (self.bytes_in, self.bytes_out)
    }

    /// The next message or event. The bytes of a message are good until the next call.
    pub fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Result<Incoming<'_>, WebSocketError>> {
        if !self.in_message {
            self.assembled = 0; // what was put together there was given with the last call
        }
        let parsed = loop {
            match self.parse()? {
                Some(Parsed::Again) => {}
                Some(parsed) => break parsed,
                None => ready!(self.poll_fill(cx))?,
            }
        };
        Poll::Ready(Ok(match parsed {
            Parsed::Message(from, to) => Incoming::Message(&self.input[from..to]),
            Parsed::Closed(code, reason) => Incoming::Closed(code, reason),
            Parsed::Pong | Parsed::Again => Incoming::Pong,
        }))
    }

    /// The next message, as a future.
    ///
    /// # Errors
    /// As [`poll_incoming`](Self::poll_incoming); a close frame is an error here.
    pub async fn next_message(&mut self) -> Result<Vec<u8>, WebSocketError> {
        std::future::poll_fn(|cx| {
            loop {
                match ready!(self.poll_incoming(cx))? {
                    Incoming::Message(message) => return Poll::Ready(Ok(message.to_vec())),
                    Incoming::Pong => {}
                    Incoming::Closed(..) => return Poll::Ready(Err(WebSocketError::Ended)),
                }
            }
        })
        .await
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        if self.start == self.end {
            (self.start, self.end) = (self.assembled, self.assembled);
        } else if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, self.assembled);
            (self.start, self.end) = (self.assembled, self.assembled + self.end - self.start);
        }
        if self.end == self.input.len() {
            enlarge(&mut self.input, IN_BYTES);
        }
        let count = ready!(Pin::new(&mut self.transport).poll_read(cx, &mut self.input[self.end..]));
        let count = count.map_err(WebSocketError::Io)?;
        if count == 0 {
            return Poll::Ready(Err(WebSocketError::Ended));
        }
        self.end += count;
        self.bytes_in += count as u64;
        Poll::Ready(Ok(()))
    }

    /// Looks at one frame; `None` if more bytes are needed.
    fn parse(&mut self) -> Result<Option<Parsed>, WebSocketError> {
        let raw = &self.input[self.start..self.end];
        let Some((header, head)) = FrameHeader::parse(raw).map_err(WebSocketError::Frame)? else { return Ok(None) };
        header.check_mask(self.role).map_err(WebSocketError::Frame)?;
        let length = match usize::try_from(header.length) {
            Ok(length) if self.assembled + length <= MAX_MESSAGE => length,
            _ => return Err(WebSocketError::TooLong(header.length.saturating_add(self.assembled as u64))),
        };
        if raw.len() < head + length {
            return Ok(None);
        }
        let (from, to) = (self.start + head, self.start + head + length);
        self.start = to;
        let payload = &mut self.input[from..to];
        if let Some(mask) = header.mask.filter(|mask| *mask != [0; 4]) {
            apply_mask(payload, mask, 0);
        }
        match header.opcode {
            Opcode::Ping => {
                let mut bytes = [0; MAX_CONTROL_BYTES];
                bytes[..length].copy_from_slice(payload);
                self.pong = Some((length, bytes));
                Ok(Some(Parsed::Pong))
            }
            Opcode::Pong => Ok(Some(Parsed::Pong)),
            Opcode::Close => {
                let close = ClosePayload::parse(payload).map_err(WebSocketError::Frame)?;
                Ok(Some(close.map_or(Parsed::Closed(1005, String::new()), |close| {
                    Parsed::Closed(close.code, close.reason.to_owned())
                })))
            }
            Opcode::Text => Err(WebSocketError::Unexpected(Opcode::Text)),
            opcode => {
                if (opcode == Opcode::Continuation) != self.in_message {
                    return Err(WebSocketError::Unexpected(opcode));
                }
                let whole = !self.in_message && header.fin;
                self.in_message = !header.fin;
                let (from, to) = if whole {
                    (from, to)
                } else {
                    self.input.copy_within(from..to, self.assembled);
                    self.assembled += length;
                    (0, self.assembled)
                };
                // An empty message says nothing; some libraries make one at the end of a stream.
                Ok(Some(if header.fin && from < to { Parsed::Message(from, to) } else { Parsed::Again }))
            }
        }
    }

    /// Whether a message has room: nothing but a frame of control, at most, waits to be written.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.written == 0 && !self.transport.has_unsent() && OUT_BYTES - self.filled >= MAX_HEADER_BYTES + MAX_MESSAGE
    }

    /// Takes a message for the way out. Only if it [has room](Self::has_room); then [`poll_ready`](Self::poll_ready)
    /// brings it there.
    ///
    /// # Errors
    /// The connection broke, or the system has no randomness for a mask.
    pub fn send(&mut self, cx: &mut Context<'_>, prefix: &[u8], record: &[u8]) -> io::Result<()> {
        if !self.bare || self.filled > 0 {
            return self.frame(Opcode::Binary, prefix, record);
        }
        let mut head = [0; MAX_HEADER_BYTES];
        let header = FrameHeader::whole(Opcode::Binary, self.next_mask()?, (prefix.len() + record.len()) as u64);
        let length = header.encode(&mut head);
        let parts = [&head[..length], prefix, record];
        let mut taken = match Pin::new(&mut self.transport).poll_write_vectored(cx, &parts.map(IoSlice::new)) {
            Poll::Ready(count) => count?,
            Poll::Pending => 0,
        };
        self.bytes_out += taken as u64;
        for part in parts {
            let rest = part.get(taken..).unwrap_or_default();
            taken = taken.saturating_sub(part.len());
            self.room(rest.len()).copy_from_slice(rest);
        }
        Ok(())
    }

    /// Says goodbye with a code (RFC 6455, section 7.4) and a reason, once.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn close(&mut self, code: u16, reason: &str) -> io::Result<()> {
        if std::mem::replace(&mut self.close_sent, true)
            || OUT_BYTES - self.filled < MAX_HEADER_BYTES + MAX_CONTROL_BYTES
        {
            return Ok(());
        }
        let mut payload = [0; MAX_CONTROL_BYTES];
        let length = ClosePayload { code, reason }.encode(&mut payload);
        self.frame(Opcode::Close, &payload[..length], &[])
    }

    fn frame(&mut self, opcode: Opcode, first: &[u8], second: &[u8]) -> io::Result<()> {
        let mask = self.next_mask()?;
        let header = FrameHeader::whole(opcode, mask, (first.len() + second.len()) as u64);
        let mut head = [0; MAX_HEADER_BYTES];
        let length = header.encode(&mut head);
        self.room(length).copy_from_slice(&head[..length]);
        let mut offset = 0;
        for part in [first, second] {
            match mask.filter(|_| !self.bare) {
                Some(mask) => copy_masked(self.room(part.len()), part, mask, offset),
                None => self.room(part.len()).copy_from_slice(part),
            }
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Room for so many bytes more to write.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        let from = self.filled;
        self.filled += bytes;
        if self.filled > self.output.len() {
            enlarge(&mut self.output, OUT_BYTES);
        }
        &mut self.output[from..self.filled]
    }

    fn next_mask(&mut self) -> io::Result<Option<[u8; 4]>> {
        Ok(match self.role {
            Role::Server => None,
            Role::Client if self.bare => Some([0; 4]),
            Role::Client => Some(self.masks.next_mask()?),
        })
    }

    /// Writes what is to be written; ready once all of it is with the kernel and a message may be sent.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        loop {
            while self.written < self.filled {
                let bytes = &self.output[self.written..self.filled];
                let count = ready!(Pin::new(&mut self.transport).poll_write(cx, bytes)).map_err(WebSocketError::Io)?;
                self.written += count;
                self.bytes_out += count as u64;
            }
            (self.written, self.filled) = (0, 0);
            if self.transport.has_unsent() {
                ready!(Pin::new(&mut self.transport).poll_flush(cx)).map_err(WebSocketError::Io)?;
            }
            match self.pong.take() {
                Some((length, payload)) => {
                    self.frame(Opcode::Pong, &payload[..length], &[]).map_err(WebSocketError::Io)?;
                }
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Gives large buffers back that hold nothing, for hosts of many links of which most are idle.
    pub fn give_back(&mut self) {
        if self.start == self.end && !self.in_message && self.input.len() > SMALL_BYTES {
            (self.start, self.end, self.assembled) = (0, 0, 0);
            self.input = vec![0; SMALL_BYTES].into_boxed_slice();
        }
        if self.written == self.filled && self.output.len() > SMALL_BYTES {
            (self.written, self.filled) = (0, 0);
            self.output = vec![0; SMALL_BYTES].into_boxed_slice();
        }
    }

    /// Whether something waits to be written.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.written < self.filled || self.pong.is_some() || self.transport.has_unsent()
    }

    /// Sends what is left, then closes the connection. Give it a deadline.
    pub async fn shutdown(mut self) {
        let _ = std::future::poll_fn(|cx| self.poll_ready(cx)).await;
        let _ = std::future::poll_fn(|cx| Pin::new(&mut self.transport).poll_close(cx)).await;
    }
}

fn enlarge(buffer: &mut Box<[u8]>, bytes: usize) {
    let mut larger = vec![0; bytes.max(buffer.len())].into_boxed_slice();
    larger[..buffer.len()].copy_from_slice(buffer);
    *buffer = larger;
}

enum Parsed {
    Message(usize, usize),
    Pong,
    Closed(u16, String),
    Again,
}
