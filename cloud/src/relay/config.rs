//! What a relay is told: where it listens, which hybrid connections it has, who may use them, how patient it is.
//!
//! Plain values, already checked: files, units and defaults of the configuration file are its reader's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use umbilical_link::dial::{Dialer, Target};
use umbilical_link::tls::ServerConfig;
use umbilical_relay_protocol::{Issuer, KeySet, PathPattern, RENDEZVOUS_VALIDITY, Rule};

/// Everything a relay is told.
#[derive(Debug, Clone, Default)]
pub struct RelayConfig {
    /// Where to listen. Empty for a relay that serves its own process only.
    pub endpoints: Vec<Endpoint>,
    /// How listeners reach this relay from outside (`wss://relay.example.net:8443`), written into the addresses they
    /// are invited to. `None` takes the name each listener used itself, which is right unless something in between
    /// changes the host, the port or the scheme.
    pub public_origin: Option<String>,
    /// Shared access policies of the whole namespace.
    pub rules: Vec<Rule>,
    /// Whose bearer tokens are believed.
    pub issuers: Vec<TrustedIssuer>,
    /// The meeting points. Of two with the same path (ignoring case) the later counts.
    pub hybrid_connections: Vec<HybridConnection>,
    /// Which hybrid connections a listener makes by coming. `None` if it makes none.
    pub on_demand: Option<OnDemand>,
    /// Where to keep what is made at run time. `None` keeps nothing: then only listeners make any.
    pub state_directory: Option<PathBuf>,
    /// How much is too much.
    pub limits: Limits,
    /// How long is too long.
    pub deadlines: Deadlines,
}

/// A maker of bearer tokens, and how its signatures are checked.
#[derive(Debug, Clone)]
pub struct TrustedIssuer {
    /// Who it is, and what its tokens are good for.
    pub issuer: Issuer,
    /// Its public keys.
    pub keys: KeySource,
}

/// Where an issuer's keys are from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// They are these.
    Fixed(Arc<KeySet>),
    /// They are fetched when they are needed.
    Server(Arc<KeyServer>),
}

/// A place that publishes an issuer's keys.
#[derive(Debug, Clone)]
pub struct KeyServer {
    /// As configured, for logs. Two with the same URL have the same keys.
    pub url: String,
    /// Where to dial.
    pub target: Target,
    /// Path and query.
    pub path: String,
    /// How to dial.
    pub dialer: Dialer,
}

impl KeyServer {
    /// Value of the `Host` header.
    pub(crate) fn host_header(&self) -> String {
        let authority = self.target.authority();
        authority.strip_suffix(":443").map_or_else(|| authority.clone(), str::to_owned)
    }
}

/// One listening TCP socket.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Address and port; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Certificate and key. `None` speaks plain HTTP, for use behind a TLS terminator or on loopback.
    pub tls: Option<Arc<ServerConfig>>,
}

/// A meeting point of listeners and senders.
#[derive(Debug, Clone)]
pub struct HybridConnection {
    /// Its name: segments joined by `/`, compared without regard to ASCII case.
    pub path: String,
    /// Shared access policies of this one, asked before the namespace's.
    pub rules: Vec<Rule>,
    /// Whether senders need a token. Listeners always do.
    pub requires_client_authorization: bool,
}

/// Hybrid connections that come to be when a listener comes, for fleets whose devices nobody wants to list.
///
/// The listener needs a token by a rule of the namespace, or of an issuer, that has the right to listen there.
#[derive(Debug, Clone)]
pub struct OnDemand {
    /// What their paths must match.
    pub pattern: PathPattern,
    /// The most of them there may be, with all others no more than [`MAX_HYBRID_CONNECTIONS`].
    pub most: usize,
    /// Those that have had no listener for so long are removed. A restart counts as use.
    pub remove_after: Duration,
    /// Whether their senders need a token.
    pub requires_client_authorization: bool,
}

/// The most hybrid connections there are before no more are made at run time, as on Azure.
pub const MAX_HYBRID_CONNECTIONS: usize = 10_000;

/// How much the relay takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections of all kinds. Further ones are answered 503 with `Retry-After`. Default 20,000.
    pub connections: usize,
    /// Connections that have not sent their request yet. Further ones are answered 503 with `Retry-After`; at twice as
    /// many, no connection is taken from the kernel's queue until one is done. Default 256.
    pub handshakes: usize,
    /// Refused handshakes that one source (IPv4 address or IPv6 /64) gets answered at once; more are answered one per
    /// [`Limits::refusal_pause`]. Default 10.
    pub refusals: u32,
    /// What a source's further refusals are spaced out to. Some clients try again the moment they are refused, hundreds
    /// of times a second. Default 1 s.
    pub refusal_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 20_000, handshakes: 256, refusals: 10, refusal_pause: Duration::from_secs(1) }
    }
}

/// How long the relay waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the TCP connection to the end of the request head, TLS included. Default 15 s.
    pub handshake: Duration,
    /// From the accept message to the listener at the rendezvous. Default 30 s, which is also the protocol's most.
    pub rendezvous: Duration,
    /// From the loss of the last listener, if it did not say goodbye, or from the relay's start, to the refusal of senders:
    /// most listeners are back at once. Default 2 s.
    pub absence: Duration,
    /// From an HTTP request to its response, and then between pieces of a body: how long a listener, or a sender, may keep
    /// the other waiting. Default 60 s, as on the hosted service.
    pub response: Duration,
    /// From one HTTP request to the head of the next one on the same connection. Default 60 s.
    pub idle: Duration,
    /// Silence on a control channel after which the relay pings. Default 225 s: longer than any interval of our agents by name,
    /// so that theirs are enough for both, and below the four minutes after which load balancers forget a connection.
    pub quiet: Duration,
    /// From a ping, or from the start of a write, to a sign of life. Default 20 s.
    pub pong: Duration,
    /// How long a control channel outlives its token: clients renew at the very end of it. Default 60 s.
    pub token_grace: Duration,
    /// From one attempt to fetch an issuer's keys to the next, whatever tokens come. Default 60 s.
    pub keys: Duration,
    /// From a close frame, or from a refusal, to the end of the connection. Default 5 s.
    pub close: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(15),
            rendezvous: RENDEZVOUS_VALIDITY,
            absence: Duration::from_secs(2),
            response: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            quiet: Duration::from_secs(225),
            pong: Duration::from_secs(20),
            token_grace: Duration::from_secs(60),
            keys: Duration::from_secs(60),
            close: Duration::from_secs(5),
        }
    }
}
