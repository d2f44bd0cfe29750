//! A listener's socket at a request rendezvous: the request goes out, if it has not gone over the control channel, and the
//! response comes in.
//!
//! ```text
//! relay -> listener    {"request":{..}}, then the body, one binary message in fragments
//! listener -> relay    {"response":{..}}, then the body, one binary message in fragments
//! ```
//!
//! Bodies pass in pieces of up to 16 KiB; nothing but heads is ever put together. The socket serves one request: Microsoft's
//! .NET listeners close it behind the response, its Node listeners never do, so the relay does it for them.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use smol::io::{AsyncReadExt, AsyncWriteExt};
use umbilical_link::frame::{ClosePayload, FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, Opcode};
use umbilical_link::pieces::{Kind, Piece, Pieces, PiecesError};
use umbilical_link::upgrade::{Role, Upgraded};
use umbilical_relay_protocol::{Close, MAX_MESSAGE_BYTES, Rejection, RequestTarget};

use super::Shared;
use super::accept::SECRET_PARAMETER;
use super::halves::{Half, Shareable};
use super::handshake::{Handshake, Word};
use super::requests::{Answer, Meeting};
use crate::{deadline, http};

/// Bytes read at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// The longest frame. Few and long ones, where the length is known: Microsoft's Node listeners take no more than 16,384
/// fragments of one message. Not longer than this, because no pong fits into a frame.
const MAX_FRAME_BYTES: u64 = 1 << 20;

/// Serves a listener's handshake at a request rendezvous and hands its socket to the sender that waits.
pub(crate) async fn meet(shared: &Shared, handshake: Handshake, target: &RequestTarget) {
    match target.param(SECRET_PARAMETER).map_or(Meeting::Unknown, |secret| shared.requests.meet(secret)) {
        Meeting::Waiting(waiting) => {
            if let Some(upgraded) = handshake.accept(shared, None).await {
                waiting.answer(Answer::Met(upgraded));
            }
        }
        // a refusal would be the end of a Node listener: nobody there handles the error
        Meeting::TooLate => {
            if let Some(upgraded) = handshake.accept(shared, None).await {
                let socket = RequestSocket::new(upgraded);
                let _ = deadline::within(shared.deadlines().close, socket.close(&Close::other_side_gone())).await;
            }
        }
        Meeting::Unknown => handshake.refuse(shared, Rejection::rendezvous_unknown(), Word::Regret).await,
    }
}

/// The socket.
pub(crate) struct RequestSocket {
    connection: Shareable,
    leftover: Vec<u8>,
    /// The last ping that nobody has answered yet.
    ping: Mutex<Option<Vec<u8>>>,
}

impl RequestSocket {
    pub(crate) fn new(upgraded: Upgraded) -> Self {
        let Upgraded { transport, leftover, .. } = upgraded;
        Self { connection: Shareable::new(transport), leftover, ping: Mutex::new(None) }
    }

    /// The two directions. To be taken once.
    pub(crate) fn split(&mut self) -> (Hearing<'_>, Arc<smol::lock::Mutex<Saying<'_>>>) {
        let buf = std::mem::take(&mut self.leftover);
        let saying = Saying {
            half: self.connection.half(),
            ping: &self.ping,
            buf: Vec::new(),
            sent: 0,
            begun: false,
            frame_left: 0,
        };
        let saying = Arc::new(smol::lock::Mutex::new(saying));
        let hearing = Hearing {
            half: self.connection.half(),
            ping: &self.ping,
            saying: Arc::clone(&saying),
            pieces: Pieces::new(Role::Server),
            end: buf.len(),
            buf,
            start: 0,
        };
        (hearing, saying)
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// The socket's; it is closed all the same.
    pub(crate) async fn close(self, close: &Close) -> io::Result<()> {
        let mut payload = [0; MAX_CONTROL_BYTES];
        let length = ClosePayload { code: close.code(), reason: close.reason() }.encode(&mut payload);
        let mut frame = Vec::new();
        push_frame(&mut frame, true, Opcode::Close, &payload[..length]);
        let mut transport = self.connection.into_inner();
        transport.write_all(&frame).await?;
        transport.close().await?;
        http::discard(&mut transport).await
    }
}

/// To the listener.
pub(crate) struct Saying<'s> {
    half: Half<'s>,
    ping: &'s Mutex<Option<Vec<u8>>>,
    /// `[sent..]` is still to be written.
    buf: Vec<u8>,
    sent: usize,
    /// In the middle of a binary message.
    begun: bool,
    /// Payload bytes of the frame that has begun which have not been given yet.
    frame_left: u64,
}

