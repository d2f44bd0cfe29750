//! The body of an HTTP/1.1 response (RFC 9112, section 6): where it ends, and its bytes without the chunks around them.
//!
//! The decoder is pure: bytes go in as they come, it says which of them are body, and keeps nothing of them. [`read_body`]
//! reads a short one whole. Leaves to others: the head (`response`), the bytes around chunks (`chunked`).

use std::error::Error;
use std::fmt;
use std::io;

use smol::io::{AsyncRead, AsyncReadExt};

use crate::chunked::{ChunkedDecoder, ChunkedError, Decoded};
use crate::response::ResponseHead;

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

#[derive(Debug)]
enum State {
    /// So many bytes of body, and then the end.
    Length(u64),
    UntilClose,
    Chunked(ChunkedDecoder),
}

impl BodyDecoder {
    /// For a body that begins now.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Length(0),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(ChunkedDecoder::new()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Deals with the beginning of `input`: up to the end of the first piece of body in it. Takes nothing only of an empty
    /// input, or when the body is complete.
    ///
    /// # Errors
    /// [`BodyError`]: the chunks are malformed. The decoder is not to be used any more.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        let count = match &mut self.state {
            State::Chunked(chunks) => return chunks.decode(input).map_err(BodyError::Chunk),
            State::UntilClose => input.len(),
            State::Length(left) => {
                let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= count as u64;
                count
            }
        };
        Ok(Decoded { taken: count, payload: 0..count })
    }

    /// Whether all of the body was there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.state {
            State::Length(left) => *left == 0,
            State::Chunked(chunks) => chunks.is_done(),
            State::UntilClose => false,
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// [`BodyError::Cut`], unless the body was complete or is one that ends like this.
    pub fn end(&self) -> Result<(), BodyError> {
        if self.is_complete() || matches!(self.state, State::UntilClose) { Ok(()) } else { Err(BodyError::Cut) }
    }
}

/// Reads all of a body of at most `limit` bytes; `behind_head` is what came in with its head.
///
/// # Errors
/// [`ReadBodyError`]. A length that is announced and too long is refused before anything is read.
pub async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    behind_head: &[u8],
    framing: Framing,
    limit: usize,
) -> Result<Vec<u8>, ReadBodyError> {
    if matches!(framing, Framing::Length(length) if length > limit as u64) {
        return Err(ReadBodyError::TooLong { limit });
    }
    let mut decoder = BodyDecoder::new(framing);
    let mut body = Vec::new();
    let mut received = behind_head;
    let mut buffer = [0; 2048];
    loop {
        while !received.is_empty() && !decoder.is_complete() {
            let decoded = decoder.decode(received).map_err(ReadBodyError::Body)?;
            body.extend_from_slice(&received[decoded.payload]);
            received = &received[decoded.taken..];
        }
        if body.len() > limit {
            return Err(ReadBodyError::TooLong { limit });
        }
        if decoder.is_complete() {
            return Ok(body);
        }
        let count = stream.read(&mut buffer).await.map_err(ReadBodyError::Io)?;
        if count == 0 {
            return decoder.end().map(|()| body).map_err(ReadBodyError::Body);
        }
        received = &buffer[..count];
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
    Chunk(ChunkedError),
    /// The connection ended before the body did.
    Cut,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("the response has a Content-Length that is no number, or several"),
            Self::Coding => f.write_str("the response has a Transfer-Encoding other than chunked"),
            Self::Chunk(error) => write!(f, "the response is malformed: {error}"),
            Self::Cut => f.write_str("the connection ended before the response did"),
        }
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Chunk(error) => Some(error),
            Self::Length | Self::Coding | Self::Cut => None,
        }
    }
}

/// Why a body was not read.
#[derive(Debug)]
pub enum ReadBodyError {
    /// The connection broke.
    Io(io::Error),
    /// It is malformed, or was cut.
    Body(BodyError),
    /// It is longer than its reader allows.
    TooLong {
        /// That many bytes.
        limit: usize,
    },
}

impl fmt::Display for ReadBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the connection broke before the response was complete: {error}"),
            Self::Body(error) => error.fmt(f),
            Self::TooLong { limit } => write!(f, "the response is longer than {limit} bytes"),
        }
    }
}

impl Error for ReadBodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Body(error) => Some(error),
            Self::TooLong { .. } => None,
        }
    }
}

/// Digits and nothing else, as `parse` alone would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
