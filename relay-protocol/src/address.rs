//! Addresses that a client of the relay dials: the relay itself, and the rendezvous a listener is invited to.
//!
//! ```text
//! wss://{host}[:{port}]/$hc/{path}?sb-hc-action=listen&sb-hc-id={id}      control channel
//! wss://{host}[:{port}]/$hc/{path}?sb-hc-action=connect&sb-hc-id={id}     sender
//! {accept.address}                                                        rendezvous, dialled byte for byte
//! {accept.address}&sb-hc-statusCode={n}&sb-hc-statusDescription={text}    rendezvous refused
//! ```
//!
//! What a relay makes of these is in [`crate::request_target`].

use std::error::Error;
use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::percent;

/// How long an accept address may be dialled after it was sent. It is good for one successful use.
pub const RENDEZVOUS_VALIDITY: Duration = Duration::from_secs(30);

/// How many listeners one hybrid connection may have at a time.
pub const MAX_LISTENERS: usize = 25;

/// Where Azure has its relays: worldwide, of the US government, in China.
const AZURE: [&str; 3] = [".servicebus.windows.net", ".servicebus.usgovcloudapi.net", ".servicebus.chinacloudapi.cn"];

/// The path segment in front of the entity's path in every WebSocket address of the protocol.
pub(crate) const MARKER: &str = "$hc";

/// Where a relay is and which hybrid connection on it is meant, as an operator writes it:
/// `wss://host[:port][/path]`, `sb://host[:port][/path]` (the same, as Azure spells it) or
/// `ws://host[:port][/path]` (without TLS, for tests and behind TLS terminators).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayUrl {
    origin: Origin,
    path: String,
}

impl RelayUrl {
    /// Parses `text`. The path is percent-decoded, a leading `$hc/` and slashes at its ends are dropped.
    ///
    /// # Errors
    /// Another scheme, no host, a port that is none, user information, a query, or a character no URL may contain.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (origin, rest) = Origin::parse(text.trim())?;
        if rest.contains('?') {
            return Err(AddressError::Query);
        }
        let path = match rest.trim_matches('/').split_once('/') {
            Some((MARKER, entity)) => entity,
            _ if rest.trim_matches('/') == MARKER => "",
            _ => rest,
        };
        Ok(Self { origin, path: String::new() }.with_path(&percent::decode(path)))
    }

    /// The same relay with another entity path, given decoded.
    #[must_use]
    pub fn with_path(&self, path: &str) -> Self {
        Self { origin: self.origin.clone(), path: path.trim_matches('/').to_owned() }
    }

    /// Host name or IP address, in lower case, IPv6 without brackets: what is resolved and what the certificate is for.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.origin.host
    }

    /// TCP port, by default 443 with TLS and 80 without.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.origin.port
    }

    /// Whether to speak TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.origin.tls
    }

    /// Whether this is the hosted service, by its name.
    #[must_use]
    pub fn is_azure(&self) -> bool {
        AZURE.iter().any(|suffix| self.origin.host.ends_with(suffix))
    }

    /// The entity's path, decoded, without slashes at its ends. Empty for the whole namespace.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Value of the `Host` header: the host, with brackets if IPv6, and the port unless it is the default.
    #[must_use]
    pub fn authority(&self) -> String {
        self.origin.authority()
    }

    /// Request target that registers a listener under `id`.
    #[must_use]
    pub fn listen_target(&self, id: &str) -> String {
        self.target("listen", id)
    }

    /// Request target that asks for a connection to one of the listeners.
    #[must_use]
    pub fn connect_target(&self, id: &str) -> String {
        self.target("connect", id)
    }

    /// What a token for this entity is signed for: `http://{host}/{path}/`, no port, with the trailing slash.
    /// This is the spelling of Microsoft's .NET clients, hence one that the real service is sure to accept.
    #[must_use]
    pub fn resource(&self) -> String {
        let mut resource = format!("http://{}/", bracketed(&self.origin.host));
        if !self.path.is_empty() {
            resource.push_str(&percent::encode_path(&self.path));
            resource.push('/');
        }
        resource
    }

    fn target(&self, action: &str, id: &str) -> String {
        let (path, id) = (percent::encode_path(&self.path), percent::encode(id));
        format!("/{MARKER}/{path}?sb-hc-action={action}&sb-hc-id={id}")
    }
}

/// The URL in its shortest spelling; it parses to the same value.
impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls() { "wss" } else { "ws" };
        write!(f, "{scheme}://{}/{}", self.authority(), percent::encode_path(&self.path))
    }
}

