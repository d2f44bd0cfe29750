//! The client's side of the WebSocket opening handshake (RFC 6455, section 4.1) on a connection that is already there.
//!
//! Owns: the request, the checks of the response, and what a refusal says. Leaves to others: dialling, redirects (a 3xx
//! is a refusal like any other), deadlines, frames. No extension is offered and none is accepted.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use data_encoding::BASE64;
use ring::digest;
use smol::io::AsyncWriteExt;

use crate::response::{ResponseError, ResponseHead, printable, read_head};
use crate::transport::Transport;

/// The most bytes of response before the WebSocket begins.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024;

/// A response field by which a server says that it takes masks of zeros: name and value. A mask keeps what a client says
/// from being taken for another protocol by an intermediary that sees it (RFC 6455, section 10.3). Under TLS nobody
/// between the two sees it, and where both ends are ours the work can be saved; without TLS the field means nothing.
pub const ZERO_MASK: (&str, &str) = ("Umbilical-Mask", "zero");

/// A response field by which a relay says that pings are answered here, by itself or by the far end: name and value. Not
/// every relay takes them, and a client that asks one which does notices a dead path that looks alive.
pub const ANSWERS_PINGS: (&str, &str) = ("Umbilical-Keep-Alive", "ping");

/// Which side of a WebSocket this is: a client masks its frames, a server does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The side that asked for the upgrade.
    Client,
    /// The side that granted it.
    Server,
}

/// What to ask for. `Debug` leaves out the target's query and the values of the headers: tokens travel there.
#[derive(Clone)]
pub struct UpgradeRequest<'a> {
    /// The `Host` field: host, and port unless it is the scheme's default.
    pub authority: &'a str,
    /// Path and query, as they go on the wire.
    pub target: &'a str,
    /// Further fields: name and value.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The one subprotocol to offer.
    pub subprotocol: Option<&'a str>,
}

/// A WebSocket that is open.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection.
    pub transport: Transport,
    /// Bytes that came right behind the response: the first of the WebSocket's.
    pub leftover: Vec<u8>,
    /// Which side this is.
    pub role: Role,
    /// The subprotocol the server chose; `None` if it ignored the offer, which it may.
    pub subprotocol: Option<String>,
    /// The server's clock, in Unix seconds, if it told.
    pub date: Option<u64>,
    /// A client's frames may be masked with zeros ([`ZERO_MASK`]).
    pub zero_mask: bool,
    /// A client's pings are answered ([`ANSWERS_PINGS`]).
    pub answers_pings: bool,
}

/// Asks for the WebSocket and waits for the answer, which may take as long as the server likes: the caller sets the
/// deadline. Dropping the future closes the connection.
///
/// # Errors
/// [`UpgradeError`]; the connection is closed.
pub async fn upgrade(mut transport: Transport, request: &UpgradeRequest<'_>) -> Result<Upgraded, UpgradeError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(UpgradeError::Randomness)?;
    let handshake = Handshake::new(request, nonce)?;
    transport.write_all(handshake.request()).await.map_err(UpgradeError::Write)?;
    transport.flush().await.map_err(UpgradeError::Write)?;

    let mut buffer = Vec::new();
    let mut limit = MAX_RESPONSE_BYTES;
    loop {
        let length = read_head(&mut transport, &mut buffer, limit).await?;
        let head = ResponseHead::parse(&buffer[..length])?;
        if is_interim(head.status) {
            buffer.drain(..length);
            limit -= length;
            continue;
        }
        let Accepted { subprotocol, date, zero_mask, answers_pings } = handshake.conclude(&head)?;
        buffer.drain(..length);
        let (leftover, role, zero_mask) = (buffer, Role::Client, zero_mask && transport.is_tls());
        return Ok(Upgraded { transport, leftover, role, subprotocol, date, zero_mask, answers_pings });
    }
}

/// The handshake without its I/O.
pub struct Handshake<'a> {
    request: Vec<u8>,
    accept: String,
    offered: Option<&'a str>,
}

/// What a server said when it agreed.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// As in [`Upgraded::subprotocol`].
    pub subprotocol: Option<String>,
    /// As in [`Upgraded::date`].
    pub date: Option<u64>,
    /// The server said [`ZERO_MASK`].
    pub zero_mask: bool,
    /// The server said [`ANSWERS_PINGS`].
    pub answers_pings: bool,
}

