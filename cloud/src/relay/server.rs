//! Takes connections and brings each to the file that knows what it wants.
//!
//! Owns: listening sockets, TLS, the request head, what happens when there is too much of anything. A connection that
//! comes when the relay is busy is still heard, so that it can be told when to come again; beyond that the kernel's
//! queue holds the rest back.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use smol::future::or;
use smol::io::AsyncWriteExt;
use smol::{Async, Timer};
use socket2::{SockRef, TcpKeepalive};
use umbilical_link::tls::{self, HandshakeError, ServerConfig};
use umbilical_link::transport::{Transport, prepare_socket};
use umbilical_relay_protocol::{Action, AddressError, Rejection, RequestTarget};

use super::config::Endpoint;
use super::handshake::{self, Handshake};
use super::metrics::{Held, count};
use super::signal::Signal;
use super::{Shared, accept, connect, http_sender, listen, management, request_socket, tracking};
use crate::deadline;
use crate::http::{HeadError, RequestHead, Response};
use crate::listening;

/// Pause after the system refused to hand out a connection: it is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Spread of `Retry-After`, so that those turned away together do not come back together.
const MAX_RETRY_AFTER_S: u32 = 10;

/// Joined sockets may be silent for as long as their owners like. One whose peer's machine is gone must still be noticed.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(300)).with_interval(Duration::from_secs(60)).with_retries(5);

/// A listening socket and its settings.
pub(crate) struct Bound {
    /// As configured, perhaps with port 0.
    pub(crate) configured: SocketAddr,
    /// As the system made it.
    pub(crate) address: SocketAddr,
    /// May be exchanged while it runs.
    tls: Mutex<Option<Arc<ServerConfig>>>,
    stop: Signal,
}

impl Bound {
    /// Stops listening.
    pub(crate) fn stop(&self) {
        self.stop.raise();
    }

    /// Whether it has not been stopped.
    pub(crate) fn is_listening(&self) -> bool {
        !self.stop.is_raised()
    }

