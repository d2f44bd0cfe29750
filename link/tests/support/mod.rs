//! Certificates, sockets and scripted peers for the tests of this crate. Everything is on loopback, ports are the
//! kernel's choice.

// Each test program uses its own part of this.
#![allow(dead_code, clippy::unwrap_used, clippy::cast_possible_truncation)]

pub(crate) mod session;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer, future};
use umbilical_link::tls::{
    self, ClientConfig, DefaultTimeProvider, DeviceClock, Roots, ServerConfig, TimeProvider, UnixTime,
};

/// Runs a test that must not hang for ever.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    smol::block_on(future::or(test, async {
        Timer::after(Duration::from_secs(60)).await;
        panic!("the test hangs");
    }))
}

/// A certificate authority with a directory for its files.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("Umbilical test authority")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::File(self.path("ca.pem"))
    }

    /// Writes `{file}.pem` and `{file}.key` for `name`, valid from 2020 up to and without 2080.
    pub(crate) fn issue(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2080, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// A server that shows a fresh certificate for `name`.
    pub(crate) fn server(&self, name: &str) -> Arc<ServerConfig> {
        self.issue("server", name);
        tls::server_config(&self.path("server.pem"), &self.path("server.key")).unwrap()
    }

    /// A client that believes this authority and the machine's clock.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        tls::client_config(&self.roots(), Arc::new(DefaultTimeProvider)).unwrap()
    }
}

/// A clock that stands still.
#[derive(Debug)]
pub(crate) struct StoppedAt(pub(crate) u64);

impl TimeProvider for StoppedAt {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// A device's clock, which may never have been set: then it stands at the earliest time that it can be.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) time: u64,
    pub(crate) unset: bool,
}

impl TimeProvider for Device {
    fn current_time(&self) -> Option<UnixTime> {
        StoppedAt(self.time).current_time()
    }
}

impl DeviceClock for Device {
    fn is_unset(&self) -> bool {
        self.unset
    }
}

pub(crate) fn listen() -> (Async<TcpListener>, SocketAddr) {
    let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.get_ref().local_addr().unwrap();
    (listener, address)
}

/// The two ends of a TCP connection: who dialled, who accepted.
pub(crate) async fn pair() -> (Async<TcpStream>, Async<TcpStream>) {
    let (listener, address) = listen();
    let (near, far) = future::zip(Async::<TcpStream>::connect(address), listener.accept()).await;
    (near.unwrap(), far.unwrap().0)
}

/// Reads a request head (up to its empty line) and returns it.
pub(crate) async fn read_request(socket: &mut Async<TcpStream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).await.unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// The value of a field in a request head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// Reads until `stream` ends, taking a cut connection for an end too.
pub(crate) async fn drain(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all).await {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) => {}
        Err(error) => panic!("reading to the end: {error}"),
    }
    all
}

/// Sends `bytes` and lets the peer see the end.
pub(crate) async fn answer(socket: &mut Async<TcpStream>, bytes: &[u8]) {
    socket.write_all(bytes).await.unwrap();
    socket.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
}

/// Bytes that repeat only after a long while, so that a lost, doubled or moved one shows.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
