//! Connection strings: a relay's address, and what to prove oneself with, in one line as Azure's portal hands it out.
//!
//! ```text
//! Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey=c2VjcmV0;EntityPath=hyco
//! Endpoint=sb://...;SharedAccessSignature=SharedAccessSignature sr=..&sig=..&se=..&skn=..;EntityPath=hyco
//! Endpoint=sb://...;Authentication=Managed Identity;EntityPath=hyco
//! ```
//!
//! Split at `;`, and then at the first `=` only: keys in base64 end with that character. Names are compared without regard
//! to case, and an unknown one is an error, as with Microsoft's .NET clients.

use std::error::Error;
use std::fmt;

use crate::address::{AddressError, RelayUrl};
use crate::authorization::Key;

/// A parsed connection string. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct ConnectionString {
    url: RelayUrl,
    credential: Credential,
}

/// What a connection string proves itself with.
#[derive(Clone)]
#[non_exhaustive]
pub enum Credential {
    /// A shared access key, to sign tokens with.
    SharedKey {
        /// Its name.
        name: String,
        /// The key.
        key: Key,
    },
    /// A ready token.
    Token(String),
    /// The identity of the machine it is used on, in Entra ID.
    ManagedIdentity,
    /// Nothing: for senders of hybrid connections that ask them for nothing.
    None,
}

impl ConnectionString {
    /// Parses `text`, white space around it aside.
    ///
    /// # Errors
    /// [`ConnectionStringError`]; no error repeats what the string holds behind a name.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let mut values = [None; FIELDS.len()];
        for part in text.trim().split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(ConnectionStringError::NoName)?;
            let (name, value) = (name.trim(), value.trim());
            let field = FIELDS.iter().position(|field| field.eq_ignore_ascii_case(name));
            let field = field.ok_or_else(|| ConnectionStringError::Unknown(shown(name)))?;
            if value.is_empty() || value.contains(char::is_control) {
                return Err(ConnectionStringError::Value(FIELDS[field]));
            }
            if values[field].replace(value).is_some() {
                return Err(ConnectionStringError::Twice(FIELDS[field]));
            }
        }
        // the timeout is about the API of Microsoft's clients
        let [endpoint, path, name, key, token, authentication, _timeout] = values;
        let endpoint = endpoint.ok_or(ConnectionStringError::Missing("Endpoint"))?;
        let url = RelayUrl::parse(endpoint).map_err(ConnectionStringError::Endpoint)?;
        if !url.path().is_empty() {
            return Err(ConnectionStringError::EndpointPath);
        }
        let credential = match (name, key, token, authentication) {
            (Some(name), Some(key), None, None) => Credential::SharedKey {
                name: name.to_owned(),
                key: Key::new(key).ok_or(ConnectionStringError::Value("SharedAccessKey"))?,
            },
            (None, None, Some(token), None) => Credential::Token(token.to_owned()),
            (None, None, None, Some(kind)) if is_managed_identity(kind) => Credential::ManagedIdentity,
            (None, None, None, Some(_)) => return Err(ConnectionStringError::Value("Authentication")),
            (None, None, None, None) => Credential::None,
            (Some(_), None, None, None) => return Err(ConnectionStringError::Missing("SharedAccessKey")),
            (None, Some(_), None, None) => return Err(ConnectionStringError::Missing("SharedAccessKeyName")),
            _ => return Err(ConnectionStringError::Several),
        };
        Ok(Self { url: url.with_path(path.unwrap_or_default()), credential })
    }

    /// The relay, and the hybrid connection if the string names one.
    #[must_use]
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// What to prove oneself with.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedKey { name, .. } => f.debug_struct("SharedKey").field("name", name).finish_non_exhaustive(),
            Self::Token(_) => f.write_str("Token(..)"),
            Self::ManagedIdentity => f.write_str("ManagedIdentity"),
            Self::None => f.write_str("None"),
        }
    }
}

/// In the order in which [`ConnectionString::parse`] takes them apart.
const FIELDS: [&str; 7] = [
    "Endpoint",
    "EntityPath",
    "SharedAccessKeyName",
    "SharedAccessKey",
    "SharedAccessSignature",
    "Authentication",
    "OperationTimeout",
];

/// Longest unknown name that an error repeats: what has no `=` where it should may hold a key.
const SHOWN: usize = 24;

fn is_managed_identity(text: &str) -> bool {
    text.eq_ignore_ascii_case("Managed Identity") || text.eq_ignore_ascii_case("ManagedIdentity")
}

fn shown(name: &str) -> String {
    let is_name = name.len() <= SHOWN && name.chars().all(|char| char.is_ascii_alphanumeric() || " -_".contains(char));
    if is_name { name.to_owned() } else { "...".to_owned() }
}

/// Why a text is no connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionStringError {
    /// A part without a `=`.
    NoName,
    /// A part with a name that does not exist; `...` if it does not even look like one.
    Unknown(String),
    /// A name that is there twice.
    Twice(&'static str),
    /// A name without a usable value.
    Value(&'static str),
    /// A name that has to be there.
    Missing(&'static str),
    /// `Endpoint` is no address of a relay.
    Endpoint(AddressError),
    /// `Endpoint` has a path.
    EndpointPath,
    /// More than one way to prove oneself.
    Several,
}

impl fmt::Display for ConnectionStringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection string ")?;
        match self {
            Self::NoName => f.write_str("has a part without `=`, expected NAME=VALUE;NAME=VALUE"),
            Self::Unknown(name) => {
                write!(f, "has the unknown name {name:?}, expected {}", FIELDS.join(", "))
            }
            Self::Twice(name) => write!(f, "has {name} twice"),
            Self::Value("Authentication") => f.write_str("has an Authentication other than Managed Identity"),
            Self::Value(name) => write!(f, "has no usable value for {name}"),
            Self::Missing(name) => write!(f, "lacks {name}"),
            Self::Endpoint(error) => write!(f, "has an unusable Endpoint: {error}"),
            Self::EndpointPath => f.write_str("has an Endpoint with a path, write the path as EntityPath"),
            Self::Several => f.write_str(
                "has several credentials, expected SharedAccessKeyName with SharedAccessKey, or SharedAccessSignature, or \
                 Authentication",
            ),
        }
    }
}

impl Error for ConnectionStringError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Endpoint(error) => Some(error),
            _ => None,
        }
    }
}
