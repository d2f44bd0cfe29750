//! Entra ID tokens for the identity of this machine, from a metadata service: that of an Azure virtual machine, or that
//! of Azure Arc on any other machine.
//!
//! ```text
//! GET /metadata/identity/oauth2/token?api-version=..&resource=https%3A%2F%2Frelay.azure.net%2F[&client_id=..]
//! Metadata: true
//!
//! 200  {"access_token":"eyJ..","expires_on":"1527083210", ..}
//! 401  WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/....key        Arc only: ask again with the file's content
//! ```
//!
//! The challenge proves that who asks may read the file, and it is answered only for files that are where Arc keeps
//! them: otherwise whoever answers at this port could have any file of the device sent to it.
//!
//! Sources: Microsoft's "How to use managed identities for Azure resources on an Azure VM to acquire an access token" and
//! "Authenticate against Azure resources with Azure Arc-enabled servers".

use std::{
    env, fmt, fs,
    io::{self, Read},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXUPPER;
use serde_json::Value;
use smol::{Async, Timer, future, io::AsyncWriteExt};
use umbilical_link::{
    body::{Framing, ReadBodyError, read_body},
    happy_eyeballs,
    response::{ResponseError, ResponseHead, read_head},
};

use crate::config::HttpAddress;

/// Where it is on every virtual machine of Azure.
const AZURE: &str = "http://169.254.169.254";
const AZURE_PATH: &str = "/metadata/identity/oauth2/token";
const AZURE_VERSION: &str = "2018-02-01";
const ARC_VERSION: &str = "2020-06-01";
/// Where Arc keeps the files that its challenges name.
const ARC_SECRETS: &str = "/var/opt/azcmagent/tokens";
/// Longest of these files in bytes.
const LONGEST_SECRET: u64 = 4096;

/// `https://relay.azure.net/`, escaped: what every token for Azure Relay is for.
const AUDIENCE: &str = "https%3A%2F%2Frelay.azure.net%2F";

/// How long an answer may take: the service asks Entra ID itself, the first time.
const DEADLINE: Duration = Duration::from_secs(30);

/// Longest head and body of an answer in bytes.
const HEAD_BYTES: usize = 8 * 1024;
const BODY_BYTES: usize = 32 * 1024;

/// A service that gives out tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataService {
    address: HttpAddress,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Azure,
    Arc {
        /// The directory that all challenges must keep to.
        secrets: PathBuf,
    },
}

