//! `[relay]`: from tables and files to the embedded relay's settings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use umbilical_link::tls;
use umbilical_relay_protocol::{PathPattern, Right, Rights, Rule};

use super::document::{HybridConnectionTable, KeyTable, OnDemandTable, RelayTable, RightName};
use super::error::{ConfigError, Problem, Warning};
use super::file::Files;
use super::issuers;
use crate::relay::config::{
    Deadlines, Endpoint, HybridConnection, Limits, MAX_HYBRID_CONNECTIONS, OnDemand, RelayConfig,
};

/// The most shared access keys of a namespace or of a hybrid connection, as on Azure: a token is tried with each of them.
const MAX_RULES: usize = 12;

/// Longer than a device is switched off in the ordinary course of things.
const DEFAULT_REMOVE_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

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

    /// Whether senders to the device of this name need a token. A device that is not configured may still come to be: a
    /// listener makes it, or the management API, of whose choice nothing is known here. `None` if there can be none.
    #[must_use]
    pub fn requires_client_authorization(&self, path: &str) -> Option<bool> {
        let on_demand = self.config.on_demand.as_ref().filter(|on_demand| on_demand.pattern.matches(path));
        let configured = self.hybrid_connection(path).map(|connection| connection.requires_client_authorization);
        configured
            .or_else(|| on_demand.map(|on_demand| on_demand.requires_client_authorization))
            .or_else(|| self.config.state_directory.as_ref().map(|_| true))
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
    let on_demand = table.on_demand.map(|table| read_on_demand(&table, files)).transpose()?;
    let may_listen = !issuers.is_empty() || rules.iter().any(|rule| rule.rights.allow(Right::Listen));
    if let (Some(on_demand), false) = (&on_demand, may_listen) {
        files.warnings.push(Warning::NobodyMakes { pattern: on_demand.pattern.to_string() });
    }
    let mut hybrid_connections = Vec::with_capacity(table.hybrid_connections.len());
    for (path, connection) in table.hybrid_connections {
        let trimmed = path.get_ref().trim_matches('/');
        if trimmed.is_empty() || trimmed.len() > umbilical_relay_protocol::MAX_ENTITY_PATH {
            let expected = "the name of a device, 1 to 260 bytes";
            return Err(files.wrong(&path, "relay.hybrid-connections", expected, path.get_ref()));
        }
        hybrid_connections.push(read_hybrid_connection(trimmed, connection, may_listen, files)?);
    }
    let config = RelayConfig {
        endpoints: vec![Endpoint { address, tls }],
        public_origin,
        rules,
        issuers,
        on_demand,
        state_directory: table.state_directory.map(Spanned::into_inner),
        hybrid_connections,
        limits,
        deadlines,
    };
    Ok(EmbeddedRelay { config, certificate_file: table.certificate_file.map(Spanned::into_inner) })
}

fn read_hybrid_connection(
    path: &str,
    table: HybridConnectionTable,
    others_may_listen: bool,
    files: &mut Files<'_>,
) -> Result<HybridConnection, ConfigError> {
    let rules = read_rules(table.keys, &format!("relay.hybrid-connections.{path}.keys"), files)?;
    if !others_may_listen && !rules.iter().any(|rule| rule.rights.allow(Right::Listen)) {
        files.warnings.push(Warning::NobodyMayListen { path: path.to_owned() });
    }
    let requires_client_authorization = table.requires_client_authorization;
    Ok(HybridConnection { path: path.to_owned(), rules, requires_client_authorization })
}

fn read_on_demand(table: &OnDemandTable, files: &Files<'_>) -> Result<OnDemand, ConfigError> {
    let Some(pattern) = PathPattern::new(table.pattern.get_ref()) else {
        let expected = "names of devices, with * for any characters but a slash, such as \"gateway-*\"";
        return Err(files.wrong(&table.pattern, "relay.on-demand.pattern", expected, table.pattern.get_ref()));
    };
    let most = match &table.max {
        None => MAX_HYBRID_CONNECTIONS,
        Some(most) if (1..=MAX_HYBRID_CONNECTIONS).contains(most.get_ref()) => *most.get_ref(),
        Some(most) => {
            let found = most.get_ref().to_string();
            return Err(files.wrong(most, "relay.on-demand.max", "a number from 1 to 10000", &found));
        }
    };
    let remove_after = match &table.remove_after {
        None => DEFAULT_REMOVE_AFTER,
        Some(period) if !period.get_ref().0.is_zero() => period.get_ref().0,
        Some(period) => {
            return Err(files.wrong(period, "relay.on-demand.remove-after", "a duration from 1s", "0"));
        }
    };
    let requires_client_authorization = table.requires_client_authorization;
    Ok(OnDemand { pattern, most, remove_after, requires_client_authorization })
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
