//! Dials a device at its relay: in memory if that is this process's, over the network if not.
//!
//! Owns: the two ways, tokens, what a refusal means. Leaves to others: when to dial (`device`), what travels on the
//! link (`umbilical_link::driver`).

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smol::future::pending;
use umbilical_link::SUBPROTOCOL;
use umbilical_link::dial::{DialError, Target};
use umbilical_link::upgrade::{UpgradeError, UpgradeRequest, Upgraded, upgrade};
use umbilical_relay_protocol::{AUTHORIZATION_HEADER, Credential, Headers, RENDEZVOUS_VALIDITY, Rejection, SasToken};

use crate::config::{Auth, RemoteRelay};
use crate::connection_file::{self, ConnectionFileError};
use crate::deadline;
use crate::relay::Relay;
use crate::relay::connect::SenderRequest;

/// How long a token lives that is signed for one dial: clocks may differ.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How long the relay may take to bring the device to the rendezvous: a little more than it gives the device.
const ANSWER_WITHIN: Duration = RENDEZVOUS_VALIDITY.saturating_add(Duration::from_secs(5));

/// The way to every device of a gateway.
pub enum Sender {
    /// The relay of this process.
    Embedded(Relay),
    /// Another one.
    Remote(Box<RemoteRelay>),
}

impl Sender {
    /// Opens a rendezvous with the agent of `device`, for a session.
    ///
    /// # Errors
    /// [`SenderError`], sorted by what would help.
    pub async fn dial(&self, device: &str) -> Result<Upgraded, SenderError> {
        let upgraded = self.open(device, Some(SUBPROTOCOL)).await?;
        match upgraded.subprotocol.as_deref() {
            Some(SUBPROTOCOL) => Ok(upgraded),
            _ => Err(SenderError::NotAnAgent),
        }
    }

    /// Opens a rendezvous with whoever listens for `device`, and offers no subprotocol.
    ///
    /// # Errors
    /// As for [`Sender::dial`].
    pub async fn dial_plain(&self, device: &str) -> Result<Upgraded, SenderError> {
        self.open(device, None).await
    }

    async fn open(&self, device: &str, subprotocol: Option<&str>) -> Result<Upgraded, SenderError> {
        match self {
            Self::Embedded(relay) => open_here(relay, device, subprotocol).await,
            Self::Remote(remote) => open_there(remote, device, subprotocol).await,
        }
    }

    /// Waits until `device` arrives at the relay, counted from the call on; for ever if that is elsewhere.
    pub(crate) fn arrival(&self, device: &str) -> impl Future<Output = ()> + Send + use<> {
        let arrival = match self {
            Self::Embedded(relay) => Some(relay.arrival(device)),
            Self::Remote(_) => None,
        };
        async move {
            match arrival {
                Some(arrival) => arrival.happened().await,
                None => pending().await,
            }
        }
    }

    /// Whether one agent at most listens for `device`, as far as is known here.
    pub(crate) fn is_alone(&self, device: &str) -> bool {
        match self {
            Self::Embedded(relay) => relay.listeners(device) <= 1,
            Self::Remote(_) => false,
        }
    }

    /// Whether a dial that finds no device costs next to nothing.
    pub(crate) fn is_cheap(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }
}

async fn open_here(relay: &Relay, device: &str, subprotocol: Option<&str>) -> Result<Upgraded, SenderError> {
    let request = SenderRequest {
        suffix: String::new(),
        query: String::new(),
        headers: Headers::default(),
        subprotocol: subprotocol.map(str::to_owned),
        remote: relay.addresses().first().copied().unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
    };
    relay.connect(device, request).await.map_err(|rejection| SenderError::refused(&rejection, None, None))
}

async fn open_there(remote: &RemoteRelay, device: &str, subprotocol: Option<&str>) -> Result<Upgraded, SenderError> {
    let url = remote.url.with_path(device);
    let token = token(remote, &url.resource())?;
    let target = Target { host: url.host().to_owned(), port: url.port(), tls: url.tls() };
    let transport = remote.dialer.dial(&target).await.map_err(SenderError::Dial)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| SenderError::Upgrade(UpgradeError::Randomness(error)))?;
    let (authority, request_target) =
        (url.authority(), url.connect_target(&format!("{:032x}", u128::from_be_bytes(id))));
    let request = UpgradeRequest {
        authority: &authority,
        target: &request_target,
        headers: token.iter().map(|token| (AUTHORIZATION_HEADER, token.as_str())).collect(),
        subprotocol,
    };
    match deadline::within(ANSWER_WITHIN, upgrade(transport, &request)).await {
        Some(Ok(upgraded)) => Ok(upgraded),
        Some(Err(UpgradeError::Refused { status, reason, retry_after, .. })) => {
            Err(SenderError::refused(&Rejection::new(status, &reason), retry_after, Some(&remote.auth)))
        }
        Some(Err(error)) => Err(SenderError::Upgrade(error)),
        None => Err(SenderError::NoAnswer),
    }
}

