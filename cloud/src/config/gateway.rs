//! `[gateway]`: from tables and files to exposures and the way to the relay.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use umbilical_link::dial::Dialer;
use umbilical_link::tls::{self, DefaultTimeProvider, Roots};
use umbilical_mux::{MAX_SERVICE, MAX_STREAMS, MIN_REPLAY, Shape};
use umbilical_relay_protocol::{ConnectionString, Key, RelayUrl};

use super::document::{AuthTable, ExposeTable, GatewayTable, MemoryTable};
use super::error::{ConfigError, Problem, Warning};
use super::file::Files;
use super::proxy;
use super::relay::EmbeddedRelay;
use super::value::{Listen, Network, Period, Transport};
use crate::connection_file::{self, ConnectionFileError};

/// The gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where devices are met.
    pub relay: RelayChoice,
    /// The public ports.
    pub exposures: Vec<Exposure>,
    /// Memory of a device's session while it has streams.
    pub shape: Shape,
    /// Silence after which an idle link is asked for a sign of life.
    pub keep_alive: Duration,
    /// How long streams wait for a new link.
    pub resume_for: Duration,
    /// How long open streams may go on after the gateway was asked to stop.
    pub drain_for: Duration,
    /// How long new connections are taken after that, while `/readyz` says that it is not ready: time for a load balancer to
    /// see it.
    pub drain_after: Duration,
    /// How long after the start `/readyz` waits for devices that have no link yet.
    pub settle_for: Duration,
    /// How often an agent is asked at most how it is doing, when somebody scrapes; `None` for never.
    pub ask_agents: Option<Duration>,
}

/// `relay` of `[gateway]`
#[derive(Debug, Clone)]
pub enum RelayChoice {
    /// The relay of this process.
    Embedded,
    /// Another one.
    Remote(Box<RemoteRelay>),
}

/// A relay of another process, and how to get there.
#[derive(Debug, Clone)]
pub struct RemoteRelay {
    /// Without a path.
    pub url: RelayUrl,
    /// Roots and proxy.
    pub dialer: Dialer,
    /// What the gateway proves itself with.
    pub auth: Auth,
}

/// What a sender proves itself with.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A shared access key: the gateway signs its own tokens. The file is read for each.
    SharedKey {
        /// Name of the rule, `skn` of the token.
        name: String,
        /// File that holds the key.
        file: PathBuf,
    },
    /// A shared access key that was read already.
    Key {
        /// Name of the rule.
        name: String,
        /// The key.
        key: Key,
    },
    /// A file that holds a ready token, read for each dial.
    TokenFile(PathBuf),
    /// A file that holds a connection string, read for each dial.
    ConnectionString(PathBuf),
    /// Nothing, for hybrid connections that ask senders for nothing.
    None,
}

impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedKey { name, file } => {
                write!(f, "the key {name:?} from {} and its right to send", file.display())
            }
            Self::Key { name, .. } => write!(f, "the key {name:?} and its right to send"),
            Self::TokenFile(file) => write!(f, "the token from {}", file.display()),
            Self::ConnectionString(file) => {
                write!(f, "the connection string from {} and its right to send", file.display())
            }
            Self::None => f.write_str("whether a key is needed"),
        }
    }
}

/// `[[gateway.expose]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// The public port.
    pub listen: Listen,
    /// The device's name: the path of its hybrid connection.
    pub device: Arc<str>,
    /// The device's service.
    pub service: Arc<str>,
    /// Who listens for the device.
    pub listener: ListenerKind,
    /// Who may connect; everyone when `None`.
    pub allow: Option<Vec<Network>>,
    /// Clients at once; no limit of its own when `None`, which UDP has not.
    pub max_connections: Option<usize>,
    /// Silence after which a client is none any more, if all that can be known of it is what it sends (UDP).
    pub idle_timeout: Duration,
}

/// Who listens at a device's hybrid connection: `plain` and `azbridge` of `[[gateway.expose]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerKind {
    /// Our agent: its services are reached through one session.
    Agent,
    /// Another one, for which each rendezvous is a stream of bytes.
    Plain,
    /// The same, once azbridge's preamble has named this port.
    Azbridge(Arc<str>),
}

