//! A relay on loopback with a certificate of its own, and clients that say exactly what a test wants said.

// Each test program uses its own part of this.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod http;
pub(crate) mod issuer;
pub(crate) mod npm;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::Role;
use async_tungstenite::{WebSocketReceiver, WebSocketStream};
use rcgen::{CertificateParams, KeyPair};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use smol::{Async, Executor, Timer, future};
use umbilical_cloud::relay::config::{Deadlines, Endpoint, HybridConnection, Limits, RelayConfig};
use umbilical_cloud::relay::{Relay, RelayError};
use umbilical_link::tls::{self, ClientConfig, DefaultTimeProvider, Roots, ServerConfig};
use umbilical_link::transport::{Transport, prepare_socket};
use umbilical_relay_protocol::{Accept, Key, RelayMessage, RelayUrl, Rendezvous, Right, Rule, SasToken};

pub(crate) type Socket = WebSocketStream<Transport>;

/// Long enough for anything that happens at all, so that what is waited for is the thing itself.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Short enough to wait out.
pub(crate) const SHORT: Duration = Duration::from_millis(150);

/// Runs a test that must not hang for ever.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    smol::block_on(future::or(test, async {
        Timer::after(LONG).await;
        panic!("the test hangs");
    }))
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + LONG / 2;
    while !condition() {
        assert!(std::time::Instant::now() < end, "never came true: {what}");
        Timer::after(Duration::from_millis(2)).await;
    }
}

/// Where relays of this test program run.
pub(crate) fn executor() -> &'static Arc<Executor<'static>> {
    static EXECUTOR: LazyLock<Arc<Executor<'static>>> = LazyLock::new(|| {
        let executor = Arc::new(Executor::new());
        for _ in 0..2 {
            let executor = Arc::clone(&executor);
            thread::spawn(move || smol::block_on(executor.run(future::pending::<()>())));
        }
        executor
    });
    &EXECUTOR
}

/// A certificate for `localhost`, its files, and who believes it.
pub(crate) struct Certificate {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) file: PathBuf,
    pub(crate) key_file: PathBuf,
    _directory: tempfile::TempDir,
}

pub(crate) fn certificate() -> &'static Certificate {
    static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(|| {
        let directory = tempfile::tempdir().unwrap();
        let (file, key_file) = (directory.path().join("relay.pem"), directory.path().join("relay.key"));
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        std::fs::write(&file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let roots = Roots::File(file.clone());
        Certificate {
            server: tls::server_config(&file, &key_file).unwrap(),
            client: tls::client_config(&roots, Arc::new(DefaultTimeProvider)).unwrap(),
            file,
            key_file,
            _directory: directory,
        }
    });
    &CERTIFICATE
}

pub(crate) fn rule(name: &str, key: &str, rights: &[Right]) -> Rule {
    let rights = rights.iter().copied().collect();
    Rule { name: name.into(), primary: Key::new(key).unwrap(), secondary: None, rights }
}

pub(crate) fn entity(path: &str, rules: Vec<Rule>, requires_client_authorization: bool) -> HybridConnection {
    HybridConnection { path: path.into(), rules, requires_client_authorization }
}

/// TLS on a port of the system's choice; `device` with one key per right, `open` that lets every sender in, and a key
/// for the whole namespace. Nothing in it runs out within a test.
pub(crate) fn config() -> RelayConfig {
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let rules = || vec![rule("listen", "key of listen", &[Right::Listen]), rule("send", "key of send", &[Right::Send])];
    RelayConfig {
        endpoints: vec![Endpoint { address, tls: Some(Arc::clone(&certificate().server)) }],
        public_origin: None,
        rules: vec![rule("operator", "key of operator", &[Right::Manage])],
        issuers: Vec::new(),
        hybrid_connections: vec![entity("device", rules(), true), entity("open", rules(), false)],
        on_demand: None,
        state_directory: None,
        limits: Limits { refusals: 10_000, ..Limits::default() },
        deadlines: Deadlines {
            handshake: LONG,
            rendezvous: LONG,
            absence: Duration::ZERO,
            response: LONG,
            idle: LONG,
            quiet: LONG,
            pong: LONG,
            token_grace: LONG,
            keys: LONG,
            close: LONG,
        },
    }
}

