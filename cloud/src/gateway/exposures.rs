//! Public ports: who may connect, how many, and to which service of which device they lead.
//!
//! A client that may not connect is closed at once with a TCP reset. One that may gets a stream; its socket is the
//! stream's send queue, nothing is copied in between. Who are the clients of a UDP port is told in `udp`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use log::{Level, debug, info, log, warn};
use smol::{Async, Executor, Task, Timer};
use socket2::{SockRef, TcpKeepalive};
use umbilical_link::paced::Paced;
use umbilical_link::{Ended, Io};
use umbilical_mux::{End, Mode, ResetReason, Resets};

use super::device::{Client, ClientEnd, Device, Directions, reset};
use super::foreign::Foreign;
use super::sender::SenderError;
use super::udp::{Clients, Dropped, REST};
use super::udp_socket::UdpSocket;
use crate::config::{Exposure, Listen, Transport};
use crate::listening::listen;

/// A client that is silent may be so for as long as it likes. One whose machine is gone must be noticed.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(300)).with_interval(Duration::from_secs(60)).with_retries(5);

/// Pause after the system refused to hand out a connection: it is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A public port that is open. Dropped, it is closed; its clients stay.
pub(crate) struct OpenExposure {
    shared: Arc<Shared>,
    _listening: Task<()>,
}

/// A public port that is bound and does not take clients yet.
pub(crate) struct BoundExposure {
    socket: PublicSocket,
    listen: Listen,
}

enum PublicSocket {
    Tcp(Async<TcpListener>),
    Udp(UdpSocket),
}

/// What an open port and its clients share.
pub(super) struct Shared {
    /// As the system made it.
    listen: Listen,
    /// Where it leads and for whom; a reload may change it.
    target: RwLock<Arc<Target>>,
    counters: Arc<Counters>,
    turned_away: Paced,
    failed: Paced,
    dropped: Paced,
    /// When a client was last not served.
    failed_at: Mutex<Option<Instant>>,
}

pub(super) struct Target {
    exposure: Exposure,
    way: Way,
}

/// How an exposure's device is reached.
pub(crate) enum Way {
    /// By streams of its session.
    Session(Arc<Device>),
    /// By a rendezvous for each client.
    Foreign(Foreign),
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    not_allowed: AtomicU64,
    too_many: AtomicU64,
    unreached: AtomicU64,
    resets: Mutex<Resets>,
    dropped: AtomicU64,
    open: AtomicUsize,
    from_device: AtomicU64,
    to_device: AtomicU64,
}

/// An exposure's counters, which go on when its port is closed.
#[derive(Clone)]
pub(crate) struct ExposureFigures {
    listen: Listen,
    target: (Arc<str>, Arc<str>),
    counters: Arc<Counters>,
}

/// How an exposure is doing.
#[derive(Debug, Clone)]
pub struct ExposureStatus {
    /// Where it listens.
    pub listen: Listen,
    /// The device it leads to.
    pub device: String,
    /// The service it leads to.
    pub service: String,
    /// Clients connected.
    pub open: usize,
    /// Clients that ever connected, those turned away included.
    pub accepted: u64,
    /// Clients that were not allowed, or one too many.
    pub turned_away: u64,
    /// Of them, those that were not allowed.
    pub not_allowed: u64,
    /// Clients whose stream was refused or broke.
    pub failed: u64,
    /// Of them, those whose device was not reached.
    pub unreached: u64,
    /// Clients whose stream ended by a reset, by reason; `aborted` is no failure.
    pub resets: Resets,
    /// Datagrams that were dropped here, those of clients turned away not counted.
    pub dropped: u64,
    /// Bytes from the device, of clients that have left.
    pub bytes_in: u64,
    /// Bytes to the device, of clients that have left.
    pub bytes_out: u64,
}

