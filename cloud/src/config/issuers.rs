//! `[relay.issuers.NAME]`: whose bearer tokens are believed, and for what.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use umbilical_link::dial::{Dialer, Target};
use umbilical_link::tls::{self, DefaultTimeProvider, Roots};
use umbilical_relay_protocol::{Issuer, KeySet, RELAY_AUDIENCE, Rendezvous, SubjectGrant};

use super::document::{GrantTable, IssuerTable};
use super::error::{ConfigError, Problem};
use super::file::Files;
use super::proxy;
use super::relay::read_rights;
use crate::relay::config::{KeyServer, KeySource, TrustedIssuer};

const SOURCE: &str = "one of `jwks-file` and `jwks-url` beside it";
const URL: &str = "https://HOST[:PORT]/PATH";

pub(super) fn read(
    tables: BTreeMap<String, IssuerTable>,
    files: &mut Files<'_>,
) -> Result<Vec<TrustedIssuer>, ConfigError> {
    let mut issuers = Vec::<TrustedIssuer>::with_capacity(tables.len());
    for (name, table) in tables {
        let place = format!("relay.issuers.{name}");
        let named = table.issuer.get_ref();
        if named.is_empty() || issuers.iter().any(|known| known.issuer.issuer == *named) {
            let expected = "what the issuer calls itself, and no other table's";
            return Err(files.wrong(&table.issuer, format!("{place}.issuer"), expected, named));
        }
        let keys = read_source(&place, &table, files)?;
        let grants = table.grants.iter().map(|grant| read_grant(&place, grant, files)).collect::<Result<_, _>>()?;
        let issuer = Issuer {
            name,
            issuer: table.issuer.into_inner(),
            audience: table.audience.unwrap_or_else(|| RELAY_AUDIENCE.to_owned()),
            grants,
        };
        issuers.push(TrustedIssuer { issuer, keys });
    }
    Ok(issuers)
}

fn read_source(place: &str, table: &IssuerTable, files: &mut Files<'_>) -> Result<KeySource, ConfigError> {
    match (&table.jwks_file, &table.jwks_url) {
        (Some(file), None) => {
            let key = format!("{place}.jwks-file");
            let path = file.get_ref();
            let text = files.text(file, &key)?;
            let keys = KeySet::parse(&text)
                .map_err(|error| files.fault(file, Problem::KeySet { key: key.clone(), path: path.clone(), error }))?;
            if let Some(ca_file) = &table.ca_file {
                return Err(files.wrong(ca_file, format!("{place}.ca-file"), "a `jwks-url` beside it", "none"));
            }
            if let Some(proxy) = &table.proxy {
                return Err(files.wrong(proxy, format!("{place}.proxy"), "a `jwks-url` beside it", "none"));
            }
            Ok(KeySource::Fixed(Arc::new(keys)))
        }
        (None, Some(url)) => read_server(place, url, table, files).map(KeySource::Server),
        (Some(_), Some(_)) => Err(files.wrong(&table.issuer, format!("{place}.issuer"), SOURCE, "both")),
        (None, None) => Err(files.wrong(&table.issuer, format!("{place}.issuer"), SOURCE, "neither")),
    }
}

fn read_server(
    place: &str,
    url: &Spanned<String>,
    table: &IssuerTable,
    files: &Files<'_>,
) -> Result<Arc<KeyServer>, ConfigError> {
    // but for the scheme, what an address of the relay's protocol may look like
    let parsed =
        url.get_ref().strip_prefix("https://").and_then(|rest| Rendezvous::parse(&format!("wss://{rest}")).ok());
    let Some(parsed) = parsed else {
        return Err(files.wrong(url, format!("{place}.jwks-url"), URL, url.get_ref()));
    };
    let roots = table.ca_file.as_ref().map_or(Roots::System, |file| Roots::File(file.get_ref().clone()));
    let tls = tls::client_config(&roots, Arc::new(DefaultTimeProvider)).map_err(|error| match &table.ca_file {
        Some(file) => files.fault(file, Problem::Tls { key: format!("{place}.ca-file"), error }),
        None => files.fault(url, Problem::Tls { key: format!("{place}.jwks-url"), error }),
    })?;
    let proxy = proxy::read(table.proxy.as_ref(), &format!("{place}.proxy"), files)?;
    Ok(Arc::new(KeyServer {
        url: url.get_ref().clone(),
        target: Target { host: parsed.host().to_owned(), port: parsed.port(), tls: true },
        path: parsed.path_and_query().to_owned(),
        dialer: Dialer { tls, proxy },
    }))
}

fn read_grant(place: &str, table: &GrantTable, files: &Files<'_>) -> Result<SubjectGrant, ConfigError> {
    if table.subject.get_ref().trim().is_empty() {
        let expected = "an object id or subject of the issuer's tokens";
        return Err(files.wrong(&table.subject, format!("{place}.grants.subject"), expected, table.subject.get_ref()));
    }
    let paths = table.hybrid_connections.iter().flatten();
    let paths = paths.map(|path| match path.get_ref().trim_matches('/') {
        "" => Err(files.wrong(path, format!("{place}.grants.hybrid-connections"), "names of devices", "\"\"")),
        path => Ok(path.to_owned()),
    });
    let paths = paths.collect::<Result<Vec<_>, _>>()?;
    if let (Some(_), true) = (&table.hybrid_connections, paths.is_empty()) {
        let expected = "`hybrid-connections` with names of devices, or none of it for all devices";
        return Err(files.wrong(&table.subject, format!("{place}.grants"), expected, "an empty list"));
    }
    Ok(SubjectGrant {
        subject: table.subject.get_ref().clone(),
        rights: read_rights(&format!("{place}.grants.rights"), &table.rights, files)?,
        paths,
    })
}