/// Where a listener meets a sender: the `address` of an accept or request message.
///
/// The path and query are opaque and kept byte for byte: they hold the relay's single-use secret, so `Debug` leaves
/// the query out. The host need not be the relay's configured one.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendezvous {
    origin: Origin,
    path_and_query: String,
}

impl Rendezvous {
    /// Parses an address as the relay sends it.
    ///
    /// # Errors
    /// Another scheme than `wss`, `ws` or `sb`, no host, a port that is none, user information, or a character that
    /// no request target may contain.
    pub fn parse(address: &str) -> Result<Self, AddressError> {
        let (origin, rest) = Origin::parse(address)?;
        let slash = if rest.starts_with('/') { "" } else { "/" };
        Ok(Self { origin, path_and_query: format!("{slash}{rest}") })
    }

    /// Host name or IP address, in lower case, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.origin.host
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.origin.port
    }

    /// Whether to speak TLS.
    #[must_use]
    pub fn tls(&self) -> bool {
        self.origin.tls
    }

    /// Value of the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        self.origin.authority()
    }

    /// Request target that accepts.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// Request target that refuses: the sender's handshake is answered with `status` (400 to 599) and `description`.
    /// The relay answers the listener 410.
    #[must_use]
    pub fn rejection_target(&self, status: u16, description: &str) -> String {
        let address = &self.path_and_query;
        let joint = if address.contains('?') { '&' } else { '?' };
        let description = percent::encode_form(description);
        format!("{address}{joint}sb-hc-statusCode={status}&sb-hc-statusDescription={description}")
    }
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        f.debug_struct("Rendezvous").field("origin", &self.origin).field("path", &path).finish_non_exhaustive()
    }
}

/// Why a text is no address, or no request target of this protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressError {
    /// Not `wss://`, `ws://` or `sb://`.
    Scheme,
    /// No host, or neither a name nor an IP address (IPv6 in brackets).
    Host,
    /// Not a number from 1 to 65535.
    Port,
    /// A `user:password@` in front of the host.
    UserInformation,
    /// A query where none belongs.
    Query,
    /// A control character, a space or a `#`.
    Character(char),
    /// A request target without `/$hc/` in front: a plain HTTP request, or not for the relay at all.
    NotWebSocket,
    /// An `sb-hc-action` that the protocol does not have.
    Action(String),
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str("the address must begin with wss://, sb:// or (without TLS) ws://"),
            Self::Host => f.write_str(
                "the address needs a host: a name in ASCII (punycode), an IPv4 address, or an IPv6 address in brackets",
            ),
            Self::Port => f.write_str("the port in the address must be a number from 1 to 65535"),
            Self::UserInformation => {
                f.write_str("the address contains user information (`@`), which this protocol has no use for")
            }
            Self::Query => f.write_str("the address contains a query (`?`), write it without"),
            Self::Character(char) => write!(f, "the address contains the character {char:?}, escape it"),
            Self::NotWebSocket => f.write_str("the path of a WebSocket request must begin with /$hc/"),
            Self::Action(action) => {
                write!(f, "unknown sb-hc-action {action:?}, expected listen, connect, accept or request")
            }
        }
    }
}

impl Error for AddressError {}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    tls: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// Splits `text` into scheme and authority, and the rest, which is empty or begins with `/` or `?`.
    fn parse(text: &str) -> Result<(Self, &str), AddressError> {
        if let Some(char) = forbidden_character(text) {
            return Err(AddressError::Character(char));
        }
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "wss" | "sb" => true,
            "ws" => false,
            _ => return Err(AddressError::Scheme),
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(AddressError::UserInformation);
        }
        let (host, port) = split_authority(authority)?;
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(port) => parse_port(port)?,
        };
        Ok((Self { tls, host: host.to_ascii_lowercase(), port }, rest))
    }

    fn authority(&self) -> String {
        let host = bracketed(&self.host);
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

/// The first character that cannot travel in a request line or an HTTP header, if there is one.
pub(crate) fn forbidden_character(text: &str) -> Option<char> {
    text.chars().find(|char| char.is_control() || char.is_whitespace() || *char == '#')
}

fn split_authority(authority: &str) -> Result<(&str, Option<&str>), AddressError> {
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or(AddressError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| AddressError::Host)?;
        match after.strip_prefix(':') {
            None if !after.is_empty() => return Err(AddressError::Host),
            port => (host, port),
        }
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
            return Err(AddressError::Host);
        }
        (host, port)
    };
    if host.is_empty() { Err(AddressError::Host) } else { Ok((host, port.filter(|port| !port.is_empty()))) }
}

fn parse_port(port: &str) -> Result<u16, AddressError> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|port| digits && *port != 0).ok_or(AddressError::Port)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