impl BoundExposure {
    /// Takes the port.
    ///
    /// # Errors
    /// The system's reason, with the exposure's name.
    pub(crate) fn bind(exposure: &Exposure) -> Result<Self, ExposureError> {
        let Listen { transport, address } = exposure.listen;
        let bound = match transport {
            Transport::Tcp => listen(address).and_then(|listener| {
                let address = listener.get_ref().local_addr()?;
                Ok((PublicSocket::Tcp(listener), address))
            }),
            Transport::Udp => UdpSocket::bind(address).map(|socket| {
                let address = socket.address();
                (PublicSocket::Udp(socket), address)
            }),
        };
        let bound = bound.map(|(socket, address)| Self { socket, listen: Listen { transport, address } });
        bound.map_err(|source| ExposureError {
            listen: exposure.listen,
            device: Arc::clone(&exposure.device),
            service: Arc::clone(&exposure.service),
            source,
        })
    }

    /// Takes clients from now on.
    pub(crate) fn open(self, exposure: Exposure, way: Way, executor: &Executor<'static>) -> OpenExposure {
        let Exposure { device: name, service, listen, .. } = &exposure;
        let level = if listen.address.port() == 0 { Level::Info } else { Level::Debug };
        log!(level, "{service} of {name} is at {}", self.listen);
        let shared = Arc::new(Shared {
            listen: self.listen,
            target: RwLock::new(Arc::new(Target { exposure, way })),
            counters: Arc::default(),
            turned_away: Paced::default(),
            failed: Paced::default(),
            dropped: Paced::default(),
            failed_at: Mutex::default(),
        });
        let listening = match self.socket {
            PublicSocket::Tcp(listener) => executor.spawn(serve(Arc::clone(&shared), listener)),
            PublicSocket::Udp(socket) => executor.spawn(Arc::new(Clients::new(socket)).serve(Arc::clone(&shared))),
        };
        OpenExposure { _listening: listening, shared }
    }
}

impl OpenExposure {
    /// Where it was configured to listen.
    pub(crate) fn configured(&self) -> Listen {
        self.shared.target().exposure.listen
    }

    /// Leads there from now on; clients that are connected stay where they are.
    pub(crate) fn change(&self, exposure: Exposure, way: Way) {
        *self.shared.target.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Target { exposure, way });
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.listen.address
    }

    pub(crate) fn figures(&self) -> ExposureFigures {
        let (target, counters) = (self.shared.target(), Arc::clone(&self.shared.counters));
        let Exposure { device, service, .. } = &target.exposure;
        ExposureFigures { listen: self.shared.listen, target: (Arc::clone(device), Arc::clone(service)), counters }
    }
}

impl ExposureFigures {
    pub(crate) fn status(&self) -> ExposureStatus {
        let Self { listen, target: (device, service), counters } = self;
        let (not_allowed, unreached) = (counters.not_allowed.load(Relaxed), counters.unreached.load(Relaxed));
        let resets = *counters.resets.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |(reason, count)| if reason == ResetReason::ABORTED { 0 } else { count };
        ExposureStatus {
            listen: *listen,
            device: device.to_string(),
            service: service.to_string(),
            open: counters.open.load(Relaxed),
            accepted: counters.accepted.load(Relaxed),
            turned_away: not_allowed + counters.too_many.load(Relaxed),
            not_allowed,
            failed: unreached + resets.iter().map(failed).sum::<u64>(),
            unreached,
            resets,
            dropped: counters.dropped.load(Relaxed),
            bytes_in: counters.from_device.load(Relaxed),
            bytes_out: counters.to_device.load(Relaxed),
        }
    }
}

