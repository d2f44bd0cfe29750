//! HTTP/1.1 as far as handshakes and short answers need it (RFC 9112, RFC 6455 section 4).
//!
//! Owns: reading a request head in bounded memory, judging a WebSocket handshake. Leaves to others: answers (`response.rs`),
//! deadlines, what an address means, bodies (`relay`).

mod response;

use std::error::Error;
use std::fmt;
use std::io;

use smol::io::{AsyncRead, AsyncReadExt};

pub use response::Response;
pub(crate) use response::{discard, reason_phrase};

/// The longest request head in bytes, request line and blank line included. Longer ones are answered 431.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The most header lines in one head. More are answered 431.
pub const MAX_HEADERS: usize = 100;

const READ_BYTES: usize = 2048;

/// The longest `Sec-WebSocket-Key` answered. RFC 6455 says 24 characters, some clients' are not random or not quite that.
const MAX_KEY_BYTES: usize = 128;

/// Characters of a request's path in a log line: longer than an entity's path, shorter than what an attacker sends.
const MAX_SHOWN_CHARS: usize = 300;

/// A request up to the blank line.
#[derive(Clone)]
pub struct RequestHead {
    /// As sent, in capitals by custom.
    pub method: String,
    /// Of HTTP/1: 0 or 1.
    pub minor_version: u8,
    /// Path and query. The scheme and authority of a target in absolute form are cut off.
    pub target: String,
    /// Names as sent, values decoded as UTF-8 or else Latin-1, in the order they came.
    pub headers: Vec<(String, String)>,
}

impl RequestHead {
    /// Reads one head from `stream`: the head, and the bytes that followed it in the same read.
    ///
    /// # Errors
    /// [`HeadError`]; [`HeadError::response`] is what to answer.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(Self, Vec<u8>), HeadError> {
        Self::read_behind(stream, Vec::new()).await
    }

    /// As [`RequestHead::read`], for a head that begins with the bytes `leftover`.
    ///
    /// # Errors
    /// As for [`RequestHead::read`].
    pub async fn read_behind<S: AsyncRead + Unpin>(
        stream: &mut S,
        leftover: Vec<u8>,
    ) -> Result<(Self, Vec<u8>), HeadError> {
        let mut buf = leftover;
        let mut looked_at = 0;
        loop {
            match head_end(&buf, looked_at) {
                Some(end) if end <= MAX_HEAD_BYTES => {
                    let leftover = buf.split_off(end);
                    return Ok((Self::parse(&buf)?, leftover));
                }
                None if buf.len() < MAX_HEAD_BYTES => {}
                Some(_) | None => return Err(HeadError::TooLong),
            }
            let filled = buf.len();
            buf.resize(filled + READ_BYTES, 0);
            let n = stream.read(&mut buf[filled..]).await.map_err(HeadError::Io)?;
            buf.truncate(filled + n);
            if n == 0 {
                return Err(if filled == 0 { HeadError::Closed } else { HeadError::Truncated });
            }
            looked_at = filled;
        }
    }

    /// The target's path, without the query, which may hold a token.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// What of [`RequestHead::path`] may be shown in a log line.
    #[must_use]
    pub fn shown_path(&self) -> String {
        self.path().chars().filter(|char| !char.is_control()).take(MAX_SHOWN_CHARS).collect()
    }

    /// The first header of this name, ignoring case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// The entries of all headers of this name, split at commas, trimmed, empty ones left out.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).flat_map(|value| value.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
    }

    /// Judges the head as a WebSocket handshake and returns its `Sec-WebSocket-Key`.
    ///
    /// # Errors
    /// [`HandshakeError`]; [`HandshakeError::response`] is what to answer.
    pub fn websocket_key(&self) -> Result<&str, HandshakeError> {
        let names = |name, token: &str| self.list(name).any(|entry| entry.eq_ignore_ascii_case(token));
        if self.method != "GET" || !names("upgrade", "websocket") || !names("connection", "upgrade") {
            return Err(HandshakeError::NotWebSocket);
        }
        if self.header("sec-websocket-version").map(str::trim) != Some("13") {
            return Err(HandshakeError::Version);
        }
        match self.header("sec-websocket-key").map(str::trim) {
            Some(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => Ok(key),
            _ => Err(HandshakeError::Key),
        }
    }

    fn values<'h>(&'h self, name: &str) -> impl Iterator<Item = &'h str> {
        self.headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn parse(head: &[u8]) -> Result<Self, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HeadError::Truncated),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLong),
            Err(error) => return Err(HeadError::Malformed(error)),
        }
        let headers = request.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
        Ok(Self {
            method: request.method.unwrap_or_default().to_owned(),
            minor_version: request.version.unwrap_or_default(),
            target: origin_form(request.path.unwrap_or_default()).to_owned(),
            headers,
        })
    }
}