pub(crate) fn start(config: &RelayConfig) -> TestRelay {
    let relay = Relay::start(executor(), config).unwrap();
    TestRelay { address: relay.addresses()[0], tls: config.endpoints[0].tls.is_some(), relay }
}

/// Starts it as soon as its predecessor has let go of the state directory.
pub(crate) async fn restarted(config: &RelayConfig) -> TestRelay {
    loop {
        match Relay::start(executor(), config) {
            Ok(relay) => return TestRelay { address: relay.addresses()[0], tls: true, relay },
            Err(RelayError::State(_)) => future::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token that is good for an hour.
pub(crate) fn token(path: &str, key_name: &str) -> String {
    token_until(path, key_name, now() + 3600)
}

pub(crate) fn token_until(path: &str, key_name: &str, expires: u64) -> String {
    let resource = RelayUrl::parse("wss://localhost").unwrap().with_path(path).resource();
    SasToken::sign(&resource, key_name, format!("key of {key_name}").as_bytes(), expires)
}

#[derive(Clone)]
pub(crate) struct TestRelay {
    pub(crate) relay: Relay,
    pub(crate) address: SocketAddr,
    pub(crate) tls: bool,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) leftover: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) async fn read(transport: &mut Transport) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            transport.read_exact(&mut byte).await.expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let mut status_line = lines.next().unwrap().splitn(3, ' ');
        assert_eq!(status_line.next(), Some("HTTP/1.1"));
        Self {
            status: status_line.next().unwrap().parse().unwrap(),
            reason: status_line.next().unwrap().to_owned(),
            headers: lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.into(), v.into())).collect(),
            leftover: Vec::new(),
        }
    }
}

impl TestRelay {
    pub(crate) async fn dial(&self) -> Transport {
        let socket = Async::<TcpStream>::connect(self.address).await.unwrap();
        prepare_socket(&socket).unwrap();
        if !self.tls {
            return Transport::Plain(socket);
        }
        tls::connect(&certificate().client, "localhost", socket).await.unwrap()
    }

    /// Sends a WebSocket handshake with these headers besides the usual ones, and does not wait.
    pub(crate) async fn ask(&self, target: &str, headers: &[(&str, &str)]) -> Transport {
        let mut transport = self.dial().await;
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            self.address.port()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        transport.write_all(request.as_bytes()).await.unwrap();
        transport.flush().await.unwrap();
        transport
    }

    pub(crate) async fn answer(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::read(&mut self.ask(target, headers).await).await
    }

    /// Opens a WebSocket.
    pub(crate) async fn open(&self, target: &str, headers: &[(&str, &str)]) -> Socket {
        opened(self.ask(target, headers).await).await.1
    }

    pub(crate) async fn listen(&self, path: &str) -> Listener {
        self.listen_as(path, "").await
    }

    /// Registers a listener, with an id unless that is empty.
    pub(crate) async fn listen_as(&self, path: &str, id: &str) -> Listener {
        let id = if id.is_empty() { String::new() } else { format!("&sb-hc-id={id}") };
        let target = format!("/$hc/{path}?sb-hc-action=listen{id}");
        let token = token(path, "listen");
        Listener { control: self.open(&target, &[("ServiceBusAuthorization", &token)]).await, relay: self.clone() }
    }

    /// Sends a sender's handshake with a token and does not wait.
    pub(crate) async fn send(&self, path: &str, headers: &[(&str, &str)]) -> Transport {
        let entity = path.split(['/', '?']).next().unwrap();
        let token = token(entity, "send");
        let query = if path.contains('?') { '&' } else { '?' };
        let headers = [headers, &[("ServiceBusAuthorization", token.as_str())]].concat();
        self.ask(&format!("/$hc/{path}{query}sb-hc-action=connect"), &headers).await
    }

