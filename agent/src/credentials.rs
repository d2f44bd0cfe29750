//! What the agent proves itself with: tokens, and when they must be replaced.
//!
//! Secrets are read from their files each time a token is needed, so that a rotated key or token is taken up without a
//! restart; none of them appears in `Debug`, in an error or in a log. Leaves to others: running the program that prints
//! a token (`command`), asking the metadata service for one (`metadata`), when to ask (`renewal`).

mod command;
mod metadata;

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::BASE64URL_NOPAD;
use umbilical_relay_protocol::{ConnectionString, ConnectionStringError, Credential, RelayUrl, SasToken};

pub use self::{
    command::CommandError,
    metadata::{MetadataError, MetadataService},
};
use crate::{clock::TokenTime, config::Auth};

/// How long a token lives that the agent signs. As long as those of Microsoft's clients.
const LIFETIME: Duration = Duration::from_secs(3600);

/// When a token is fetched again that does not tell its end: Entra's live for an hour at least.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(50 * 60);

/// A token is replaced this long before its end, at most: enough for several attempts, and for clocks that differ.
const MARGIN: Duration = Duration::from_secs(300);

/// Longest token or key in bytes. Tokens travel in a header.
const LONGEST: usize = 16 * 1024;

/// Where tokens come from.
pub struct Credentials {
    auth: Auth,
    url: RelayUrl,
    lifetime: Duration,
}

impl Credentials {
    /// Tokens for listening at `url`.
    #[must_use]
    pub fn new(auth: &Auth, url: &RelayUrl) -> Credentials {
        Credentials { auth: auth.clone(), url: url.clone(), lifetime: LIFETIME }
    }

    /// The same with another lifetime of the tokens that are signed here.
    #[must_use]
    pub fn with_lifetime(self, lifetime: Duration) -> Credentials {
        Credentials { lifetime, ..self }
    }

    /// A fresh token at `now`. One that is over by a clock that no relay has confirmed is given all the same: the relay
    /// will judge it, and tell its time.
    ///
    /// # Errors
    /// The file, the program or the metadata service gave none that is good now.
    pub async fn token(&self, now: TokenTime) -> Result<Token, CredentialsError> {
        let stamp = self.file_stamp();
        let TokenTime { unix, is_confirmed } = now;
        let token = match &self.auth {
            Auth::SharedKey { name, file } => self.sign(name, read_secret(file)?.as_bytes(), unix, stamp),
            Auth::ConnectionString(file) => match self.read_connection_string(file)?.credential() {
                Credential::SharedKey { name, key } => self.sign(name, key.as_bytes(), unix, stamp),
                Credential::Token(text) => Token::of(text.clone(), stamp),
                _ => return Err(CredentialsError::ConnectionStringChanged { file: file.clone() }),
            },
            Auth::TokenFile(file) => Token::of(read_secret(file)?, stamp),
            Auth::TokenCommand { program, arguments } => {
                let output = command::run(program, arguments).await.map_err(CredentialsError::Command)?;
                Token::of(one_line(output, || self.origin())?, stamp)
            }
            Auth::ManagedIdentity { client_id, metadata_endpoint } => {
                let asked = async {
                    MetadataService::find(metadata_endpoint.as_ref())?.fetch(client_id.as_deref(), unix).await
                };
                let (text, expires) = asked.await.map_err(CredentialsError::Metadata)?;
                let token = Token::of(one_line(text.into_bytes(), || self.origin())?, stamp);
                Token { expires: expires.or(token.expires), ..token }
            }
        };
        match token.expires {
            Some(expires) if expires <= unix && is_confirmed => {
                Err(CredentialsError::Expired { origin: self.origin(), seconds_ago: unix - expires })
            }
            _ => Ok(token),
        }
    }

    fn sign(&self, name: &str, key: &[u8], unix: u64, stamp: Option<FileStamp>) -> Token {
        let expires = unix + self.lifetime.as_secs();
        let text = SasToken::sign(&self.url.resource(), name, key, expires);
        Token { text, expires: Some(expires), stamp }
    }

    fn read_connection_string(&self, file: &Path) -> Result<ConnectionString, CredentialsError> {
        let text = read_secret(file)?;
        match ConnectionString::parse(&text) {
            Ok(string) if *string.url() == self.url => Ok(string),
            Ok(_) => Err(CredentialsError::ConnectionStringChanged { file: file.to_owned() }),
            Err(error) => Err(CredentialsError::ConnectionString { file: file.to_owned(), error }),
        }
    }

