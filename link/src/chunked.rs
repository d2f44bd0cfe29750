//! Bodies in chunks (RFC 9112, section 7.1), taken apart as they come. Pure functions on bytes.
//!
//! ```text
//! | size, hexadecimal | ;extensions | CR LF | that many bytes | CR LF | ... | 0 CR LF | trailer lines | CR LF |
//! ```
//!
//! Extensions and trailers are read, within limits, and dropped. Line ends must be whole: whoever reads a bare LF in other
//! ways than the machine in front of it can be lied to about where a message ends.
//!
//! Owns: where payload lies. Holds none of it. Leaves to others: whether a body is in chunks, what its bytes mean.

use std::error::Error;
use std::fmt;
use std::ops::Range;

/// The most bytes of extensions in one chunk, and of trailers in all.
pub const MAX_EXTRA_BYTES: usize = 8 * 1024;

/// Reads one body.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    /// Of the chunk that is being read.
    left: u64,
    extra: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the size; whether a digit was there.
    Size(bool),
    Extension,
    SizeEnd,
    Payload,
    PayloadCr,
    PayloadLf,
    /// At the start of a trailer line.
    Trailer,
    TrailerLine,
    TrailerLineEnd,
    End,
    Done,
}

/// What a look at some bytes brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes from the start that are done with.
    pub taken: usize,
    /// Where in them the payload lies; empty if there is none.
    pub payload: Range<usize>,
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Size(false), left: 0, extra: 0 }
    }

    /// Whether the body has ended. Bytes behind it are not taken.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes bytes up to the end of the first run of payload, or of `bytes`. Takes nothing only if `bytes` is empty or
    /// the body has ended.
    ///
    /// # Errors
    /// [`ChunkedError`]; there is no going on then.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, ChunkedError> {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            match self.state {
                State::Payload => {
                    let room = bytes.len() - taken;
                    let length = usize::try_from(self.left).map_or(room, |left| left.min(room));
                    self.left -= length as u64;
                    if self.left == 0 {
                        self.state = State::PayloadCr;
                    }
                    return Ok(Decoded { taken: taken + length, payload: taken..taken + length });
                }
                State::Done => break,
                _ => self.framing(byte)?,
            }
            taken += 1;
        }
        Ok(Decoded { taken, payload: taken..taken })
    }

    fn framing(&mut self, byte: u8) -> Result<(), ChunkedError> {
        self.state = match (self.state, byte) {
            (State::Size(_), digit) if digit.is_ascii_hexdigit() => {
                let value = char::from(digit).to_digit(16).map_or(0, u64::from);
                self.left = self.left.checked_mul(16).map(|left| left | value).ok_or(ChunkedError::Size)?;
                State::Size(true)
            }
            (State::Size(true), b';' | b' ' | b'\t') => {
                self.extra = 0;
                State::Extension
            }
            (State::Size(true) | State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, byte) if byte != b'\n' => {
                self.count_extra()?;
                State::Extension
            }
            (State::SizeEnd, b'\n') if self.left > 0 => State::Payload,
            (State::SizeEnd, b'\n') => {
                self.extra = 0;
                State::Trailer
            }
            (State::PayloadCr, b'\r') => State::PayloadLf,
            (State::PayloadLf, b'\n') => State::Size(false),
            (State::Trailer, b'\r') => State::End,
            (State::TrailerLine, b'\r') => State::TrailerLineEnd,
            (State::Trailer | State::TrailerLine, byte) if byte != b'\n' => {
                self.count_extra()?;
                State::TrailerLine
            }
            (State::TrailerLineEnd, b'\n') => State::Trailer,
            (State::End, b'\n') => State::Done,
            (State::Size(_), _) => return Err(ChunkedError::Size),
            (State::PayloadCr | State::PayloadLf, _) => return Err(ChunkedError::Overrun),
            (_, _) => return Err(ChunkedError::LineEnd),
        };
        Ok(())
    }

    fn count_extra(&mut self) -> Result<(), ChunkedError> {
        self.extra += 1;
        if self.extra > MAX_EXTRA_BYTES { Err(ChunkedError::TooMuchExtra) } else { Ok(()) }
    }
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Why bytes are no body in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkedError {
    /// A chunk's size is not hexadecimal, or does not fit 64 bits.
    Size,
    /// A chunk is longer than its size.
    Overrun,
    /// A line that does not end with CR and LF.
    LineEnd,
    /// More than [`MAX_EXTRA_BYTES`] of extensions or trailers.
    TooMuchExtra,
}

impl fmt::Display for ChunkedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size => f.write_str("a chunk's size is no hexadecimal number of up to 64 bits"),
            Self::Overrun => f.write_str("a chunk goes on where its size says that it ends"),
            Self::LineEnd => f.write_str("a line between chunks does not end with CR LF"),
            Self::TooMuchExtra => write!(f, "chunk extensions or trailers are longer than {MAX_EXTRA_BYTES} bytes"),
        }
    }
}

impl Error for ChunkedError {}