async fn serve(shared: Arc<Shared>, listener: Async<TcpListener>) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => shared.serve(socket, peer),
            Err(error) => {
                warn!("{} cannot take connections: {error}", shared.listen);
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Target {
    pub(super) fn exposure(&self) -> &Exposure {
        &self.exposure
    }
}

impl Shared {
    pub(super) fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn serve(self: &Arc<Self>, socket: Async<TcpStream>, peer: SocketAddr) {
        let target = self.target();
        let exposure = &target.exposure;
        if let Some(objection) = self.not_allowed(exposure, peer).or_else(|| self.too_many(exposure)) {
            self.turn_away(exposure, peer, &objection);
            return reset(Io::Tcp(socket));
        }
        match SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE).and_then(|()| Io::tcp(socket)) {
            Ok(io) => self.open(&target, io, peer),
            Err(error) => {
                self.counters.accepted.fetch_add(1, Relaxed);
                debug!("{} left at once: {error}", canonical(peer));
            }
        }
    }

    pub(super) fn not_allowed(&self, exposure: &Exposure, peer: SocketAddr) -> Option<Objection> {
        let allow = exposure.allow.as_ref()?;
        let allowed = allow.iter().any(|network| network.contains(peer.ip()));
        (!allowed).then_some(Objection::NotAllowed)
    }

    fn too_many(&self, exposure: &Exposure) -> Option<Objection> {
        let most = exposure.max_connections?;
        (self.open_streams() >= most).then_some(Objection::TooMany { most })
    }

    /// Streams of clients, those that are ending included.
    pub(super) fn open_streams(&self) -> usize {
        self.counters.open.load(Relaxed)
    }

    /// A client is not let in.
    pub(super) fn turn_away(&self, exposure: &Exposure, peer: SocketAddr, objection: &Objection) {
        self.counters.accepted.fetch_add(1, Relaxed);
        let turned_away = match objection {
            Objection::NotAllowed => &self.counters.not_allowed,
            Objection::TooMany { .. } => &self.counters.too_many,
        };
        turned_away.fetch_add(1, Relaxed);
        if let Some(hidden) = self.turned_away.admit(objection.kind(), Instant::now()) {
            let (Exposure { device, service, .. }, peer) = (exposure, canonical(peer));
            warn!("{peer} turned away from {service} of {device} at {}: {objection}{hidden}", self.listen);
        }
    }

    /// A client is let in, by `io`.
    pub(super) fn open(self: &Arc<Self>, target: &Target, io: Io, peer: SocketAddr) {
        let (Target { exposure, way }, peer) = (target, canonical(peer));
        self.counters.accepted.fetch_add(1, Relaxed);
        self.counters.open.fetch_add(1, Relaxed);
        let (shared, name, service) = (Arc::clone(self), Arc::clone(&exposure.device), Arc::clone(&exposure.service));
        let on_end = Box::new(move |end: ClientEnd<'_>| shared.ended(&name, &service, peer, &end));
        let client = Client { service: Arc::clone(&exposure.service), io, on_end };
        match way {
            Way::Session(device) => device.open(client),
            Way::Foreign(foreign) => foreign.open(client),
        }
    }

    /// Whether a client was not served a moment ago.
    pub(super) fn rests(&self, now: Instant) -> bool {
        let failed_at = *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| now.saturating_duration_since(at) < REST)
    }

    fn fail(&self) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A datagram from or for a client was dropped.
    pub(super) fn dropped(&self, peer: SocketAddr, dropped: Dropped) {
        self.count_dropped(dropped.count());
        if let Some(hidden) = self.dropped.admit(dropped.kind(), Instant::now()) {
            let target = self.target();
            let (Exposure { device, service, .. }, peer) = (&target.exposure, canonical(peer));
            warn!("{service} of {device}: a datagram of client {peer} was dropped: {dropped}{hidden}");
        }
    }

    pub(super) fn count_dropped(&self, count: u64) {
        self.counters.dropped.fetch_add(count, Relaxed);
    }

    fn ended(&self, device: &str, service: &str, peer: SocketAddr, end: &ClientEnd<'_>) {
        let counters = &self.counters;
        counters.open.fetch_sub(1, Relaxed);
        let ended = match end {
            ClientEnd::Stream(ended) => ended,
            ClientEnd::Unreached(error) => {
                counters.unreached.fetch_add(1, Relaxed);
                self.fail();
                return self.unreached(device, service, peer, error);
            }
        };
        counters.from_device.fetch_add(ended.sent_by_device(), Relaxed);
        counters.to_device.fetch_add(ended.sent_to_device(), Relaxed);
        if let End::Reset(reason) | End::Local(reason) = ended.end {
            counters.resets.lock().unwrap_or_else(PoisonError::into_inner).note(reason, 1);
        }
        let line = StreamLine { device, service, peer, ended, mode: self.listen.transport.mode() };
        match ended.end {
            End::Closed | End::Reset(ResetReason::ABORTED) | End::Local(ResetReason::ABORTED) => info!("{line}"),
            End::Reset(reason) | End::Local(reason) => {
                self.fail();
                if let Some(hidden) = self.failed.admit(reason.0, Instant::now()) {
                    warn!("{line}{hidden}");
                }
            }
        }
    }

    fn unreached(&self, device: &str, service: &str, peer: SocketAddr, error: &SenderError) {
        if let Some(hidden) = self.failed.admit(UNREACHED, Instant::now()) {
            let became = match self.listen.transport {
                Transport::Tcp => "closed",
                Transport::Udp => "not served, what it sends is dropped",
            };
            warn!("{service} of {device}: client {peer} {became}: {error}{hidden}");
        }
    }
}