/// Memory of a device's session unless configured: 1 MiB carries 200 Mbit/s over 40 ms of round trip.
pub(crate) const DEFAULT_SHAPE: Shape = Shape { streams: 1024, replay: 1024 * 1024, receive: 1024 * 1024 };
/// Longer than the agent's by default, so that its pings are enough for both; a dead link is noticed within 75 s all the same.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(65);
/// `keep-alive = "metered"`: longer than the agent's of that name, below the four minutes after which load balancers
/// forget an idle connection.
const METERED: Duration = Duration::from_secs(225);
const KEEP_ALIVES: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(230);
/// As the agent's.
pub(crate) const DEFAULT_RESUME_FOR: Duration = Duration::from_secs(120);
const DEFAULT_DRAIN_FOR: Duration = Duration::from_secs(10);
/// Four hundred bytes or so: 40 KB a day, of a device that is watched.
const DEFAULT_ASK_AGENTS: Duration = Duration::from_secs(15 * 60);
const DEFAULT_SETTLE_FOR: Duration = Duration::from_secs(10);
/// As the agent's.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// Clients of a UDP port, whose addresses may be forged: half of the streams that an agent has by default.
const UDP_CONNECTIONS: usize = 32;
/// The quietest of them is looked for whenever one must make room.
const MOST_UDP_CONNECTIONS: usize = 4096;

pub(super) fn read(
    mut table: GatewayTable,
    embedded: Option<&EmbeddedRelay>,
    files: &mut Files<'_>,
) -> Result<GatewayConfig, ConfigError> {
    let expose = std::mem::take(&mut table.expose);
    let connection = read_connection_string(&table, files)?;
    let relay = match &connection {
        Some((string, file)) => read_connection(&table, string, file, files)?,
        None => read_relay(&table, embedded, files)?,
    };
    let embedded = match relay {
        RelayChoice::Embedded => embedded,
        RelayChoice::Remote(_) => None,
    };
    let mut exposures = Vec::with_capacity(expose.len());
    let mut addresses = HashSet::new();
    for expose in expose {
        let exposure = read_exposure(expose.get_ref(), embedded, files)?;
        if let Some((string, file)) = &connection {
            connection_file::relay_for(string, &exposure.device, file.get_ref())
                .map_err(|error| files.fault(&expose.get_ref().device, problem("gateway.expose.device", error)))?;
        }
        let taken = exposure.listen.address.port() != 0 && !addresses.insert(exposure.listen);
        if taken {
            let expected = "an address that no other exposure listens on";
            let listen = &expose.get_ref().listen;
            return Err(files.wrong(listen, "gateway.expose.listen", expected, &exposure.listen.to_string()));
        }
        exposures.push(exposure);
    }
    Ok(GatewayConfig {
        relay,
        exposures,
        shape: table.memory.map_or(Ok(DEFAULT_SHAPE), |memory| read_memory(&memory, files))?,
        keep_alive: read_keep_alive(table.keep_alive.as_ref(), files)?,
        resume_for: table.resume_for.map_or(DEFAULT_RESUME_FOR, |period| period.0),
        drain_for: table.drain_for.map_or(DEFAULT_DRAIN_FOR, |period| period.0),
        drain_after: table.drain_after.map_or(Duration::ZERO, |period| period.0),
        ask_agents: read_ask_agents(table.ask_agents.as_ref(), files)?,
        settle_for: table.settle_for.map_or(DEFAULT_SETTLE_FOR, |period| period.0),
    })
}

const RELAYS: &str = "\"embedded\", wss://HOST[:PORT] or sb://NAMESPACE.servicebus.windows.net";

fn read_relay(
    table: &GatewayTable,
    embedded: Option<&EmbeddedRelay>,
    files: &mut Files<'_>,
) -> Result<RelayChoice, ConfigError> {
    let (place, url) = match &table.relay {
        Some(place) if place.get_ref() == "embedded" => match embedded {
            Some(_) => return Ok(RelayChoice::Embedded),
            None => return Err(files.wrong(place, "gateway.relay", "a [relay] table beside it", "none")),
        },
        Some(place) => match RelayUrl::parse(place.get_ref()) {
            Ok(url) if url.path().is_empty() => (place, url),
            _ => return Err(files.wrong(place, "gateway.relay", RELAYS, place.get_ref())),
        },
        None if embedded.is_some() => return Ok(RelayChoice::Embedded),
        None => return Err(files.missing("gateway.relay", RELAYS)),
    };
    let auth = match &table.auth {
        Some(auth) => read_auth(auth, files)?,
        None => return Err(files.wrong(place, "gateway.relay", AUTH, "none")),
    };
    let dialer = read_dialer(table, place, "gateway.relay", files)?;
    Ok(RelayChoice::Remote(Box::new(RemoteRelay { url, dialer, auth })))
}

/// A connection string stands for `relay` and [gateway.auth].
fn read_connection_string<'t>(
    table: &'t GatewayTable,
    files: &mut Files<'_>,
) -> Result<Option<(ConnectionString, &'t Spanned<PathBuf>)>, ConfigError> {
    let Some(file) = &table.connection_string_file else { return Ok(None) };
    if table.relay.is_some() || table.auth.is_some() {
        let expected = "neither `relay` nor [gateway.auth] beside it";
        return Err(files.wrong(file, "gateway.connection-string-file", expected, "one of them"));
    }
    // it is looked at as every secret is
    files.secret(file, "gateway.connection-string-file")?;
    let string = connection_file::read(file.get_ref())
        .map_err(|error| files.fault(file, problem("gateway.connection-string-file", error)))?;
    Ok(Some((string, file)))
}

