//! `umbilical-cloud connect`: one stream to a device's service, for a program that has a pipe and no port.
//!
//! A gateway of its own for as long as the stream lives: it dials the relay, keeps a session, and takes the stream over
//! to another link when one is lost.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use smol::{Executor, channel};
use umbilical_link::dial::Dialer;
use umbilical_link::proxy::ProxySettings;
use umbilical_link::tls::{self, DefaultTimeProvider, Roots, TlsError};
use umbilical_link::{Io, KeepAlive, proxy};
use umbilical_mux::{End, Mode, ResetReason, Shape};
use umbilical_relay_protocol::{RelayUrl, Right};

use crate::config::{Auth, Config, DEFAULT_RESUME_FOR, ListenerKind, RelayChoice, RemoteRelay, is_service_name};
use crate::deadline;
use crate::gateway::device::{Client, ClientEnd, Common, Device, Settings};
use crate::gateway::foreign::Foreign;
use crate::gateway::{Advice, Sender, SenderError};
use crate::pinned;
use crate::relay::signal::Signal;

/// Memory of the session: one stream, and nothing to spare.
const SHAPE: Shape = Shape { streams: 1, replay: 1024 * 1024, receive: 1024 * 1024 };

/// How long the session's goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where to connect to, and by which relay.
pub struct Route {
    /// The device.
    pub device: Arc<str>,
    /// Its service.
    pub service: Arc<str>,
    /// Who listens for the device.
    pub listener: ListenerKind,
    /// The way there.
    pub relay: RemoteRelay,
}

impl Route {
    /// The way that a configuration knows: the gateway's relay; the embedded one over its own listening address.
    ///
    /// # Errors
    /// The configuration knows none.
    pub fn by_config(config: &Config, device: &str, service: &str) -> Result<Self, RouteError> {
        check(service)?;
        let relay = match (&config.gateway, &config.relay) {
            (Some(gateway), _) if matches!(gateway.relay, RelayChoice::Remote(_)) => match &gateway.relay {
                RelayChoice::Remote(remote) => RemoteRelay::clone(remote),
                RelayChoice::Embedded => return Err(RouteError::NoRelay),
            },
            (_, Some(embedded)) => {
                let required = embedded.requires_client_authorization(device);
                let required = required.ok_or_else(|| RouteError::NoDevice { device: device.to_owned() })?;
                let auth = match embedded.rule_with(Right::Send, device) {
                    Some(rule) => Auth::Key { name: rule.name.clone(), key: rule.primary.clone() },
                    None if !required => Auth::None,
                    None => return Err(RouteError::NoKey { device: device.to_owned() }),
                };
                let endpoint = embedded.config.endpoints.first().ok_or(RouteError::NoRelay)?;
                local(endpoint.address, embedded.certificate_file.as_ref(), auth)?
            }
            (_, None) => return Err(RouteError::NoRelay),
        };
        Ok(Self { device: device.into(), service: service.into(), listener: ListenerKind::Agent, relay })
    }

    /// The way that a command line describes.
    ///
    /// # Errors
    /// The certificate authorities or the environment's proxy can't be used.
    pub fn by_arguments(
        relay: RelayUrl,
        ca_file: Option<PathBuf>,
        auth: Auth,
        device: &str,
        service: &str,
    ) -> Result<Self, RouteError> {
        check(service)?;
        let roots = ca_file.map_or(Roots::System, Roots::File);
        let tls = tls::client_config(&roots, Arc::new(DefaultTimeProvider)).map_err(RouteError::Tls)?;
        let proxy = ProxySettings::from_environment(|name| std::env::var(name).ok()).map_err(RouteError::Proxy)?;
        let relay = RemoteRelay { url: relay, dialer: Dialer { tls, proxy }, auth };
        Ok(Self { device: device.into(), service: service.into(), listener: ListenerKind::Agent, relay })
    }

    /// The same to a listener that is no agent.
    #[must_use]
    pub fn to(self, listener: ListenerKind) -> Self {
        Self { listener, ..self }
    }

    /// Joins `io` with the service, and returns when the stream has ended.
    pub async fn connect(self, executor: &Arc<Executor<'static>>, io: Io) -> Outcome {
        let Self { device, service, listener, relay } = self;
        let settings = Settings {
            sender: Arc::new(Sender::Remote(Box::new(relay))),
            shape: SHAPE,
            resume_for: DEFAULT_RESUME_FOR,
            keep_alive: KeepAlive::default(),
            ask_agents: None,
            drain_for: Some(Duration::ZERO),
            returning_until: None,
        };
        let (executor, settings) = (Arc::clone(executor), Arc::new(RwLock::new(settings)));
        let common = Common { executor, settings, alive: Arc::default(), stopping: Signal::new() };
        let (tell, told) = channel::bounded(1);
        let on_end = {
            let (device, service) = (Arc::clone(&device), Arc::clone(&service));
            Box::new(move |end: ClientEnd<'_>| _ = tell.try_send(Outcome::of(&end, &device, &service)))
        };
        let client = Client { service, io, on_end };
        let kept = if listener == ListenerKind::Agent {
            let kept = Device::keep(device, &common);
            kept.open(client);
            Some(kept)
        } else {
            Foreign::new(device, listener, common.clone()).open(client);
            None
        };
        let outcome = told.recv().await.unwrap_or_else(|_| Outcome::failed("the session was lost"));
        drop(kept);
        deadline::within(GOODBYE, common.alive.write()).await;
        outcome
    }
}

fn check(service: &str) -> Result<(), RouteError> {
    if is_service_name(service) { Ok(()) } else { Err(RouteError::Service { service: service.to_owned() }) }
}

/// The relay that listens at `address` of this machine.
fn local(address: SocketAddr, certificate: Option<&PathBuf>, auth: Auth) -> Result<RemoteRelay, RouteError> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let (scheme, tls) = match certificate {
        Some(file) => {
            let pinned = pinned::client_config(file);
            ("wss", pinned.ok_or_else(|| RouteError::Tls(TlsError::NoCertificate { path: file.clone() }))?)
        }
        None => {
            let tls = tls::client_config(&Roots::System, Arc::new(DefaultTimeProvider)).map_err(RouteError::Tls)?;
            ("ws", tls)
        }
    };
    let url = RelayUrl::parse(&format!("{scheme}://{}", SocketAddr::new(ip, address.port())));
    let url = url.map_err(|_| RouteError::NoRelay)?;
    Ok(RemoteRelay { url, dialer: Dialer { tls, proxy: ProxySettings::direct() }, auth })
}

