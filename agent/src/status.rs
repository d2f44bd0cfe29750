//! Answers `umbilical-agent status`: a Unix socket of the running agent, and who asks there.
//!
//! ```text
//! agent ──► 0|1 \n                  1: it runs, and listens at no relay
//!           umbilical-agent ...\n   one screen for people
//!           end of stream           whoever connects sends nothing
//! ```
//!
//! Whoever may write to the socket may ask: its owner and its group. What can be read there is in the log as well, and holds no
//! secret. A device without a place for the socket works all the same.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process,
    rc::Rc,
    time::Duration,
};

use log::{debug, warn};
use smol::{Async, Timer, future, io::AsyncWriteExt};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{config::StatusSocket, health::Health, session::Sessions, sys::resident_bytes};

/// How long whoever asks waits for the agent, and the agent for whoever asks.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pause after the system refused to hand out a connection: it is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// Owner and group may ask.
const MODE: u32 = 0o660;

impl StatusSocket {
    /// Where it is; the default is `agent.sock` in the first directory of `RUNTIME_DIRECTORY` (systemd.exec(5)), else in
    /// `/run/umbilical`. `None` if there is to be none.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            StatusSocket::None => None,
            StatusSocket::At(path) => Some(path.clone()),
            StatusSocket::Default => {
                let given = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
                let first = given.split(':').next().filter(|directory| !directory.is_empty());
                Some(Path::new(first.unwrap_or("/run/umbilical")).join("agent.sock"))
            }
        }
    }
}

/// What is told.
pub struct Status {
    /// The configuration in force.
    pub file: PathBuf,
    /// How it stands with relays.
    pub health: Rc<Health>,
    /// Who is connected.
    pub sessions: Rc<Sessions>,
}

impl Status {
    async fn answer(&self) -> String {
        let code = u8::from(!self.health.is_good());
        let (version, process, file) = (env!("CARGO_PKG_VERSION"), process::id(), self.file.display());
        let (line, screen) = (self.health.line(), self.health.screen());
        let (sessions, streams) = (self.sessions.count(), self.sessions.streams().await);
        let resident = resident_bytes().unwrap_or_default() / 1024;
        format!(
            "{code}\numbilical-agent {version}, process {process}: {line}\n{screen}\
             {sessions} sessions, {streams} streams, {resident} KiB resident, configured by {file}\n"
        )
    }
}

/// The agent's end. The socket is gone when this is dropped.
pub struct StatusServer {
    path: PathBuf,
    socket: Async<UnixListener>,
}

impl StatusServer {
    /// Takes the place; one that an agent has left behind is free.
    ///
    /// # Errors
    /// The system's; `AddrInUse` if another agent answers there, or it is no socket.
    pub fn bind(path: &Path) -> io::Result<StatusServer> {
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        let server = StatusServer { path: path.to_owned(), socket: Async::new(socket)? };
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        Ok(server)
    }

    /// Answers one after another, for ever.
    pub async fn serve(&self, status: &Status) {
        loop {
            let mut client = match self.socket.accept().await {
                Ok((client, _)) => client,
                Err(error) => {
                    warn!("{} takes no connection: {error}", self.path.display());
                    Timer::after(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let text = status.answer().await;
            let told = async { client.write_all(text.as_bytes()).await };
            let late = async {
                Timer::after(PATIENCE).await;
                Err(io::ErrorKind::TimedOut.into())
            };
            if let Err(error) = future::or(told, late).await {
                debug!("{}: who asked did not hear the answer: {error}", self.path.display());
            }
        }
    }
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        // on a system that goes down it may be gone already
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether there is a socket that nobody listens at.
fn is_left_behind(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // an agent that is stuck is one that runs
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    is_socket && refused().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// What a running agent said.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether it listens at a relay.
    pub good: bool,
    /// One screen for people.
    pub screen: String,
}

/// Asks the agent whose socket is at `path`, and waits for 5 s at most.
///
/// # Errors
/// [`AskError`].
pub fn ask(path: &Path) -> Result<Told, AskError> {
    let text = read_answer(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning(path.to_owned()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Stuck(path.to_owned()),
        _ => AskError::Unreadable(path.to_owned(), error),
    })?;
    match text.split_once('\n') {
        Some((code @ ("0" | "1"), screen)) => Ok(Told { good: code == "0", screen: screen.to_owned() }),
        _ => Err(AskError::NoAgent(path.to_owned())),
    }
}

fn read_answer(path: &Path) -> io::Result<String> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // connecting waits for as long as writing may
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    let mut answer = Vec::new();
    socket.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Why it is not known how the agent is doing.
#[derive(Debug)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens there.
    NotRunning(PathBuf),
    /// Somebody does, and gives no answer.
    Stuck(PathBuf),
    /// The answer is not an agent's.
    NoAgent(PathBuf),
    /// Anything else, such as a lack of permission.
    Unreadable(PathBuf, io::Error),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::NotRunning(path) => {
                write!(f, "no agent answers at {}: it does not run, or `[status] socket` is elsewhere", path.display())
            }
            AskError::Stuck(path) => write!(
                f,
                "the agent at {} has not answered for {} s: restart it, and see its log",
                path.display(),
                PATIENCE.as_secs()
            ),
            AskError::NoAgent(path) => write!(f, "what answers at {} is no umbilical-agent", path.display()),
            AskError::Unreadable(path, error) => {
                write!(f, "can't ask the agent at {}: {error}; its owner, its group and root may", path.display())
            }
        }
    }
}

impl std::error::Error for AskError {}