fn read_connection(
    table: &GatewayTable,
    string: &ConnectionString,
    file: &Spanned<PathBuf>,
    files: &Files<'_>,
) -> Result<RelayChoice, ConfigError> {
    let dialer = read_dialer(table, file, "gateway.connection-string-file", files)?;
    let auth = Auth::ConnectionString(file.get_ref().clone());
    Ok(RelayChoice::Remote(Box::new(RemoteRelay { url: string.url().with_path(""), dialer, auth })))
}

fn problem(key: &str, error: ConnectionFileError) -> Problem {
    Problem::ConnectionFile { key: key.to_owned(), error }
}

/// The way to the relay that `key`, at `place`, has named.
fn read_dialer<T>(
    table: &GatewayTable,
    place: &Spanned<T>,
    key: &str,
    files: &Files<'_>,
) -> Result<Dialer, ConfigError> {
    let roots = table.ca_file.as_ref().map_or(Roots::System, |file| Roots::File(file.get_ref().clone()));
    let tls = tls::client_config(&roots, Arc::new(DefaultTimeProvider)).map_err(|error| match &table.ca_file {
        Some(file) => files.fault(file, Problem::Tls { key: "gateway.ca-file".into(), error }),
        None => files.fault(place, Problem::Tls { key: key.to_owned(), error }),
    })?;
    Ok(Dialer { tls, proxy: proxy::read(table.proxy.as_ref(), "gateway.proxy", files)? })
}

fn read_keep_alive(place: Option<&Spanned<String>>, files: &Files<'_>) -> Result<Duration, ConfigError> {
    let Some(place) = place else { return Ok(DEFAULT_KEEP_ALIVE) };
    let silence = match place.get_ref().as_str() {
        "metered" => Some(METERED),
        text => Period::try_from(text.to_owned()).ok().map(|period| period.0),
    };
    let expected = "5s to 230s, such as \"65s\", or \"metered\"";
    silence
        .filter(|silence| KEEP_ALIVES.contains(silence))
        .ok_or_else(|| files.wrong(place, "gateway.keep-alive", expected, place.get_ref()))
}

fn read_ask_agents(place: Option<&Spanned<String>>, files: &Files<'_>) -> Result<Option<Duration>, ConfigError> {
    let Some(place) = place else { return Ok(Some(DEFAULT_ASK_AGENTS)) };
    match place.get_ref().as_str() {
        "never" => Ok(None),
        text => match Period::try_from(text.to_owned()) {
            Ok(period) => Ok(Some(period.0)),
            Err(_) => {
                let expected = "a duration up to 24h, such as \"15m\", or \"never\"";
                Err(files.wrong(place, "gateway.ask-agents", expected, text))
            }
        },
    }
}

const AUTH: &str = "[gateway.auth] beside it, with key-name and key-file, or with token-file";

fn read_auth(place: &Spanned<AuthTable>, files: &mut Files<'_>) -> Result<Auth, ConfigError> {
    let table = place.get_ref();
    match (&table.key_name, &table.key_file, &table.token_file) {
        (Some(name), Some(file), None) => {
            files.readable(file, "gateway.auth.key-file")?;
            Ok(Auth::SharedKey { name: name.clone(), file: file.get_ref().clone() })
        }
        (None, None, Some(file)) => {
            files.readable(file, "gateway.auth.token-file")?;
            Ok(Auth::TokenFile(file.get_ref().clone()))
        }
        _ => Err(files.wrong(place, "gateway.auth", "key-name and key-file, or token-file", "another set of keys")),
    }
}

fn read_exposure(
    table: &ExposeTable,
    embedded: Option<&EmbeddedRelay>,
    files: &mut Files<'_>,
) -> Result<Exposure, ConfigError> {
    let listen = *table.listen.get_ref();
    let (device, service) = (table.device.get_ref().trim_matches('/'), table.service.get_ref());
    if device.is_empty() {
        return Err(files.wrong(&table.device, "gateway.expose.device", "the name of a device", device));
    }
    if embedded.is_some_and(|relay| relay.requires_client_authorization(device).is_none()) {
        let expected = "a device of [relay.hybrid-connections]";
        return Err(files.wrong(&table.device, "gateway.expose.device", expected, device));
    }
    if !is_service_name(service) {
        let expected = "a name of 1 to 64 letters, digits, `-`, `_` or `.`";
        return Err(files.wrong(&table.service, "gateway.expose.service", expected, service));
    }
    if table.allow.is_none() && is_public(listen.address.ip()) {
        let (device, service) = (device.to_owned(), service.clone());
        files.warnings.push(Warning::OpenToAll { listen, service, device });
    }
    Ok(Exposure {
        listener: read_listener(table, files)?,
        listen,
        device: device.into(),
        service: service.as_str().into(),
        allow: table.allow.clone(),
        max_connections: read_max_connections(table, files)?,
        idle_timeout: read_idle_timeout(table, files)?,
    })
}

