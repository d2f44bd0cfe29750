//! A cloud side, devices and their services in this process: everything on loopback, ports of the system's choice, real
//! agents on threads of their own.

// Each test program uses its own part of this.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod serving;

use std::fmt::Write as _;
use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Executor, Task, Timer, channel, future};
use umbilical_agent::supervisor::Agent;
use umbilical_agent::sys::Request;
use umbilical_cloud::supervisor::{Cloud, CloudError};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test that must not hang for ever.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    smol::block_on(future::or(test, async {
        Timer::after(PATIENCE).await;
        panic!("the test hangs");
    }))
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE / 2;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "never came: {what}");
        Timer::after(Duration::from_millis(5)).await;
    }
}

/// Where the cloud sides of this test program run.
pub(crate) fn executor() -> &'static Arc<Executor<'static>> {
    static EXECUTOR: LazyLock<Arc<Executor<'static>>> = LazyLock::new(|| {
        // `UMBILICAL_LOG=debug cargo test -- --nocapture` shows what happens
        umbilical_cloud::log::start_if_asked().unwrap();
        let executor = Arc::new(Executor::new());
        for _ in 0..2 {
            let executor = Arc::clone(&executor);
            thread::spawn(move || smol::block_on(executor.run(future::pending::<()>())));
        }
        executor
    });
    &EXECUTOR
}

/// A folder with a certificate for `localhost`, keys, and configuration files.
pub(crate) struct Folder(tempfile::TempDir);

/// `d1`, `d2` and their keys; `operator` may send to both.
pub(crate) const RELAY: &str = r#"
[relay]
listen = "127.0.0.1:0"
certificate-file = "@relay.pem"
key-file = "@relay.key"
[relay.keys.operator]
secret-file = "@operator.key"
rights = ["send"]
[relay.hybrid-connections.d1.keys.listen]
secret-file = "@device.key"
rights = ["listen"]
[relay.hybrid-connections.d2.keys.listen]
secret-file = "@device.key"
rights = ["listen"]
"#;

pub(crate) fn expose(device: &str, service: &str) -> String {
    format!("[[gateway.expose]]\nlisten = \"127.0.0.1:0\"\ndevice = \"{device}\"\nservice = \"{service}\"\n")
}

/// Relay and gateway in one, with these exposures (device, service).
pub(crate) fn embedded(exposures: &[(&str, &str)]) -> String {
    let exposures = exposures.iter().map(|(device, service)| expose(device, service));
    format!("{RELAY}[gateway]\n{}", exposures.collect::<String>())
}

/// A gateway of a relay elsewhere.
pub(crate) fn elsewhere(relay: SocketAddr, key: &str, exposures: &[(&str, &str)]) -> String {
    let exposures = exposures.iter().map(|(device, service)| expose(device, service));
    format!(
        "[gateway]\nrelay = \"wss://localhost:{}\"\nca-file = \"@relay.pem\"\nproxy = \"none\"\n\
         [gateway.auth]\nkey-name = \"operator\"\nkey-file = \"@{key}\"\n{}",
        relay.port(),
        exposures.collect::<String>()
    )
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        folder.write("relay.pem", &certificate.pem());
        folder.write("relay.key", &key.serialize_pem());
        folder.write("operator.key", "key of operator");
        folder.write("device.key", "key of device");
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `@name` in the text stands for a file of this folder.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let text = text.replace('@', &format!("{}/", self.0.path().display()));
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn try_start(&self, cloud: &str) -> Result<Cloud, CloudError> {
        self.write("cloud.toml", cloud);
        Cloud::start(executor(), &self.path("cloud.toml"))
    }

    pub(crate) fn start(&self, cloud: &str) -> Cloud {
        self.try_start(cloud).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A device whose agent finds the relay at `relay`, and leaves at once when it is stopped.
    pub(crate) fn device(&self, name: &str, relay: SocketAddr, services: &[(&str, SocketAddr)]) -> Device {
        self.start_device(name, &agent(name, relay, services))
    }

    /// A device with that configuration.
    pub(crate) fn start_device(&self, name: &str, agent: &str) -> Device {
        let file = format!("{name}.toml");
        self.write(&file, agent);
        Device::start(self.path(&file))
    }
}

/// The configuration of an agent.
pub(crate) fn agent(name: &str, relay: SocketAddr, services: &[(&str, SocketAddr)]) -> String {
    let mut text = format!(
        "[relay]\nurl = \"wss://localhost:{}/{name}\"\nca-file = \"@relay.pem\"\nproxy = \"none\"\n\
         [relay.auth]\nkey-name = \"listen\"\nkey-file = \"@device.key\"\n[session]\ndrain-for = \"0s\"\n",
        relay.port()
    );
    for (service, target) in services {
        writeln!(text, "[services.{service}]\ntarget = \"tcp:{target}\"").unwrap();
    }
    text
}

/// A running agent. Dropped, it is stopped.
pub(crate) struct Device {
    requests: channel::Sender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl Device {
    fn start(file: PathBuf) -> Self {
        let (requests, received) = channel::unbounded();
        let thread = thread::spawn(move || {
            let agent = Agent::new(file).unwrap_or_else(|error| panic!("{error}"));
            smol::block_on(agent.run(received));
        });
        Self { requests, thread: Some(thread) }
    }

    /// Asks the agent to finish.
    pub(crate) fn stop(&self) {
        self.requests.try_send(Request::Stop).unwrap();
    }

    /// Waits until it has.
    pub(crate) async fn stopped(&mut self) {
        let thread = self.thread.take().unwrap();
        smol::unblock(move || thread.join().unwrap()).await;
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let _ = self.requests.try_send(Request::Stop);
        let outcome = thread.join();
        assert!(outcome.is_ok() || thread::panicking(), "the agent panicked");
    }
}

/// Where the relay of a cloud side listens.
pub(crate) fn relay_of(cloud: &Cloud) -> SocketAddr {
    cloud.relay().unwrap().addresses()[0]
}

/// Where an exposure of a cloud side listens.
pub(crate) fn exposure_of(cloud: &Cloud, number: usize) -> SocketAddr {
    cloud.gateway().unwrap().addresses()[number]
}

/// Waits until the gateway has a link to a device.
pub(crate) async fn linked(cloud: &Cloud, device: &str) {
    eventually(&format!("a link to {device}"), || async {
        let devices = cloud.gateway().unwrap().devices().await;
        devices.iter().any(|status| status.name == device && status.linked).then_some(())
    })
    .await;
}

/// A service that sends back what it gets.
pub(crate) fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Async::new(listener).unwrap();
    let serve = async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let echo = async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                    if socket.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
                let _ = socket.get_ref().shutdown(Shutdown::Write);
            };
            executor().spawn(echo).detach();
        }
    };
    executor().spawn(serve).detach();
    address
}

