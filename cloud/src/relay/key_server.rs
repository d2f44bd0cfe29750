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

use smol::io::AsyncWriteExt;
use umbilical_link::body::{Framing, ReadBodyError, read_body};
use umbilical_link::dial::DialError;
use umbilical_link::response::{ResponseError, ResponseHead, read_head};
use umbilical_link::transport::Transport;
use umbilical_relay_protocol::{KeySet, KeySetError};

use super::config::KeyServer;
use crate::deadline;

/// From the first packet to the last byte. A handshake may be waiting for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest key set taken. Entra's is about 20 KiB.
const MAX_KEYS_BYTES: usize = 256 * 1024;

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
        read_keys(&mut transport).await
    };
    let body = deadline::within(TIMEOUT, fetched).await.ok_or(FetchError::TimedOut)??;
    let text = String::from_utf8(body).map_err(|_| FetchError::NotText)?;
    KeySet::parse(&text).map_err(FetchError::Keys)
}

async fn read_keys(transport: &mut Transport) -> Result<Vec<u8>, FetchError> {
    let mut buffer = Vec::new();
    let end = read_head(transport, &mut buffer, MAX_HEAD_BYTES).await.map_err(FetchError::Response)?;
    let (head, behind_head) = buffer.split_at(end);
    let head = ResponseHead::parse(head).map_err(FetchError::Response)?;
    if head.status != 200 {
        return Err(FetchError::Status { status: head.status, reason: head.reason });
    }
    let framing = Framing::of(&head, "GET").map_err(|error| FetchError::Body(ReadBodyError::Body(error)))?;
    read_body(transport, behind_head, framing, MAX_KEYS_BYTES).await.map_err(FetchError::Body)
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
    /// It has no end that makes sense, was cut, or is longer than [`MAX_KEYS_BYTES`].
    Body(ReadBodyError),
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
            Self::Body(error @ ReadBodyError::TooLong { .. }) => write!(f, "{error}; check the URL"),
            Self::Body(error) => error.fmt(f),
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
            Self::Body(error) => Some(error),
            Self::Keys(error) => Some(error),
            _ => None,
        }
    }
}
