//! WebSocket messages of any length, taken apart as they come (RFC 6455, section 5). Pure functions on bytes.
//!
//! Payload is unmasked where it lies and handed on piece by piece; the bounds of messages are kept, those of frames are
//! not. A control frame is handed on whole, which takes [`MIN_ROOM`] bytes of buffer.
//!
//! Owns: where payload lies and what it belongs to. Holds none of it. Leaves to others: sockets, pongs, closing, and whether
//! text is UTF-8. `websocket` is for short messages that are wanted whole.

use std::error::Error;
use std::fmt;
use std::ops::Range;

use crate::frame::{FrameError, FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, Opcode, apply_mask};
use crate::upgrade::Role;

/// Bytes that a buffer must be able to hold: a control frame with its header.
pub const MIN_ROOM: usize = MAX_HEADER_BYTES + MAX_CONTROL_BYTES;

/// Reads one side's frames.
#[derive(Debug, Clone)]
pub struct Pieces {
    role: Role,
    /// The data frame that has begun.
    frame: Option<FrameHeader>,
    /// Payload bytes of it that have been handed on.
    done: u64,
    /// Type of the message that has begun.
    message: Option<Kind>,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text, which is for the reader to check.
    Text,
    /// Bytes.
    Binary,
}

/// One thing that came. Ranges are of the bytes that were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Payload of a message, perhaps none, and whether it is the message's last.
    Data(Kind, Range<usize>, bool),
    /// To be answered with a pong of the same payload.
    Ping(Range<usize>),
    /// A sign of life.
    Pong,
    /// The last frame of this side.
    Close(Range<usize>),
}

impl Pieces {
    /// Reads what is sent to a side of this role.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self { role, frame: None, done: 0, message: None }
    }

    /// Takes bytes up to the end of the next piece and unmasks it in place. Returns how many bytes are done with, and the
    /// piece; without one, more bytes are needed behind those that are left.
    ///
    /// # Errors
    /// [`PiecesError`]; there is no going on then.
    pub fn next(&mut self, bytes: &mut [u8]) -> Result<(usize, Option<Piece>), PiecesError> {
        let (start, header) = match self.frame {
            Some(header) => (0, header),
            None => {
                let Some((header, start)) = FrameHeader::parse(bytes)? else { return Ok((0, None)) };
                header.check_mask(self.role)?;
                if header.opcode.is_control() {
                    return Ok(control(bytes, start, header));
                }
                self.begin(header)?;
                (start, header)
            }
        };
        let left = header.length - self.done;
        let room = bytes.len() - start;
        let length = usize::try_from(left).map_or(room, |left| left.min(room));
        if length == 0 && left > 0 {
            return Ok((start, None));
        }
        let payload = start..start + length;
        if let Some(mask) = header.mask {
            apply_mask(&mut bytes[payload.clone()], mask, self.done);
        }
        let kind = self.message.unwrap_or(Kind::Binary);
        let ends_frame = length as u64 == left;
        self.done += length as u64;
        if ends_frame {
            (self.frame, self.done) = (None, 0);
            if header.fin {
                self.message = None;
            }
        }
        Ok((payload.end, Some(Piece::Data(kind, payload, ends_frame && header.fin))))
    }

    fn begin(&mut self, header: FrameHeader) -> Result<(), PiecesError> {
        self.message = Some(match (header.opcode, self.message) {
            (Opcode::Text, None) => Kind::Text,
            (Opcode::Binary, None) => Kind::Binary,
            (Opcode::Continuation, Some(kind)) => kind,
            (opcode, _) => return Err(PiecesError::Unexpected(opcode)),
        });
        self.frame = Some(header);
        Ok(())
    }
}

fn control(bytes: &mut [u8], start: usize, header: FrameHeader) -> (usize, Option<Piece>) {
    let Some(payload) = usize::try_from(header.length).ok().map(|length| start..start + length) else {
        return (0, None);
    };
    if payload.end > bytes.len() {
        return (0, None);
    }
    if let Some(mask) = header.mask {
        apply_mask(&mut bytes[payload.clone()], mask, 0);
    }
    let piece = match header.opcode {
        Opcode::Ping => Piece::Ping(payload.clone()),
        Opcode::Close => Piece::Close(payload.clone()),
        _ => Piece::Pong,
    };
    (payload.end, Some(piece))
}

/// Bytes that break RFC 6455: the connection can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PiecesError {
    /// In one frame.
    Frame(FrameError),
    /// A continuation of nothing, or a message within a message.
    Unexpected(Opcode),
}

impl From<FrameError> for PiecesError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl fmt::Display for PiecesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Unexpected(Opcode::Continuation) => f.write_str("a continuation frame where no message has begun"),
            Self::Unexpected(opcode) => write!(f, "{opcode:?} frame in the middle of another message"),
        }
    }
}

impl Error for PiecesError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Frame(error) => Some(error),
            Self::Unexpected(_) => None,
        }
    }
}