/// An IPv4 address that came mapped into IPv6 is shown, and judged, as what it is.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// A kind of [`Paced`] lines that is no reset reason.
const UNREACHED: u8 = u8::MAX;

/// Why a client is turned away.
pub(super) enum Objection {
    NotAllowed,
    TooMany { most: usize },
}

impl Objection {
    fn kind(&self) -> u8 {
        match self {
            Self::NotAllowed => 0,
            Self::TooMany { .. } => 1,
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed => f.write_str("its address is not in `allow`"),
            Self::TooMany { most } => write!(f, "there are {most} clients, which is all that `max-connections` allows"),
        }
    }
}

/// A stream that has ended, as the log shows it.
struct StreamLine<'a> {
    device: &'a str,
    service: &'a str,
    peer: SocketAddr,
    ended: &'a Ended,
    mode: Mode,
}

impl fmt::Display for StreamLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, service, peer, ended, mode } = self;
        write!(
            f,
            "{service} of {device}: client {peer} ended after {:.3} s, {} bytes in, {} bytes out: ",
            ended.lasted.as_secs_f64(),
            ended.sent_by_device(),
            ended.sent_to_device()
        )?;
        match ended.end {
            End::Closed => f.write_str("closed"),
            End::Local(ResetReason::ABORTED) => f.write_str("aborted by the client"),
            End::Reset(ResetReason::ABORTED) => f.write_str("aborted by the service"),
            End::Local(reason) => write!(f, "{reason}{}", Advice { reason, service, mode: *mode }),
            End::Reset(reason) => write!(f, "{reason} by the device{}", Advice { reason, service, mode: *mode }),
        }
    }
}

/// What to do about a reset.
pub(crate) struct Advice<'a> {
    pub(crate) reason: ResetReason,
    pub(crate) service: &'a str,
    /// What the stream was to carry.
    pub(crate) mode: Mode,
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service;
        match self.reason {
            ResetReason::NOT_ALLOWED => {
                write!(
                    f,
                    "; it has no such service, add [services.{service}] to its agent.toml or correct the exposure"
                )
            }
            ResetReason::REFUSED | ResetReason::UNREACHABLE | ResetReason::TIMED_OUT => {
                write!(f, "; check that what services.{service} of its agent.toml targets is running")
            }
            ResetReason::BUSY => {
                write!(
                    f,
                    "; raise `streams` in [gateway.memory] or in the agent's [memory], or max-streams of the service"
                )
            }
            ResetReason::WRONG_MODE if self.mode == Mode::Stream => {
                f.write_str("; it takes datagrams, for an exposure with listen = \"udp:ADDRESS:PORT\"")
            }
            ResetReason::WRONG_MODE => f.write_str("; it takes a stream, for an exposure whose `listen` has no udp:"),
            _ => Ok(()),
        }
    }
}

/// A public port that cannot be had.
#[derive(Debug)]
pub struct ExposureError {
    listen: Listen,
    device: Arc<str>,
    service: Arc<str>,
    source: io::Error,
}

impl fmt::Display for ExposureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, device, service, source } = self;
        write!(f, "the exposure of {service} of {device} cannot listen on {listen}: {source}")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => f.write_str("; stop the program that does, or choose another port"),
            io::ErrorKind::PermissionDenied => {
                f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE, or choose another port")
            }
            io::ErrorKind::AddrNotAvailable => f.write_str("; choose an address of this machine"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ExposureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
