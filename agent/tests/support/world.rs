//! A whole agent in this process, a relay that does what a script says, and gateways behind it.

use std::{
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixStream,
    rc::Rc,
    sync::Arc,
};

use smol::{
    Async, LocalExecutor,
    channel::{Receiver, Sender, bounded, unbounded},
    future, io,
};
use umbilical_agent::{supervisor::Agent, sys::Request};
use umbilical_link::{
    Driver, DriverConfig, Event, Handle, Io, KeepAlive, NewLink, NewStream, NoServices, WebSocket, upgrade::Upgraded,
};
use umbilical_mux::{Config, End, SessionId, Shape, Side};

use super::{
    files::{Directory, text},
    logs,
    relay::{Control, KEY, KEY_NAME, Relay},
    soon,
};

/// Everything, before the agent begins.
pub struct World {
    pub relay: Relay,
    pub files: Directory,
    pub executor: Rc<LocalExecutor<'static>>,
    requests: Sender<Request>,
}

impl World {
    /// Runs an agent with `lines` in its configuration beside `script`. When the script ends, the agent is asked to stop
    /// and must.
    pub fn run(lines: &str, script: impl AsyncFnOnce(&World)) {
        World::run_with(Relay::new(), Directory::new(), lines, script);
    }

    /// The same with a relay that was prepared.
    pub fn run_with(relay: Relay, files: Directory, lines: &str, script: impl AsyncFnOnce(&World)) {
        World::begin(relay, files, lines, async |world, inbox| {
            let agent = Agent::new(world.files.path("agent.toml")).unwrap();
            let script = async {
                script(world).await;
                world.request(Request::Stop);
                world.request(Request::Stop);
            };
            future::zip(script, soon("the agent's end", agent.run(inbox))).await;
        });
    }

    /// A world with a configuration that has `lines` in it, and no agent.
    pub fn prepare(lines: &str, script: impl AsyncFnOnce(&World)) {
        World::prepare_with(Relay::new(), Directory::new(), lines, script);
    }

    /// The same with a relay that was prepared.
    pub fn prepare_with(relay: Relay, files: Directory, lines: &str, script: impl AsyncFnOnce(&World)) {
        World::begin(relay, files, lines, async |world, _| script(world).await);
    }

    fn begin(relay: Relay, files: Directory, lines: &str, run: impl AsyncFnOnce(&World, Receiver<Request>)) {
        logs::capture();
        let (requests, inbox) = unbounded();
        let executor = Rc::new(LocalExecutor::new());
        let world = World { relay, files, executor: Rc::clone(&executor), requests };
        world.configure(lines);
        smol::block_on(executor.run(run(&world, inbox)));
    }

    /// Writes the configuration anew.
    pub fn configure(&self, lines: &str) {
        self.configure_for(&self.relay, lines);
    }

    /// The same for another relay.
    pub fn configure_for(&self, relay: &Relay, lines: &str) {
        let keys: String = self.keys_of(relay).iter().map(|key| format!("relay.{key}\n")).collect();
        self.files.write("agent.toml", &format!("{keys}{lines}"));
    }

    /// The same for several relays, some of them with a further key.
    pub fn configure_relays(&self, relays: &[(&Relay, Option<&str>)], lines: &str) {
        let table = |(relay, more): &(&Relay, Option<&str>)| {
            let keys: Vec<_> = self.keys_of(relay).into_iter().chain(more.map(str::to_owned)).collect();
            format!("{{ {} }}", keys.join(", "))
        };
        let tables: Vec<_> = relays.iter().map(table).collect();
        self.files.write("agent.toml", &format!("relays = [{}]\n{lines}", tables.join(", ")));
    }

    fn keys_of(&self, relay: &Relay) -> Vec<String> {
        let key = self.files.write("key", KEY);
        let mut keys = vec![
            format!("url = '{}'", relay.url()),
            "proxy = 'none'".to_owned(),
            format!("auth = {{ key-name = '{KEY_NAME}', key-file = '{}' }}", text(&key)),
        ];
        let authority = self.files.path("ca.pem");
        if authority.exists() {
            keys.insert(1, format!("ca-file = '{}'", text(&authority)));
        }
        keys
    }

    /// What a signal would ask for. An agent that has stopped does not hear it.
    pub fn request(&self, request: Request) {
        let _ = self.requests.try_send(request);
    }

    /// A gateway with this session id and no link.
    pub fn gateway(&self, id: u8) -> Gateway {
        let config = DriverConfig {
            session: Config {
                side: Side::Gateway,
                id: SessionId([id; 16]),
                shape: Shape { streams: 64, replay: 256 * 1024, receive: 256 * 1024 },
                record: umbilical_mux::MAX_RECORD,
                resume_for_ms: 60_000,
                features: 0,
            },
            name: "device".into(),
            keep_alive: KeepAlive::default(),
        };
        let (driver, handle) = Driver::new(config, NoServices).unwrap();
        self.executor.spawn(driver.run()).detach();
        Gateway { handle }
    }

