//! `agent.toml`: the file's text becomes a [`Config`] in which nothing is left to check.
//!
//! What has a default may be left out; what nothing knows is refused. Files that the configuration names are looked
//! at when it is loaded, so that `--check` finds them; secrets in them are read later, by [`credentials`].
//!
//! [`credentials`]: crate::credentials

mod document;
mod error;
mod foreign;
mod relay;
mod serial;
mod value;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use umbilical_link::proxy::Proxy;
use umbilical_mux::{Mode, Shape};
use umbilical_relay_protocol::RelayUrl;

use self::{
    document::{At, Table},
    relay::read_relays,
    value::{count, duration, size, socket_path},
};
pub use self::{
    error::{ConfigError, Problem, Warning},
    foreign::{Foreign, Welcome},
    serial::{Flow, Parity, SerialLine},
    value::{HttpAddress, Target},
};

/// Everything the agent is told by its operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which relays, and how to get there; one at least.
    pub relays: Vec<Relay>,
    /// What can be reached on this device, by name. What is not here does not exist.
    pub services: BTreeMap<String, Service>,
    /// What senders get that are no gateway of ours.
    pub foreign: Foreign,
    /// `[http]`: the HTTP service of this device, if it has one for the relay's senders.
    pub http: Option<Http>,
    /// How much memory sessions take.
    pub memory: Memory,
    /// How long sessions wait.
    pub session: Session,
    /// `[status] socket`: where to answer `umbilical-agent status`.
    pub status: StatusSocket,
}

/// `[relay]`, or one of `[[relays]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Relay {
    /// The hybrid connection to listen at.
    pub url: RelayUrl,
    /// Certificate authorities of the relay, PEM; the system's when `None`.
    pub ca_file: Option<PathBuf>,
    /// The way out.
    pub proxy: ProxyChoice,
    /// What the agent proves itself with.
    pub auth: Auth,
    /// Longest silence of the agent on an idle connection.
    pub keep_alive: Duration,
    /// The frame that breaks it on the control channel; when `None`, the one that suits the relay.
    pub keep_alive_frame: Option<KeepAliveFrame>,
    /// A reserve: listened at only while no other relay has been connected for so long.
    pub standby_after: Option<Duration>,
}

/// `proxy` of `[relay]`
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ProxyChoice {
    /// As `HTTPS_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    /// Straight to the relay, whatever the environment says.
    None,
    /// Through this one.
    Address(Proxy),
}

/// `[relay.auth]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// A shared access key: the agent signs its own tokens.
    SharedKey {
        /// Name of the rule, `skn` of the token.
        name: String,
        /// File that holds the key.
        file: PathBuf,
    },
    /// A file that holds a ready token and is read again when it changes.
    TokenFile(PathBuf),
    /// A program that prints a token.
    TokenCommand {
        /// Its path, or its name in `PATH`.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// Entra ID, by the metadata service of the machine.
    ManagedIdentity {
        /// Which identity, for machines that have several; the machine's own when `None`.
        client_id: Option<String>,
        /// Where the service is; where the environment and Azure have it when `None`.
        metadata_endpoint: Option<HttpAddress>,
    },
    /// A file that holds a connection string, with a key or a ready token in it.
    ConnectionString(PathBuf),
}

/// `keep-alive-frame` of `[relay]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAliveFrame {
    /// An unasked Pong: nobody answers, and the hosted relay takes no offence at it.
    Pong,
    /// A Ping: the relay answers, so a dead path is noticed behind a proxy too.
    Ping,
}

/// `[services.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What is dialled.
    pub target: Target,
    /// Streams to it at once; no limit of its own when `None`.
    pub max_streams: Option<usize>,
    /// Silence after which a stream of datagrams is over. Streams of bytes may be silent.
    pub idle_timeout: Duration,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where requests go.
    pub target: Target,
    /// Requests at once.
    pub max_requests: usize,
    /// Longest silence in an answer.
    pub timeout: Duration,
}

/// `[memory]`: sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Sent and not yet acknowledged, of one session.
    pub replay: usize,
    /// Received and not yet taken by a service, of one session.
    pub receive: usize,
    /// Streams of one session.
    pub streams: usize,
    /// Sessions at once: gateways that reach this device.
    pub sessions: usize,
}

/// `[session]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// How long streams wait for a new link.
    pub resume_for: Duration,
    /// How long open streams may go on after the agent was asked to stop.
    pub drain_for: Duration,
}

/// `socket` of `[status]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StatusSocket {
    /// Where the service manager or the distribution has a place for it.
    #[default]
    Default,
    /// Nowhere.
    None,
    /// Here.
    At(PathBuf),
}

impl Memory {
    /// The shape of each session.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let streams = u16::try_from(self.streams).expect("STREAMS ends below 65536");
        Shape { streams, replay: self.replay, receive: self.receive }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { replay: 512 * 1024, receive: 512 * 1024, streams: 64, sessions: 4 }
    }
}

