//! Messages on the control channel, and on request rendezvous: WebSocket text messages, each one JSON object with
//! exactly one member that names the command.
//!
//! ```text
//! relay -> listener   {"accept":{"address":..,"id":..,"connectHeaders":{..},"remoteEndpoint":{..}}}
//!                     {"request":{"address":..,"id":..,"requestTarget":..,"method":..,"requestHeaders":{..},"body":..}}
//!                     {"request":{"address":..}}                             fetch the request from a rendezvous
//! listener -> relay   {"response":{"requestId":..,"statusCode":..,"statusDescription":..,"responseHeaders":{..},"body":..}}
//!                     {"renewToken":{"token":..}}
//! ```
//!
//! What `body: true` announces is the very next message on the same socket, binary; carrying it is the caller's part.
//! Neither side stumbles over what it does not know: an unknown command is reported as such, unknown members of known
//! commands are ignored.

use std::error::Error;
use std::fmt;

use serde_json::{Map, Value, json};

use self::fields::Fields;
use crate::headers::Headers;

mod fields;

/// Longest text message in bytes. Microsoft's .NET clients read and write these through fixed buffers of 64 KiB and
/// break on a message that fills one.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 - 1;

/// What a relay tells a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayMessage {
    /// A sender is waiting at a rendezvous.
    Accept(Accept),
    /// An HTTP request, whole or to be fetched.
    Request(Request),
    /// A command that this version does not know, by name. Log it and go on.
    Unknown(String),
}

/// What a listener tells a relay.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenerMessage {
    /// The answer to an HTTP request.
    Response(Response),
    /// A fresh token for the control channel. There is no reply; a refused one closes the channel with 1008.
    RenewToken {
        /// The token as in the `ServiceBusAuthorization` header, not URL-encoded.
        token: String,
    },
    /// A command that this version does not know, by name. Log it and go on.
    Unknown(String),
}

/// A sender is waiting: dial `address` within [`crate::RENDEZVOUS_VALIDITY`], or its rejection form.
#[derive(Clone, PartialEq, Eq)]
pub struct Accept {
    /// See [`crate::Rendezvous::parse`]. Secret: whoever dials it is the listener.
    pub address: String,
    /// Names the connection in logs on both sides. Empty if the relay sent none.
    pub id: String,
    /// The sender's handshake. A relay leaves the sender's credentials out, but must keep `Sec-WebSocket-Key`:
    /// Microsoft's Node listeners die without.
    pub connect_headers: Headers,
    /// Where the sender is. A relay must say: Microsoft's Java listeners refuse messages without.
    pub remote: Option<RemoteEndpoint>,
}

/// An HTTP request on its way to a listener.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// The request is to be fetched: dial the address, it comes as the first message there.
    Fetch {
        /// See [`crate::Rendezvous::parse`].
        address: String,
    },
    /// The request itself.
    Head(RequestHead),
}

/// Head of an HTTP request.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Where a response goes that is too big or too slow for the control channel. Absent on a rendezvous.
    pub address: Option<String>,
    /// To be echoed in [`Response::request_id`].
    pub id: String,
    /// Path with the entity's name, and the application's query.
    pub request_target: String,
    /// Any method but `CONNECT`.
    pub method: String,
    /// Where the sender is.
    pub remote: Option<RemoteEndpoint>,
    /// The sender's headers, repeated ones joined with `, `.
    pub headers: Headers,
    /// Whether the next message is the body.
    pub body: bool,
}

/// Head of an HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// [`RequestHead::id`] of the request that this answers.
    pub request_id: String,
    /// 100 to 999.
    pub status: u16,
    /// Reason phrase; a parsed one is printable ASCII.
    pub reason: Option<String>,
    /// May hold a name several times.
    pub headers: Headers,
    /// Whether the next message is the body.
    pub body: bool,
}

/// A sender's address as its relay saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// IP address.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

impl RelayMessage {
    /// Parses a text message of a relay.
    ///
    /// # Errors
    /// Longer than [`MAX_MESSAGE_BYTES`], no JSON object, or a known command with a field missing or of the wrong type.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        let message = parse_object(text)?;
        if let Some(fields) = message.get("accept") {
            Fields::of("accept", fields)?.accept().map(Self::Accept)
        } else if let Some(fields) = message.get("request") {
            Fields::of("request", fields)?.request().map(Self::Request)
        } else {
            unknown(message).map(Self::Unknown)
        }
    }

    /// The message as text.
    ///
    /// # Errors
    /// It would be longer than [`MAX_MESSAGE_BYTES`]: answer the sender 431.
    pub fn to_json(&self) -> Result<String, ControlError> {
        text_of(&match self {
            Self::Accept(accept) => json!({"accept": accept.to_value()}),
            Self::Request(Request::Fetch { address }) => json!({"request": {"address": address}}),
            Self::Request(Request::Head(head)) => json!({"request": head.to_value()}),
            Self::Unknown(command) => json!({command: {}}),
        })
    }
}

