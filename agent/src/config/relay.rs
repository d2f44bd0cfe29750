//! `[relay]` or `[[relays]]`: which relays, the way there, and what the agent proves itself with.

use std::{fs, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::de::DeValue;
use umbilical_link::proxy::Proxy;
use umbilical_relay_protocol::{ConnectionString, ConnectionStringError, Credential, RelayUrl};

use super::{
    Auth, FileRole, HttpAddress, KeepAliveFrame, NamedFile, ProxyChoice, Relay,
    document::{At, Table},
    error::{ConfigError, Problem},
    note_file,
    value::{command, duration, path, string},
};

const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// `keep-alive = "metered"`: just below the four minutes after which load balancers forget an idle connection.
const METERED: Duration = Duration::from_secs(210);
const KEEP_ALIVES: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(230);

const STANDBYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// Each relay costs a connection, and memory.
const MOST_RELAYS: usize = 8;

const RELAY: &[&str] = &["url", "connection-string-file", "ca-file", "proxy", "keep-alive", "keep-alive-frame", "auth"];
const RELAYS: &[&str] =
    &["url", "connection-string-file", "ca-file", "proxy", "keep-alive", "keep-alive-frame", "auth", "standby-after"];

const RELAY_TABLE: &str = "a table with url and auth, or with connection-string-file";

/// Takes `[relay]` or `[[relays]]` out of a document.
pub(super) fn read_relays(root: &mut Table<'_>, files: &mut Vec<NamedFile>) -> Result<Vec<Relay>, ConfigError> {
    const EITHER: &str = "[relay] for one relay, or [[relays]] for several";
    let several = match (root.table("relay")?, root.tables("relays")?) {
        (Some(mut one), None) => {
            one.only(RELAY)?;
            return Ok(vec![read_relay(&mut one, files)?]);
        }
        (Some(one), Some(_)) => return Err(one.refuse(EITHER, "both")),
        (None, None) => return Err(root.missing("relay", RELAY_TABLE)),
        (None, Some(several)) => several,
    };
    if several.len() > MOST_RELAYS {
        return Err(several[MOST_RELAYS].refuse("not more than 8 relays", &format!("{} of them", several.len())));
    }
    let Some(first) = several.first() else { return Err(root.missing("relays[0]", RELAY_TABLE)) };
    let no_first_choice = first.refuse("one relay at least without `standby-after`", "reserves only");
    let mut relays: Vec<Relay> = Vec::new();
    for mut table in several {
        table.only(RELAYS)?;
        let standby_after =
            table.optional("standby-after", "0s to 1h, such as \"10s\"", |value| duration(value, &STANDBYS))?;
        let relay = Relay { standby_after: standby_after.map(|at| at.value), ..read_relay(&mut table, files)? };
        // it would take its own place at the relay, again and again
        if relays.iter().any(|other| other.url == relay.url) {
            return Err(table.refuse("a hybrid connection that is listened at only once", &relay.url.to_string()));
        }
        relays.push(relay);
    }
    if relays.iter().all(|relay| relay.standby_after.is_some()) {
        return Err(no_first_choice);
    }
    Ok(relays)
}

fn read_relay(table: &mut Table<'_>, files: &mut Vec<NamedFile>) -> Result<Relay, ConfigError> {
    let (url, auth) = match table.optional("connection-string-file", "a path", path)? {
        Some(_) if table.has("url") || table.has("auth") => {
            return Err(table.refuse("connection-string-file alone, or url with auth", "both"));
        }
        Some(file) => {
            let (url, auth) = read_connection_string(table, file, files)?;
            (url, Some(auth))
        }
        None => (read_url(table)?, None),
    };
    let ca_file = table.optional("ca-file", "a path", path)?;
    let proxy =
        table.optional("proxy", "http://[USER:PASSWORD@]HOST:PORT or \"none\"", |value| match value.as_str()? {
            "none" => Some(ProxyChoice::None),
            address => Proxy::parse(address).ok().map(ProxyChoice::Address),
        })?;
    let keep_alive =
        table.optional("keep-alive", "5s to 230s, such as \"60s\", or \"metered\"", |value| {
            match value.as_str()? {
                "metered" => Some(METERED),
                _ => duration(value, &KEEP_ALIVES),
            }
        })?;
    let keep_alive_frame =
        table.optional("keep-alive-frame", "\"pong\" or \"ping\"", |value| match value.as_str()? {
            "pong" => Some(KeepAliveFrame::Pong),
            "ping" => Some(KeepAliveFrame::Ping),
            _ => None,
        })?;
    if let Some(At { value: KeepAliveFrame::Ping, key, line }) = &keep_alive_frame
        && url.is_azure()
    {
        let expected = "\"pong\" for Azure's relay, which is reported to drop listeners that send pings";
        let problem = Problem::Unexpected { key: key.clone(), expected, found: "\"ping\"".to_owned() };
        return Err(table.fault(*line, problem));
    }
    let auth = match (auth, table.table("auth")?) {
        (Some(auth), _) => auth,
        (None, Some(auth)) => read_auth(auth, files)?,
        (None, None) => return Err(table.missing("auth", AUTH)),
    };
    Ok(Relay {
        url,
        ca_file: ca_file.map(|at| note_file(files, at, FileRole::Certificates)),
        proxy: proxy.map(|at| at.value).unwrap_or_default(),
        auth,
        keep_alive: keep_alive.map_or(KEEP_ALIVE, |at| at.value),
        keep_alive_frame: keep_alive_frame.map(|at| at.value),
        standby_after: None,
    })
}

fn read_url(table: &mut Table<'_>) -> Result<RelayUrl, ConfigError> {
    let url = table.required("url", "wss://HOST/NAME or sb://NAMESPACE.servicebus.windows.net/NAME", |value| {
        RelayUrl::parse(value.as_str()?).ok().filter(|url| !url.path().is_empty())
    })?;
    Ok(url.value)
}

/// The whole string is a secret, so it has no place in the configuration itself. What it says of the relay holds until
/// the configuration is read again; its key or token is read each time one is needed.
fn read_connection_string(
    table: &Table<'_>,
    at: At<PathBuf>,
    files: &mut Vec<NamedFile>,
) -> Result<(RelayUrl, Auth), ConfigError> {
    let At { value: path, key, line } = &at;
    let wrong = |error| table.fault(*line, Problem::ConnectionString { key: key.clone(), path: path.clone(), error });
    let text = fs::read_to_string(path)
        .map_err(|error| table.fault(*line, Problem::File { key: key.clone(), path: path.clone(), error }))?;
    let string = ConnectionString::parse(&text).map_err(wrong)?;
    if string.url().path().is_empty() {
        return Err(wrong(ConnectionStringError::Missing("EntityPath")));
    }
    let auth = match string.credential() {
        Credential::SharedKey { .. } | Credential::Token(_) => Auth::ConnectionString(path.clone()),
        Credential::ManagedIdentity => Auth::ManagedIdentity { client_id: None, metadata_endpoint: None },
        _ => return Err(wrong(ConnectionStringError::Missing("SharedAccessKeyName"))),
    };
    note_file(files, at, FileRole::Secret);
    Ok((string.url().clone(), auth))
}

const AUTH: &str = "key-name with key-file, or token-file, or token-command, or managed-identity";

fn read_auth(mut table: Table<'_>, files: &mut Vec<NamedFile>) -> Result<Auth, ConfigError> {
    table.only(&["key-name", "key-file", "token-file", "token-command", "managed-identity", "metadata-endpoint"])?;
    let shared_key = table.has("key-name") || table.has("key-file");
    let managed_identity = table.has("managed-identity") || table.has("metadata-endpoint");
    let ways = [shared_key, table.has("token-file"), table.has("token-command"), managed_identity];
    match ways.iter().filter(|way| **way).count() {
        0 => return Err(table.refuse(AUTH, "none of them")),
        1 => {}
        _ => return Err(table.refuse(AUTH, "more than one of them")),
    }
    if let Some(file) = table.optional("token-file", "a path", path)? {
        return Ok(Auth::TokenFile(note_file(files, file, FileRole::Secret)));
    }
    let command = table.optional("token-command", "a list of a program and its arguments", command)?;
    if let Some(At { value: (program, arguments), key, line }) = command {
        if program.starts_with('/') {
            files.push(NamedFile { at: At { value: PathBuf::from(&program), key, line }, role: FileRole::Program });
        }
        return Ok(Auth::TokenCommand { program, arguments });
    }
    if managed_identity {
        return read_managed_identity(table);
    }
    let name = table.required("key-name", "the name of a shared access key", string)?;
    let file = table.required("key-file", "the path of the file that holds the key", path)?;
    Ok(Auth::SharedKey { name: name.value, file: note_file(files, file, FileRole::Secret) })
}

fn read_managed_identity(mut table: Table<'_>) -> Result<Auth, ConfigError> {
    let client_id =
        table.required("managed-identity", "true, or the client id of an identity", |value| match value {
            DeValue::Boolean(true) => Some(None),
            value => string(value).map(Some),
        })?;
    let metadata_endpoint =
        table.optional("metadata-endpoint", HttpAddress::EXPECTED, |value| HttpAddress::parse(value.as_str()?))?;
    Ok(Auth::ManagedIdentity { client_id: client_id.value, metadata_endpoint: metadata_endpoint.map(|at| at.value) })
}