impl Saying<'_> {
    /// Writes a text message.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn text(&mut self, text: &str) -> io::Result<()> {
        push_frame(&mut self.buf, true, Opcode::Text, text.as_bytes());
        self.flush().await
    }

    /// Writes a piece of the one binary message. `more` is how many bytes of it are still to come, if that is known; with
    /// none to come the piece may be empty.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) async fn piece(&mut self, piece: &[u8], more: Option<u64>) -> io::Result<()> {
        let mut rest = piece;
        loop {
            if self.frame_left == 0 {
                let known = rest.len() as u64 + more.unwrap_or(0);
                let length = known.min(MAX_FRAME_BYTES);
                let opcode = if self.begun { Opcode::Continuation } else { Opcode::Binary };
                let fin = more.is_some() && length == known;
                push_header(&mut self.buf, fin, opcode, length);
                self.begun = !fin;
                self.frame_left = length;
            }
            let room = usize::try_from(self.frame_left).map_or(rest.len(), |left| left.min(rest.len()));
            let (now, later) = rest.split_at(room);
            self.buf.extend_from_slice(now);
            self.frame_left -= now.len() as u64;
            rest = later;
            self.flush().await?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whether nothing has been left unfinished.
    pub(crate) fn is_idle(&self) -> bool {
        !self.begun && self.frame_left == 0 && self.buf.is_empty()
    }

    /// Writes what waits, answers to pings included. Loses nothing when dropped: the next write goes on.
    async fn flush(&mut self) -> io::Result<()> {
        loop {
            while self.sent < self.buf.len() {
                self.sent += self.half.write(&self.buf[self.sent..]).await?;
            }
            self.buf.clear();
            self.sent = 0;
            self.half.flush().await?;
            if self.frame_left > 0 {
                return Ok(());
            }
            let ping = self.ping.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(payload) = ping else { return Ok(()) };
            push_frame(&mut self.buf, true, Opcode::Pong, &payload);
        }
    }
}

/// From the listener.
pub(crate) struct Hearing<'s> {
    half: Half<'s>,
    ping: &'s Mutex<Option<Vec<u8>>>,
    saying: Arc<smol::lock::Mutex<Saying<'s>>>,
    pieces: Pieces,
    /// `[start..end]` is read and not looked at.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

/// Something that a listener said.
#[derive(Debug, Clone)]
pub(crate) enum Heard {
    /// A piece of a message, see [`Hearing::bytes`], and whether it is the message's last.
    Data(Kind, Range<usize>, bool),
    /// Goodbye.
    Close,
}

impl Hearing<'_> {
    /// The next piece. Pings are answered on the way. Loses nothing when dropped.
    ///
    /// # Errors
    /// The connection broke, or it is no WebSocket.
    pub(crate) async fn next(&mut self) -> Result<Heard, HearingError> {
        loop {
            let start = self.start;
            let (taken, piece) = self.pieces.next(&mut self.buf[start..self.end]).map_err(HearingError::Invalid)?;
            self.start += taken;
            let within = |range: Range<usize>| start + range.start..start + range.end;
            match piece {
                None if taken > 0 => {}
                None => self.fill().await.map_err(HearingError::Io)?,
                Some(Piece::Data(kind, range, last)) => return Ok(Heard::Data(kind, within(range), last)),
                Some(Piece::Ping(range)) => {
                    let payload = self.buf[within(range)].to_vec();
                    *self.ping.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                    // who is writing already takes it along
                    if let Some(mut saying) = self.saying.try_lock() {
                        saying.flush().await.map_err(HearingError::Io)?;
                    }
                }
                Some(Piece::Pong) => {}
                Some(Piece::Close(_)) => return Ok(Heard::Close),
            }
        }
    }

    /// The bytes of a piece, until the next one.
    pub(crate) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.buf[range.clone()]
    }

    /// The next message, if it is text of up to [`MAX_MESSAGE_BYTES`], appended to `text`. Empty binary messages before it
    /// are passed over. `text` holds what has come of it when this is dropped: go on with the same one.
    ///
    /// # Errors
    /// As for [`Hearing::next`]; another message, or the end.
    pub(crate) async fn text(&mut self, text: &mut Vec<u8>) -> Result<(), HearingError> {
        loop {
            match self.next().await? {
                Heard::Data(Kind::Text, range, last) if text.len() + range.len() <= MAX_MESSAGE_BYTES => {
                    text.extend_from_slice(&self.buf[range]);
                    if last {
                        return Ok(());
                    }
                }
                Heard::Data(Kind::Binary, range, _) if range.is_empty() => {}
                Heard::Data(Kind::Text, ..) => return Err(HearingError::TooLong),
                Heard::Data(Kind::Binary, ..) => return Err(HearingError::Unannounced),
                Heard::Close => return Err(HearingError::Closed),
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // what is left is less than a control frame
        self.buf.resize(PIECE_BYTES, 0);
        match self.half.read(&mut self.buf[self.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }
}

/// Why there is nothing more to hear.
#[derive(Debug)]
pub(crate) enum HearingError {
    Io(io::Error),
    Invalid(PiecesError),
    /// A head of more than [`MAX_MESSAGE_BYTES`].
    TooLong,
    /// A body before its head.
    Unannounced,
    /// A close frame where a head was to come.
    Closed,
}

impl std::fmt::Display for HearingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Invalid(error) => error.fmt(f),
            Self::TooLong => write!(f, "a text message of more than {MAX_MESSAGE_BYTES} bytes"),
            Self::Unannounced => f.write_str("a binary message where a response was to come"),
            Self::Closed => f.write_str("it closed the socket"),
        }
    }
}

fn push_frame(out: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8]) {
    push_header(out, fin, opcode, payload.len() as u64);
    out.extend_from_slice(payload);
}

fn push_header(out: &mut Vec<u8>, fin: bool, opcode: Opcode, length: u64) {
    let mut header = [0; MAX_HEADER_BYTES];
    let taken = FrameHeader { fin, opcode, mask: None, length }.encode(&mut header);
    out.extend_from_slice(&header[..taken]);
}
