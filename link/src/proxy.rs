//! An HTTP proxy between here and the relay: whether there is one, and `CONNECT` through it (RFC 9110, section 9.3.6).
//!
//! Owns: proxy URLs, the environment's `HTTPS_PROXY`, basic authentication (RFC 7617), the tunnel's handshake. Leaves to
//! others: connecting to the proxy, TLS inside the tunnel, which hosts are excepted (`no_proxy`).

use std::error::Error;
use std::fmt;
use std::net::TcpStream;
use std::num::NonZeroU16;

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use smol::Async;
use smol::io::AsyncWriteExt;

use crate::dial::Target;
use crate::no_proxy::NoProxy;
use crate::response::{ResponseError, ResponseHead, printable, read_head};

/// The most bytes a proxy's answer to `CONNECT` may have.
pub const MAX_RESPONSE_BYTES: usize = 8 * 1024;

/// Which proxy is used for which target.
#[derive(Debug, Clone, Default)]
pub struct ProxySettings {
    proxy: Option<Proxy>,
    rule: Rule,
}

impl ProxySettings {
    /// No proxy, whatever the environment says.
    pub fn direct() -> Self {
        Self::default()
    }

    /// `proxy` for every target. `NO_PROXY` is not looked at: what is configured wins over the environment.
    pub fn always(proxy: Proxy) -> Self {
        Self { proxy: Some(proxy), rule: Rule::Every }
    }

    /// What `HTTPS_PROXY` or `https_proxy` and `NO_PROXY` or `no_proxy` say, of which the lower case is preferred as by
    /// curl; `variable` looks one up. Only targets with TLS go through the proxy.
    ///
    /// # Errors
    /// A proxy URL that can't be used.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyUrlError> {
        let either = |lower: &str, upper: &str| {
            [lower, upper].into_iter().find_map(|name| variable(name).filter(|value| !value.trim().is_empty()))
        };
        let Some(url) = either("https_proxy", "HTTPS_PROXY") else { return Ok(Self::direct()) };
        let excepted = NoProxy::parse(&either("no_proxy", "NO_PROXY").unwrap_or_default());
        Ok(Self { proxy: Some(Proxy::parse(&url)?), rule: Rule::TlsExcept(excepted) })
    }

    /// The proxy to dial `target` through; `None` is directly.
    pub fn proxy_for(&self, target: &Target) -> Option<&Proxy> {
        let applies = match &self.rule {
            Rule::Every => true,
            Rule::TlsExcept(excepted) => target.tls && !excepted.matches(&target.host, target.port),
        };
        self.proxy.as_ref().filter(|_| applies)
    }
}

/// A proxy that speaks plain HTTP. `Debug` and `Display` show where it is and whose account is used, never the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    credentials: Option<Credentials>,
}

impl Proxy {
    /// Reads `http://[USER[:PASSWORD]@]HOST[:PORT]`, with `http://` optional and 80 as the default port. User and
    /// password may be percent-encoded.
    ///
    /// # Errors
    /// [`ProxyUrlError`], without the password.
    pub fn parse(url: &str) -> Result<Self, ProxyUrlError> {
        let url = url.trim();
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) => return Err(ProxyUrlError::Scheme { scheme: printable(scheme.as_bytes()) }),
            None => url,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(Credentials::parse(credentials)?), place),
            None => (None, rest),
        };
        let place_error = || ProxyUrlError::Place { place: printable(place.as_bytes()) };
        let (host, port) = split_place(place).ok_or_else(place_error)?;
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse::<NonZeroU16>().map_err(|_| place_error())?.get(),
        };
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte)) {
            return Err(place_error());
        }
        Ok(Self { host: host.into(), port, credentials })
    }

    /// Asks the proxy at the other end of `socket` for a tunnel to `target`, and returns the tunnel. The caller sets the
    /// deadline; dropping the future closes the connection.
    ///
    /// # Errors
    /// [`ProxyError`]; the connection is closed.
    pub async fn connect(&self, mut socket: Async<TcpStream>, target: &Target) -> Result<Async<TcpStream>, ProxyError> {
        let authority = target.authority();
        if !authority.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ProxyError::Target);
        }
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(credentials) = &self.credentials {
            request.push_str("Proxy-Authorization: Basic ");
            BASE64.encode_append(credentials.user_pass().as_bytes(), &mut request);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        socket.write_all(request.as_bytes()).await.map_err(|error| ProxyError::Response(ResponseError::Io(error)))?;

        let mut buffer = Vec::new();
        let length = read_head(&mut socket, &mut buffer, MAX_RESPONSE_BYTES).await.map_err(ProxyError::Response)?;
        let head = ResponseHead::parse(&buffer[..length]).map_err(ProxyError::Response)?;
        match head.status {
            200..=299 if buffer.len() > length => Err(ProxyError::TalksFirst),
            200..=299 => Ok(socket),
            PROXY_AUTHENTICATION_REQUIRED => Err(ProxyError::Authentication {
                user: self.credentials.as_ref().map(|credentials| credentials.user.clone()),
                basic: head.values("proxy-authenticate").any(offers_basic),
                offered: head.values("proxy-authenticate").map(printable).collect::<Vec<_>>().join(", "),
            }),
            status => Err(ProxyError::Refused { status, reason: head.reason }),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http://")?;
        if let Some(credentials) = &self.credentials {
            write!(f, "{}:***@", credentials.user.escape_debug())?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Why a proxy URL can't be used. Shows no password, whatever the URL looked like.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyUrlError {
    /// A scheme other than `http`.
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// Host or port are missing or malformed.
    Place {
        /// What stands there.
        place: String,
    },
    /// User or password do not decode to UTF-8, or have characters basic authentication can't carry.
    Credentials,
}

impl fmt::Display for ProxyUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme { scheme } => {
                write!(f, "proxies of the kind {scheme}:// are not supported, expected http://HOST:PORT")
            }
            Self::Place { place } => write!(f, "{place:?} is not a proxy, expected http://HOST:PORT"),
            Self::Credentials => write!(
                f,
                "user or password of the proxy are unusable; percent-encode them as UTF-8, without control characters and \
                 without a colon in the user"
            ),
        }
    }
}

