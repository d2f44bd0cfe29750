//! `cloud.toml`: the file's text becomes a [`Config`] in which nothing is left to check.
//!
//! | file | owns |
//! | --- | --- |
//! | `document` | the tables and keys of the file, as serde reads them |
//! | `value` | the notations of sizes, durations, networks, addresses |
//! | `relay` | `[relay]`: from tables and files to the embedded relay's settings |
//! | `gateway` | `[gateway]`: from tables and files to exposures and the way to the relay |
//! | `issuers` | `[relay.issuers]`: whose bearer tokens are believed |
//! | `proxy` | the way out, for whoever dials |
//! | `file` | files that the configuration names |
//! | `error` | what can be wrong, with its line; what is odd |
//!
//! Everything the file names is read when it is loaded, so that `check` finds what is missing. Keys and tokens that
//! the gateway signs with are read again when they are used.

mod document;
mod error;
mod file;
mod gateway;
mod issuers;
mod proxy;
mod relay;
mod value;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::relay::config::RelayConfig;

use self::document::Document;
use self::file::Files;

pub use self::error::{ConfigError, Problem, Warning};
pub use self::gateway::{Auth, Exposure, GatewayConfig, ListenerKind, RelayChoice, RemoteRelay};
pub(crate) use self::gateway::{DEFAULT_RESUME_FOR, is_service_name};
pub use self::relay::EmbeddedRelay;
pub use self::value::{Listen, Network, Transport};

/// Everything the cloud side is told by its operator.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[relay]`: the embedded relay, if there is one.
    pub relay: Option<EmbeddedRelay>,
    /// `[gateway]`, if there is one.
    pub gateway: Option<GatewayConfig>,
    /// `[admin] listen`: where to serve status, on loopback.
    pub admin: Option<SocketAddr>,
}

impl Config {
    /// Reads and checks `file` and the files it names.
    ///
    /// # Errors
    /// The first fault found, with its line.
    pub fn load(file: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        let text =
            fs::read_to_string(file).map_err(|error| ConfigError::new(file, None, Problem::Unreadable(error)))?;
        Self::parse(file, &text)
    }

    /// As [`Config::load`], for text that was read already; `file` only appears in errors.
    ///
    /// # Errors
    /// The first fault found, with its line.
    pub fn parse(file: &Path, text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        let document: Document = toml::from_str(text).map_err(|error| ConfigError::syntax(file, text, &error))?;
        let mut files = Files::new(file, text);
        let relay = document.relay.map(|table| relay::read(table, &mut files)).transpose()?;
        let gateway = document.gateway.map(|table| gateway::read(table, relay.as_ref(), &mut files)).transpose()?;
        let admin = document.admin.map(|admin| admin.listen.get_ref().0);
        if let Some(listen) = admin.filter(|listen| !listen.ip().is_loopback()) {
            files.warnings.push(Warning::AdminOpen { listen });
        }
        let mut warnings = files.warnings;
        if relay.is_none() && gateway.is_none() {
            warnings.push(Warning::NothingToDo);
        }
        Ok((Self { relay, gateway, admin }, warnings))
    }

    /// The embedded relay's settings, if there is one.
    #[must_use]
    pub fn relay_config(&self) -> Option<&RelayConfig> {
        self.relay.as_ref().map(|relay| &relay.config)
    }
}
