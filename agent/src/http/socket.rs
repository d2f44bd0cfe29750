//! The WebSocket that one HTTP request has to itself, read and written piece by piece: a body may be of any length, and
//! no more of it is here than a buffer holds.
//!
//! ```text
//! relay -> device    text: the request's head     binary, in fragments: its body
//! device -> relay    text: the response's head    binary, in fragments: its body     close 1000
//! ```
//!
//! The two directions are used at once. Pings come in by one and are answered by the other, so they travel through a
//! channel. Leaves to others: what is in the messages.

use std::{fmt, io};

use smol::{
    channel::{Receiver, Sender, bounded},
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
};
use umbilical_link::{
    frame::{
        ClosePayload, FrameError, FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, MaskSource, Opcode, apply_mask,
    },
    transport::Transport,
    upgrade::{Role, Upgraded},
};
use umbilical_relay_protocol::MAX_MESSAGE_BYTES;

/// Bytes read at once.
pub(super) const READ_BYTES: usize = 8 * 1024;

/// The payload of a ping.
type Ping = Vec<u8>;

/// Takes over an open WebSocket.
pub(super) fn halves(upgraded: Upgraded) -> (SocketReader, SocketWriter) {
    let Upgraded { transport, leftover, .. } = upgraded;
    let (reading, writing) = split(transport);
    let (pings_in, pings) = bounded(1);
    let mut buffer = vec![0; READ_BYTES.max(leftover.len())].into_boxed_slice();
    buffer[..leftover.len()].copy_from_slice(&leftover);
    let (start, end) = (0, leftover.len());
    let reader = SocketReader { transport: reading, buffer, start, end, left: 0, is_last: true, pings: pings_in };
    (reader, SocketWriter { transport: writing, masks: MaskSource::new(), pings })
}

/// What the relay sends.
pub(super) struct SocketReader {
    transport: ReadHalf<Transport>,
    /// `[start..end]` bytes not looked at.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the current data frame that have not been given.
    left: u64,
    /// Whether it is the last of its message.
    is_last: bool,
    pings: Sender<Ping>,
}

impl SocketReader {
    /// The next message, which must be a text of at most [`MAX_MESSAGE_BYTES`].
    pub(super) async fn text(&mut self) -> Result<String, SocketError> {
        self.begin(Opcode::Text).await?;
        let mut text = Vec::new();
        while let Some(part) = self.part().await? {
            if text.len() + part.len() > MAX_MESSAGE_BYTES {
                return Err(SocketError::TooLong);
            }
            text.extend_from_slice(part);
        }
        String::from_utf8(text).map_err(|_| SocketError::NotText)
    }

    /// The beginning of the next message, which must be binary: its length, if it is one frame.
    pub(super) async fn begin_body(&mut self) -> Result<Option<u64>, SocketError> {
        self.begin(Opcode::Binary).await?;
        Ok(self.is_last.then_some(self.left))
    }

    /// The next piece of the message; `None` at its end.
    pub(super) async fn part(&mut self) -> Result<Option<&[u8]>, SocketError> {
        while self.left == 0 {
            if self.is_last {
                return Ok(None);
            }
            self.begin(Opcode::Continuation).await?;
        }
        if self.start == self.end {
            self.fill().await?;
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.end - self.start);
        let part = self.start..self.start + count;
        self.start += count;
        self.left -= count as u64;
        Ok(Some(&self.buffer[part]))
    }

    /// Reads on, for the pings, until the relay closes or breaks; what else it sends is dropped.
    pub(super) async fn until_closed(&mut self) -> SocketError {
        loop {
            let skipped = async {
                while self.part().await?.is_some() {}
                let header = self.data_frame().await?;
                (self.left, self.is_last) = (header.length, header.fin);
                Ok(())
            };
            if let Err(error) = skipped.await {
                return error;
            }
        }
    }

    async fn begin(&mut self, expected: Opcode) -> Result<(), SocketError> {
        let header = self.data_frame().await?;
        if header.opcode != expected {
            return Err(SocketError::Unexpected { expected, found: header.opcode });
        }
        (self.left, self.is_last) = (header.length, header.fin);
        Ok(())
    }