impl Error for ProxyUrlError {}

/// Why a proxy did not open a tunnel.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// The target's host has characters that can't be sent.
    Target,
    /// No usable answer came.
    Response(ResponseError),
    /// The proxy wants to know who asks (407).
    Authentication {
        /// The user it was told, if any.
        user: Option<String>,
        /// Whether it would take basic authentication.
        basic: bool,
        /// The schemes it offers, as it put them.
        offered: String,
    },
    /// The proxy said no.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The reason phrase, fit for a log line.
        reason: String,
    },
    /// The proxy sent bytes through the tunnel before anybody could have asked for them.
    TalksFirst,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target => write!(f, "the target's host has characters that cannot be sent to a proxy"),
            Self::Response(error) => write!(f, "no answer to CONNECT: {error}"),
            Self::Authentication { basic: false, offered, .. } => {
                write!(f, "it wants authentication by {offered:?}, only Basic is supported (407)")
            }
            Self::Authentication { user: None, .. } => {
                write!(
                    f,
                    "it wants a user and a password (407); put them in the proxy's URL: http://USER:PASSWORD@HOST:PORT"
                )
            }
            Self::Authentication { user: Some(user), .. } => {
                write!(
                    f,
                    "it refuses the user {user:?} or the password (407); check both, percent-encoded, in the proxy's URL"
                )
            }
            // not what the standard asks for, but what tinyproxy answers to a wrong password
            Self::Refused { status: 401, reason } => {
                write!(
                    f,
                    "it refuses the tunnel with status 401: {reason}; check user and password, percent-encoded, in the \
                     proxy's URL"
                )
            }
            Self::Refused { status, reason } => {
                write!(
                    f,
                    "it refuses the tunnel with status {status}: {reason}; ask its operator to allow the host and port"
                )
            }
            Self::TalksFirst => write!(f, "it sent data before the tunnel was used; check that it is an HTTP proxy"),
        }
    }
}

impl Error for ProxyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Response(error) => Some(error),
            Self::Target | Self::Authentication { .. } | Self::Refused { .. } | Self::TalksFirst => None,
        }
    }
}

const DEFAULT_PORT: u16 = 80;
const PROXY_AUTHENTICATION_REQUIRED: u16 = 407;

#[derive(Debug, Clone, Default)]
enum Rule {
    #[default]
    Every,
    TlsExcept(NoProxy),
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    fn parse(text: &str) -> Result<Self, ProxyUrlError> {
        let decode = |part: &str| {
            let decoded = percent_decode_str(part).decode_utf8().ok()?.into_owned();
            (!decoded.contains(char::is_control)).then_some(decoded)
        };
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        match (decode(user), decode(password)) {
            (Some(user), Some(password)) if !user.contains(':') => Ok(Self { user, password }),
            _ => Err(ProxyUrlError::Credentials),
        }
    }

    fn user_pass(&self) -> String {
        format!("{}:{}", self.user, self.password)
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_place(place: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match place.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
        None => Some((place, None)),
    }
}

fn offers_basic(challenge: &[u8]) -> bool {
    challenge.split(|byte| matches!(byte, b',' | b' ' | b'\t')).any(|word| word.eq_ignore_ascii_case(b"basic"))
}
