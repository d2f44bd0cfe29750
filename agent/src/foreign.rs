//! Senders that are no gateway: each of their connections is bridged to one to a service, as classic Hybrid Connections
//! listeners do it.
//!
//! The service is dialled first, so that a sender hears of one that is not there as a refused handshake instead of an
//! open connection that ends; only azbridge names it too late for that.
//!
//! Owns: who is welcome, and how many at once. Leaves to others: the words of azbridge (`azbridge`), the rendezvous
//! (`rendezvous`), dialling services (`services`), the bytes (`umbilical_link::bridge`), their end when the agent stops
//! (`guests`).

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use log::{debug, info, warn};
use smol::LocalExecutor;
use umbilical_link::{
    Ended, Io,
    bridge::{Bridge, Bridged, Cause},
    byte_stream::{ByteStream, StreamError},
    port::OnEnd,
    upgrade::Upgraded,
};
use umbilical_mux::{End, Mode, ResetReason};

use crate::{
    azbridge,
    config::{Foreign, Welcome},
    guests::{Guests, Seat},
    services::{ServiceTable, Wanted},
};

/// The close code for a service that is not there after all (RFC 6455, section 7.4.1).
const INTERNAL_ERROR: u16 = 1011;

/// Silence of azbridge's datagrams that is no end. Its sender forgets a client after four minutes and does not say so; until
/// then it sends to the rendezvous that it has, and takes one that was closed for the end of everything.
const SILENT_AZBRIDGE: Duration = Duration::from_secs(5 * 60);

/// The foreign senders of one device.
pub struct ForeignSenders {
    executor: Rc<LocalExecutor<'static>>,
    services: Arc<ServiceTable>,
    config: RefCell<Foreign>,
    keep_alive: Cell<Duration>,
    guests: Guests,
}

/// A sender that is welcome.
pub struct Guest {
    host: Host,
    seat: Seat,
}

/// What a sender is joined with.
enum Host {
    Service(Dialled),
    /// What it will name.
    Azbridge,
}

/// A service that is connected.
struct Dialled {
    name: String,
    io: Io,
    on_end: Told,
}

/// Why a sender is not welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwelcome {
    /// Nothing foreign is.
    NotConfigured,
    /// Not at this moment.
    Now {
        /// The status for its handshake.
        status: u16,
        /// In words.
        reason: String,
    },
}

/// Who is to be told of a connection's end, and will be.
struct Told(Option<OnEnd>);

impl ForeignSenders {
    /// Nobody yet. Connections are tasks of `executor`; a peer hears something every `keep_alive` at least.
    #[must_use]
    pub fn new(
        executor: Rc<LocalExecutor<'static>>,
        services: Arc<ServiceTable>,
        config: Foreign,
        keep_alive: Duration,
    ) -> ForeignSenders {
        let (config, keep_alive) = (RefCell::new(config), Cell::new(keep_alive));
        ForeignSenders { executor, services, config, keep_alive, guests: Guests::default() }
    }

    /// New senders find this; connections that are open stay. Whether anything is different for them.
    pub fn change(&self, config: &Foreign, keep_alive: Duration) -> bool {
        self.keep_alive.set(keep_alive);
        self.config.replace(config.clone()) != *config
    }

