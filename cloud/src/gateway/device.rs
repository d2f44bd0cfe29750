//! One device as exposures see it: somewhere to open streams, and something to ask how it is doing.
//!
//! Owns: clients and what becomes of them, the sessions there are, the sums of what they count. Leaves to others: keeping a
//! link and a session (`keeper`).

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use smol::{Executor, channel};
use socket2::SockRef;
use umbilical_link::port::OnEnd;
use umbilical_link::{Ended, Handle, Io, KeepAlive, NewStream};
use umbilical_mux::{Counters, End, ResetReason, Shape};

use super::agent_report::{AgentReport, Asked};
use super::keeper::Keeper;
use super::link_record::{LinkFigures, LinkRecord};
use super::sender::{Sender, SenderError};
use crate::relay::signal::Signal;

/// Someone who wants a stream.
pub(crate) struct Client {
    /// To which service of the device.
    pub(crate) service: Arc<str>,
    /// Its connection.
    pub(crate) io: Io,
    /// What to do when it is over.
    pub(crate) on_end: Box<dyn FnOnce(ClientEnd<'_>) + Send>,
}

/// How it went with a client.
pub(crate) enum ClientEnd<'a> {
    /// It had a stream.
    Stream(&'a Ended),
    /// The device was not reached.
    Unreached(&'a SenderError),
}

/// What sessions are made with; shared by all devices of a gateway, changed by a reload.
pub(crate) struct Settings {
    pub(crate) sender: Arc<Sender>,
    pub(crate) shape: Shape,
    pub(crate) resume_for: Duration,
    pub(crate) keep_alive: KeepAlive,
    /// How often agents are asked how they are doing at most; never if `None`.
    pub(crate) ask_agents: Option<Duration>,
    /// How long streams may go on, once the gateway is stopping.
    pub(crate) drain_for: Option<Duration>,
    /// Devices may be on their way back from before a restart: until then their clients wait for them.
    pub(crate) returning_until: Option<Instant>,
}

/// What the tasks of all devices share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) executor: Arc<Executor<'static>>,
    pub(crate) settings: Arc<RwLock<Settings>>,
    /// Read-locked by every task: who gets to write knows that all have ended.
    pub(crate) alive: Arc<smol::lock::RwLock<()>>,
    /// The gateway was asked to stop.
    pub(crate) stopping: Signal,
}

impl Common {
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.try_read_arc();
        let task = async move {
            work.await;
            drop(alive);
        };
        self.executor.spawn(task).detach();
    }
}

/// The way to a device. Dropped, its task ends as soon as its streams have.
pub(crate) struct Device {
    clients: channel::Sender<Client>,
    state: Arc<State>,
}

/// What a device's task shows to others.
pub(crate) struct State {
    name: Arc<str>,
    /// The session that takes streams, while it has a link.
    current: Mutex<Option<Live>>,
    sessions: Mutex<Sessions>,
    links: Mutex<LinkRecord>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Sessions {
    /// All that have not ended.
    open: Vec<Live>,
    /// What those have counted that have: sums never go back.
    past: Counters,
}

/// A session that has not ended.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) handle: Handle,
}

/// How a device is doing.
#[derive(Debug, Clone, Default)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// Whether there is a link.
    pub linked: bool,
    /// The shortest round trip of late in microseconds, once one was measured.
    pub round_trip_us: Option<u32>,
    /// Streams open.
    pub streams: usize,
    /// Bytes from the device, since the gateway began to keep it.
    pub bytes_in: u64,
    /// Bytes to the device.
    pub bytes_out: u64,
    /// What its sessions have counted since the gateway began to keep it.
    pub counters: Counters,
    /// What became of its links since then.
    pub links: LinkFigures,
    /// Bytes of the receive pool that streams hold beyond what each may count on.
    pub pool_used: u32,
    /// The most that can be in use.
    pub pool_shared: u32,
    /// What its agent tells of itself, if it was asked.
    pub agent: Option<AgentReport>,
}

