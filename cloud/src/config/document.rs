//! The tables and keys of `cloud.toml`, and their defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::value::{Address, Bytes, Listen, LongPeriod, Network, Period};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Document {
    pub(super) relay: Option<RelayTable>,
    pub(super) gateway: Option<GatewayTable>,
    pub(super) admin: Option<AdminTable>,
}

/// `[relay]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RelayTable {
    pub(super) listen: Spanned<Address>,
    pub(super) certificate_file: Option<Spanned<PathBuf>>,
    pub(super) key_file: Option<Spanned<PathBuf>>,
    pub(super) public_url: Option<Spanned<String>>,
    pub(super) max_connections: Option<Spanned<usize>>,
    pub(super) response_timeout: Option<Spanned<Period>>,
    #[serde(default)]
    pub(super) keys: BTreeMap<String, KeyTable>,
    #[serde(default)]
    pub(super) hybrid_connections: BTreeMap<Spanned<String>, HybridConnectionTable>,
    #[serde(default)]
    pub(super) issuers: BTreeMap<String, IssuerTable>,
    pub(super) on_demand: Option<OnDemandTable>,
    pub(super) state_directory: Option<Spanned<PathBuf>>,
}

/// `[relay.on-demand]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct OnDemandTable {
    pub(super) pattern: Spanned<String>,
    pub(super) max: Option<Spanned<usize>>,
    pub(super) remove_after: Option<Spanned<LongPeriod>>,
    #[serde(default = "yes")]
    pub(super) requires_client_authorization: bool,
}

/// `[relay.issuers.NAME]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct IssuerTable {
    pub(super) issuer: Spanned<String>,
    pub(super) jwks_file: Option<Spanned<PathBuf>>,
    pub(super) jwks_url: Option<Spanned<String>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) proxy: Option<Spanned<String>>,
    pub(super) audience: Option<String>,
    #[serde(default)]
    pub(super) grants: Vec<GrantTable>,
}

/// `[[relay.issuers.NAME.grants]]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct GrantTable {
    pub(super) subject: Spanned<String>,
    pub(super) rights: Spanned<Vec<RightName>>,
    pub(super) hybrid_connections: Option<Vec<Spanned<String>>>,
}

/// `[relay.keys.NAME]` and `[relay.hybrid-connections.PATH.keys.NAME]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct KeyTable {
    pub(super) secret_file: Spanned<PathBuf>,
    pub(super) secondary_file: Option<Spanned<PathBuf>>,
    pub(super) rights: Spanned<Vec<RightName>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RightName {
    Listen,
    Send,
    Manage,
}

/// `[relay.hybrid-connections.PATH]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct HybridConnectionTable {
    #[serde(default = "yes")]
    pub(super) requires_client_authorization: bool,
    #[serde(default)]
    pub(super) keys: BTreeMap<String, KeyTable>,
}

/// `[gateway]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct GatewayTable {
    pub(super) relay: Option<Spanned<String>>,
    pub(super) connection_string_file: Option<Spanned<PathBuf>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) proxy: Option<Spanned<String>>,
    pub(super) auth: Option<Spanned<AuthTable>>,
    pub(super) keep_alive: Option<Spanned<String>>,
    pub(super) resume_for: Option<Period>,
    pub(super) drain_for: Option<Period>,
    pub(super) drain_after: Option<Period>,
    pub(super) settle_for: Option<Period>,
    pub(super) ask_agents: Option<Spanned<String>>,
    pub(super) memory: Option<Spanned<MemoryTable>>,
    #[serde(default)]
    pub(super) expose: Vec<Spanned<ExposeTable>>,
}

/// `[gateway.auth]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct AuthTable {
    pub(super) key_name: Option<String>,
    pub(super) key_file: Option<Spanned<PathBuf>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
}

/// `[gateway.memory]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct MemoryTable {
    pub(super) replay: Option<Bytes>,
    pub(super) receive: Option<Bytes>,
    pub(super) streams: Option<u16>,
}

/// `[[gateway.expose]]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct ExposeTable {
    pub(super) listen: Spanned<Listen>,
    pub(super) device: Spanned<String>,
    pub(super) service: Spanned<String>,
    pub(super) plain: Option<Spanned<bool>>,
    pub(super) azbridge: Option<Spanned<String>>,
    pub(super) allow: Option<Vec<Network>>,
    pub(super) max_connections: Option<Spanned<usize>>,
    pub(super) idle_timeout: Option<Spanned<Period>>,
}

/// `[admin]`
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct AdminTable {
    pub(super) listen: Spanned<Address>,
}

fn yes() -> bool {
    true
}
