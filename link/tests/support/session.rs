//! Two drivers and what they are joined with: real sockets, an echo behind the agent, a cable that can be cut.

use std::cell::Cell;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, LocalExecutor, future};
use umbilical_link::port::{Dialing, OnEnd};
use umbilical_link::transport::{Transport, prepare_socket};
use umbilical_link::upgrade::{Role, Upgraded};
use umbilical_link::{DriverConfig, Handle, Io, KeepAlive, NewLink, NewStream, Services, WebSocket};
use umbilical_mux::{Config, Hello, MAX_RECORD, Mode, ResetReason, SessionId, Shape, Side};

pub(crate) const SHAPE: Shape = Shape { streams: 128, replay: 256 * 1024, receive: 256 * 1024 };

pub(crate) fn config(side: Side, shape: Shape) -> DriverConfig {
    config_with(side, shape, KeepAlive::default())
}

pub(crate) fn config_with(side: Side, shape: Shape, keep_alive: KeepAlive) -> DriverConfig {
    DriverConfig {
        session: Config { side, id: SessionId([7; 16]), shape, record: MAX_RECORD, resume_for_ms: 10_000, features: 0 },
        name: "test".into(),
        keep_alive,
    }
}

/// An echo service on a socket of its own for each stream.
pub(crate) struct Echo;

impl Services for Echo {
    fn dial(&mut self, service: &str, _: Mode) -> Result<(Io, OnEnd), ResetReason> {
        if service != "echo" {
            return Err(ResetReason::NOT_ALLOWED);
        }
        let dialing: Dialing = Box::pin(async {
            let (near, far) = socket_pair().map_err(|_| ResetReason::FAILED)?;
            std::thread::spawn(move || smol::block_on(echo(far)));
            Io::tcp(near).map_err(|_| ResetReason::FAILED)
        });
        Ok((Io::Dialing(dialing), Box::new(|_| {})))
    }
}

async fn echo(mut socket: Async<TcpStream>) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
        if socket.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = socket.close().await;
}

pub(crate) fn socket_pair() -> std::io::Result<(Async<TcpStream>, Async<TcpStream>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    Ok((Async::new(near)?, Async::new(far)?))
}

pub(crate) fn websocket(socket: Async<TcpStream>, role: Role, zero_mask: bool) -> WebSocket {
    prepare_socket(&socket).unwrap();
    WebSocket::new(Upgraded {
        transport: Transport::Plain(socket),
        leftover: Vec::new(),
        role,
        subprotocol: None,
        date: None,
        zero_mask,
        answers_pings: false,
    })
}

/// Gives both drivers a fresh link, whose client masks with zeros or not.
pub(crate) async fn connect(gateway: &Handle, agent: &Handle, zero_mask: bool) {
    let (near, far) = socket_pair().unwrap();
    gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
    let mut socket = websocket(far, Role::Client, zero_mask);
    let hello = Hello::decode(&socket.next_message().await.unwrap()).unwrap();
    agent.link(NewLink { socket, hello: Some(hello) }).unwrap();
}

pub(crate) fn open(gateway: &Handle, service: &str) -> Async<TcpStream> {
    let (near, far) = socket_pair().unwrap();
    let stream = NewStream { service: Arc::from(service), io: Io::tcp(far).unwrap(), on_end: Box::new(|_| {}) };
    gateway.open(stream).unwrap();
    near
}

/// What a cable does when it has carried what it carries in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThenIt {
    /// Both ends find out at once.
    Breaks,
    /// It carries nothing more that way and says nothing: half dead.
    FallsSilent,
}

/// A cable between two sockets, and how many bytes it has carried there and back.
pub(crate) struct Cable {
    /// Ends when it breaks.
    pub(crate) task: smol::Task<()>,
    pub(crate) carried: Rc<[Cell<u64>; 2]>,
}

impl Cable {
    /// Carries so many bytes there and back.
    pub(crate) fn new(
        executor: &LocalExecutor<'static>,
        ends: [Async<TcpStream>; 2],
        carries: [u64; 2],
        then: ThenIt,
    ) -> Self {
        let carried = Rc::new([Cell::new(0), Cell::new(0)]);
        let counts = Rc::clone(&carried);
        let task = executor.spawn(async move {
            let [near, far] = &ends;
            let there = carry(near, far, carries[0], &counts[0], then);
            future::or(there, carry(far, near, carries[1], &counts[1], then)).await;
        });
        Self { task, carried }
    }
}

async fn carry(
    mut from: &Async<TcpStream>,
    mut to: &Async<TcpStream>,
    carries: u64,
    carried: &Cell<u64>,
    then: ThenIt,
) {
    let mut buffer = [0; 16 * 1024];
    while carried.get() < carries {
        let most = usize::try_from(carries - carried.get()).unwrap_or(usize::MAX).min(buffer.len());
        let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else { return };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        carried.set(carried.get() + count as u64);
    }
    if then == ThenIt::FallsSilent {
        future::pending::<()>().await;
    }
}