    /// Connections open now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.guests.count()
    }

    /// Finds a seat for the sender that logs call `peer`, and dials what it is to be joined with.
    ///
    /// # Errors
    /// [`Unwelcome`], for the sender to hear.
    pub async fn invite(&self, peer: &str) -> Result<Guest, Unwelcome> {
        let Foreign { welcome, connections } = self.config.borrow().clone();
        match welcome {
            Welcome::Refused => Err(Unwelcome::NotConfigured),
            Welcome::Plain(service) => {
                let seat = self.seat(connections)?;
                let dialled =
                    self.dial(&service, Mode::Stream, peer).await.map_err(|reason| unreached(&service, reason))?;
                Ok(Guest { host: Host::Service(dialled), seat })
            }
            Welcome::Azbridge => Ok(Guest { host: Host::Azbridge, seat: self.seat(connections)? }),
        }
    }

    /// Joins a rendezvous with what its sender is a guest of.
    pub fn serve(self: &Rc<Self>, upgraded: Upgraded, guest: Guest, peer: String) {
        let Guest { host, seat } = guest;
        let (senders, stream) = (Rc::clone(self), ByteStream::new(upgraded));
        let served = async move {
            match host {
                Host::Service(dialled) => senders.bridge(stream, dialled, &peer).await,
                Host::Azbridge => senders.bridge_to_port(stream, &peer).await,
            }
            drop(seat);
        };
        self.executor.spawn(served).detach();
    }

    async fn bridge(&self, stream: ByteStream, dialled: Dialled, peer: &str) {
        let Dialled { name, io, on_end } = dialled;
        debug!("{peer}: bridged to {name}");
        let Bridged { ended, cause } = Bridge::new(stream, io, self.keep_alive.get()).run().await;
        match cause {
            Cause::Peer(StreamError::Invalid(_)) => warn!("{peer}: bridge to {name} broke: {cause}"),
            cause => debug!("{peer}: bridge to {name} ended: {cause}"),
        }
        on_end.tell(&ended);
    }

    /// As azbridge does it, the service is dialled when the sender has been told that it is there.
    async fn bridge_to_port(&self, mut stream: ByteStream, peer: &str) {
        let (name, mode) = match azbridge::greet(&mut stream, &self.services).await {
            Ok(named) => named,
            Err(refusal) => {
                warn!("{peer}: {refusal}");
                return refusal.tell(stream).await;
            }
        };
        match self.dial(&name, mode, peer).await {
            Ok(dialled) => self.bridge(stream, dialled, peer).await,
            Err(reason) => stream.close(INTERNAL_ERROR, &format!("service {name}: {reason}")).await,
        }
    }

    /// Lets nobody in any more; those inside have `drain_for` to finish.
    pub async fn drain(&self, drain_for: Duration) {
        let cut_off = self.guests.drain(drain_for).await;
        if cut_off > 0 {
            info!("{cut_off} foreign connections are cut off");
        }
    }

    fn seat(&self, connections: usize) -> Result<Seat, Unwelcome> {
        if self.count() >= connections {
            let reason = format!("This device has {connections} foreign connections, which is all it takes");
            return Err(Unwelcome::Now { status: 503, reason });
        }
        let leaving = || Unwelcome::Now { status: 503, reason: "This device is shutting down".to_owned() };
        self.guests.enter().ok_or_else(leaving)
    }

    async fn dial(&self, service: &str, mode: Mode, peer: &str) -> Result<Dialled, ResetReason> {
        let wanted = Wanted { service, mode, peer, may_be_silent: SILENT_AZBRIDGE };
        let (io, on_end) = self.services.dial(wanted)?;
        let on_end = Told(Some(on_end));
        let dialled = match io {
            Io::Dialing(dialing) => dialing.await,
            io => Ok(io),
        };
        match dialled {
            Ok(io) => Ok(Dialled { name: service.to_owned(), io, on_end }),
            Err(reason) => {
                on_end.tell(&never_open(End::Local(reason)));
                Err(reason)
            }
        }
    }
}

impl Told {
    fn tell(mut self, ended: &Ended) {
        if let Some(on_end) = self.0.take() {
            on_end(ended);
        }
    }
}

impl Drop for Told {
    /// The sender did not come, or the agent was stopped.
    fn drop(&mut self) {
        if let Some(on_end) = self.0.take() {
            on_end(&never_open(End::Reset(ResetReason::ABORTED)));
        }
    }
}

const fn never_open(end: End) -> Ended {
    Ended { end, sent: 0, received: 0, lasted: Duration::ZERO }
}

fn unreached(service: &str, reason: ResetReason) -> Unwelcome {
    let (status, what) = match reason {
        ResetReason::NOT_ALLOWED => (403, "is not offered any more"),
        ResetReason::BUSY => (503, "takes no more connections"),
        ResetReason::TIMED_OUT => (504, "did not answer in time"),
        ResetReason::REFUSED => (502, "does not take connections"),
        _ => (502, "can not be reached"),
    };
    Unwelcome::Now { status, reason: format!("Service {service} of this device {what}") }
}