    /// When `token` is to be replaced, counted from `now`. `None`: when its file changes.
    #[must_use]
    pub fn replace_in(&self, token: &Token, now: TokenTime) -> Option<Duration> {
        match (token.expires, &self.auth) {
            (Some(expires), _) => Some(renewal(Duration::from_secs(expires.saturating_sub(now.unix)))),
            (None, Auth::TokenFile(_) | Auth::ConnectionString(_)) => None,
            (None, _) => Some(UNKNOWN_LIFETIME),
        }
    }

    /// What the file with the token looks like now, for those who watch it for changes. `None` if there is no such file to watch.
    #[must_use]
    pub fn file_stamp(&self) -> Option<FileStamp> {
        match &self.auth {
            Auth::TokenFile(file) | Auth::ConnectionString(file) => Some(FileStamp::of(file)),
            Auth::SharedKey { .. } | Auth::TokenCommand { .. } | Auth::ManagedIdentity { .. } => None,
        }
    }

    /// What a refusal by the relay should be looked for in: `key "listen" from /run/key`.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match &self.auth {
            Auth::SharedKey { name, file } => Origin::Key { name: name.clone(), file: file.clone() },
            Auth::TokenFile(file) => Origin::File(file.clone()),
            Auth::TokenCommand { program, .. } => Origin::Command(program.clone()),
            Auth::ConnectionString(file) => Origin::ConnectionString(file.clone()),
            Auth::ManagedIdentity { client_id: None, .. } => Origin::SystemIdentity,
            Auth::ManagedIdentity { client_id: Some(id), .. } => Origin::UserIdentity(id.clone()),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.origin())
    }
}

/// A token, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    expires: Option<u64>,
    stamp: Option<FileStamp>,
}

impl Token {
    /// A token that came from outside; its end is read from it where it tells.
    fn of(text: String, stamp: Option<FileStamp>) -> Token {
        let expires = SasToken::parse(&text).map(|token| token.expires()).ok().or_else(|| bearer_expiry(&text));
        Token { text, expires, stamp }
    }

    /// For the header or message it travels in, and for nothing else.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What its file looked like just before it was read from there.
    #[must_use]
    pub fn stamp(&self) -> Option<&FileStamp> {
        self.stamp.as_ref()
    }

    /// In Unix seconds, if the token tells.
    #[must_use]
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// What a file looked like at one moment; a rewritten or replaced file looks different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStamp(Option<(u64, i64, i64, u64)>);

impl FileStamp {
    /// The file as it is now, or its absence.
    fn of(file: &Path) -> FileStamp {
        let metadata = fs::metadata(file).ok();
        FileStamp(metadata.map(|data| (data.ino(), data.mtime(), data.mtime_nsec(), data.len())))
    }
}

/// Where a token came from, in words for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Signed here.
    Key {
        /// Name of the shared access key.
        name: String,
        /// File that holds it.
        file: PathBuf,
    },
    /// A file that holds a ready token.
    File(PathBuf),
    /// A program that prints one; without its arguments, which may hold secrets.
    Command(String),
    /// A file that holds a connection string.
    ConnectionString(PathBuf),
    /// Entra ID, for the identity of this machine.
    SystemIdentity,
    /// Entra ID, for the identity with this client id.
    UserIdentity(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Key { name, file } => write!(f, "key {name:?} from {}", file.display()),
            Origin::File(file) => write!(f, "token from {}", file.display()),
            Origin::Command(program) => write!(f, "token of {program}"),
            Origin::ConnectionString(file) => write!(f, "connection string from {}", file.display()),
            Origin::SystemIdentity => f.write_str("token of this machine's managed identity"),
            Origin::UserIdentity(client_id) => write!(f, "token of the managed identity {client_id}"),
        }
    }
}