impl MetadataService {
    /// The one at `configured`; without it, Arc's where the environment tells of one, else that of Azure's machines.
    ///
    /// # Errors
    /// [`MetadataError::Environment`].
    pub fn find(configured: Option<&HttpAddress>) -> Result<MetadataService, MetadataError> {
        MetadataService::find_in(configured, |name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn find_in(
        configured: Option<&HttpAddress>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<MetadataService, MetadataError> {
        let azure = |address: HttpAddress| MetadataService {
            address: if address.path == "/" { HttpAddress { path: AZURE_PATH.into(), ..address } } else { address },
            kind: Kind::Azure,
        };
        match (configured, environment("IDENTITY_ENDPOINT"), environment("IMDS_ENDPOINT")) {
            (Some(address), _, _) => Ok(azure(address.clone())),
            (None, Some(endpoint), Some(_)) => match HttpAddress::parse(&endpoint) {
                Some(address) => Ok(MetadataService::arc(address, PathBuf::from(ARC_SECRETS))),
                None => Err(MetadataError::Environment { found: endpoint }),
            },
            (None, _, _) => Ok(azure(HttpAddress::parse(AZURE).expect("it is a constant and is one"))),
        }
    }

    /// Arc's at `address`, which may ask for files in `secrets`.
    #[must_use]
    pub fn arc(address: HttpAddress, secrets: PathBuf) -> MetadataService {
        MetadataService { address, kind: Kind::Arc { secrets } }
    }

    /// A token for Azure Relay, and when it ends in Unix seconds if that is known; `now` is for services that only tell
    /// how long it lives.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub async fn fetch(&self, client_id: Option<&str>, now: u64) -> Result<(String, Option<u64>), MetadataError> {
        self.fetch_within(DEADLINE, client_id, now).await
    }

    async fn fetch_within(
        &self,
        deadline: Duration,
        client_id: Option<&str>,
        now: u64,
    ) -> Result<(String, Option<u64>), MetadataError> {
        let late = async {
            Timer::after(deadline).await;
            Err(MetadataError::Slow { place: self.address.to_string(), deadline })
        };
        future::or(self.ask(client_id, now), late).await
    }

    async fn ask(&self, client_id: Option<&str>, now: u64) -> Result<(String, Option<u64>), MetadataError> {
        let answer = match &self.kind {
            Kind::Azure => self.get(AZURE_VERSION, client_id, None).await?,
            Kind::Arc { .. } if client_id.is_some() => return Err(MetadataError::UserIdentity),
            Kind::Arc { secrets } => {
                let first = self.get(ARC_VERSION, None, None).await?;
                match first.status {
                    401 => {
                        let secret = first.challenge.as_deref().map(|challenge| answer_to(challenge, secrets));
                        let secret = secret.unwrap_or(Err(MetadataError::NoChallenge))?;
                        self.get(ARC_VERSION, None, Some(&secret)).await?
                    }
                    _ => first,
                }
            }
        };
        let fields = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        if answer.status != 200 {
            let text = |field: &str| fields.get(field).and_then(Value::as_str).map(printable);
            let reason = text("error_description").or(text("error")).unwrap_or(answer.reason);
            return Err(MetadataError::Refused { place: self.address.to_string(), status: answer.status, reason });
        }
        let token = fields.get("access_token").and_then(Value::as_str).ok_or(MetadataError::NoToken)?;
        let number =
            |field: &str| fields.get(field).and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
        let lifetime = || number("expires_in").map(|seconds| now.saturating_add(seconds));
        Ok((token.to_owned(), number("expires_on").or_else(lifetime)))
    }

    async fn get(&self, version: &str, client_id: Option<&str>, secret: Option<&str>) -> Result<Answer, MetadataError> {
        let HttpAddress { host, port, path } = &self.address;
        let mut request = format!("GET {path}?api-version={version}&resource={AUDIENCE}");
        if let Some(id) = client_id {
            request.push_str(&format!("&client_id={}", escaped(id)));
        }
        request.push_str(&format!(
            " HTTP/1.1\r\nHost: {}\r\nMetadata: true\r\nAccept: application/json\r\nConnection: close\r\n",
            self.address.authority()
        ));
        if let Some(secret) = secret {
            request.push_str(&format!("Authorization: Basic {secret}\r\n"));
        }
        request.push_str("\r\n");
        let unreached = |error| MetadataError::Unreached { place: self.address.to_string(), error };
        let mut socket = connect(host, *port).await.map_err(unreached)?;
        socket.write_all(request.as_bytes()).await.map_err(unreached)?;
        Answer::read(&mut socket).await
    }
}

async fn connect(host: &str, port: u16) -> io::Result<Async<TcpStream>> {
    let addresses = smol::net::resolve((host, port)).await?;
    happy_eyeballs::connect(&addresses, happy_eyeballs::ATTEMPT_DELAY).await.map_err(|attempts| {
        match attempts.into_iter().last() {
            Some((_, error)) => error,
            None => io::ErrorKind::NotFound.into(),
        }
    })
}

/// What the service said.
struct Answer {
    status: u16,
    reason: String,
    challenge: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    async fn read(socket: &mut Async<TcpStream>) -> Result<Answer, MetadataError> {
        let mut buffer = Vec::new();
        let length = read_head(socket, &mut buffer, HEAD_BYTES).await.map_err(MetadataError::Head)?;
        let head = ResponseHead::parse(&buffer[..length]).map_err(MetadataError::Head)?;
        let framing = Framing::of(&head, "GET").map_err(|error| MetadataError::Body(ReadBodyError::Body(error)))?;
        let challenge = head.only("www-authenticate").map(|value| String::from_utf8_lossy(value).into_owned());
        let (status, reason) = (head.status, head.reason);
        let body = read_body(socket, &buffer[length..], framing, BODY_BYTES).await.map_err(MetadataError::Body)?;
        Ok(Answer { status, reason, challenge, body })
    }
}

/// The content of the file that `challenge` names, if it lies in `secrets`.
fn answer_to(challenge: &str, secrets: &Path) -> Result<String, MetadataError> {
    let (scheme, parameters) = challenge.split_once(' ').ok_or(MetadataError::NoChallenge)?;
    let realm = parameters.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("realm"));
    let (_, file) = realm.filter(|_| scheme.eq_ignore_ascii_case("basic")).ok_or(MetadataError::NoChallenge)?;
    let named = PathBuf::from(file.trim().trim_matches('"'));
    let unreadable = |error| MetadataError::Secret { file: named.clone(), error };
    // links and `..` are followed before the file's place is judged
    let file = fs::canonicalize(&named).map_err(unreadable)?;
    let directory = fs::canonicalize(secrets).unwrap_or_else(|_| secrets.to_owned());
    if !file.starts_with(&directory) || file.extension().is_none_or(|extension| extension != "key") {
        return Err(MetadataError::ForeignSecret { file: named, directory });
    }
    let mut text = String::new();
    fs::File::open(&file)
        .and_then(|file| file.take(LONGEST_SECRET + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    let secret = text.trim_end();
    let is_usable = !secret.is_empty() && text.len() as u64 <= LONGEST_SECRET && !secret.contains(char::is_control);
    if is_usable { Ok(secret.to_owned()) } else { Err(unreadable(io::ErrorKind::InvalidData.into())) }
}

/// Escaped for a query, whatever is in it.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{}", HEXUPPER.encode(&[byte])),
    };
    text.bytes().map(escape).collect()
}

/// Foreign text for a log line.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(200).collect()
}

