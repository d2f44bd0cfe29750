//! The embedded relay: Azure Relay Hybrid Connections, where there is no Azure.
//!
//! ```text
//! sender ── connect ──┐                                   ┌── listen ── listener   control channel
//!                     ├── rendezvous ── accept message ──►┤
//!                     └◄── splice ◄──── its socket ◄──────┴── accept ── listener   rendezvous
//!
//! sender ── HTTP ─────┬── requests ──── request message ─►┬── listen ── listener   control channel
//!                     └◄── response ◄─────────────────────┴── request ─ listener   control channel or rendezvous
//! ```
//!
//! In the order a connection meets them:
//!
//! | file | owns |
//! | --- | --- |
//! | [`config`] | what a relay is told |
//! | `server` | listening sockets, TLS, request heads, routing, shedding |
//! | `handshake` | a client that waits for its answer; refusals |
//! | `penalty` | sources that are refused again and again |
//! | `authorize` | tokens against rules and issuers |
//! | `issuers`, `key_server` | who makes bearer tokens, and where its keys are |
//! | `management` | hybrid connections as resources over HTTPS |
//! | `provisioning`, `store` | those that are made at run time; where they are kept |
//! | `namespace` | hybrid connections and the listeners at each |
//! | `listen` | a listener's control channel |
//! | [`connect`] | a sender, over the network or in this process, and the invitation of a listener |
//! | `rendezvous` | addresses that are good once |
//! | `accept` | a listener at the rendezvous |
//! | `http_sender` | a sender's plain HTTP request, from its head to the end of its answer |
//! | `http_head`, `http_body`, `http_response` | what of it is the connection's, the relay's, the listener's; both ways |
//! | `http_exchange` | its way to a listener and back |
//! | `requests` | who waits for which answer |
//! | `request_socket` | a listener's socket for one request |
//! | `halves` | one connection, read and written at a time |
//! | `affinity`, `invite` | which listener is told |
//! | `splice`, `translate` | the two sockets joined, frame by frame |
//! | [`metrics`] | what is counted |
//! | `tracking`, `signal` | ids; events for many |

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use log::{info, warn};
use smol::Executor;
use smol::lock::Semaphore;
use umbilical_link::upgrade::Upgraded;
use umbilical_relay_protocol::{Close, Rejection, RelayUrl};

mod accept;
mod affinity;
mod authorize;
pub mod config;
pub mod connect;
mod halves;
mod handshake;
mod http_body;
mod http_exchange;
mod http_head;
mod http_response;
mod http_sender;
mod invite;
mod issuers;
mod key_server;
mod listen;
mod management;
pub mod metrics;
mod namespace;
mod penalty;
mod provisioning;
mod rendezvous;
mod request_socket;
mod requests;
mod server;
pub(crate) mod signal;
mod splice;
mod store;
mod tracking;
mod translate;

use config::{Deadlines, Limits, OnDemand, RelayConfig};
use connect::SenderRequest;
use handshake::Handshake;
use metrics::RelayMetrics;
use namespace::Namespace;
use penalty::Penalties;
use provisioning::Provisioning;
use rendezvous::Rendezvous;
use requests::Requests;
use server::Bound;
use signal::Signal;
pub use store::StoreError;

/// A running relay. Clones are the same relay; it runs until [`Relay::shutdown`], or for as long as its executor does.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    executor: Arc<Executor<'static>>,
    settings: RwLock<Settings>,
    namespace: Arc<Namespace>,
    provisioning: Provisioning,
    rendezvous: Arc<Rendezvous>,
    requests: Arc<Requests>,
    penalties: Penalties,
    metrics: RelayMetrics,
    endpoints: Mutex<Vec<Arc<Bound>>>,
    /// One permit per connection whose request has not been read: none left, none accepted.
    handshakes: Arc<Semaphore>,
    /// No more connections, control channels end, joins go on.
    stopping: Signal,
    /// Joins end.
    ending: Signal,
    /// Read-locked by every connection.
    alive: Arc<smol::lock::RwLock<()>>,
}

struct Settings {
    limits: Limits,
    deadlines: Deadlines,
    public_origin: Option<String>,
    on_demand: Option<OnDemand>,
}