    /// Takes other TLS settings for the connections to come.
    pub(crate) fn set_tls(&self, tls: Option<Arc<ServerConfig>>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts to listen.
///
/// # Errors
/// The system's, when the address is taken, not this machine's, or not allowed.
pub(crate) fn bind(endpoint: &Endpoint) -> io::Result<(Bound, Async<TcpListener>)> {
    let listener = listening::listen(endpoint.address)?;
    let bound = Bound {
        configured: endpoint.address,
        address: listener.get_ref().local_addr()?,
        tls: Mutex::new(endpoint.tls.clone()),
        stop: Signal::new(),
    };
    Ok((bound, listener))
}

/// Takes connections until the endpoint or the relay stops.
pub(crate) async fn serve(shared: Arc<Shared>, bound: Arc<Bound>, listener: Async<TcpListener>) {
    let scheme = if bound.tls().is_some() { "wss" } else { "ws" };
    info!("relay listens on {scheme}://{}", bound.address);
    let stopped = or(bound.stop.raised(), shared.stopping.raised());
    let serving = async {
        loop {
            let permit = shared.handshakes.acquire_arc().await;
            match listener.accept().await {
                Ok((socket, peer)) => {
                    let (connection, bound) = (Arc::clone(&shared), Arc::clone(&bound));
                    let task = async move {
                        // held to the end: shutting down waits for it
                        let Some(_alive) = connection.alive.try_read_arc() else { return };
                        Box::pin(connected(&connection, &bound, socket, peer, permit)).await;
                    };
                    shared.executor.spawn(task).detach();
                }
                Err(error) => {
                    warn!("relay cannot take connections on {}: {error}", bound.address);
                    Timer::after(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    or(stopped, serving).await;
    info!("relay no longer listens on {}", bound.address);
}

async fn connected(
    shared: &Arc<Shared>,
    bound: &Bound,
    socket: Async<TcpStream>,
    peer: SocketAddr,
    permit: impl Sized,
) {
    let metrics = &shared.metrics;
    count(&metrics.accepted);
    let _held = Held::of(&metrics.connections);
    let limits = shared.limits();
    let request = {
        let _permit = permit;
        let _held = Held::of(&metrics.handshakes);
        // who is turned away keeps nobody from being served: a relay that many come back to would serve none of them
        let served = metrics.handshakes.load(Relaxed).saturating_sub(metrics.shedding.load(Relaxed));
        let busy = metrics.connections.load(Relaxed) > limits.connections as u64 || served > limits.handshakes as u64;
        let _shedding = busy.then(|| Held::of(&metrics.shedding));
        let until = Instant::now() + shared.deadlines().handshake;
        let request = Box::pin(read_request(shared, bound.tls(), socket, peer, until)).await;
        if busy {
            if let Some((transport, ..)) = request {
                shed(shared, transport, peer).await;
            }
            return;
        }
        request
    };
    let mut next = request;
    while let Some((transport, head, leftover)) = next {
        next = match route(shared, transport, peer, head, leftover).await {
            Some((transport, leftover)) => Box::pin(read_next(shared, transport, peer, leftover)).await,
            None => None,
        };
    }
}

/// TLS and the request head. `None` if the client was answered here, or is past answering.
async fn read_request(
    shared: &Shared,
    tls: Option<Arc<ServerConfig>>,
    socket: Async<TcpStream>,
    peer: SocketAddr,
    until: Instant,
) -> Option<(Transport, RequestHead, Vec<u8>)> {
    let tuned = prepare_socket(&socket).and_then(|()| SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE));
    if let Err(error) = tuned {
        debug!("{peer} left at once: {error}");
        return None;
    }
    let mut transport = match tls {
        None => Transport::Plain(socket),
        Some(tls) => match deadline::until(until, tls::accept(&tls, socket)).await {
            Some(Ok(transport)) => transport,
            failed => {
                count(&shared.metrics.tls_failures);
                debug!("{peer}: {}", TlsFailure(failed.and_then(Result::err)));
                return None;
            }
        },
    };
    let response = match deadline::until(until, RequestHead::read(&mut transport)).await {
        Some(Ok((head, leftover))) => return Some((transport, head, leftover)),
        Some(Err(error)) => {
            match error {
                HeadError::Closed => debug!("{peer} sent no request"),
                _ => debug!("{peer}: {error}"),
            }
            error.response()?
        }
        None => {
            debug!("{peer} did not send a request in time");
            Response::new(408, "The request head did not come in time")
        }
    };
    let blame = response.status() != 408;
    handshake::refuse(shared, &mut transport, peer, response, blame).await;
    None
}

async fn shed(shared: &Shared, mut transport: Transport, peer: SocketAddr) {
    count(&shared.metrics.shed);
    let rejection = Rejection::busy();
    let retry_after = 1 + getrandom::u32().unwrap_or(0) % MAX_RETRY_AFTER_S;
    let response = Response::new(rejection.status(), rejection.reason()).header("Retry-After", retry_after.to_string());
    debug!("{peer} told to come again in {retry_after} s: too many connections at once");
    handshake::refuse(shared, &mut transport, peer, response, false).await;
}

/// Serves one request. Returns the connection, and what came behind the request, if another one may follow.
async fn route(
    shared: &Arc<Shared>,
    mut transport: Transport,
    peer: SocketAddr,
    head: RequestHead,
    leftover: Vec<u8>,
) -> Option<(Transport, Vec<u8>)> {
    match RequestTarget::parse(&head.target) {
        Ok(target) => open(shared, transport, peer, head, leftover, target).await,
        Err(AddressError::NotWebSocket) if management::is_meant(&head) => {
            Box::pin(management::serve(shared, transport, peer, &head, leftover)).await;
        }
        Err(AddressError::NotWebSocket) => {
            return Box::pin(http_sender::serve(shared, transport, peer, head, leftover)).await;
        }
        Err(error) => {
            let rejection = Rejection::bad_address(&error);
            let response = Response::new(rejection.status(), rejection.reason());
            handshake::refuse(shared, &mut transport, peer, response, true).await;
        }
    }
    None
}

/// Waits for the next request on a connection that has had one. `None` if there is none.
async fn read_next(
    shared: &Shared,
    mut transport: Transport,
    peer: SocketAddr,
    leftover: Vec<u8>,
) -> Option<(Transport, RequestHead, Vec<u8>)> {
    let stopped = async {
        shared.stopping.raised().await;
        None
    };
    let next = async { Some(RequestHead::read_behind(&mut transport, leftover).await) };
    let response = match deadline::within(shared.deadlines().idle, or(next, stopped)).await.flatten() {
        Some(Ok((head, leftover))) => return Some((transport, head, leftover)),
        Some(Err(error)) => error.response()?,
        None => {
            debug!("{peer} has been silent behind its last request, or the relay stops");
            let _ = deadline::within(shared.deadlines().close, transport.close()).await;
            return None;
        }
    };
    handshake::refuse(shared, &mut transport, peer, response, true).await;
    None
}

/// Serves a WebSocket handshake.
async fn open(
    shared: &Arc<Shared>,
    mut transport: Transport,
    peer: SocketAddr,
    head: RequestHead,
    leftover: Vec<u8>,
    target: RequestTarget,
) {
    let key = match head.websocket_key() {
        Ok(key) => key.to_owned(),
        Err(error) => return handshake::refuse(shared, &mut transport, peer, error.response(), true).await,
    };
    let Ok(id) = tracking::guid(target.id()) else {
        warn!("the system has no randomness to give, {peer} is turned away");
        return;
    };
    let handshake = Handshake { head, peer, id, key, transport, leftover };
    match target.action() {
        Action::Listen => Box::pin(listen::listen(shared, handshake, target)).await,
        Action::Connect => Box::pin(connect::connect(shared, handshake, target)).await,
        Action::Accept => Box::pin(accept::accept(shared, handshake, &target)).await,
        Action::Request => Box::pin(request_socket::meet(shared, handshake, &target)).await,
    }
}

struct TlsFailure(Option<HandshakeError>);

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(f),
            None => f.write_str("the TLS handshake was not done in time"),
        }
    }
}
