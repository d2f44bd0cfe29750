//! Why the state directory cannot be used.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why the state cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refuses.
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// Another process has it.
    InUse(PathBuf),
    /// The file is not what was written there.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What makes no sense in it.
        fault: String,
    },
}

impl StoreError {
    /// What an error of the database means to whoever runs the relay.
    pub(super) fn of(doing: &'static str, path: &Path, error: redb::Error) -> Self {
        // a file that is too short, or begins with something else, is damaged too
        let damage =
            |source: &io::Error| matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        match error {
            redb::Error::Io(source) if !damage(&source) => Self::Io { doing, path: path.into(), source },
            redb::Error::DatabaseAlreadyOpen => Self::InUse(path.into()),
            error => Self::Damaged { path: path.into(), fault: error.to_string() },
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, source } => write!(
                f,
                "`relay.state-directory`: cannot {doing} {}: {source}; the relay must be able to write there, and there must be \
                 space",
                path.display()
            ),
            Self::InUse(path) => write!(
                f,
                "`relay.state-directory`: {} is in use by another umbilical-cloud; stop it, or choose another directory",
                path.display()
            ),
            Self::Damaged { path, fault } => write!(
                f,
                "`relay.state-directory`: {} is damaged, or was written by a newer version: {fault}; restore it from a backup, \
                 or move it away to begin with nothing",
                path.display()
            ),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::InUse(_) | Self::Damaged { .. } => None,
        }
    }
}