impl ListenerMessage {
    /// Parses a text message of a listener.
    ///
    /// # Errors
    /// Longer than [`MAX_MESSAGE_BYTES`], no JSON object, or a known command with a field missing or of the wrong type.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        let message = parse_object(text)?;
        if let Some(fields) = message.get("response") {
            Fields::of("response", fields)?.response().map(Self::Response)
        } else if let Some(fields) = message.get("renewToken") {
            Ok(Self::RenewToken { token: Fields::of("renewToken", fields)?.string("token")? })
        } else {
            unknown(message).map(Self::Unknown)
        }
    }

    /// The message as text.
    ///
    /// # Errors
    /// It would be longer than [`MAX_MESSAGE_BYTES`]: send it over the request's rendezvous, or with fewer headers.
    pub fn to_json(&self) -> Result<String, ControlError> {
        text_of(&match self {
            Self::Response(response) => json!({"response": response.to_value()}),
            Self::RenewToken { token } => json!({"renewToken": {"token": token}}),
            Self::Unknown(command) => json!({command: {}}),
        })
    }
}

impl Accept {
    /// The subprotocols that the sender offers, in its order of preference.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.connect_headers
            .all("Sec-WebSocket-Protocol")
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|name| !name.is_empty())
    }

    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("address".into(), json!(self.address));
        fields.insert("id".into(), json!(self.id));
        fields.insert("connectHeaders".into(), self.connect_headers.to_joined());
        insert_remote(&mut fields, self.remote.as_ref());
        Value::Object(fields)
    }
}

impl RequestHead {
    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        if let Some(address) = &self.address {
            fields.insert("address".into(), json!(address));
        }
        fields.insert("id".into(), json!(self.id));
        fields.insert("requestTarget".into(), json!(self.request_target));
        fields.insert("method".into(), json!(self.method));
        insert_remote(&mut fields, self.remote.as_ref());
        fields.insert("requestHeaders".into(), self.headers.to_joined());
        fields.insert("body".into(), json!(self.body));
        Value::Object(fields)
    }
}

impl Response {
    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("requestId".into(), json!(self.request_id));
        fields.insert("statusCode".into(), json!(self.status));
        if let Some(reason) = &self.reason {
            fields.insert("statusDescription".into(), json!(reason));
        }
        fields.insert("responseHeaders".into(), self.headers.to_lists());
        fields.insert("body".into(), json!(self.body));
        Value::Object(fields)
    }
}

/// Without the token.
impl fmt::Debug for ListenerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Response(response) => f.debug_tuple("Response").field(response).finish(),
            Self::RenewToken { .. } => f.debug_struct("RenewToken").finish_non_exhaustive(),
            Self::Unknown(command) => f.debug_tuple("Unknown").field(command).finish(),
        }
    }
}

/// Without the address.
impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accept")
            .field("id", &self.id)
            .field("connect_headers", &self.connect_headers)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Without the address, and the target's query.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch { .. } => f.debug_struct("Fetch").finish_non_exhaustive(),
            Self::Head(head) => f
                .debug_struct("Head")
                .field("id", &head.id)
                .field("method", &head.method)
                .field("path", &head.request_target.split('?').next())
                .field("headers", &head.headers)
                .field("body", &head.body)
                .finish_non_exhaustive(),
        }
    }
}

/// Why a text is no message of this protocol, or a message no text.
#[derive(Debug)]
#[non_exhaustive]
pub enum ControlError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    TooLong {
        /// Length in bytes.
        bytes: usize,
    },
    /// Not JSON.
    Json(serde_json::Error),
    /// JSON, but not an object with a command in it.
    NoCommand,
    /// A field of a command that is missing or of the wrong type.
    Field {
        /// Which command.
        command: &'static str,
        /// Which of its fields; empty for the command's value itself.
        field: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A header that HTTP has no place for.
    Header {
        /// Which command.
        command: &'static str,
        /// The header's name as received.
        name: String,
    },
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => {
                write!(f, "control message of {bytes} bytes, the protocol allows {MAX_MESSAGE_BYTES}")
            }
            Self::Json(error) => write!(f, "control message is not JSON: {error}"),
            Self::NoCommand => f.write_str("control message is not a JSON object with a command in it"),
            Self::Field { command, field: "", expected } => write!(f, "`{command}` must be {expected}"),
            Self::Field { command, field, expected } => write!(f, "`{command}.{field}` must be {expected}"),
            Self::Header { command, name } => {
                write!(f, "`{command}` has a header {name:?} whose name or value HTTP does not allow")
            }
        }
    }
}

impl Error for ControlError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::TooLong { .. } | Self::NoCommand | Self::Field { .. } | Self::Header { .. } => None,
        }
    }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, ControlError> {
    if text.len() > MAX_MESSAGE_BYTES {
        return Err(ControlError::TooLong { bytes: text.len() });
    }
    serde_json::from_str::<Value>(text).map_err(ControlError::Json).and_then(|value| match value {
        Value::Object(members) => Ok(members),
        _ => Err(ControlError::NoCommand),
    })
}

fn unknown(message: Map<String, Value>) -> Result<String, ControlError> {
    message.into_iter().next().map(|(command, _)| command).ok_or(ControlError::NoCommand)
}

fn text_of(message: &Value) -> Result<String, ControlError> {
    let text = message.to_string();
    if text.len() > MAX_MESSAGE_BYTES { Err(ControlError::TooLong { bytes: text.len() }) } else { Ok(text) }
}

fn insert_remote(fields: &mut Map<String, Value>, remote: Option<&RemoteEndpoint>) {
    if let Some(RemoteEndpoint { address, port }) = remote {
        fields.insert("remoteEndpoint".into(), json!({"address": address, "port": port}));
    }
}
