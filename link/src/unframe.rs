//! WebSocket frames become a stream of bytes, in pieces as they come. Pure functions on bytes; no message is ever put
//! together, so a frame may be as long as the protocol allows.
//!
//! ```text
//! | header | payload ......... | header | ping | header | payload | header | code, reason |
//!            Payload  Payload            Ping            Payload            Close
//! ```
//!
//! Text and binary messages alike are bytes; borders of messages and fragments mean nothing. Owns: the order of frames,
//! unmasking. Leaves to others: reading and answering (`byte_stream`), the bits of a frame (`frame`).

use std::error::Error;
use std::fmt;
use std::ops::Range;

use crate::frame::{ClosePayload, FrameError, FrameHeader, Opcode, apply_mask};
use crate::upgrade::Role;

/// The code of a close frame that says none (RFC 6455, section 7.1.5).
const NO_STATUS: u16 = 1005;

/// Where one direction of a WebSocket stands.
#[derive(Debug)]
pub struct Unframer {
    receiver: Role,
    /// Payload of the current data frame that is still to come, its mask, and how much of it has been.
    left: u64,
    mask: Option<[u8; 4]>,
    offset: u64,
    /// Fragments have come and the last one has not.
    in_message: bool,
}

/// What stands at the start of the bytes; ranges are in them.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the stream, unmasked; perhaps none.
    Payload(Range<usize>),
    /// To be answered with the same bytes.
    Ping(Range<usize>),
    /// A sign of life.
    Pong,
    /// The last piece: code, 1005 if there was none, and reason.
    Close(u16, String),
}

impl Unframer {
    /// The start of a WebSocket, as `receiver` hears it.
    #[must_use]
    pub const fn new(receiver: Role) -> Self {
        Self { receiver, left: 0, mask: None, offset: 0, in_message: false }
    }

    /// The next piece and how many of the bytes it took, or `None` if there are too few to tell: at most a header and a
    /// control frame's payload are ever waited for. What was taken must not be shown again. After a close frame nothing
    /// has a meaning.
    ///
    /// # Errors
    /// [`UnframeError`]; the stream can't go on.
    pub fn next(&mut self, bytes: &mut [u8]) -> Result<Option<(Piece, usize)>, UnframeError> {
        if self.left > 0 {
            return Ok(if bytes.is_empty() { None } else { Some(self.payload(bytes, 0)) });
        }
        let Some((header, head)) = FrameHeader::parse(bytes)? else { return Ok(None) };
        header.check_mask(self.receiver)?;
        if header.opcode.is_control() {
            return self.control(&header, head, bytes);
        }
        if (header.opcode == Opcode::Continuation) != self.in_message {
            return Err(UnframeError::OutOfPlace(header.opcode));
        }
        self.in_message = !header.fin;
        (self.left, self.mask, self.offset) = (header.length, header.mask, 0);
        Ok(Some(self.payload(bytes, head)))
    }

    fn payload(&mut self, bytes: &mut [u8], from: usize) -> (Piece, usize) {
        let there = bytes.len() - from;
        let count = usize::try_from(self.left).map_or(there, |left| left.min(there));
        let to = from + count;
        if let Some(mask) = self.mask {
            apply_mask(&mut bytes[from..to], mask, self.offset);
        }
        self.left -= count as u64;
        self.offset += count as u64;
        (Piece::Payload(from..to), to)
    }

    fn control(
        &self,
        header: &FrameHeader,
        head: usize,
        bytes: &mut [u8],
    ) -> Result<Option<(Piece, usize)>, UnframeError> {
        // the header's reader has seen that it is short
        let end = usize::try_from(header.length).map_or(usize::MAX, |length| head + length);
        let Some(payload) = bytes.get_mut(head..end) else { return Ok(None) };
        if let Some(mask) = header.mask {
            apply_mask(payload, mask, 0);
        }
        let piece = match header.opcode {
            Opcode::Ping => Piece::Ping(head..end),
            Opcode::Close => match ClosePayload::parse(payload)? {
                Some(close) => Piece::Close(close.code, close.reason.to_owned()),
                None => Piece::Close(NO_STATUS, String::new()),
            },
            _ => Piece::Pong,
        };
        Ok(Some((piece, end)))
    }
}

/// Bytes that are no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnframeError {
    /// A frame breaks RFC 6455 by itself.
    Frame(FrameError),
    /// A continuation of nothing, or a message within a message.
    OutOfPlace(Opcode),
}

impl From<FrameError> for UnframeError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl fmt::Display for UnframeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::OutOfPlace(Opcode::Continuation) => f.write_str("frame continues a message that was not begun"),
            Self::OutOfPlace(opcode) => write!(f, "{opcode:?} frame begins a message within another one"),
        }
    }
}

impl Error for UnframeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Frame(error) => Some(error),
            Self::OutOfPlace(_) => None,
        }
    }
}