/// How it went, for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code; see [`code`].
    pub code: u8,
    /// What to tell, unless all went well.
    pub message: Option<String>,
}

/// Exit codes of `connect`.
pub mod code {
    /// Both sides closed in order.
    pub const CLOSED: u8 = 0;
    /// The stream broke.
    pub const FAILED: u8 = 1;
    /// The device is not connected to the relay.
    pub const OFFLINE: u8 = 3;
    /// The device has no such service.
    pub const NOT_ALLOWED: u8 = 4;
    /// The service does not answer, or has no room.
    pub const REFUSED: u8 = 5;
    /// The relay does not take the key.
    pub const DENIED: u8 = 6;
    /// The relay was not reached.
    pub const UNREACHED: u8 = 7;
}

impl Outcome {
    fn of(end: &ClientEnd<'_>, device: &str, service: &str) -> Self {
        let (code, text) = match end {
            ClientEnd::Unreached(error) => (Self::code_of(error), error.to_string()),
            ClientEnd::Stream(ended) => match ended.end {
                End::Closed => return Self { code: code::CLOSED, message: None },
                End::Local(ResetReason::ABORTED) => {
                    (code::FAILED, "standard input or output was closed before the end".to_owned())
                }
                End::Local(reason) | End::Reset(reason) => {
                    let code = match reason {
                        ResetReason::NOT_ALLOWED | ResetReason::WRONG_MODE => code::NOT_ALLOWED,
                        ResetReason::REFUSED
                        | ResetReason::UNREACHABLE
                        | ResetReason::TIMED_OUT
                        | ResetReason::BUSY => code::REFUSED,
                        _ => code::FAILED,
                    };
                    (code, format!("{reason}{}", Advice { reason, service, mode: Mode::Stream }))
                }
            },
        };
        Self { code, message: Some(format!("{service} of {device}: {text}")) }
    }

    fn code_of(error: &SenderError) -> u8 {
        match error {
            SenderError::Offline { .. } => code::OFFLINE,
            SenderError::Denied { .. } | SenderError::Secret { .. } | SenderError::ConnectionFile(_) => code::DENIED,
            SenderError::Dial(_) | SenderError::Upgrade(_) | SenderError::NoAnswer => code::UNREACHED,
            SenderError::NoPort { .. } => code::NOT_ALLOWED,
            SenderError::Refused { .. } | SenderError::NoSession { .. } | SenderError::NotAnAgent => code::REFUSED,
        }
    }

    fn failed(text: &str) -> Self {
        Self { code: code::FAILED, message: Some(text.to_owned()) }
    }
}

/// Why there is no way to try.
#[derive(Debug)]
#[non_exhaustive]
pub enum RouteError {
    /// The configuration has neither a gateway with a relay nor an embedded relay.
    NoRelay,
    /// The embedded relay has no such hybrid connection.
    NoDevice {
        /// The device.
        device: String,
    },
    /// The embedded relay has no key that may send to the device.
    NoKey {
        /// The device.
        device: String,
    },
    /// Not the name of a service.
    Service {
        /// The text.
        service: String,
    },
    /// Certificates can't be used.
    Tls(TlsError),
    /// The environment's proxy can't be used.
    Proxy(proxy::ProxyUrlError),
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRelay => f.write_str("the configuration names no relay; add [relay] or `relay` in [gateway]"),
            Self::NoDevice { device } => {
                write!(f, "the configuration has no [relay.hybrid-connections.{device:?}]; check the device's name")
            }
            Self::NoKey { device } => write!(
                f,
                "no key in the configuration has the right to send to {device}; add one to [relay.keys] with rights = [\"send\"]"
            ),
            Self::Service { service } => {
                write!(f, "{service:?} is no service, expected 1 to 64 letters, digits, `-`, `_` or `.`")
            }
            Self::Tls(error) => error.fmt(f),
            Self::Proxy(error) => write!(f, "the environment's HTTPS_PROXY: {error}"),
        }
    }
}

impl std::error::Error for RouteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tls(error) => Some(error),
            Self::Proxy(error) => Some(error),
            Self::NoRelay | Self::NoDevice { .. } | Self::NoKey { .. } | Self::Service { .. } => None,
        }
    }
}