    /// The next header of a data frame; control frames in front of it are dealt with.
    async fn data_frame(&mut self) -> Result<FrameHeader, SocketError> {
        loop {
            let raw = &self.buffer[self.start..self.end];
            let Some((header, length)) = FrameHeader::parse(raw).map_err(SocketError::Frame)? else {
                self.fill().await?;
                continue;
            };
            header.check_mask(Role::Client).map_err(SocketError::Frame)?;
            if !header.opcode.is_control() {
                self.start += length;
                return Ok(header);
            }
            // the payload of a control frame fits into any buffer
            let whole = length + usize::try_from(header.length).unwrap_or(MAX_CONTROL_BYTES);
            if raw.len() < whole {
                self.fill().await?;
                continue;
            }
            let payload = &raw[length..whole];
            match header.opcode {
                Opcode::Close => {
                    let close = ClosePayload::parse(payload).map_err(SocketError::Frame)?;
                    return Err(SocketError::Closed(close.map_or(1005, |close| close.code)));
                }
                // one that is still to be answered stands for both
                Opcode::Ping => _ = self.pings.try_send(payload.to_vec()),
                _ => {}
            }
            self.start += whole;
        }
    }

    /// Reads more behind what is there.
    async fn fill(&mut self) -> Result<(), SocketError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match self.transport.read(&mut self.buffer[self.end..]).await.map_err(SocketError::Io)? {
            0 => Err(SocketError::Ended),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }
}

/// What the device sends.
pub(super) struct SocketWriter {
    transport: WriteHalf<Transport>,
    masks: MaskSource,
    pings: Receiver<Ping>,
}

impl SocketWriter {
    /// A text message.
    pub(super) async fn text(&mut self, text: String) -> Result<(), SocketError> {
        self.frame(true, Opcode::Text, &mut text.into_bytes()).await
    }

    /// A fragment of a binary message; `payload` is masked in place.
    pub(super) async fn part(&mut self, is_first: bool, is_last: bool, payload: &mut [u8]) -> Result<(), SocketError> {
        self.frame(is_last, if is_first { Opcode::Binary } else { Opcode::Continuation }, payload).await
    }

    /// Pings that came in.
    pub(super) fn pings(&self) -> Receiver<Ping> {
        self.pings.clone()
    }

    /// Answers a ping.
    pub(super) async fn pong(&mut self, mut ping: Ping) -> Result<(), SocketError> {
        self.frame(true, Opcode::Pong, &mut ping).await
    }

    /// Says that there is nothing more to say.
    pub(super) async fn close(&mut self, code: u16, reason: &str) -> Result<(), SocketError> {
        let mut payload = [0; MAX_CONTROL_BYTES];
        let length = ClosePayload { code, reason }.encode(&mut payload);
        self.frame(true, Opcode::Close, &mut payload[..length]).await
    }

    async fn frame(&mut self, fin: bool, opcode: Opcode, payload: &mut [u8]) -> Result<(), SocketError> {
        let mask = self.masks.next_mask().map_err(|error| SocketError::Io(error.into()))?;
        let header = FrameHeader { fin, opcode, mask: Some(mask), length: payload.len() as u64 };
        let mut head = [0; MAX_HEADER_BYTES];
        let length = header.encode(&mut head);
        apply_mask(payload, mask, 0);
        let written = async {
            self.transport.write_all(&head[..length]).await?;
            self.transport.write_all(payload).await?;
            self.transport.flush().await
        };
        written.await.map_err(SocketError::Io)
    }
}

/// Why a socket is of no more use.
#[derive(Debug)]
pub(super) enum SocketError {
    Io(io::Error),
    Ended,
    Closed(u16),
    Frame(FrameError),
    Unexpected { expected: Opcode, found: Opcode },
    TooLong,
    NotText,
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::Io(error) => write!(f, "the rendezvous broke: {error}"),
            SocketError::Ended => f.write_str("the rendezvous ended without a close frame"),
            SocketError::Closed(code) => write!(f, "the relay closed the rendezvous with code {code}"),
            SocketError::Frame(error) => write!(f, "the relay broke the WebSocket protocol: {error}"),
            SocketError::Unexpected { expected, found } => {
                write!(f, "the relay sent a {found:?} frame where a {expected:?} frame is due")
            }
            SocketError::TooLong => write!(f, "the relay sent a head of more than {MAX_MESSAGE_BYTES} bytes"),
            SocketError::NotText => f.write_str("the relay sent a head that is not UTF-8"),
        }
    }
}