impl<'a> Handshake<'a> {
    /// Writes the request; `nonce` must be random and new for each handshake.
    ///
    /// # Errors
    /// [`UpgradeError::Request`], if a part of the request has characters that would break out of it.
    pub fn new(request: &UpgradeRequest<'a>, nonce: [u8; 16]) -> Result<Self, UpgradeError> {
        if !request.target.starts_with('/') || !request.target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UpgradeError::Request { part: "target".into() });
        }
        if request.authority.is_empty() || !request.authority.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UpgradeError::Request { part: "authority".into() });
        }
        if request.subprotocol.is_some_and(|name| !is_token(name)) {
            return Err(UpgradeError::Request { part: "subprotocol".into() });
        }
        if let Some((name, _)) = request.headers.iter().find(|(name, value)| !is_token(name) || !is_field_value(value))
        {
            return Err(UpgradeError::Request { part: format!("header {}", name.escape_debug()) });
        }

        let key = BASE64.encode(&nonce);
        let mut text = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\n",
            request.target, request.authority
        );
        let offer = request.subprotocol.map(|name| ("Sec-WebSocket-Protocol", name));
        for (name, value) in offer.iter().chain(&request.headers) {
            text.extend([name, ": ", value, "\r\n"]);
        }
        text.push_str("\r\n");
        Ok(Self { request: text.into_bytes(), accept: accept_key(&key), offered: request.subprotocol })
    }

    /// The request's bytes.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Judges the server's final response.
    ///
    /// # Errors
    /// [`UpgradeError::Refused`] for any status but 101; for a 101, what it breaks.
    pub fn conclude(&self, head: &ResponseHead<'_>) -> Result<Accepted, UpgradeError> {
        if head.status != SWITCHING_PROTOCOLS {
            return Err(UpgradeError::Refused {
                status: head.status,
                reason: head.reason.clone(),
                retry_after: head.retry_after(),
                date: head.date(),
            });
        }
        if !head.has_token("upgrade", "websocket") || !head.has_token("connection", "upgrade") {
            return Err(UpgradeError::NotWebSocket);
        }
        if head.only("sec-websocket-accept") != Some(self.accept.as_bytes()) {
            return Err(UpgradeError::WrongAccept);
        }
        if let Some(extension) = head.values("sec-websocket-extensions").find(|value| !value.is_empty()) {
            return Err(UpgradeError::Extension { name: printable(extension) });
        }
        let mut chosen = head.values("sec-websocket-protocol");
        let subprotocol = match (chosen.next(), chosen.next(), self.offered) {
            (None, _, _) => None,
            (Some(name), None, Some(offered)) if name == offered.as_bytes() => Some(offered.to_owned()),
            (Some(name), _, _) => return Err(UpgradeError::Subprotocol { name: printable(name) }),
        };
        let says = |(name, value): (&str, &str)| head.only(name) == Some(value.as_bytes());
        let (zero_mask, answers_pings) = (says(ZERO_MASK), says(ANSWERS_PINGS));
        Ok(Accepted { subprotocol, date: head.date(), zero_mask, answers_pings })
    }
}

impl fmt::Debug for UpgradeRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("UpgradeRequest")
            .field("authority", &self.authority)
            .field("path", &self.target.split('?').next().unwrap_or_default())
            .field("headers", &names)
            .field("subprotocol", &self.subprotocol)
            .finish()
    }
}

/// Why a WebSocket did not open.
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The system has no randomness to give.
    Randomness(getrandom::Error),
    /// A part of the request has characters that can't be sent there.
    Request {
        /// Which part; never its content.
        part: String,
    },
    /// The connection broke while the request was sent.
    Write(io::Error),
    /// No usable response came.
    Response(ResponseError),
    /// The server said no.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The reason phrase, fit for a log line.
        reason: String,
        /// How long the server wants to be left alone; not bounded.
        retry_after: Option<Duration>,
        /// The server's clock, in Unix seconds.
        date: Option<u64>,
    },
    /// Status 101 to something else than WebSocket.
    NotWebSocket,
    /// Status 101 without the proof that this request was understood.
    WrongAccept,
    /// The server wants an extension nobody offered.
    Extension {
        /// What it wants.
        name: String,
    },
    /// The server chose a subprotocol nobody offered.
    Subprotocol {
        /// What it chose.
        name: String,
    },
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Randomness(error) => write!(f, "the system has no randomness for a WebSocket key: {error}"),
            Self::Request { part } => {
                write!(f, "the {part} of the WebSocket request has characters that cannot be sent; check its source")
            }
            Self::Write(error) => write!(f, "the connection broke while the WebSocket request was sent: {error}"),
            Self::Response(error) => write!(f, "no answer to the WebSocket request: {error}"),
            Self::Refused { status, reason, .. } if reason.is_empty() => {
                write!(f, "the WebSocket was refused with status {status}")
            }
            Self::Refused { status, reason, .. } => {
                write!(f, "the WebSocket was refused with status {status}: {reason}")
            }
            Self::NotWebSocket => {
                write!(f, "the server switched to another protocol than WebSocket; check host, port and any proxy")
            }
            Self::WrongAccept => write!(
                f,
                "the server's Sec-WebSocket-Accept does not match the request; check for a cache or proxy in between"
            ),
            Self::Extension { name } => {
                write!(f, "the server wants the WebSocket extension {name:?}, which was not offered")
            }
            Self::Subprotocol { name } => {
                write!(f, "the server chose the WebSocket subprotocol {name:?}, which was not offered")
            }
        }
    }
}

impl Error for UpgradeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Randomness(error) => Some(error),
            Self::Write(error) => Some(error),
            Self::Response(error) => Some(error),
            Self::Request { .. }
            | Self::Refused { .. }
            | Self::NotWebSocket
            | Self::WrongAccept
            | Self::Extension { .. }
            | Self::Subprotocol { .. } => None,
        }
    }
}

impl From<ResponseError> for UpgradeError {
    fn from(error: ResponseError) -> Self {
        Self::Response(error)
    }
}

const SWITCHING_PROTOCOLS: u16 = 101;

/// RFC 9110, section 15.2: a client skips interim responses it did not expect.
const fn is_interim(status: u16) -> bool {
    status >= 100 && status < 200 && status != SWITCHING_PROTOCOLS
}

/// RFC 6455, section 4.2.2, item 5.4.
fn accept_key(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(context.finish().as_ref())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 9110, section 5.5, ASCII only.
fn is_field_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic())
}
