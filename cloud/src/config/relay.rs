//! `[relay]`: from tables and files to the embedded relay's settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use umbilical_link::tls;
use umbilical_relay_protocol::{Right, Rights, Rule};

use super::document::{HybridConnectionTable, KeyTable, RelayTable, RightName};
use super::error::{ConfigError, Problem, Warning};
use super::file::Files;
use super::issuers;
use crate::relay::config::{Deadlines, Endpoint, HybridConnection, Limits, RelayConfig};

/// The most shared access keys of a namespace or of a hybrid connection, as on Azure: a token is tried with each of them.
const MAX_RULES: usize = 12;

/// The embedded relay.
#[derive(Debug, Clone)]
pub struct EmbeddedRelay {
    /// What it is told.
    pub config: RelayConfig,
    /// Its certificate; `None` if it speaks plain HTTP.
    pub certificate_file: Option<PathBuf>,
}

impl EmbeddedRelay {
    /// The hybrid connection at `path`, ignoring case.
    #[must_use]
    pub fn hybrid_connection(&self, path: &str) -> Option<&HybridConnection> {
        self.config.hybrid_connections.iter().find(|connection| connection.path.eq_ignore_ascii_case(path))
    }

    /// A rule whose keys may `right` at `path`: the hybrid connection's own before the namespace's.
    #[must_use]
    pub fn rule_with(&self, right: Right, path: &str) -> Option<&Rule> {
        let own = self.hybrid_connection(path).into_iter().flat_map(|connection| &connection.rules);
        own.chain(&self.config.rules).find(|rule| rule.rights.allow(right))
    }
}

pub(super) fn read(table: RelayTable, files: &mut Files<'_>) -> Result<EmbeddedRelay, ConfigError> {
    let address = table.listen.get_ref().0;
    let tls = match (&table.certificate_file, &table.key_file) {
        (Some(certificate), Some(key)) => {
            let config = tls::server_config(certificate.get_ref(), key.get_ref()).map_err(|error| {
                files.fault(certificate, Problem::Tls { key: "relay.certificate-file".into(), error })
            })?;
            files.look_at_mode(key, "relay.key-file");
            Some(config)
        }
        (None, None) => None,
        (Some(one), None) => {
            return Err(files.wrong(one, "relay.certificate-file", "a `key-file` beside it", "none"));
        }
        (None, Some(one)) => {
            return Err(files.wrong(one, "relay.key-file", "a `certificate-file` beside it", "none"));
        }
    };
    if tls.is_none() && !address.ip().is_loopback() {
        files.warnings.push(Warning::WithoutTls { listen: address });
    }
    let public_origin = match table.public_url {
        None => None,
        Some(url) => match umbilical_relay_protocol::RelayUrl::parse(url.get_ref()) {
            Ok(origin) if origin.path().is_empty() => Some(url.into_inner()),
            _ => return Err(files.wrong(&url, "relay.public-url", "wss://HOST[:PORT] without a path", url.get_ref())),
        },
    };
    let mut limits = Limits::default();
    if let Some(most) = table.max_connections {
        if *most.get_ref() == 0 {
            return Err(files.wrong(&most, "relay.max-connections", "a number from 1", "0"));
        }
        limits.connections = most.into_inner();
    }
    let mut deadlines = Deadlines::default();
    if let Some(period) = table.response_timeout {
        if period.get_ref().0.is_zero() {
            return Err(files.wrong(&period, "relay.response-timeout", "a duration from 1s", "0s"));
        }
        deadlines.response = period.get_ref().0;
    }
    let rules = read_rules(table.keys, "relay.keys", files)?;
    let issuers = issuers::read(table.issuers, files)?;
    let mut hybrid_connections = Vec::with_capacity(table.hybrid_connections.len());
    for (path, connection) in table.hybrid_connections {
        let trimmed = path.get_ref().trim_matches('/');
        if trimmed.is_empty() || trimmed.len() > umbilical_relay_protocol::MAX_ENTITY_PATH {
            let expected = "the name of a device, 1 to 260 bytes";
            return Err(files.wrong(&path, "relay.hybrid-connections", expected, path.get_ref()));
        }
        hybrid_connections.push(read_hybrid_connection(trimmed, connection, &rules, !issuers.is_empty(), files)?);
    }
    let config = RelayConfig {
        endpoints: vec![Endpoint { address, tls }],
        public_origin,
        rules,
        issuers,
        hybrid_connections,
        limits,
        deadlines,
    };
    Ok(EmbeddedRelay { config, certificate_file: table.certificate_file.map(Spanned::into_inner) })
}

fn read_hybrid_connection(
    path: &str,
    table: HybridConnectionTable,
    namespace: &[Rule],
    by_issuers: bool,
    files: &mut Files<'_>,
) -> Result<HybridConnection, ConfigError> {
    let rules = read_rules(table.keys, &format!("relay.hybrid-connections.{path}.keys"), files)?;
    if !by_issuers && !rules.iter().chain(namespace).any(|rule| rule.rights.allow(Right::Listen)) {
        files.warnings.push(Warning::NobodyMayListen { path: path.to_owned() });
    }
    let requires_client_authorization = table.requires_client_authorization;
    Ok(HybridConnection { path: path.to_owned(), rules, requires_client_authorization })
}

fn read_rules(keys: BTreeMap<String, KeyTable>, place: &str, files: &mut Files<'_>) -> Result<Vec<Rule>, ConfigError> {
    if let Some((_, table)) = keys.iter().nth(MAX_RULES) {
        return Err(files.wrong(&table.secret_file, place, "12 keys at most", &keys.len().to_string()));
    }
    keys.into_iter().map(|(name, table)| read_rule(&format!("{place}.{name}"), name, &table, files)).collect()
}

fn read_rule(place: &str, name: String, table: &KeyTable, files: &mut Files<'_>) -> Result<Rule, ConfigError> {
    let primary = files.key(&table.secret_file, &format!("{place}.secret-file"))?;
    let secondary = match &table.secondary_file {
        Some(file) => Some(files.key(file, &format!("{place}.secondary-file"))?),
        None => None,
    };
    let rights = read_rights(&format!("{place}.rights"), &table.rights, files)?;
    Ok(Rule { name, primary, secondary, rights })
}

/// Rights, of which there must be some.
pub(super) fn read_rights(
    key: &str,
    place: &Spanned<Vec<RightName>>,
    files: &Files<'_>,
) -> Result<Rights, ConfigError> {
    if place.get_ref().is_empty() {
        let expected = "some of \"listen\", \"send\" and \"manage\"";
        return Err(files.wrong(place, key, expected, "none"));
    }
    let rights = place.get_ref().iter().map(|right| match right {
        RightName::Listen => Right::Listen,
        RightName::Send => Right::Send,
        RightName::Manage => Right::Manage,
    });
    Ok(rights.collect())
}
