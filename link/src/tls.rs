//! TLS 1.2 and 1.3 by rustls: which roots are believed, which certificate is shown, and both handshakes.
//!
//! Owns: configurations from files, buffer limits, errors that say what to do. Leaves to others: what time it is (a
//! device may have no clock: the caller brings a [`TimeProvider`]), and deadlines around the handshakes.
//!
//! No ALPN is offered: what runs inside is HTTP/1.1 and a front-end must not get the idea of another version.

mod unset_clock;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_rustls::pki_types::pem::{self, PemObject};
use futures_rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use futures_rustls::rustls::crypto::{CryptoProvider, ring};
use futures_rustls::rustls::server::NoServerSessionStorage;
use futures_rustls::rustls::{self, CertificateError, CipherSuite, RootCertStore, client::Resumption};
use futures_rustls::{TlsAcceptor, TlsConnector};
use smol::Async;

pub use futures_rustls::pki_types::UnixTime;
pub use futures_rustls::rustls::time_provider::{DefaultTimeProvider, TimeProvider};
pub use futures_rustls::rustls::{ClientConfig, ServerConfig};
pub use unset_clock::DeviceClock;

use crate::read_ahead::ReadAhead;
use crate::transport::Transport;

/// Bytes that may wait inside TLS for the socket, beyond reach of the session's scheduler: one whole message, so that it
/// leaves with one system call. Messages are that long only where the link takes a millisecond for them.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// TLS 1.3 tickets and TLS 1.2 sessions a client remembers: rustls keeps eight per server, so this is four servers (the
/// relay and the rendezvous hosts it sends a device to).
const REMEMBERED_SESSIONS: usize = 32;

/// Whom a client believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// The system's certificate authorities (`SSL_CERT_FILE` and `SSL_CERT_DIR` override where they are looked for).
    System,
    /// The certificates of one PEM file and no others.
    File(PathBuf),
}

/// A client's settings: [`Roots`], no client certificate, session resumption on. One configuration should serve all
/// dials of a process, because it holds the sessions to resume.
///
/// # Errors
/// When the roots can't be read or there are none.
pub fn client_config(roots: &Roots, time: Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_details(crypto(), time)
        .with_safe_default_protocol_versions()
        .expect("ring's cipher suites cover both versions")
        .with_root_certificates(load_roots(roots)?)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
    Ok(Arc::new(config))
}

/// As [`client_config`], for a device whose clock may be unset: a certificate made after the earliest time that it can be is
/// then judged as of its first day.
///
/// # Errors
/// As there.
pub fn device_config(roots: &Roots, clock: Arc<dyn DeviceClock>) -> Result<Arc<ClientConfig>, TlsError> {
    let (roots, provider) = (load_roots(roots)?, crypto());
    let algorithms = provider.signature_verification_algorithms;
    let time: Arc<dyn TimeProvider> = Arc::<dyn DeviceClock>::clone(&clock);
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_safe_default_protocol_versions()
        .expect("ring's cipher suites cover both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(unset_clock::Verifier { roots, algorithms, clock }))
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
    Ok(Arc::new(config))
}

/// A server's settings: the chain in `certificate` (PEM, its own certificate first), its private key in `key` (PEM;
/// PKCS #8, PKCS #1 or SEC 1). Sessions resume by tickets, so that nothing is kept per client.
///
/// # Errors
/// When a file can't be read, holds nothing of use, or the two do not belong together.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { path: key.into() },
        error => TlsError::from_pem(key, error),
    })?;
    let unusable = |source| TlsError::Unusable { certificate: certificate.into(), key: key.into(), source };
    let mut config = ServerConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .expect("ring's cipher suites cover both versions")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.ticketer = ring::Ticketer::new().map_err(unusable)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The client's handshake on a connected socket; `host` is the name or the address the certificate must be for.
///
/// # Errors
/// [`HandshakeError`]; the socket is closed.
pub async fn connect(
    config: &Arc<ClientConfig>,
    host: &str,
    socket: Async<TcpStream>,
) -> Result<Transport, HandshakeError> {
    let name =
        ServerName::try_from(host).map_err(|source| HandshakeError::Name { host: host.into(), source })?.to_owned();
    let stream = TlsConnector::from(Arc::clone(config))
        .connect_with(name, ReadAhead::keeping(socket), |connection| {
            connection.set_buffer_limit(Some(SEND_BUFFER_BYTES));
        })
        .await
        .map_err(|source| HandshakeError::Failed { peer: host.into(), source })?;
    Ok(Transport::TlsClient(Box::new(stream)))
}

/// The server's handshake on an accepted socket.
///
/// # Errors
/// [`HandshakeError`]; the socket is closed.
pub async fn accept(config: &Arc<ServerConfig>, socket: Async<TcpStream>) -> Result<Transport, HandshakeError> {
    let peer = socket.get_ref().peer_addr().map_or_else(|_| "a client".into(), |address| address.to_string());
    let stream = TlsAcceptor::from(Arc::clone(config))
        .accept_with(ReadAhead::giving_back(socket), |connection| connection.set_buffer_limit(Some(SEND_BUFFER_BYTES)))
        .await
        .map_err(|source| HandshakeError::Failed { peer, source })?;
    Ok(Transport::TlsServer(Box::new(stream)))
}