impl Default for Session {
    fn default() -> Session {
        Session { resume_for: Duration::from_secs(120), drain_for: Duration::from_secs(10) }
    }
}

/// Most answers to datagrams come within seconds, and a stream that is needed again is opened again for nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const HTTP_REQUESTS: usize = 8;
const REQUESTS: RangeInclusive<usize> = 1..=64;
/// Below the minute that Azure waits: a sender then reads the device's own words.
const HTTP_TIMEOUT: Duration = Duration::from_secs(55);
const HTTP_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const WAITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
/// A replay ring holds at least one record of the greatest length.
const REPLAY: RangeInclusive<usize> = 16 * 1024..=64 * 1024 * 1024;
const RECEIVE: RangeInclusive<usize> = 16 * 1024..=15 * 1024 * 1024;
const STREAMS: RangeInclusive<usize> = 1..=4096;
const SESSIONS: RangeInclusive<usize> = 1..=64;

/// A file that the configuration names: what must be true of it is seen when the configuration is loaded.
#[derive(Debug)]
struct NamedFile {
    at: At<PathBuf>,
    role: FileRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileRole {
    Certificates,
    Secret,
    Program,
}

impl Config {
    /// Reads and checks `file` and the files it names.
    ///
    /// # Errors
    /// The first fault found, with its line.
    pub fn load(file: &Path) -> Result<(Config, Vec<Warning>), ConfigError> {
        let text = read_text(file)?;
        let (config, files) = read_document(file, &text)?;
        let mut warnings = Vec::new();
        for named in files {
            let line = named.at.line;
            check_file(named, &mut warnings).map_err(|problem| ConfigError::new(file, Some(line), problem))?;
        }
        if config.services.is_empty() && config.http.is_none() {
            warnings.push(Warning::NoServices);
        }
        Ok((config, warnings))
    }

    /// Reads of `file` only where the status socket is: who asks there need not be able to read what else it names.
    ///
    /// # Errors
    /// The file can't be read, or this part of it is faulty.
    pub fn status_socket(file: &Path) -> Result<StatusSocket, ConfigError> {
        let text = read_text(file)?;
        read_status(&mut Table::parse(file, &text)?)
    }

    /// Longest silence on links, whose session may have come by any relay.
    #[must_use]
    pub fn keep_alive(&self) -> Duration {
        self.relays.iter().map(|relay| relay.keep_alive).min().expect("there is one relay at least")
    }

    /// Reads `text`, and of the files it names only a connection string; `file` only appears in errors.
    ///
    /// # Errors
    /// The first fault found, with its line.
    pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
        read_document(file, text).map(|(config, _)| config)
    }
}

fn read_text(file: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(file).map_err(|error| ConfigError::new(file, None, Problem::Unreadable(error)))
}

fn read_document(file: &Path, text: &str) -> Result<(Config, Vec<NamedFile>), ConfigError> {
    let mut root = Table::parse(file, text)?;
    root.only(&["relay", "relays", "services", "foreign", "http", "memory", "session", "status"])?;
    let mut files = Vec::new();
    let relays = read_relays(&mut root, &mut files)?;
    let services = root.table("services")?.map(read_services).transpose()?.unwrap_or_default();
    let foreign = root.table("foreign")?.map(|table| foreign::read(table, &services)).transpose()?.unwrap_or_default();
    let http = root.table("http")?.map(read_http).transpose()?;
    let memory = root.table("memory")?.map(read_memory).transpose()?.unwrap_or_default();
    let session = root.table("session")?.map(read_session).transpose()?.unwrap_or_default();
    let status = read_status(&mut root)?;
    Ok((Config { relays, services, foreign, http, memory, session, status }, files))
}

fn read_status(root: &mut Table<'_>) -> Result<StatusSocket, ConfigError> {
    let Some(mut table) = root.table("status")? else { return Ok(StatusSocket::Default) };
    table.only(&["socket"])?;
    let socket = table.optional("socket", "a path that begins with /, or \"none\"", |value| {
        Some(match value.as_str()? {
            "none" => StatusSocket::None,
            path => StatusSocket::At(socket_path(path)?),
        })
    })?;
    Ok(socket.map_or(StatusSocket::Default, |at| at.value))
}

