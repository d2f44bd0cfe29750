//! `proxy`: the way out of a network that has none but a proxy.

use toml::Spanned;
use umbilical_link::proxy::{Proxy, ProxySettings};

use super::error::ConfigError;
use super::file::Files;

/// What `key` says, or else the environment.
pub(super) fn read(
    place: Option<&Spanned<String>>,
    key: &str,
    files: &Files<'_>,
) -> Result<ProxySettings, ConfigError> {
    match place {
        Some(place) if place.get_ref() == "none" => Ok(ProxySettings::direct()),
        Some(place) => match Proxy::parse(place.get_ref()) {
            Ok(proxy) => Ok(ProxySettings::always(proxy)),
            // the text may hold a password
            Err(_) => Err(files.wrong(place, key, "http://[USER:PASSWORD@]HOST:PORT or \"none\"", "another text")),
        },
        None => ProxySettings::from_environment(|name| std::env::var(name).ok())
            .map_err(|error| files.environment("HTTPS_PROXY", &error)),
    }
}
