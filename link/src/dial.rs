//! From a name and a port to a connection: resolve, connect, through a proxy if there is one, TLS.
//!
//! Owns: the order of these steps, one deadline around all of them, errors that say which step failed on what. Leaves to
//! others: when to try again.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::{Timer, future};

use crate::happy_eyeballs::{self, FailedAttempt};
use crate::proxy::{ProxyError, ProxySettings};
use crate::tls::{self, ClientConfig, HandshakeError};
use crate::transport::{Transport, prepare_socket};

/// How long a dial may take in all: enough for three lost packets in a row in each step on a slow mobile network.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS is spoken there.
    pub tls: bool,
}

impl Target {
    /// `host:port`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// Dials; one per process and set of settings, because TLS sessions are resumed through it.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// Used for targets with TLS.
    pub tls: Arc<ClientConfig>,
    /// Which proxy to go through.
    pub proxy: ProxySettings,
}

impl Dialer {
    /// Dials `target` within [`DIAL_TIMEOUT`]. Dropping the future gives up at once.
    ///
    /// # Errors
    /// [`DialError`], naming the step that failed and what it was tried on.
    pub async fn dial(&self, target: &Target) -> Result<Transport, DialError> {
        self.dial_within(target, DIAL_TIMEOUT).await
    }

    /// The same with another deadline, counted from now.
    ///
    /// # Errors
    /// As [`Dialer::dial`].
    pub async fn dial_within(&self, target: &Target, timeout: Duration) -> Result<Transport, DialError> {
        let deadline = Deadline { at: Instant::now() + timeout, timeout, target };
        let proxy = self.proxy.proxy_for(target);
        let (host, port) = proxy.map_or((&target.host, target.port), |proxy| (&proxy.host, proxy.port));

        let addresses = deadline.within(Step::Resolve, resolve(host, port)).await?;
        let mut socket = deadline
            .within(Step::Connect, async {
                happy_eyeballs::connect(&addresses, happy_eyeballs::ATTEMPT_DELAY)
                    .await
                    .map_err(|attempts| DialError::Connect { peer: authority(host, port), attempts })
            })
            .await?;
        prepare_socket(&socket).map_err(|source| DialError::Socket { source })?;

        if let Some(proxy) = proxy {
            let tunnel = async {
                proxy.connect(socket, target).await.map_err(|source| DialError::Proxy {
                    proxy: proxy.to_string(),
                    target: target.authority(),
                    source,
                })
            };
            socket = deadline.within(Step::Proxy, tunnel).await?;
        }
        if !target.tls {
            return Ok(Transport::Plain(socket));
        }
        let handshake = async {
            tls::connect(&self.tls, &target.host, socket)
                .await
                .map_err(|source| DialError::Tls { proxy: proxy.map(ToString::to_string), source })
        };
        deadline.within(Step::Tls, handshake).await
    }
}

/// The steps of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// From name to addresses.
    Resolve,
    /// TCP to the target, or to the proxy.
    Connect,
    /// The tunnel through the proxy.
    Proxy,
    /// The TLS handshake with the target.
    Tls,
}

/// Why a dial failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no answer.
    Resolve {
        /// The name.
        host: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// The name exists and has no address.
    NoAddress {
        /// The name.
        host: String,
    },
    /// None of the addresses took the connection.
    Connect {
        /// Host and port, of the proxy if there is one.
        peer: String,
        /// Every address tried, with its error.
        attempts: Vec<FailedAttempt>,
    },
    /// The kernel refused an option for the new socket.
    Socket {
        /// Its reason.
        source: io::Error,
    },
    /// The proxy did not open a tunnel.
    Proxy {
        /// The proxy, without its password.
        proxy: String,
        /// Where the tunnel should have led.
        target: String,
        /// Its reason.
        source: ProxyError,
    },
    /// There is no TLS with the target.
    Tls {
        /// The proxy in between, without its password.
        proxy: Option<String>,
        /// The reason.
        source: HandshakeError,
    },
    /// The deadline has passed.
    TimedOut {
        /// Where to.
        target: String,
        /// How long it was tried.
        after: Duration,
        /// The step that was not done by then.
        step: Step,
    },
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { host, source } => {
                write!(f, "cannot resolve {host}: {source}; check the name and this machine's DNS servers")
            }
            Self::NoAddress { host } => write!(f, "{host} has no address; check the name"),
            Self::Connect { peer, attempts } => {
                write!(f, "cannot connect to {peer}")?;
                for (at, (address, error)) in attempts.iter().enumerate() {
                    write!(f, "{} {address}: {error}", if at == 0 { ":" } else { "," })?;
                }
                write!(f, "; check that it is running and that no firewall is in the way")
            }
            Self::Socket { source } => write!(f, "cannot set the options of a new socket: {source}"),
            Self::Proxy { proxy, target, source } => write!(f, "no way through proxy {proxy} to {target}: {source}"),
            Self::Tls { proxy: None, source } => source.fmt(f),
            Self::Tls { proxy: Some(proxy), source } => write!(f, "through proxy {proxy}: {source}"),
            Self::TimedOut { target, after, step } => {
                let (doing, hint) = match step {
                    Step::Resolve => ("resolving its name", "check this machine's DNS servers"),
                    Step::Connect => ("connecting", "check the network and firewalls in between"),
                    Step::Proxy => ("waiting for the proxy's tunnel", "check the proxy"),
                    Step::Tls => ("in the TLS handshake", "check that the port speaks TLS"),
                };
                write!(f, "{target} was not reached in {after:?}, still {doing}; {hint}")
            }
        }
    }
}

impl Error for DialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Resolve { source, .. } | Self::Socket { source } => Some(source),
            Self::Proxy { source, .. } => Some(source),
            Self::Tls { source, .. } => Some(source),
            Self::NoAddress { .. } | Self::Connect { .. } | Self::TimedOut { .. } => None,
        }
    }
}

struct Deadline<'a> {
    at: Instant,
    timeout: Duration,
    target: &'a Target,
}

impl Deadline<'_> {
    async fn within<T>(&self, step: Step, work: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
        let timeout = async {
            Timer::at(self.at).await;
            Err(DialError::TimedOut { target: self.target.authority(), after: self.timeout, step })
        };
        future::or(work, timeout).await
    }
}

/// At least one address. An address as host is taken as it is, without the thread that a resolver needs.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let addresses =
        smol::net::resolve((host, port)).await.map_err(|source| DialError::Resolve { host: host.into(), source })?;
    if addresses.is_empty() {
        return Err(DialError::NoAddress { host: host.into() });
    }
    Ok(addresses)
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
