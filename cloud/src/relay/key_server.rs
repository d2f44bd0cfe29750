//! Where an issuer publishes its keys: one `GET` over HTTPS, in bounded time and memory.
//!
//! ```text
//! GET {path} HTTP/1.1 ── Connection: close ──►   ◄── 200, a JSON Web Key Set, by length, in chunks, or to the end
//! ```
//!
//! Redirects are not followed: the operator names the place itself.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use umbilical_link::dial::DialError;
use umbilical_link::response::{ResponseError, ResponseHead, read_head};
use umbilical_link::transport::Transport;
use umbilical_relay_protocol::{KeySet, KeySetError};

use super::config::KeyServer;
use crate::deadline;

/// From the first packet to the last byte. A handshake may be waiting for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest key set taken, framing included. Entra's is about 20 KiB.
const MAX_BODY_BYTES: usize = 256 * 1024;

const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Fetches a key set.
///
/// # Errors
/// [`FetchError`].
pub(crate) async fn fetch(server: &KeyServer) -> Result<KeySet, FetchError> {
    let fetched = async {
        let mut transport = server.dialer.dial(&server.target).await.map_err(FetchError::Dial)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nUser-Agent: umbilical-cloud/{}\r\nConnection: close\r\n\r\n",
            server.path,
            server.host_header(),
            env!("CARGO_PKG_VERSION"),
        );
        transport.write_all(request.as_bytes()).await.map_err(FetchError::Io)?;
        transport.flush().await.map_err(FetchError::Io)?;
        read_body(&mut transport).await
    };
    let body = deadline::within(TIMEOUT, fetched).await.ok_or(FetchError::TimedOut)??;
    let text = String::from_utf8(body).map_err(|_| FetchError::NotText)?;
    KeySet::parse(&text).map_err(FetchError::Keys)
}

async fn read_body(transport: &mut Transport) -> Result<Vec<u8>, FetchError> {
    let mut buffer = Vec::new();
    let end = read_head(transport, &mut buffer, MAX_HEAD_BYTES).await.map_err(FetchError::Response)?;
    let mut received = buffer.split_off(end);
    let head = ResponseHead::parse(&buffer).map_err(FetchError::Response)?;
    if head.status != 200 {
        return Err(FetchError::Status { status: head.status, reason: head.reason });
    }
    let framing = Framing::of(&head)?;
    let mut chunk = [0; 8192];
    loop {
        if let Some(body) = framing.body(&received, false)? {
            return Ok(body);
        }
        if received.len() > MAX_BODY_BYTES {
            return Err(FetchError::TooLong);
        }
        match transport.read(&mut chunk).await {
            Ok(0) => return framing.body(&received, true)?.ok_or(FetchError::Truncated),
            Ok(n) => received.extend_from_slice(&chunk[..n]),
            Err(error) => return Err(FetchError::Io(error)),
        }
    }
}

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    ToEnd,
}

impl Framing {
    fn of(head: &ResponseHead<'_>) -> Result<Self, FetchError> {
        if head.has_token("transfer-encoding", "chunked") {
            return Ok(Self::Chunked);
        }
        let Some(length) = head.only("content-length") else { return Ok(Self::ToEnd) };
        let length = str::from_utf8(length).ok().and_then(|text| text.trim().parse().ok());
        match length {
            Some(length) if length <= MAX_BODY_BYTES => Ok(Self::Length(length)),
            Some(_) => Err(FetchError::TooLong),
            None => Err(FetchError::Framing),
        }
    }

    /// The body, if `received` holds all of it; `ended` if nothing more will come.
    fn body(self, received: &[u8], ended: bool) -> Result<Option<Vec<u8>>, FetchError> {
        match self {
            Self::Length(length) => Ok(received.get(..length).map(<[u8]>::to_vec)),
            Self::ToEnd => Ok(ended.then(|| received.to_vec())),
            Self::Chunked => without_chunks(received),
        }
    }
}

fn without_chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, FetchError> {
    let mut body = Vec::new();
    loop {
        let (data, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(FetchError::Framing),
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_BODY_BYTES).ok_or(FetchError::TooLong)?;
        // the line break behind the data comes with it
        let Some(chunk) = rest.get(data..data + size + 2) else { return Ok(None) };
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[data + size + 2..];
    }
}

/// Why there is no key set.
#[derive(Debug)]
pub(crate) enum FetchError {
    /// No connection.
    Dial(DialError),
    /// The connection broke.
    Io(io::Error),
    /// What came is no HTTP.
    Response(ResponseError),
    /// Another answer than 200.
    Status { status: u16, reason: String },
    /// Neither a length nor chunks that make sense.
    Framing,
    /// The connection ended in the middle of it.
    Truncated,
    /// Longer than [`MAX_BODY_BYTES`].
    TooLong,
    /// Not UTF-8.
    NotText,
    /// No key set.
    Keys(KeySetError),
    /// Not done within [`TIMEOUT`].
    TimedOut,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the connection broke: {error}"),
            Self::Response(error) => error.fmt(f),
            Self::Status { status, reason } => {
                write!(f, "the answer is {status} {reason}, expected 200; check the URL")
            }
            Self::Framing => f.write_str("the answer's length or its chunks make no sense"),
            Self::Truncated => f.write_str("the connection ended in the middle of the answer"),
            Self::TooLong => write!(f, "the answer is longer than {MAX_BODY_BYTES} bytes; check the URL"),
            Self::NotText => f.write_str("the answer is not UTF-8; check the URL"),
            Self::Keys(error) => error.fmt(f),
            Self::TimedOut => write!(f, "the answer was not complete within {TIMEOUT:?}"),
        }
    }
}

impl Error for FetchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Dial(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Response(error) => Some(error),
            Self::Keys(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(fields: &str) -> Result<Framing, FetchError> {
        Framing::of(&ResponseHead::parse(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).unwrap())
    }

    #[test]
    fn chunks_are_joined_wherever_they_are_cut() {
        let sent = b"3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\n\r\n";
        for end in 0..sent.len() - 2 {
            let whole = without_chunks(&sent[..end]).unwrap();
            assert!(whole.is_none(), "{end}");
        }
        assert_eq!(without_chunks(sent).unwrap().unwrap(), b"abc0123456789");
        assert!(matches!(without_chunks(b"x\r\n"), Err(FetchError::Framing)));
        assert!(matches!(without_chunks(b"ffffffff\r\n"), Err(FetchError::TooLong)));
        assert!(matches!(without_chunks(b"ffffffffffffffff\r\n"), Err(FetchError::TooLong)));
    }

    #[test]
    fn the_end_is_known_by_length_by_chunks_or_by_the_connection() {
        assert_eq!(framing("Content-Length: 3\r\n").unwrap(), Framing::Length(3));
        assert_eq!(framing("").unwrap(), Framing::ToEnd);
        assert_eq!(framing("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n").unwrap(), Framing::Chunked);
        assert!(matches!(framing("Content-Length: 18446744073709551615\r\n"), Err(FetchError::TooLong)));
        assert!(matches!(framing("Content-Length: -1\r\n"), Err(FetchError::Framing)));
        assert_eq!(Framing::Length(2).body(b"abc", false).unwrap().unwrap(), b"ab");
        assert_eq!(Framing::Length(4).body(b"abc", true).unwrap(), None);
        assert_eq!(Framing::ToEnd.body(b"abc", false).unwrap(), None);
        assert_eq!(Framing::ToEnd.body(b"abc", true).unwrap().unwrap(), b"abc");
    }
}