/// Why there is no token.
#[derive(Debug)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A key or token file can't be read.
    Read {
        /// The file.
        file: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A key or token that is empty, longer than 16 KiB, or more than one line.
    Malformed {
        /// Where it came from.
        origin: Origin,
    },
    /// A file that holds no usable connection string.
    ConnectionString {
        /// The file.
        file: PathBuf,
        /// What is wrong with its content.
        error: ConnectionStringError,
    },
    /// A connection string that is for another relay than it was, or has neither a key nor a token any more.
    ConnectionStringChanged {
        /// The file.
        file: PathBuf,
    },
    /// The token program gave none.
    Command(CommandError),
    /// The metadata service gave none.
    Metadata(MetadataError),
    /// The token is over.
    Expired {
        /// Where it came from.
        origin: Origin,
        /// For how long.
        seconds_ago: u64,
    },
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsError::Read { file, error } => write!(f, "can't read {}: {error}", file.display()),
            CredentialsError::Malformed { origin } => {
                write!(f, "{origin} is not usable: expected one line of at most {LONGEST} bytes")
            }
            CredentialsError::ConnectionString { file, error } => write!(f, "{}: {error}", file.display()),
            CredentialsError::ConnectionStringChanged { file } => write!(
                f,
                "{}: the connection string is for another relay now, or without a key: have the configuration read again \
                 (SIGHUP)",
                file.display()
            ),
            CredentialsError::Command(error) => error.fmt(f),
            CredentialsError::Metadata(error) => error.fmt(f),
            CredentialsError::Expired { origin, seconds_ago } => {
                write!(f, "{origin} expired {seconds_ago} s ago; provide a fresh one, or check this device's clock")
            }
        }
    }
}

impl std::error::Error for CredentialsError {}

/// A tenth of what is left before the end, five minutes at most; at least half a minute unless that is over half.
fn renewal(left: Duration) -> Duration {
    let margin = (left / 10).clamp(Duration::from_secs(30), MARGIN).min(left / 2);
    left - margin
}

fn read_secret(file: &Path) -> Result<String, CredentialsError> {
    let text = fs::read(file).map_err(|error| CredentialsError::Read { file: file.to_owned(), error })?;
    one_line(text, || Origin::File(file.to_owned()))
}

fn one_line(text: Vec<u8>, origin: impl FnOnce() -> Origin) -> Result<String, CredentialsError> {
    let text = Some(text).filter(|text| text.len() <= LONGEST).and_then(|text| String::from_utf8(text).ok());
    match text.as_deref().map(str::trim) {
        Some(line) if !line.is_empty() && !line.contains(char::is_control) => Ok(line.to_owned()),
        _ => Err(CredentialsError::Malformed { origin: origin() }),
    }
}