/// Why there is no TLS configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is broken PEM.
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: pem::Error,
    },
    /// A file has no `CERTIFICATE` section.
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file has no private key.
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate of a roots file can't be a root.
    BadRoot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The system has no usable certificate authorities.
    NoSystemRoots {
        /// The first thing that went wrong while looking, if anything did.
        source: Option<rustls_native_certs::Error>,
    },
    /// Certificate and key can't be used, or not together.
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl TlsError {
    fn from_pem(path: &Path, error: pem::Error) -> Self {
        match error {
            pem::Error::Io(source) => Self::Read { path: path.into(), source },
            source => Self::Pem { path: path.into(), source },
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => {
                write!(f, "cannot read {}: {source}; check the path and its permissions", path.display())
            }
            Self::Pem { path, source } => {
                write!(f, "{} is not valid PEM: {source}; write the file anew", path.display())
            }
            Self::NoCertificate { path } => write!(
                f,
                "{} holds no certificate; expected PEM sections that begin with -----BEGIN CERTIFICATE-----",
                path.display()
            ),
            Self::NoKey { path } => write!(
                f,
                "{} holds no private key; expected a PEM section PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY without a \
                 passphrase",
                path.display()
            ),
            Self::BadRoot { path, source } => {
                write!(f, "{} holds a certificate that cannot be a root: {source}; replace it", path.display())
            }
            Self::NoSystemRoots { source } => {
                write!(f, "the system has no certificate authorities")?;
                if let Some(source) = source {
                    write!(f, " ({source})")?;
                }
                write!(f, "; install ca-certificates, or name a file with the relay's authority")
            }
            Self::Unusable { certificate, key, source } => write!(
                f,
                "certificate {} and key {} cannot be used: {source}; check that they belong together",
                certificate.display(),
                key.display()
            ),
        }
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Pem { source, .. } => Some(source),
            Self::BadRoot { source, .. } | Self::Unusable { source, .. } => Some(source),
            Self::NoSystemRoots { source } => source.as_ref().map(|source| source as _),
            Self::NoCertificate { .. } | Self::NoKey { .. } => None,
        }
    }
}

/// Why a handshake did not lead to a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The host is neither a DNS name nor an address.
    Name {
        /// The host as given.
        host: String,
        /// The parser's reason.
        source: InvalidDnsNameError,
    },
    /// The handshake failed, on either side or in between.
    Failed {
        /// The host that was dialled, or the address of the client that came.
        peer: String,
        /// The reason; a [`rustls::Error`] inside, unless the connection broke.
        source: io::Error,
    },
}

impl HandshakeError {
    /// What rustls had against the peer; `None` if the connection broke or the name is wrong.
    pub fn rustls(&self) -> Option<&rustls::Error> {
        match self {
            Self::Name { .. } => None,
            Self::Failed { source, .. } => source.get_ref()?.downcast_ref(),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        use CertificateError::{
            BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
            NotValidYetContext, UnknownIssuer,
        };
        Some(match self.rustls()? {
            rustls::Error::InvalidCertificate(error) => match error {
                UnknownIssuer | BadSignature => "name a file with the authority that issued it, or dial the right host",
                Expired | ExpiredContext { .. } => "renew the certificate, or set this machine's clock",
                NotValidYet | NotValidYetContext { .. } => "set this machine's clock, which is probably behind",
                NotValidForName | NotValidForNameContext { .. } => "dial a name the certificate is for",
                _ => return None,
            },
            rustls::Error::InvalidMessage(_) => "the peer may not speak TLS on this port",
            rustls::Error::AlertReceived(_) => "the peer refused; its log knows why",
            _ => return None,
        })
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { host, source } => write!(f, "{host:?} cannot be the name of a TLS server: {source}"),
            Self::Failed { peer, source } => {
                write!(f, "TLS handshake with {peer} failed: {source}")?;
                match self.hint() {
                    Some(hint) => write!(f, "; {hint}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Error for HandshakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Name { source, .. } => Some(source),
            Self::Failed { source, .. } => Some(source),
        }
    }
}

/// Ring, with the cheapest cipher suites first; it is the client's order that counts.
fn crypto() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    let has_aes = aes_in_hardware();
    provider.cipher_suites.sort_by_key(|suite| cost(suite.suite(), has_aes));
    Arc::new(provider)
}

/// AES-128 takes about a tenth less processor time per byte than AES-256 and half of ChaCha20, if the processor has
/// instructions for it; if not, ChaCha20 is the faster one by far.
fn cost(suite: CipherSuite, has_aes: bool) -> u8 {
    use CipherSuite::{
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256,
        TLS13_CHACHA20_POLY1305_SHA256,
    };
    match suite {
        TLS13_AES_128_GCM_SHA256 | TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 | TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 1,
        TLS13_CHACHA20_POLY1305_SHA256
        | TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
            if has_aes {
                3
            } else {
                0
            }
        }
        _ => 2,
    }
}

fn aes_in_hardware() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false; // 32-bit ARM and the like: hardly any has them, and std can't tell
}

fn load_roots(roots: &Roots) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::File(path) => {
            for certificate in read_certificates(path)? {
                store.add(certificate).map_err(|source| TlsError::BadRoot { path: path.into(), source })?;
            }
        }
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = store.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(TlsError::NoSystemRoots { source: found.errors.into_iter().next() });
            }
        }
    }
    Ok(store)
}

/// At least one certificate.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::from_pem(path, error))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.into() });
    }
    Ok(certificates)
}
