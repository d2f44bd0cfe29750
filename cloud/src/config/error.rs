//! What can be wrong with a configuration file, said in one line: `FILE:LINE: what, and what was expected`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use umbilical_link::tls::TlsError;
use umbilical_relay_protocol::KeySetError;

use super::value::{Listen, Transport};
use crate::connection_file::ConnectionFileError;

/// A configuration that was refused: where, and why.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    /// Counted from 1; `None` when the fault is the file as a whole.
    line: Option<usize>,
    problem: Box<Problem>,
}

/// Why a configuration was refused. `key` is dotted from the root: `gateway.relay`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The configuration file itself can't be read.
    Unreadable(io::Error),
    /// Not TOML, an unknown key, a missing key, a value of the wrong type or notation; in the parser's words.
    Syntax(String),
    /// A value that is not as it should be.
    Unexpected {
        /// The key of the value.
        key: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// A file that the configuration names can't be used.
    File {
        /// The key that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What happened on reading it.
        error: io::Error,
    },
    /// A file with a shared access key that holds none.
    NoKey {
        /// The key that names it.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// A file with a connection string that can't be used.
    ConnectionFile {
        /// The key that names it.
        key: String,
        /// Why.
        error: ConnectionFileError,
    },
    /// A file with the public keys of an issuer that can't be used.
    KeySet {
        /// The key that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// Why.
        error: KeySetError,
    },
    /// A variable of the environment can't be used.
    Environment {
        /// Its name.
        variable: &'static str,
        /// Why.
        message: String,
    },
    /// Certificates that can't be used.
    Tls {
        /// The key that names them.
        key: String,
        /// Why.
        error: TlsError,
    },
}

impl ConfigError {
    pub(super) fn new(file: &Path, line: Option<usize>, problem: Problem) -> Self {
        Self { file: file.to_owned(), line, problem: Box::new(problem) }
    }

    pub(super) fn syntax(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = error.span().map(|span| line_of(text, span.start));
        Self::new(file, line, Problem::Syntax(error.message().replace('\n', ", ")))
    }

    /// What was wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

/// The line, counted from 1, that holds the byte at `offset`.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot read the configuration: {error}"),
            Self::Syntax(message) => f.write_str(message),
            Self::Unexpected { key, expected, found } => write!(f, "`{key}`: expected {expected}, found {found}"),
            Self::File { key, path, error } => write!(f, "`{key}`: cannot read {}: {error}", path.display()),
            Self::NoKey { key, path } => {
                write!(f, "`{key}`: {} holds no key, expected one line of text", path.display())
            }
            Self::ConnectionFile { key, error } => write!(f, "`{key}`: {error}"),
            Self::KeySet { key, path, error } => write!(f, "`{key}`: {}: {error}", path.display()),
            Self::Environment { variable, message } => write!(f, "the environment's {variable}: {message}"),
            Self::Tls { key, error } => write!(f, "`{key}`: {error}"),
        }
    }
}

/// Something that works, but that an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Every user of the machine can read a secret.
    ReadableByAll {
        /// The key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A device's port for everyone who can reach this machine.
    OpenToAll {
        /// Where it listens.
        listen: Listen,
        /// The service behind it.
        service: String,
        /// The device that has it.
        device: String,
    },
    /// The admin port asks nobody who they are.
    AdminOpen {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Tokens and all else travel in the clear.
    WithoutTls {
        /// Where the relay listens.
        listen: SocketAddr,
    },
    /// A device's name and its port, and nobody may register under it.
    NobodyMayListen {
        /// Path of the hybrid connection.
        path: String,
    },
    /// Listeners may make hybrid connections, and nobody may listen there.
    NobodyMakes {
        /// What they would have to match.
        pattern: String,
    },
    /// Neither relay nor gateway is configured.
    NothingToDo,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadableByAll { key, path, mode } => write!(
                f,
                "`{key}`: every user of this machine can read {} (mode {mode:04o}); run: chmod o-rwx {}",
                path.display(),
                path.display()
            ),
            Self::OpenToAll { listen, service, device } => {
                write!(f, "everyone who can reach {listen} can reach {service} of {device}")?;
                if listen.transport == Transport::Udp {
                    f.write_str(", and have it answer somebody else, since UDP's addresses can be forged")?;
                }
                f.write_str("; add `allow` to name who may")
            }
            Self::AdminOpen { listen } => write!(
                f,
                "everyone who can reach the admin port at {listen} can read the names of devices and how they are doing; \
                 let only monitoring and load balancers reach it, or listen on loopback"
            ),
            Self::WithoutTls { listen } => write!(
                f,
                "the relay speaks plain HTTP on {listen}; add `certificate-file` and `key-file`, or listen on loopback \
                 behind something that speaks TLS"
            ),
            Self::NobodyMayListen { path } => write!(
                f,
                "no key has the right to listen at {path:?}; add [relay.hybrid-connections.{path:?}.keys.NAME] for its \
                 device"
            ),
            Self::NobodyMakes { pattern } => write!(
                f,
                "no key of the namespace has the right to listen, so no device makes {pattern:?}; add [relay.keys.NAME] with \
                 \"listen\", or an issuer"
            ),
            Self::NothingToDo => f.write_str("neither [relay] nor [gateway] is configured: there is nothing to do"),
        }
    }
}