/// Leaves out header values and the query: both may hold tokens.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead").field("method", &self.method).field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Why there is no request head.
#[derive(Debug)]
pub enum HeadError {
    /// The client left without a word.
    Closed,
    /// The client left in the middle of the head.
    Truncated,
    /// More than [`MAX_HEAD_BYTES`] or [`MAX_HEADERS`].
    TooLong,
    /// Not HTTP/1.
    Malformed(httparse::Error),
    /// The connection failed.
    Io(io::Error),
}

impl HeadError {
    /// What to answer, if there is anybody left to answer to.
    #[must_use]
    pub fn response(&self) -> Option<Response> {
        match self {
            Self::Closed | Self::Truncated | Self::Io(_) => None,
            Self::TooLong => Some(Response::new(431, "Request header fields are larger than 32 KiB or more than 100")),
            Self::Malformed(error) => Some(Response::new(400, &format!("Malformed HTTP request: {error}"))),
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed before a request"),
            Self::Truncated => f.write_str("the connection was closed in the middle of a request head"),
            Self::TooLong => write!(f, "the request head has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} lines"),
            Self::Malformed(error) => write!(f, "the request is not HTTP/1: {error}"),
            Self::Io(error) => write!(f, "reading a request failed: {error}"),
        }
    }
}

impl Error for HeadError {}

/// Why a request is no WebSocket handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeError {
    /// Another method than GET, or no `Upgrade: websocket`, or it is not listed in `Connection`.
    NotWebSocket,
    /// Another `Sec-WebSocket-Version` than 13, or none.
    Version,
    /// No `Sec-WebSocket-Key`, or one of absurd length.
    Key,
}

impl HandshakeError {
    /// What to answer.
    #[must_use]
    pub fn response(&self) -> Response {
        match self {
            Self::NotWebSocket => Response::new(400, "A WebSocket handshake is expected here"),
            Self::Version => {
                Response::new(426, "WebSocket version 13 is expected").header("Sec-WebSocket-Version", "13")
            }
            Self::Key => Response::new(400, "The WebSocket handshake has no Sec-WebSocket-Key"),
        }
    }
}

/// Where the head ends: behind the first empty line. The first `known` bytes were looked at before.
fn head_end(buf: &[u8], known: usize) -> Option<usize> {
    let start = known.saturating_sub(2);
    let line_ends = buf.iter().enumerate().skip(start).filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    line_ends.into_iter().find_map(|line| match &buf[line..] {
        [b'\n', ..] => Some(line + 1),
        [b'\r', b'\n', ..] => Some(line + 2),
        _ => None,
    })
}

/// Path and query of a request target that may be in absolute form (RFC 9112, section 3.2.2).
fn origin_form(target: &str) -> &str {
    match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    }
}

fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(|&byte| char::from(byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use smol::block_on;
    use smol::io::Cursor;

    use super::*;

    fn read(bytes: &[u8]) -> Result<(RequestHead, Vec<u8>), HeadError> {
        block_on(RequestHead::read(&mut Cursor::new(bytes.to_vec())))
    }

    fn handshake(lines: &str) -> RequestHead {
        read(format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n").as_bytes()).unwrap().0
    }

    #[test]
    fn a_head_is_split_from_what_follows_it() {
        let (head, leftover) = read(b"GET /$hc/a?b HTTP/1.1\r\nHost: x\r\n\r\n\x81\x80").unwrap();
        assert_eq!((head.method.as_str(), head.target.as_str()), ("GET", "/$hc/a?b"));
        assert_eq!(head.header("host"), Some("x"));
        assert_eq!(leftover, b"\x81\x80");
    }

    #[test]
    fn the_end_is_found_wherever_the_reads_cut() {
        let bytes = b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest";
        let end = bytes.len() - 4;
        for known in 0..end {
            assert_eq!(head_end(&bytes[..known], 0), None, "{known}");
            assert_eq!(head_end(bytes, known), Some(end), "{known}");
        }
        assert_eq!(head_end(b"GET / HTTP/1.1\nA: b\n\nrest", 0), Some(21));
        assert_eq!(head_end(b"GET / HTTP/1.1\nA: b\r\n\nrest", 0), Some(22));
    }

    #[test]
    fn an_absolute_target_loses_its_origin() {
        let (head, _) = read(b"GET http://relay.example:80/a?u=http://b/c HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(head.target, "/a?u=http://b/c");
        assert_eq!(origin_form("/a?u=http://b/c"), "/a?u=http://b/c");
        assert_eq!(origin_form("http://relay.example"), "/");
    }

    #[test]
    fn header_names_that_are_digits_and_values_that_are_not_utf8_are_accepted() {
        let (head, _) =
            read(b"GET / HTTP/1.1\r\n0: Sec-WebSocket-Extensions: x\r\nA: \xe9\r\nB: \xc3\xa9\r\n\r\n").unwrap();
        assert_eq!(head.header("0"), Some("Sec-WebSocket-Extensions: x"));
        assert_eq!(head.header("a"), Some("é"));
        assert_eq!(head.header("b"), Some("é"));
    }

    #[test]
    fn heads_that_are_too_long_are_refused_without_being_read_to_the_end() {
        let mut bytes = b"GET / HTTP/1.1\r\nA: ".to_vec();
        bytes.resize(MAX_HEAD_BYTES - 4, b'a');
        bytes.extend_from_slice(b"\r\n\r\n");
        assert!(read(&bytes).is_ok());
        bytes.insert(20, b'a');
        assert!(matches!(read(&bytes), Err(HeadError::TooLong)));

        let mut endless = Cursor::new(vec![b'a'; 10 * MAX_HEAD_BYTES]);
        let error = block_on(RequestHead::read(&mut endless)).unwrap_err();
        assert_eq!(error.response().unwrap().status(), 431);
        assert!(endless.position() <= (MAX_HEAD_BYTES + READ_BYTES) as u64);

        let lines = "A: b\r\n".repeat(MAX_HEADERS + 1);
        let error = read(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap_err();
        assert_eq!(error.response().unwrap().status(), 431);
    }

    #[test]
    fn what_is_no_http_is_told_apart_from_what_is_cut_short() {
        assert!(matches!(read(b""), Err(HeadError::Closed)));
        assert!(matches!(read(b"GET / HT"), Err(HeadError::Truncated)));
        let error = read(b"\x16\x03\x01\x00\x00\r\n\r\n").unwrap_err();
        assert_eq!(error.response().unwrap().status(), 400);
    }

    #[test]
    fn a_handshake_needs_its_four_headers() {
        let good = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k";
        assert_eq!(handshake(good).websocket_key(), Ok("k"));
        for (from, to, error) in [
            ("Upgrade: WebSocket", "Upgrade: h2c", HandshakeError::NotWebSocket),
            ("keep-alive, Upgrade", "keep-alive", HandshakeError::NotWebSocket),
            ("Version: 13", "Version: 8", HandshakeError::Version),
            ("-Key: k", "-Key: ", HandshakeError::Key),
            ("-Key: k", "-Kez: k", HandshakeError::Key),
        ] {
            assert_eq!(handshake(&good.replace(from, to)).websocket_key(), Err(error), "{to}");
        }
    }
}
