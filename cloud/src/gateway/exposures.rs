//! Public ports: who may connect, how many, and to which service of which device they lead.
//!
//! A client that may not connect is closed at once with a TCP reset. One that may gets a stream; its socket is the
//! stream's send queue, nothing is copied in between.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use log::{Level, debug, info, log, warn};
use smol::{Async, Executor, Task, Timer};
use socket2::{SockRef, TcpKeepalive};
use umbilical_link::{Ended, Io};
use umbilical_mux::{End, ResetReason};

use super::device::{Client, ClientEnd, Device, Directions, reset};
use super::foreign::Foreign;
use super::paced::Paced;
use super::sender::SenderError;
use crate::config::Exposure;
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
    listener: Async<TcpListener>,
    address: SocketAddr,
}

struct Shared {
    /// As the system made it.
    address: SocketAddr,
    /// Where it leads and for whom; a reload may change it.
    target: RwLock<Arc<Target>>,
    counters: Counters,
    turned_away: Paced,
    failed: Paced,
}

struct Target {
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
    turned_away: AtomicU64,
    failed: AtomicU64,
    open: AtomicUsize,
    from_device: AtomicU64,
    to_device: AtomicU64,
}

/// How an exposure is doing.
#[derive(Debug, Clone)]
pub struct ExposureStatus {
    /// Where it listens.
    pub listen: SocketAddr,
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
    /// Clients whose stream was refused or broke.
    pub failed: u64,
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
        let bound = listen(exposure.listen).and_then(|listener| {
            let address = listener.get_ref().local_addr()?;
            Ok(Self { listener, address })
        });
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
        let level = if listen.port() == 0 { Level::Info } else { Level::Debug };
        log!(level, "{service} of {name} is at {}", self.address);
        let shared = Arc::new(Shared {
            address: self.address,
            target: RwLock::new(Arc::new(Target { exposure, way })),
            counters: Counters::default(),
            turned_away: Paced::default(),
            failed: Paced::default(),
        });
        OpenExposure { _listening: executor.spawn(serve(Arc::clone(&shared), self.listener)), shared }
    }
}

impl OpenExposure {
    /// Where it was configured to listen.
    pub(crate) fn configured(&self) -> SocketAddr {
        self.shared.target().exposure.listen
    }

    /// Leads there from now on; clients that are connected stay where they are.
    pub(crate) fn change(&self, exposure: Exposure, way: Way) {
        *self.shared.target.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Target { exposure, way });
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    pub(crate) fn status(&self) -> ExposureStatus {
        let (target, counters) = (self.shared.target(), &self.shared.counters);
        let exposure = &target.exposure;
        ExposureStatus {
            listen: self.shared.address,
            device: exposure.device.to_string(),
            service: exposure.service.to_string(),
            open: counters.open.load(Relaxed),
            accepted: counters.accepted.load(Relaxed),
            turned_away: counters.turned_away.load(Relaxed),
            failed: counters.failed.load(Relaxed),
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
                warn!("{} cannot take connections: {error}", shared.address);
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Shared {
    fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn serve(self: &Arc<Self>, socket: Async<TcpStream>, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let counters = &self.counters;
        counters.accepted.fetch_add(1, Relaxed);
        let target = self.target();
        let Target { exposure, way } = &*target;
        if let Some(reason) = self.objection(exposure, peer) {
            counters.turned_away.fetch_add(1, Relaxed);
            if let Some(hidden) = self.turned_away.admit(reason.kind(), Instant::now()) {
                let Exposure { device, service, .. } = exposure;
                warn!("{peer} turned away from {service} of {device} at {}: {reason}{hidden}", self.address);
            }
            return reset(Io::Tcp(socket));
        }
        let io = match SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE).and_then(|()| Io::tcp(socket)) {
            Ok(io) => io,
            Err(error) => return debug!("{peer} left at once: {error}"),
        };
        counters.open.fetch_add(1, Relaxed);
        let (shared, name, service) = (Arc::clone(self), Arc::clone(&exposure.device), Arc::clone(&exposure.service));
        let on_end = Box::new(move |end: ClientEnd<'_>| shared.ended(&name, &service, peer, &end));
        let client = Client { service: Arc::clone(&exposure.service), io, on_end };
        match way {
            Way::Session(device) => device.open(client),
            Way::Foreign(foreign) => foreign.open(client),
        }
    }

    fn objection(&self, exposure: &Exposure, peer: SocketAddr) -> Option<Objection> {
        if let Some(allow) = &exposure.allow
            && !allow.iter().any(|network| network.contains(peer.ip()))
        {
            return Some(Objection::NotAllowed);
        }
        let most = exposure.max_connections?;
        (self.counters.open.load(Relaxed) >= most).then_some(Objection::TooMany { most })
    }

    fn ended(&self, device: &str, service: &str, peer: SocketAddr, end: &ClientEnd<'_>) {
        let counters = &self.counters;
        counters.open.fetch_sub(1, Relaxed);
        let ended = match end {
            ClientEnd::Stream(ended) => ended,
            ClientEnd::Unreached(error) => {
                counters.failed.fetch_add(1, Relaxed);
                return self.unreached(device, service, peer, error);
            }
        };
        counters.from_device.fetch_add(ended.sent_by_device(), Relaxed);
        counters.to_device.fetch_add(ended.sent_to_device(), Relaxed);
        let line = StreamLine { device, service, peer, ended };
        match ended.end {
            End::Closed | End::Reset(ResetReason::ABORTED) | End::Local(ResetReason::ABORTED) => info!("{line}"),
            End::Reset(reason) | End::Local(reason) => {
                counters.failed.fetch_add(1, Relaxed);
                if let Some(hidden) = self.failed.admit(reason.0, Instant::now()) {
                    warn!("{line}{hidden}");
                }
            }
        }
    }

    fn unreached(&self, device: &str, service: &str, peer: SocketAddr, error: &SenderError) {
        if let Some(hidden) = self.failed.admit(UNREACHED, Instant::now()) {
            warn!("{service} of {device}: client {peer} closed: {error}{hidden}");
        }
    }
}

/// A kind of [`Paced`] lines that is no reset reason.
const UNREACHED: u8 = u8::MAX;

/// Why a client is turned away.
enum Objection {
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
}

impl fmt::Display for StreamLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, service, peer, ended } = self;
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
            End::Local(reason) => write!(f, "{reason}{}", Advice { reason, service }),
            End::Reset(reason) => write!(f, "{reason} by the device{}", Advice { reason, service }),
        }
    }
}

/// What to do about a reset.
pub(crate) struct Advice<'a> {
    pub(crate) reason: ResetReason,
    pub(crate) service: &'a str,
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
            _ => Ok(()),
        }
    }
}

/// A public port that cannot be had.
#[derive(Debug)]
pub struct ExposureError {
    listen: SocketAddr,
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