/// A client with an open connection.
pub(crate) struct Client(pub(crate) Async<TcpStream>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(Async::<TcpStream>::connect(address).await.unwrap())
    }

    /// Sends `bytes` and waits for them to come back.
    pub(crate) async fn round_trip(&mut self, bytes: &[u8]) {
        self.try_round_trip(bytes).await.unwrap();
    }

    pub(crate) async fn try_round_trip(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes).await?;
        let mut back = vec![0; bytes.len()];
        self.0.read_exact(&mut back).await?;
        assert!(back == bytes, "something else came back");
        Ok(())
    }

    /// Ends in order: no more from here, nothing more from there.
    pub(crate) async fn finish(mut self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(self.0.read(&mut [0]).await.unwrap(), 0, "more than was sent came back");
    }

    /// Waits for a reset; nothing else may come.
    pub(crate) async fn must_be_reset(mut self) {
        let error = self.0.read(&mut [0; 16]).await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

/// Connects, and waits for a reset, which may come before the connection is one.
pub(crate) async fn must_reset(address: SocketAddr) {
    match Async::<TcpStream>::connect(address).await {
        Ok(socket) => Client(socket).must_be_reset().await,
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

/// Echoes once over a new connection.
pub(crate) async fn try_echo(address: SocketAddr) -> std::io::Result<()> {
    let mut client = Client(Async::<TcpStream>::connect(address).await?);
    client.try_round_trip(b"hello").await
}

/// Bytes that repeat only after a long while.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..length).map(|_| random.u8(..)).collect()
}

/// A TCP port in front of another, whose connections can be cut.
pub(crate) struct Cuttable {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Vec<Connection>>>,
    frozen: Mutex<Vec<Connection>>,
}

struct Connection {
    ends: [TcpStream; 2],
    copying: Option<Task<()>>,
}

impl Cuttable {
    pub(crate) fn new(target: SocketAddr) -> Self {
        let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.get_ref().local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<Connection>>>::default();
        let kept = Arc::clone(&connections);
        let serve = async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = Async::<TcpStream>::connect(target).await else { continue };
                let ends = [&near, &far].map(|socket| {
                    socket.get_ref().set_nodelay(true).unwrap();
                    socket.get_ref().try_clone().unwrap()
                });
                let copying = Some(executor().spawn(copy(near, far)));
                kept.lock().unwrap().push(Connection { ends, copying });
            }
        };
        executor().spawn(serve).detach();
        Self { address, connections, frozen: Mutex::default() }
    }

    /// Cuts all connections there are; how many.
    pub(crate) fn cut(&self) -> usize {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        for socket in connections.iter().flat_map(|connection| &connection.ends) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        connections.len()
    }

    /// Lets all connections there are look alive and carry nothing more; how many.
    pub(crate) fn freeze(&self) -> usize {
        let mut connections = std::mem::take(&mut *self.connections.lock().unwrap());
        connections.iter_mut().for_each(|connection| drop(connection.copying.take()));
        let count = connections.len();
        self.frozen.lock().unwrap().append(&mut connections);
        count
    }
}

async fn copy(near: Async<TcpStream>, far: Async<TcpStream>) {
    let up = async {
        let _ = smol::io::copy(&near, &far).await;
        let _ = far.get_ref().shutdown(Shutdown::Write);
    };
    let down = async {
        let _ = smol::io::copy(&far, &near).await;
        let _ = near.get_ref().shutdown(Shutdown::Write);
    };
    future::zip(up, down).await;
}