impl Relay {
    /// Listens on the configured endpoints and serves on `executor`.
    ///
    /// # Errors
    /// An endpoint that cannot be listened on, an origin that is none, or a state directory that cannot be used.
    pub fn start(executor: &Arc<Executor<'static>>, config: &RelayConfig) -> Result<Self, RelayError> {
        let settings = Settings::of(config)?;
        let namespace = Arc::new(Namespace::default());
        let provisioning =
            Provisioning::open(config.state_directory.as_deref(), &namespace).map_err(RelayError::State)?;
        let shared = Arc::new(Shared {
            executor: Arc::clone(executor),
            namespace,
            provisioning,
            rendezvous: Arc::new(Rendezvous::default()),
            requests: Arc::new(Requests::default()),
            penalties: Penalties::default(),
            metrics: RelayMetrics::default(),
            endpoints: Mutex::new(Vec::new()),
            handshakes: Arc::new(Semaphore::new(settings.limits.handshakes.saturating_mul(2))),
            stopping: Signal::new(),
            ending: Signal::new(),
            alive: Arc::new(smol::lock::RwLock::new(())),
            settings: RwLock::new(settings),
        });
        let relay = Self { shared };
        relay.configure(config)?;
        executor.spawn(Provisioning::sweep(Arc::clone(&relay.shared))).detach();
        Ok(relay)
    }

    /// Takes over another configuration. What it does not touch goes on: listeners and joins of hybrid connections that
    /// stay, sockets of endpoints that stay. Listeners keep the token they have shown, even if its rule is gone, until
    /// it ends. What was made at run time stays. [`Limits::handshakes`] stays as it was at the start.
    ///
    /// # Errors
    /// As for [`Relay::start`], or another state directory; then nothing has changed.
    pub fn reload(&self, config: &RelayConfig) -> Result<(), RelayError> {
        let settings = Settings::of(config)?;
        if self.shared.provisioning.directory() != config.state_directory.as_deref() {
            return Err(RelayError::StateMoved);
        }
        self.configure(config)?;
        *self.shared.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        info!("relay reloaded: {} hybrid connections", config.hybrid_connections.len());
        Ok(())
    }

    /// Where the relay listens, in the order of [`RelayConfig::endpoints`], ports as the system chose them.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|bound| bound.address).collect()
    }

    /// What the relay counts.
    #[must_use]
    pub fn metrics(&self) -> &RelayMetrics {
        &self.shared.metrics
    }

    /// Connects a sender of this process, which needs no token, with a listener of the hybrid connection at `path`: the
    /// listener's own WebSocket, this end being the server. Takes up to [`Deadlines::rendezvous`].
    ///
    /// # Errors
    /// What a sender over the network would be answered: 404 no such hybrid connection or no listener, 504 no answer,
    /// or the listener's own refusal.
    pub async fn connect(&self, path: &str, request: SenderRequest) -> Result<Upgraded, Rejection> {
        connect::connect_here(&self.shared, path, request).await
    }

    /// How many listeners there are at the hybrid connection at `path`.
    #[must_use]
    pub fn listeners(&self, path: &str) -> usize {
        self.shared.namespace.listeners(path)
    }

    /// The arrival of the next listener at the hybrid connection at `path`, counted from this call on: when to try
    /// again after [`Relay::connect`] found none.
    #[must_use]
    pub fn arrival(&self, path: &str) -> Arrival {
        Arrival(self.shared.namespace.arrival(path))
    }

    /// Stops: no more connections, control channels closed with 1001, joins and responses left alone for `drain`, then closed with
    /// 1001. Returns when every connection is done, at the latest a little after `drain`.
    pub async fn shutdown(&self, drain: Duration) {
        let shared = &self.shared;
        shared.stopping.raise();
        shared.namespace.close_all(&Close::going_away());
        if crate::deadline::within(drain, shared.alive.write()).await.is_none() {
            shared.ending.raise();
            if crate::deadline::within(shared.deadlines().close * 2, shared.alive.write()).await.is_none() {
                warn!("relay stops with connections still open");
            }
        }
    }

    fn configure(&self, config: &RelayConfig) -> Result<(), RelayError> {
        let shared = &self.shared;
        let mut endpoints = shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = Vec::new();
        let mut next = Vec::new();
        for endpoint in &config.endpoints {
            let kept = endpoints.iter().find(|bound| bound.configured == endpoint.address && bound.is_listening());
            next.push(match kept {
                Some(bound) => Arc::clone(bound),
                None => {
                    let (bound, listener) = server::bind(endpoint)
                        .map_err(|source| RelayError::Listen { address: endpoint.address, source })?;
                    let bound = Arc::new(bound);
                    fresh.push((Arc::clone(&bound), listener));
                    bound
                }
            });
        }
        for (bound, endpoint) in next.iter().zip(&config.endpoints) {
            bound.set_tls(endpoint.tls.clone());
        }
        for gone in endpoints.iter().filter(|bound| !next.iter().any(|kept| Arc::ptr_eq(kept, bound))) {
            gone.stop();
        }
        *endpoints = next;
        shared.namespace.configure(config);
        for (bound, listener) in fresh {
            shared.executor.spawn(server::serve(Arc::clone(shared), bound, listener)).detach();
        }
        Ok(())
    }
}