impl Device {
    /// Begins to keep a link to the device called `name`.
    pub(crate) fn keep(name: Arc<str>, common: &Common) -> Self {
        let (clients, waiting) = channel::unbounded();
        let state = Arc::new(State::new(Arc::clone(&name)));
        let keeper = Keeper::new(name, common.clone(), waiting, Arc::clone(&state));
        common.spawn(keeper.run());
        Self { clients, state }
    }

    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Opens a stream for a client: at once if there is a link, else as soon as the next dial made one.
    pub(crate) fn open(&self, client: Client) {
        let current = self.state.current().clone();
        match current {
            Some(live) => live.open(client),
            None => {
                // the task holds the receiver for as long as `self` lives
                let _ = self.clients.try_send(client);
            }
        }
    }
}

impl State {
    pub(crate) fn new(name: Arc<str>) -> Self {
        let links = Mutex::new(LinkRecord::new(Instant::now()));
        let (current, sessions, asked) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { name, current, sessions, links, asked }
    }

    pub(crate) async fn status(&self) -> DeviceStatus {
        let (open, counters) = {
            let sessions = self.sessions();
            (sessions.open.clone(), sessions.past)
        };
        let (linked, links) = {
            let links = self.links();
            (links.is_up(), links.figures(Instant::now()))
        };
        let agent = self.asked().report();
        let mut sum =
            DeviceStatus { agent, name: self.name.to_string(), linked, counters, links, ..DeviceStatus::default() };
        for live in open {
            let Some(status) = live.handle.status().await else {
                // it has ended since
                sum.counters.add(&live.handle.totals().unwrap_or_default());
                continue;
            };
            sum.counters.add(&status.counters);
            sum.streams += usize::from(status.streams);
            sum.pool_used += status.pool_used;
            sum.pool_shared += status.pool_shared;
            sum.round_trip_us = status.estimate.round_trip_us.map(|(least, _)| least).or(sum.round_trip_us);
        }
        (sum.bytes_in, sum.bytes_out) = (sum.counters.bytes_received, sum.counters.bytes_sent);
        sum
    }

    /// Asks all sessions to end within `time`.
    pub(crate) fn go_away(&self, time: Duration) {
        for live in &self.sessions().open {
            live.handle.go_away(time);
        }
    }

    pub(crate) fn current(&self) -> MutexGuard<'_, Option<Live>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, LinkRecord> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, handle: Handle) -> Live {
        let live = Live { handle };
        self.sessions().open.push(live.clone());
        live
    }

    /// A session is over.
    pub(crate) fn forget(&self, gone: &Live) {
        let mut sessions = self.sessions();
        sessions.open.retain(|live| !live.handle.is(&gone.handle));
        sessions.past.add(&gone.handle.totals().unwrap_or_default());
    }
}

impl Live {
    pub(crate) fn open(&self, client: Client) {
        let Client { service, io, on_end } = client;
        let on_end: OnEnd = Box::new(move |ended| on_end(ClientEnd::Stream(ended)));
        if let Err(over) = self.handle.open(NewStream { service, io, on_end }) {
            // it ended between our look and now
            reset(over.0.io);
            let end = End::Local(ResetReason::SESSION_LOST);
            (over.0.on_end)(&Ended { end, sent: 0, received: 0, lasted: Duration::ZERO });
        }
    }
}

/// The bytes of a stream, seen from the gateway.
pub(crate) trait Directions {
    fn sent_by_device(&self) -> u64;
    fn sent_to_device(&self) -> u64;
}

impl Directions for Ended {
    fn sent_by_device(&self) -> u64 {
        self.received
    }

    fn sent_to_device(&self) -> u64 {
        self.sent
    }
}

/// Closes a client's connection so that it sees a reset instead of an orderly end.
pub(crate) fn reset(io: Io) {
    if let Io::Tcp(socket) = &io {
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
    drop(io);
}
