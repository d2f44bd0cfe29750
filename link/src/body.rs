//! The body of an HTTP/1.1 response (RFC 9112, section 6): where it ends, and its bytes without the chunks around them.
//!
//! ```text
//! chunked   1a;extension CRLF  26 bytes CRLF  ...  0 CRLF  trailer fields  CRLF
//! ```
//!
//! Pure: bytes go in as they come, and the decoder says which of them are body. It keeps nothing of them. Leaves to
//! others: reading, and the head (`response`).

use std::error::Error;
use std::fmt;
use std::ops::Range;

use crate::response::ResponseHead;

/// The most bytes of a line that gives a chunk's size, extensions included.
pub const MAX_SIZE_LINE: usize = 256;

/// The most bytes of trailer fields behind the last chunk; they are dropped.
pub const MAX_TRAILER: usize = 8 * 1024;

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes (`Content-Length`).
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

impl Framing {
    /// How the body of a final response with this `head` to a request with `method` is framed (section 6.3).
    ///
    /// # Errors
    /// [`BodyError::Length`] and [`BodyError::Coding`].
    pub fn of(head: &ResponseHead<'_>, method: &str) -> Result<Self, BodyError> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok(Self::None);
        }
        let mut codings = head
            .values("transfer-encoding")
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii);
        if let Some(coding) = codings.next() {
            let plain = coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            return if plain { Ok(Self::Chunked) } else { Err(BodyError::Coding) };
        }
        // a repeated length is one length (RFC 9110, section 8.6), two different ones are an attack
        let lengths = head.values("content-length").flat_map(|value| value.split(|&byte| byte == b','));
        let mut length = None;
        for text in lengths.map(<[u8]>::trim_ascii) {
            let value = decimal(text).ok_or(BodyError::Length)?;
            if length.replace(value).is_some_and(|before| before != value) {
                return Err(BodyError::Length);
            }
        }
        Ok(length.map_or(Self::UntilClose, Self::Length))
    }
}

/// Finds the body in what comes behind a head.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of body, and then the end.
    Length(u64),
    UntilClose,
    /// In the line with a chunk's size: its digits so far, and bytes read.
    Size {
        size: u64,
        digits: usize,
        read: usize,
        extension: bool,
    },
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// At the line end behind a chunk.
    ChunkEnd,
    /// Behind the last chunk: bytes read, and whether the current line has anything in it.
    Trailer {
        read: usize,
        empty: bool,
    },
    Complete,
}

const SIZE: State = State::Size { size: 0, digits: 0, read: 0, extension: false };

/// What the decoder found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// So many bytes of the input are dealt with.
    pub used: usize,
    /// These bytes of the input are body; empty if there are none among them.
    pub body: Range<usize>,
}

impl BodyDecoder {
    /// For a body that begins now.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => SIZE,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Deals with the beginning of `input`: up to the end of the first piece of body in it. Uses nothing only of an empty
    /// input, or when the body is complete.
    ///
    /// # Errors
    /// [`BodyError`]: the chunks are malformed. The decoder is not to be used any more.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let mut used = 0;
        while used < input.len() {
            let rest = input.len() - used;
            match self.state {
                State::Complete => break,
                State::UntilClose => return Ok(Decoded { used: input.len(), body: used..input.len() }),
                State::Length(left) | State::Chunk(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest);
                    let left = left - count as u64;
                    self.state = match self.state {
                        State::Chunk(_) if left == 0 => State::ChunkEnd,
                        State::Chunk(_) => State::Chunk(left),
                        _ if left == 0 => State::Complete,
                        _ => State::Length(left),
                    };
                    return Ok(Decoded { used: used + count, body: used..used + count });
                }
                State::Size { .. } | State::ChunkEnd | State::Trailer { .. } => {
                    self.step(input[used])?;
                    used += 1;
                }
            }
        }
        Ok(Decoded { used, body: used..used })
    }

    /// One byte of what is around chunks. Bare line feeds count as line ends (section 2.2).
    fn step(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match (self.state, byte) {
            (State::Size { digits: 0, .. }, b'\n') => return Err(BodyError::Chunk),
            (State::Size { size: 0, .. }, b'\n') => State::Trailer { read: 0, empty: true },
            (State::Size { size, .. }, b'\n') => State::Chunk(size),
            (State::Size { size, digits, read, extension }, _) if read < MAX_SIZE_LINE => {
                let read = read + 1;
                match char::from(byte).to_digit(16) {
                    // 15 digits: no chunk has an exbibyte, and the sum can't overflow
                    Some(digit) if !extension && digits < 15 => {
                        State::Size { size: size << 4 | u64::from(digit), digits: digits + 1, read, extension }
                    }
                    _ if extension || digits > 0 && b"; \t\r".contains(&byte) => {
                        State::Size { size, digits, read, extension: true }
                    }
                    _ => return Err(BodyError::Chunk),
                }
            }
            (State::ChunkEnd, b'\r') => State::ChunkEnd,
            (State::ChunkEnd, b'\n') => SIZE,
            (State::Trailer { empty: true, .. }, b'\n') => State::Complete,
            (State::Trailer { read, empty }, _) if read < MAX_TRAILER => {
                State::Trailer { read: read + 1, empty: byte == b'\n' || empty && byte == b'\r' }
            }
            _ => return Err(BodyError::Chunk),
        };
        Ok(())
    }

    /// Whether all of the body was there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// [`BodyError::Cut`], unless the body was complete or is one that ends like this.
    pub fn end(&self) -> Result<(), BodyError> {
        match self.state {
            State::Complete | State::UntilClose => Ok(()),
            _ => Err(BodyError::Cut),
        }
    }
}

/// Why there is no telling where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The length is no number, or there are several.
    Length,
    /// It is transferred in another way than in chunks.
    Coding,
    /// A chunk is malformed.
    Chunk,
    /// The connection ended before the body did.
    Cut,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "the response has a Content-Length that is no number, or several",
            Self::Coding => "the response has a Transfer-Encoding other than chunked",
            Self::Chunk => "the response has a malformed chunk",
            Self::Cut => "the connection ended before the response did",
        })
    }
}

impl Error for BodyError {}

/// Digits and nothing else, as `parse` alone would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