fn read_services(mut table: Table<'_>) -> Result<BTreeMap<String, Service>, ConfigError> {
    let mut services = BTreeMap::new();
    while let Some(name) = table.first_key() {
        if !is_service_name(&name) {
            return Err(table.refuse_key(&name, "a name of 1 to 64 letters, digits, `-`, `_` or `.`"));
        }
        let Some(mut service) = table.table(&name)? else { break };
        service.only(&["target", "max-streams", "idle-timeout"])?;
        let target = service.required("target", Target::EXPECTED, |value| Target::parse(value.as_str()?))?;
        let max_streams = service.optional("max-streams", "a number from 1 to 4096", |value| count(value, &STREAMS))?;
        const IDLE: &str = "1s to 24h, such as \"60s\"";
        let idle_timeout = service.optional("idle-timeout", IDLE, |value| duration(value, &IDLE_TIMEOUTS))?;
        if let Some(at) = idle_timeout.as_ref().filter(|_| target.value.mode() == Mode::Stream) {
            let (key, expected, found) = (at.key.clone(), "a udp: target beside it", target.value.to_string());
            return Err(service.fault(at.line, Problem::Unexpected { key, expected, found }));
        }
        let entry = Service {
            target: target.value,
            max_streams: max_streams.map(|at| at.value),
            idle_timeout: idle_timeout.map_or(IDLE_TIMEOUT, |at| at.value),
        };
        services.insert(name, entry);
    }
    Ok(services)
}

fn read_http(mut table: Table<'_>) -> Result<Http, ConfigError> {
    table.only(&["target", "max-requests", "timeout"])?;
    let target = table.required("target", Target::SOCKET_EXPECTED, |value| Target::parse_socket(value.as_str()?))?;
    let max_requests = table.optional("max-requests", "a number from 1 to 64", |value| count(value, &REQUESTS))?;
    let timeout = table.optional("timeout", "1s to 1h, such as \"55s\"", |value| duration(value, &HTTP_TIMEOUTS))?;
    Ok(Http {
        target: target.value,
        max_requests: max_requests.map_or(HTTP_REQUESTS, |at| at.value),
        timeout: timeout.map_or(HTTP_TIMEOUT, |at| at.value),
    })
}

fn is_service_name(name: &str) -> bool {
    (1..=umbilical_mux::MAX_SERVICE).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn read_memory(mut table: Table<'_>) -> Result<Memory, ConfigError> {
    table.only(&["replay", "receive", "streams", "sessions"])?;
    let replay = table.optional("replay", "a size from 16K to 64M, such as \"256K\"", |value| size(value, &REPLAY))?;
    let receive =
        table.optional("receive", "a size from 16K to 15M, such as \"256K\"", |value| size(value, &RECEIVE))?;
    let streams = table.optional("streams", "a number from 1 to 4096", |value| count(value, &STREAMS))?;
    let sessions = table.optional("sessions", "a number from 1 to 64", |value| count(value, &SESSIONS))?;
    let default = Memory::default();
    let memory = Memory {
        replay: replay.map_or(default.replay, |at| at.value),
        receive: receive.map_or(default.receive, |at| at.value),
        streams: streams.map_or(default.streams, |at| at.value),
        sessions: sessions.map_or(default.sessions, |at| at.value),
    };
    match memory.shape().check() {
        Ok(()) => Ok(memory),
        Err(_) => Err(table.refuse(
            "`receive` of at least 512 bytes for each of the `streams`",
            &format!("{} bytes for {} streams", memory.receive, memory.streams),
        )),
    }
}

fn read_session(mut table: Table<'_>) -> Result<Session, ConfigError> {
    table.only(&["resume-for", "drain-for"])?;
    const WAIT: &str = "a duration up to 24h, such as \"120s\", \"2m\" or \"1h\"";
    let resume_for = table.optional("resume-for", WAIT, |value| duration(value, &WAITS))?;
    let drain_for = table.optional("drain-for", WAIT, |value| duration(value, &WAITS))?;
    let default = Session::default();
    Ok(Session {
        resume_for: resume_for.map_or(default.resume_for, |at| at.value),
        drain_for: drain_for.map_or(default.drain_for, |at| at.value),
    })
}

fn note_file(files: &mut Vec<NamedFile>, at: At<PathBuf>, role: FileRole) -> PathBuf {
    let path = at.value.clone();
    files.push(NamedFile { at, role });
    path
}

fn check_file(named: NamedFile, warnings: &mut Vec<Warning>) -> Result<(), Problem> {
    let NamedFile { at: At { value: path, key, .. }, role } = named;
    let (empty, mode) = match look_at(&path, role) {
        Ok(seen) => seen,
        Err(error) => return Err(Problem::File { key, path, error }),
    };
    if empty {
        return Err(Problem::EmptyFile { key, path });
    }
    if role == FileRole::Secret && mode & 0o004 != 0 {
        warnings.push(Warning::ReadableByAll { key, path, mode });
    }
    Ok(())
}

/// Whether the file is empty, and its permission bits. A program need not be readable to be run.
fn look_at(path: &Path, role: FileRole) -> io::Result<(bool, u32)> {
    let metadata = fs::metadata(path)?;
    let mode = metadata.permissions().mode() & 0o7777;
    let empty = match role {
        FileRole::Program => metadata.len() == 0,
        FileRole::Certificates | FileRole::Secret => File::open(path)?.read(&mut [0])? == 0,
    };
    Ok((empty, mode))
}