/// Why the metadata service gave no token.
#[derive(Debug)]
#[non_exhaustive]
pub enum MetadataError {
    /// `IDENTITY_ENDPOINT` of the environment is no address.
    Environment {
        /// What it is.
        found: String,
    },
    /// Arc knows the machine's own identity only.
    UserIdentity,
    /// There is no such service, or it broke off.
    Unreached {
        /// Where it should be.
        place: String,
        /// The kernel's reason.
        error: io::Error,
    },
    /// It did not answer in time.
    Slow {
        /// Where it is.
        place: String,
        /// How long it had.
        deadline: Duration,
    },
    /// Its answer has no readable head.
    Head(ResponseError),
    /// Its answer has no readable body, or one that is too long.
    Body(ReadBodyError),
    /// It gives no token.
    Refused {
        /// Where it is.
        place: String,
        /// The status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// It wants proof, and does not say of what.
    NoChallenge,
    /// It wants proof that we may read a file which is none of its own.
    ForeignSecret {
        /// The file.
        file: PathBuf,
        /// Where its files are.
        directory: PathBuf,
    },
    /// It wants proof that we may read a file, and we may not.
    Secret {
        /// The file.
        file: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// There is no token in its answer.
    NoToken,
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetadataError::Environment { found } => {
                write!(f, "IDENTITY_ENDPOINT in the environment: expected http://HOST[:PORT]/PATH, found {found:?}")
            }
            MetadataError::UserIdentity => {
                f.write_str("Azure Arc gives tokens for the machine's own identity only: use `managed-identity = true`")
            }
            MetadataError::Unreached { place, error } => write!(
                f,
                "can't ask the metadata service at {place}: {error}; a managed identity needs a machine of Azure, or one \
                 that is connected to Azure Arc"
            ),
            MetadataError::Slow { place, deadline } => {
                write!(f, "the metadata service at {place} did not answer within {} s", deadline.as_secs())
            }
            MetadataError::Head(error) => write!(f, "the metadata service answered nonsense: {error}"),
            MetadataError::Body(error) => write!(f, "the metadata service answered nonsense: {error}"),
            MetadataError::Refused { place, status, reason } => write!(
                f,
                "the metadata service at {place} gives no token: {status} {reason}; check that this machine has the managed \
                 identity"
            ),
            MetadataError::NoChallenge => f.write_str(
                "the metadata service wants proof and does not name a file (WWW-Authenticate: Basic realm=FILE)",
            ),
            MetadataError::ForeignSecret { file, directory } => write!(
                f,
                "the metadata service wants the content of {}, which is no key in {}: refused",
                file.display(),
                directory.display()
            ),
            MetadataError::Secret { file, error } => write!(
                f,
                "can't prove to the metadata service that we may read {}: {error}; the agent's user must be in the group \
                 himds",
                file.display()
            ),
            MetadataError::NoToken => f.write_str("the metadata service answered without an access_token"),
        }
    }
}

impl std::error::Error for MetadataError {}