fn read_max_connections(table: &ExposeTable, files: &Files<'_>) -> Result<Option<usize>, ConfigError> {
    let (unless_configured, range, expected) = match table.listen.get_ref().transport {
        Transport::Tcp => (None, 1..=usize::MAX, "a number from 1"),
        Transport::Udp => (Some(UDP_CONNECTIONS), 1..=MOST_UDP_CONNECTIONS, "a number from 1 to 4096 for a UDP port"),
    };
    let Some(place) = &table.max_connections else { return Ok(unless_configured) };
    let most = *place.get_ref();
    if !range.contains(&most) {
        return Err(files.wrong(place, "gateway.expose.max-connections", expected, &most.to_string()));
    }
    Ok(Some(most))
}

fn read_idle_timeout(table: &ExposeTable, files: &Files<'_>) -> Result<Duration, ConfigError> {
    let Some(place) = &table.idle_timeout else { return Ok(DEFAULT_IDLE_TIMEOUT) };
    let (key, listen, idle) = ("gateway.expose.idle-timeout", table.listen.get_ref(), place.get_ref().0);
    if listen.transport == Transport::Tcp {
        let expected = "`listen` of \"udp:ADDRESS:PORT\" beside it";
        return Err(files.wrong(place, key, expected, &listen.to_string()));
    }
    if !IDLE_TIMEOUTS.contains(&idle) {
        return Err(files.wrong(place, key, "1s to 24h, such as \"60s\"", &format!("{}s", idle.as_secs())));
    }
    Ok(idle)
}

fn read_listener(table: &ExposeTable, files: &Files<'_>) -> Result<ListenerKind, ConfigError> {
    let plain = table.plain.as_ref().is_some_and(|plain| *plain.get_ref());
    if let (true, Some(place), Transport::Udp) = (plain, &table.plain, table.listen.get_ref().transport) {
        let expected = "`listen` without udp: beside it, plain bytes do not say where a datagram ends";
        return Err(files.wrong(place, "gateway.expose.plain", expected, &table.listen.get_ref().to_string()));
    }
    let Some(place) = &table.azbridge else { return Ok(if plain { ListenerKind::Plain } else { ListenerKind::Agent }) };
    let port = place.get_ref();
    if plain {
        let expected = "no `plain` beside it, they exclude each other";
        return Err(files.wrong(place, "gateway.expose.azbridge", expected, "plain = true"));
    }
    if port.len() > MAX_PORT_NAME {
        return Err(files.wrong(place, "gateway.expose.azbridge", "a name of at most 255 bytes", port));
    }
    Ok(ListenerKind::Azbridge(port.as_str().into()))
}

/// azbridge counts the bytes of a port's name in one byte.
const MAX_PORT_NAME: usize = 255;

/// As the agent wants them.
pub(crate) fn is_service_name(name: &str) -> bool {
    (1..=MAX_SERVICE).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether strangers may be able to reach it: every address, or one that is neither this machine's nor a private one.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !(address.is_loopback() || address.is_private() || address.is_link_local()),
        IpAddr::V6(address) => !(address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()),
    }
}

fn read_memory(place: &Spanned<MemoryTable>, files: &Files<'_>) -> Result<Shape, ConfigError> {
    let table = place.get_ref();
    let shape = Shape {
        streams: table.streams.unwrap_or(DEFAULT_SHAPE.streams),
        replay: table.replay.map_or(DEFAULT_SHAPE.replay, |bytes| bytes.0),
        receive: table.receive.map_or(DEFAULT_SHAPE.receive, |bytes| bytes.0),
    };
    let expected = match shape.check() {
        Ok(()) if shape.replay <= MAX_REPLAY => return Ok(shape),
        Ok(()) | Err(umbilical_mux::ShapeError::Replay { .. }) => "`replay` from 17K to 64M",
        Err(umbilical_mux::ShapeError::Streams { .. }) => "`streams` from 1 to 32768",
        Err(umbilical_mux::ShapeError::Receive { .. }) => "`receive` of 512 bytes for each of the `streams`, up to 15M",
    };
    const { assert!(MIN_REPLAY <= 17 * 1024 && MAX_STREAMS == 32_768) };
    let found = format!("replay {}, receive {}, streams {}", shape.replay, shape.receive, shape.streams);
    Err(files.wrong(place, "gateway.memory", expected, &found))
}

const MAX_REPLAY: usize = 64 * 1024 * 1024;