/// The `exp` claim of a JSON web token (RFC 7519, section 4.1.4), with or without `Bearer` in front. It is not verified:
/// whoever issued it may lie to us about when we should come back.
fn bearer_expiry(text: &str) -> Option<u64> {
    let token = text.rsplit(' ').next()?;
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice::<serde_json::Value>(&payload).ok()?.get("exp")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn file_with(name: &str, content: &str) -> PathBuf {
        let file = std::env::temp_dir().join(format!("umbilical-credentials-{}-{name}", std::process::id()));
        fs::write(&file, content).unwrap();
        file
    }

    fn token_of(auth: &Auth) -> Result<Token, CredentialsError> {
        let url = RelayUrl::parse("sb://contoso.servicebus.windows.net/gateway-0042").unwrap();
        smol::block_on(Credentials::new(auth, &url).token(TokenTime { unix: NOW, is_confirmed: true }))
    }

    fn command(script: &str) -> Auth {
        Auth::TokenCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
    }

    fn bearer(claims: &str) -> String {
        format!("eyJhbGciOiJub25lIn0.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    #[test]
    fn a_key_signs_for_its_hybrid_connection_for_an_hour() {
        let file = file_with("signs", "  c2VjcmV0\n");
        let token = token_of(&Auth::SharedKey { name: "listen".into(), file: file.clone() }).unwrap();
        fs::remove_file(file).unwrap();
        // HMAC-SHA256 with the text of the key, made with:
        // printf 'http%%3A%%2F%%2Fcontoso.servicebus.windows.net%%2Fgateway-0042%%2F\n1800003600' |
        //   openssl dgst -sha256 -hmac c2VjcmV0 -binary | base64
        let expected = "SharedAccessSignature sr=http%3A%2F%2Fcontoso.servicebus.windows.net%2Fgateway-0042%2F\
                        &sig=45CUIwMDrzwipIqMqUPFsplB2uvjgV6HVvoOiXY%2FcWA%3D&se=1800003600&skn=listen";
        assert_eq!(token.text(), expected);
        assert_eq!(token.expires(), Some(NOW + 3600));
    }

    #[test]
    fn a_token_file_is_taken_as_it_is_and_its_end_is_known() {
        let text = SasToken::sign("http://x/", "k", b"key", NOW + 77);
        for (content, expires) in [
            (text.clone(), Some(NOW + 77)),
            (bearer(&format!(r#"{{"aud":"x","exp":{}}}"#, NOW + 5)), Some(NOW + 5)),
            (format!("Bearer {}", bearer(&format!(r#"{{"exp":{}}}"#, NOW + 5))), Some(NOW + 5)),
            (bearer(r#"{"aud":"x"}"#), None),
            ("opaque".to_owned(), None),
        ] {
            let file = file_with("taken", &format!("{content}\n"));
            let token = token_of(&Auth::TokenFile(file.clone())).unwrap();
            fs::remove_file(file).unwrap();
            assert_eq!((token.text(), token.expires()), (content.as_str(), expires));
        }
    }

    #[test]
    fn a_command_prints_a_token() {
        assert_eq!(token_of(&command("echo opaque")).unwrap().text(), "opaque");
    }

    #[test]
    fn each_fault_has_its_words() {
        let missing = PathBuf::from("/nonexistent/key");
        let empty = file_with("empty", " \n");
        let two_lines = file_with("two-lines", "top-secret\nmore");
        let long = file_with("long", &"x".repeat(LONGEST + 1));
        let old = file_with("old", &SasToken::sign("http://x/", "k", b"key", NOW - 10));
        let shared_key = |file: &Path| Auth::SharedKey { name: "listen".into(), file: file.to_owned() };
        for (auth, words) in [
            (shared_key(&missing), "can't read /nonexistent/key: No such file or directory (os error 2)".to_owned()),
            (shared_key(&empty), format!("token from {} is not usable", empty.display())),
            (Auth::TokenFile(two_lines.clone()), format!("token from {} is not usable", two_lines.display())),
            (Auth::TokenFile(long.clone()), format!("token from {} is not usable", long.display())),
            (Auth::TokenFile(old.clone()), format!("token from {} expired 10 s ago", old.display())),
            (command("exit 3"), "/bin/sh gave no token: exit status: 3".to_owned()),
            (command("true"), "token of /bin/sh is not usable: expected one line".to_owned()),
            (command("yes"), "/bin/sh printed more than the 16384 bytes".to_owned()),
            (
                Auth::TokenCommand { program: "/nonexistent/program".into(), arguments: vec![] },
                "can't run /nonexistent/program: No such file".to_owned(),
            ),
        ] {
            let error = token_of(&auth).unwrap_err();
            assert!(error.to_string().contains(&words), "{error}");
            assert!(!format!("{error}{error:?}").contains("top-secret"));
        }
        for file in [empty, two_lines, long, old] {
            fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn a_token_that_only_an_unsure_clock_calls_old_is_for_the_relay_to_judge() {
        let file = file_with("unsure", &SasToken::sign("http://x/", "k", b"key", NOW - 10));
        let url = RelayUrl::parse("wss://relay/x").unwrap();
        let credentials = Credentials::new(&Auth::TokenFile(file.clone()), &url);
        let token_at = |is_confirmed| smol::block_on(credentials.token(TokenTime { unix: NOW, is_confirmed }));
        assert_eq!(token_at(false).unwrap().expires(), Some(NOW - 10));
        assert!(token_at(true).unwrap_err().to_string().contains("expired 10 s ago"));
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn nothing_shows_a_token() {
        let token = Token::of("top-secret".into(), None);
        assert_eq!(format!("{token:?}"), "Token { expires: None, .. }");
        let auth = Auth::TokenCommand { program: "/bin/fetch".into(), arguments: vec!["top-secret".into()] };
        let credentials = Credentials::new(&auth, &RelayUrl::parse("wss://relay/x").unwrap());
        assert_eq!(format!("{credentials:?}"), "Credentials(token of /bin/fetch)");
    }

    #[test]
    fn a_token_is_replaced_well_before_its_end() {
        let renewal_s = |left| renewal(Duration::from_secs(left)).as_secs_f32();
        assert_eq!(renewal_s(86_400), 86_100.0);
        assert_eq!(renewal_s(3600), 3300.0);
        assert_eq!(renewal_s(600), 540.0);
        assert_eq!(renewal_s(100), 70.0);
        assert_eq!(renewal_s(40), 20.0);
        assert_eq!(renewal_s(1), 0.5);
        assert_eq!(renewal_s(0), 0.0);
    }
}
