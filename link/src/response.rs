//! The head of an HTTP/1.1 response, read with a limit: what `proxy` and `upgrade` have in common.
//!
//! Owns: finding the end of the head, status, reason phrase, `Date` and `Retry-After`. Leaves to others: what a status
//! means, and whatever follows the head.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use smol::io::{AsyncRead, AsyncReadExt};

/// The most header fields a response may have.
pub const MAX_FIELDS: usize = 64;

/// The most characters of a reason phrase that are kept.
pub const MAX_REASON_CHARS: usize = 256;

/// A parsed head; names and values borrow from the bytes it was parsed from.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// The status code, three digits.
    pub status: u16,
    /// The reason phrase, made fit for a log line: no control characters, at most [`MAX_REASON_CHARS`].
    pub reason: String,
    fields: Vec<httparse::Header<'a>>,
}

impl<'a> ResponseHead<'a> {
    /// Parses a head that ends with its empty line, as [`read_head`] delivers it.
    ///
    /// # Errors
    /// [`ResponseError::Malformed`].
    pub fn parse(head: &'a [u8]) -> Result<Self, ResponseError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(ResponseError::Malformed(httparse::Error::NewLine)),
            Err(error) => return Err(ResponseError::Malformed(error)),
        }
        Ok(Self {
            status: parsed.code.unwrap_or_default(),
            reason: reason_phrase(head),
            fields: parsed.headers.to_vec(),
        })
    }

    /// Name and value of every field, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter().map(|field| (field.name, field.value))
    }

    /// The values of all fields called `name`, in order, without surrounding blanks.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The value of the only field called `name`; `None` if there is none, or more than one.
    pub fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether any field called `name` has `token` in its comma-separated list, whatever its case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// When the response was made by the server's clock (`Date`), in Unix seconds.
    pub fn date(&self) -> Option<u64> {
        parse_date(self.only("date")?)
    }

    /// How long to stay away (`Retry-After`). A point in time is counted from the response's own `Date`, so this
    /// machine's clock does not matter; without a `Date` it is `None`. Not bounded: the server may ask for years.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.only("retry-after")?;
        if let Some(seconds) = str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
            return Some(Duration::from_secs(seconds));
        }
        Some(Duration::from_secs(parse_date(value)?.saturating_sub(self.date()?)))
    }
}

/// Reads from `stream` behind what `buffer` already holds, until it holds a whole head, and returns the head's length.
/// What came after it is in `buffer` too.
///
/// The buffer never grows beyond `limit` bytes and what was to be read together with its end.
///
/// # Errors
/// [`ResponseError`], for bytes that are no HTTP as soon as that is clear.
pub async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    limit: usize,
) -> Result<usize, ResponseError> {
    let mut searched = 0;
    loop {
        if !buffer.starts_with(&HTTP_1[..buffer.len().min(HTTP_1.len())]) {
            return Err(ResponseError::not_http(buffer));
        }
        match find_end(buffer, searched) {
            Some(end) if end <= limit => return Ok(end),
            Some(_) => return Err(ResponseError::TooLarge { limit }),
            None if buffer.len() >= limit => return Err(ResponseError::TooLarge { limit }),
            None => searched = buffer.len(),
        }
        let mut chunk = [0; READ_BYTES];
        let count = stream.read(&mut chunk).await.map_err(ResponseError::Io)?;
        if count == 0 {
            return Err(ResponseError::Closed { after: buffer.len() });
        }
        buffer.extend_from_slice(&chunk[..count]);
    }
}

/// Why there is no response head.
#[derive(Debug)]
#[non_exhaustive]
pub enum ResponseError {
    /// The connection broke.
    Io(io::Error),
    /// The connection was closed before the head was complete.
    Closed {
        /// Bytes that had come.
        after: usize,
    },
    /// The head is longer than allowed.
    TooLarge {
        /// The most that is allowed, in bytes.
        limit: usize,
    },
    /// Something else than HTTP/1 answered.
    NotHttp {
        /// The first bytes, escaped.
        start: String,
    },
    /// The head breaks the rules of HTTP.
    Malformed(httparse::Error),
}

impl ResponseError {
    fn not_http(bytes: &[u8]) -> Self {
        Self::NotHttp { start: bytes[..bytes.len().min(SHOWN_BYTES)].escape_ascii().to_string() }
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the connection broke before the response was complete: {error}"),
            Self::Closed { after: 0 } => write!(f, "the connection was closed without a response"),
            Self::Closed { after } => write!(f, "the connection was closed after {after} bytes of the response"),
            Self::TooLarge { limit } => write!(f, "the response has a head of more than {limit} bytes"),
            Self::NotHttp { start } => {
                write!(f, "the response is not HTTP, it begins with \"{start}\"; check host, port and scheme")
            }
            Self::Malformed(error) => write!(f, "the response is malformed: {error}"),
        }
    }
}

impl Error for ResponseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Malformed(error) => Some(error),
            Self::Closed { .. } | Self::TooLarge { .. } | Self::NotHttp { .. } => None,
        }
    }
}

const HTTP_1: &[u8] = b"HTTP/1.";
const READ_BYTES: usize = 1024;
const SHOWN_BYTES: usize = 24;

/// Where the head ends, empty line included; the first `searched` bytes are known not to contain the end. Bare line
/// feeds count as line ends (RFC 9112, section 2.2).
fn find_end(bytes: &[u8], searched: usize) -> Option<usize> {
    let ends = |&at: &usize| {
        let before = &bytes[..at];
        bytes[at] == b'\n' && before.strip_suffix(b"\r").unwrap_or(before).ends_with(b"\n")
    };
    (searched..bytes.len()).find(ends).map(|at| at + 1)
}

/// The text after the status code. Taken from the bytes, because the parser drops phrases that are not ASCII.
fn reason_phrase(head: &[u8]) -> String {
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let phrase = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    printable(phrase)
}

/// Foreign bytes as text for a log line: control characters become blanks, and it stays short.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim()
        .chars()
        .take(MAX_REASON_CHARS)
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect()
}

fn parse_date(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}
