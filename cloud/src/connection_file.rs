//! A file that holds a connection string. It holds a key or a token as well, which is why it is a file of its own, and
//! read again for each dial.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use umbilical_relay_protocol::{ConnectionString, ConnectionStringError, Credential, RelayUrl, entity_key};

/// Reads the connection string in `file`.
///
/// # Errors
/// [`ConnectionFileError`], also for one that needs the identity of a machine.
pub fn read(file: &Path) -> Result<ConnectionString, ConnectionFileError> {
    let fault = |fault| ConnectionFileError { file: file.to_owned(), fault };
    let text = fs::read_to_string(file).map_err(|error| fault(Fault::Unreadable(error)))?;
    let string = ConnectionString::parse(&text).map_err(|error| fault(Fault::Malformed(error)))?;
    match string.credential() {
        Credential::ManagedIdentity => Err(fault(Fault::Identity)),
        _ => Ok(string),
    }
}

/// The relay of a connection string, without a path; what is in `file` must be good for `device`.
///
/// # Errors
/// The string is for another hybrid connection.
pub fn relay_for(string: &ConnectionString, device: &str, file: &Path) -> Result<RelayUrl, ConnectionFileError> {
    let path = string.url().path();
    if path.is_empty() || entity_key(path) == entity_key(device.trim_matches('/')) {
        return Ok(string.url().with_path(""));
    }
    let fault = Fault::OtherDevice { path: path.to_owned(), device: device.to_owned() };
    Err(ConnectionFileError { file: file.to_owned(), fault })
}

/// What is wrong with a file.
#[derive(Debug)]
pub struct ConnectionFileError {
    file: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    Malformed(ConnectionStringError),
    Identity,
    OtherDevice { path: String, device: String },
    NoKey,
    OtherRelay,
}

impl ConnectionFileError {
    /// A token is to be signed, and `file` has no key to sign with.
    #[must_use]
    pub fn no_key(file: &Path) -> Self {
        Self { file: file.to_owned(), fault: Fault::NoKey }
    }

    /// `file` is for another relay than it was.
    #[must_use]
    pub fn other_relay(file: &Path) -> Self {
        Self { file: file.to_owned(), fault: Fault::OtherRelay }
    }
}

impl fmt::Display for ConnectionFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.fault {
            Fault::Unreadable(error) => write!(f, "cannot read {file}: {error}"),
            Fault::Malformed(error) => write!(f, "{file}: {error}"),
            Fault::Identity => write!(
                f,
                "{file}: the connection string wants a managed identity, which only agents have; use one with a key, or a \
                 token file"
            ),
            Fault::OtherDevice { path, device } => {
                write!(f, "{file}: the connection string is for {path:?} alone (EntityPath), not for {device:?}")
            }
            Fault::NoKey => write!(f, "{file}: the connection string has no SharedAccessKey to sign a token with"),
            Fault::OtherRelay => write!(
                f,
                "{file}: the connection string is for another relay now; have the configuration read again (SIGHUP)"
            ),
        }
    }
}

impl std::error::Error for ConnectionFileError {}