    /// Joins a sender with a listener and returns the two ends, sender first.
    pub(crate) async fn join(&self, listener: &mut Listener, path: &str) -> (Socket, Socket) {
        self.join_with(listener, path, &[]).await
    }

    /// The same, with headers of both.
    pub(crate) async fn join_with(
        &self,
        listener: &mut Listener,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (Socket, Socket) {
        let (sender, listener) = self.join_raw_with(listener, path, headers).await;
        (client(sender).await, client(listener).await)
    }

    /// As [`TestRelay::join`], for tests that write frames themselves.
    pub(crate) async fn join_raw(&self, listener: &mut Listener, path: &str) -> (Transport, Transport) {
        self.join_raw_with(listener, path, &[]).await
    }

    async fn join_raw_with(
        &self,
        listener: &mut Listener,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (Transport, Transport) {
        let mut sender = self.send(path, headers).await;
        let accept = listener.invitation().await;
        let mut rendezvous = self.ask(target_of(&accept), headers).await;
        for socket in [&mut rendezvous, &mut sender] {
            let answer = Answer::read(socket).await;
            let mask = self.tls.then_some("zero");
            assert_eq!((answer.status, answer.header("Umbilical-Mask")), (101, mask));
            assert_eq!(answer.header("Umbilical-Keep-Alive"), Some("ping"));
        }
        (sender, rendezvous)
    }
}

/// A listener's control channel.
pub(crate) struct Listener {
    pub(crate) control: Socket,
    pub(crate) relay: TestRelay,
}

impl Listener {
    /// The next accept message.
    pub(crate) async fn invitation(&mut self) -> Accept {
        loop {
            match self.control.next().await.expect("an open control channel").unwrap() {
                Message::Text(text) => match RelayMessage::parse(&text).unwrap() {
                    RelayMessage::Accept(accept) => return accept,
                    other => panic!("not an accept message: {other:?}"),
                },
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("not an accept message: {other:?}"),
            }
        }
    }

    pub(crate) async fn renew(&mut self, token: &str) {
        let text = format!(r#"{{"renewToken":{{"token":"{token}"}}}}"#);
        self.control.send(Message::text(text)).await.unwrap();
    }

    /// Code and reason of the relay's close frame.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        closed(&mut self.control).await
    }
}

/// Code and reason of the next close frame, whatever comes before it.
pub(crate) async fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        match socket.next().await.expect("a close frame").unwrap() {
            Message::Close(Some(frame)) => return (frame.code.into(), frame.reason.to_string()),
            Message::Close(None) => return (1005, String::new()),
            _ => {}
        }
    }
}

/// What to dial for an invitation.
pub(crate) fn target_of(accept: &Accept) -> &str {
    let address = &accept.address;
    let rest = address.split_once("://").unwrap().1;
    &rest[rest.find('/').unwrap()..]
}

pub(crate) fn refusal_of(accept: &Accept, status: u16, description: &str) -> String {
    Rendezvous::parse(&accept.address).unwrap().rejection_target(status, description)
}

/// Reads the answer, which must be a 101, and goes on as a WebSocket client.
pub(crate) async fn opened(mut transport: Transport) -> (Answer, Socket) {
    let answer = Answer::read(&mut transport).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    (answer, client(transport).await)
}

pub(crate) async fn client(transport: Transport) -> Socket {
    WebSocketStream::from_raw_socket(transport, Role::Client, None).await
}

/// The next message that is data.
pub(crate) async fn message(socket: &mut Socket) -> Message {
    loop {
        match socket.next().await.expect("a message").unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

/// Reads a split socket to its end.
pub(crate) async fn drain(mut receiver: WebSocketReceiver<Transport>) {
    while let Some(Ok(_)) = receiver.next().await {}
}