fn token(remote: &RemoteRelay, resource: &str) -> Result<Option<String>, SenderError> {
    let sign = |name: &str, key: &[u8]| SasToken::sign(resource, name, key, now_unix() + LIFETIME.as_secs());
    Ok(match &remote.auth {
        Auth::SharedKey { name, file } => Some(sign(name, read_secret(file)?.as_bytes())),
        Auth::Key { name, key } => Some(sign(name, key.as_bytes())),
        Auth::TokenFile(file) => Some(read_secret(file)?),
        Auth::ConnectionString(file) => {
            let string = connection_file::read(file).map_err(SenderError::ConnectionFile)?;
            if string.url().with_path("") != remote.url {
                return Err(SenderError::ConnectionFile(ConnectionFileError::other_relay(file)));
            }
            match string.credential() {
                Credential::SharedKey { name, key } => Some(sign(name, key.as_bytes())),
                Credential::Token(token) => Some(token.clone()),
                _ => None,
            }
        }
        Auth::None => None,
    })
}

fn read_secret(file: &Path) -> Result<String, SenderError> {
    let unusable = |error| SenderError::Secret { file: file.to_owned(), error };
    let text = std::fs::read_to_string(file).map_err(unusable)?;
    match text.trim() {
        "" => Err(unusable(io::ErrorKind::UnexpectedEof.into())),
        text => Ok(text.to_owned()),
    }
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Why a device was not reached.
#[derive(Debug)]
#[non_exhaustive]
pub enum SenderError {
    /// 404: the relay has no such hybrid connection, or nobody listens at it.
    Offline {
        /// The relay's words.
        reason: String,
    },
    /// 401 or 403: the relay does not take the key or token.
    Denied {
        /// The status.
        status: u16,
        /// The relay's words.
        reason: String,
        /// What it was asked with, if it was not this process.
        auth: Option<Auth>,
    },
    /// Any other status.
    Refused {
        /// The status.
        status: u16,
        /// The relay's or the device's words.
        reason: String,
        /// When to come again.
        retry_after: Option<Duration>,
    },
    /// The relay was not reached.
    Dial(DialError),
    /// The relay's answer is no WebSocket.
    Upgrade(UpgradeError),
    /// The relay did not answer.
    NoAnswer,
    /// The device was reached, and no session began.
    NoSession {
        /// Why.
        reason: String,
    },
    /// Who listens there does not speak our subprotocol.
    NotAnAgent,
    /// Who listens there, with azbridge's preamble, does not open this port.
    NoPort {
        /// The port's name.
        port: String,
        /// Why.
        reason: String,
    },
    /// There is no connection string to ask with.
    ConnectionFile(ConnectionFileError),
    /// There is no key or token to ask with.
    Secret {
        /// The file that should hold it.
        file: PathBuf,
        /// What happened on reading it.
        error: io::Error,
    },
}

impl SenderError {
    fn refused(rejection: &Rejection, retry_after: Option<Duration>, auth: Option<&Auth>) -> Self {
        let (status, reason) = (rejection.status(), rejection.message().to_owned());
        match status {
            404 => Self::Offline { reason },
            401 | 403 => Self::Denied { status, reason, auth: auth.cloned() },
            _ => Self::Refused { status, reason, retry_after },
        }
    }

    /// How long the relay wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether trying again soon will change nothing.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::NotAnAgent | Self::Secret { .. } | Self::ConnectionFile(_))
            || matches!(self, Self::Refused { status: 400..=499, .. })
    }
}

impl fmt::Display for SenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline { reason } => write!(f, "the device is not connected to the relay ({reason})"),
            Self::Denied { status, reason, auth } => {
                write!(f, "the relay does not let us in ({status} {reason})")?;
                match auth {
                    Some(auth) => write!(f, "; check {auth}"),
                    None => Ok(()),
                }
            }
            Self::Refused { status, reason, .. } => write!(f, "refused with status {status}: {reason}"),
            Self::Dial(error) => error.fmt(f),
            Self::Upgrade(error) => error.fmt(f),
            Self::NoAnswer => write!(f, "the relay did not answer within {} s", ANSWER_WITHIN.as_secs()),
            Self::NoSession { reason } => write!(f, "the device was reached, but no session began: {reason}"),
            Self::NotAnAgent => write!(
                f,
                "who listens there is not an umbilical agent: it did not choose the subprotocol {SUBPROTOCOL}; check the \
                 device's name, or set `plain` if another kind of listener is meant"
            ),
            Self::NoPort { port, reason } => write!(f, "the listener there did not open the port {port:?}: {reason}"),
            Self::ConnectionFile(error) => error.fmt(f),
            Self::Secret { file, error } => write!(f, "cannot read a key or token from {}: {error}", file.display()),
        }
    }
}

impl std::error::Error for SenderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dial(error) => Some(error),
            Self::Upgrade(error) => Some(error),
            Self::ConnectionFile(error) => Some(error),
            Self::Secret { error, .. } => Some(error),
            Self::Offline { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::NoAnswer
            | Self::NoSession { .. }
            | Self::NotAnAgent
            | Self::NoPort { .. } => None,
        }
    }
}