    /// A gateway that has a link.
    pub async fn connected(&self, control: &mut Control, id: u8) -> Gateway {
        let gateway = self.gateway(id);
        gateway.link(self.link(control).await);
        gateway.link_up().await;
        gateway
    }

    /// Sends a sender to the device, and gives the rendezvous it comes to.
    pub async fn link(&self, control: &mut Control) -> Upgraded {
        control.accept(&self.relay.rendezvous("r"), "umbilical.v1").await;
        let handshake = self.relay.handshake().await;
        assert_eq!(handshake.headers.get("Sec-WebSocket-Protocol"), Some("umbilical.v1"));
        assert_eq!(handshake.headers.get("ServiceBusAuthorization"), None, "a rendezvous needs no token");
        handshake.upgrade().await
    }

    /// A TCP service that sends back what it gets. Gives its port.
    pub fn echo(&self) -> u16 {
        let socket = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
        let port = socket.get_ref().local_addr().unwrap().port();
        self.serve_echo(socket);
        port
    }

    /// A UDP service that does.
    pub fn udp_echo(&self) -> u16 {
        let socket = Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap();
        let port = socket.get_ref().local_addr().unwrap().port();
        let serve = async move {
            let mut buffer = vec![0; 65_536];
            loop {
                // an answer to somebody who has left is an error of the next call
                let Ok((count, peer)) = socket.recv_from(&mut buffer).await else { continue };
                let _ = socket.send_to(&buffer[..count], peer).await;
            }
        };
        self.executor.spawn(serve).detach();
        port
    }

    /// The TCP one on a socket that is already there.
    pub fn serve_echo(&self, socket: Async<TcpListener>) {
        let executor = Rc::downgrade(&self.executor);
        let serve = async move {
            while let Ok((client, _)) = socket.accept().await {
                let client = Arc::new(client);
                let echo = async move {
                    let _ = io::copy(&*client, &*client).await;
                    let _ = client.get_ref().shutdown(std::net::Shutdown::Write);
                };
                let Some(executor) = executor.upgrade() else { return };
                executor.spawn(echo).detach();
            }
        };
        self.executor.spawn(serve).detach();
    }
}

/// The cloud's end of a session.
pub struct Gateway {
    pub handle: Handle,
}

impl Gateway {
    /// Gives it a link.
    pub fn link(&self, upgraded: Upgraded) {
        self.handle.link(NewLink { socket: WebSocket::new(upgraded), hello: None }).unwrap();
    }

    /// The next event.
    pub async fn event(&self) -> Event {
        soon("an event of the session", self.handle.event()).await.expect("the session is not over")
    }

    /// Waits for a link.
    pub async fn link_up(&self) {
        match self.event().await {
            Event::LinkUp { .. } => {}
            other => panic!("expected a link, got {other:?}"),
        }
    }

    /// Opens a stream.
    pub fn open(&self, service: &str) -> Stream {
        let (near, far) = UnixStream::pair().unwrap();
        let (told, ended) = bounded(1);
        let stream = NewStream {
            service: service.into(),
            io: Io::Unix(Async::new(far).unwrap()),
            on_end: Box::new(move |ended| _ = told.try_send(ended.end)),
        };
        self.handle.open(stream).unwrap();
        Stream { socket: Async::new(near).unwrap(), ended }
    }

    /// How a stream to `service` ends that is not expected to live.
    pub async fn fate(&self, service: &str) -> End {
        self.open(service).end().await
    }
}

/// A client's connection.
pub struct Stream {
    pub socket: Async<UnixStream>,
    ended: Receiver<End>,
}

impl Stream {
    /// Sends `bytes` to a service that sends them back, and waits until they are.
    pub async fn echo(&self, bytes: &[u8]) {
        use smol::io::{AsyncReadExt, AsyncWriteExt};
        let sending = async { (&self.socket).write_all(bytes).await.unwrap() };
        let mut received = vec![0; bytes.len()];
        let receiving = async { (&self.socket).read_exact(&mut received).await.unwrap() };
        soon("an echo", future::zip(sending, receiving)).await;
        assert!(received == bytes, "{} bytes came back changed", bytes.len());
    }

    /// How it ended.
    pub async fn end(&self) -> End {
        soon("the stream's end", self.ended.recv()).await.unwrap()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        !self.ended.is_empty()
    }
}

/// Bytes that repeat nowhere near.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(count)
    .collect()
}