impl Shared {
    fn deadlines(&self) -> Deadlines {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).deadlines
    }

    fn limits(&self) -> Limits {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).limits
    }

    /// What listeners may make.
    fn on_demand(&self) -> Option<OnDemand> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).on_demand.clone()
    }

    /// Where a listener is to dial: where it has dialled, unless the configuration knows better.
    fn origin(&self, handshake: &Handshake) -> Result<String, Rejection> {
        if let Some(origin) = &self.settings.read().unwrap_or_else(PoisonError::into_inner).public_origin {
            return Ok(origin.clone());
        }
        let scheme = if handshake.tls() { "wss" } else { "ws" };
        let host = handshake.head.header("host").unwrap_or_default();
        match RelayUrl::parse(&format!("{scheme}://{host}")) {
            Ok(relay) if relay.path().is_empty() => Ok(format!("{scheme}://{}", relay.authority())),
            _ => Err(Rejection::new(400, "The Host header is missing or no host")),
        }
    }
}

impl Settings {
    fn of(config: &RelayConfig) -> Result<Self, RelayError> {
        let public_origin = match &config.public_origin {
            None => None,
            Some(origin) => match RelayUrl::parse(origin) {
                Ok(relay) if relay.path().is_empty() => {
                    Some(format!("{}://{}", if relay.tls() { "wss" } else { "ws" }, relay.authority()))
                }
                _ => return Err(RelayError::PublicOrigin(origin.clone())),
            },
        };
        Ok(Self {
            limits: config.limits,
            deadlines: config.deadlines,
            public_origin,
            on_demand: config.on_demand.clone(),
        })
    }
}

/// A listener that is to come.
#[derive(Debug)]
pub struct Arrival(Signal);

impl Arrival {
    /// Waits for it, also if there is no such hybrid connection yet.
    pub async fn happened(&self) {
        self.0.raised().await;
    }
}

/// Why a relay does not start, or does not take over a configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum RelayError {
    /// An endpoint's address cannot be listened on.
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// [`RelayConfig::public_origin`] is not of the form `wss://host[:port]`.
    PublicOrigin(String),
    /// The state directory cannot be used.
    State(StoreError),
    /// The state directory is another one than at the start.
    StateMoved,
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, source } => {
                write!(f, "the relay cannot listen on {address}: {source}")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => f.write_str("; stop the program that does, or choose another port"),
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE, or choose another port")
                    }
                    io::ErrorKind::AddrNotAvailable => f.write_str("; choose an address of this machine"),
                    _ => Ok(()),
                }
            }
            Self::PublicOrigin(origin) => {
                write!(f, "{origin:?} is no origin of a relay, expected wss://host[:port] without a path")
            }
            Self::State(error) => error.fmt(f),
            Self::StateMoved => {
                f.write_str("`relay.state-directory` cannot change while the relay runs; restart it, or set it back")
            }
        }
    }
}

impl Error for RelayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Listen { source, .. } => Some(source),
            Self::State(error) => Some(error),
            Self::PublicOrigin(_) | Self::StateMoved => None,
        }
    }
}
