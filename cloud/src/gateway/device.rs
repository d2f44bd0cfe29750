//! One device: a session with it, the links that carry the session, the clients that wait for one.
//!
//! A task per device keeps a link up, so that the first client finds one. While there is none, a client's arrival makes
//! the next dial immediate, and what comes of that dial decides about the client: a stream, or a closed connection.
//! Clients never wait longer than one dial.
//!
//! Owns: sessions and their succession, when to dial. Leaves to others: how to dial (`sender`), the session itself
//! (`umbilical_link::driver`).

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use smol::channel::{self, Receiver};
use smol::future::{or, pending};
use smol::{Executor, Timer};
use socket2::SockRef;
use umbilical_link::port::OnEnd;
use umbilical_link::upgrade::{UpgradeError, Upgraded};
use umbilical_link::{
    Driver, DriverConfig, Ended, Event, Handle, Io, KeepAlive, NewLink, NewStream, NoServices, WebSocket,
};
use umbilical_mux::{Config, End, ResetReason, SessionId, Shape, Side};

use super::backoff::{self, Backoff};
use super::sender::{Sender, SenderError};

/// Time between a dial that failed and the next one that a client asks for, when each costs a relay elsewhere a TLS
/// handshake.
const BREATH: Duration = Duration::from_millis(250);

/// How long a device without exposures keeps its open streams: until they end, within reason.
const UNTIL_QUIET: Duration = Duration::from_secs(30 * 24 * 3600);

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
    /// How long streams may go on, once the gateway is stopping.
    pub(crate) drain_for: Option<Duration>,
}

/// What the tasks of all devices share.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) executor: Arc<Executor<'static>>,
    pub(crate) settings: Arc<RwLock<Settings>>,
    /// Read-locked by every task: who gets to write knows that all have ended.
    pub(crate) alive: Arc<smol::lock::RwLock<()>>,
}

impl Common {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
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
    name: Arc<str>,
    clients: channel::Sender<Client>,
    state: Arc<State>,
}

/// What a device's task shows to others.
#[derive(Default)]
pub(crate) struct State {
    /// The session that takes streams, while it has a link.
    current: Mutex<Option<Live>>,
    /// All sessions that have not ended.
    sessions: Mutex<Vec<Live>>,
    /// Bytes of sessions that have: from the device, and to it.
    past: Tally,
}

/// A session that has not ended.
#[derive(Clone)]
struct Live {
    handle: Handle<NoServices>,
    /// Of its streams that have.
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    from_device: AtomicU64,
    to_device: AtomicU64,
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
}

impl Device {
    /// Begins to keep a link to the device called `name`.
    pub(crate) fn keep(name: Arc<str>, common: &Common) -> Self {
        let (clients, waiting) = channel::unbounded();
        let state = Arc::new(State::default());
        let keeper = Keeper {
            name: Arc::clone(&name),
            state: Arc::clone(&state),
            common: common.clone(),
            clients: waiting,
            waiting: Vec::new(),
            session: None,
            retired: false,
            backoff: Backoff::default(),
            said: None,
        };
        common.spawn(keeper.run());
        Self { name, clients, state }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
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

    pub(crate) async fn status(&self) -> DeviceStatus {
        let (sessions, linked) = (self.state.sessions().clone(), self.state.current().is_some());
        let (bytes_in, bytes_out) = self.state.past.read();
        let mut sum =
            DeviceStatus { name: self.name.to_string(), linked, bytes_in, bytes_out, ..DeviceStatus::default() };
        for live in sessions {
            let Some(status) = live.handle.status().await else { continue };
            sum.streams += usize::from(status.streams);
            sum.bytes_in += status.counters.bytes_received;
            sum.bytes_out += status.counters.bytes_sent;
            sum.round_trip_us = status.estimate.round_trip_us.map(|(least, _)| least).or(sum.round_trip_us);
        }
        sum
    }
}

impl State {
    /// Asks all sessions to end within `time`.
    pub(crate) fn go_away(&self, time: Duration) {
        for live in self.sessions().iter() {
            live.handle.go_away(time);
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Live>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Vec<Live>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, gone: &Live) {
        self.sessions().retain(|live| !Arc::ptr_eq(&live.tally, &gone.tally));
        let (from_device, to_device) = gone.tally.read();
        self.past.add(from_device, to_device);
    }
}

impl Live {
    fn open(&self, client: Client) {
        let Client { service, io, on_end } = client;
        let tally = Arc::clone(&self.tally);
        let on_end: OnEnd = Box::new(move |ended| {
            tally.add(ended.sent_by_device(), ended.sent_to_device());
            on_end(ClientEnd::Stream(ended));
        });
        if let Err(over) = self.handle.open(NewStream { service, io, on_end }) {
            // it ended between our look and now
            reset(over.0.io);
            let end = End::Local(ResetReason::SESSION_LOST);
            (over.0.on_end)(&Ended { end, sent: 0, received: 0, lasted: Duration::ZERO });
        }
    }
}

impl Tally {
    fn add(&self, from_device: u64, to_device: u64) {
        self.from_device.fetch_add(from_device, Relaxed);
        self.to_device.fetch_add(to_device, Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.from_device.load(Relaxed), self.to_device.load(Relaxed))
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

/// The task of a device.
struct Keeper {
    name: Arc<str>,
    state: Arc<State>,
    common: Common,
    clients: Receiver<Client>,
    /// Clients that came while there was no link.
    waiting: Vec<Client>,
    session: Option<Live>,
    /// No exposure leads here any more, or the gateway is stopping.
    retired: bool,
    backoff: Backoff,
    /// What the log was told last about it.
    said: Option<String>,
}

enum News<T> {
    Done(T),
    Client(Client),
    Retired,
    Session(Event),
    SessionGone,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = Duration::ZERO;
        while self.rest(pause).await {
            let last = if self.sender().is_cheap() { backoff::LAST_HERE } else { backoff::LAST };
            pause = match self.dial().await {
                Err(error) => self.failed(&error, last),
                Ok(upgraded) => {
                    if self.link(upgraded).await {
                        let held = self.serve().await;
                        self.backoff.after_link(held, last, random())
                    } else {
                        self.backoff.after_failure(last, None, random())
                    }
                }
            };
        }
        debug!("{}: no longer kept", self.name);
    }

    /// Waits until it is time to dial: after `pause`, or for a client. `false` if there is nothing left to do.
    async fn rest(&mut self, pause: Duration) -> bool {
        let since = Instant::now();
        let breath = if self.sender().is_cheap() { Duration::ZERO } else { BREATH };
        let mut until = since + pause;
        loop {
            if self.retired && self.session.is_none() {
                return false;
            }
            if until <= Instant::now() {
                return true;
            }
            match self.news(async { _ = Timer::at(until).await }).await {
                News::Done(()) => return true,
                News::Client(client) => {
                    self.waiting.push(client);
                    until = until.min(since + breath);
                }
                other => self.take(&other),
            }
        }
    }

    async fn dial(&mut self) -> Result<Upgraded, SenderError> {
        let (sender, name) = (self.sender(), Arc::clone(&self.name));
        let mut dial = pin!(sender.dial(&name));
        loop {
            match self.news(dial.as_mut()).await {
                News::Done(outcome) => return outcome,
                News::Client(client) => self.waiting.push(client),
                other => self.take(&other),
            }
        }
    }

    /// Gives a link to the session, which may begin with it. `false` if it came to nothing.
    async fn link(&mut self, upgraded: Upgraded) -> bool {
        let live = match self.session() {
            Ok(live) => live,
            Err(error) => {
                self.refuse_all(&error);
                return false;
            }
        };
        if live.handle.link(NewLink { socket: WebSocket::new(upgraded), hello: None }).is_err() {
            self.session_ended();
            return false;
        }
        loop {
            match self.news(pending::<Infallible>()).await {
                News::Done(never) => match never {},
                News::Client(client) => self.waiting.push(client),
                News::Session(Event::LinkUp { .. }) => break,
                News::Session(Event::LinkLost(end)) => {
                    warn!("{}: link not established: {end}", self.name);
                    self.refuse_all(&SenderError::NoSession { reason: end.to_string() });
                    return false;
                }
                other => {
                    self.take(&other);
                    if self.session.is_none() {
                        return false;
                    }
                }
            }
        }
        self.said = None;
        for client in self.waiting.drain(..) {
            live.open(client);
        }
        *self.state.current() = Some(live).filter(|_| !self.retired);
        true
    }

    /// Lets the link be used until it ends; for how long it held.
    async fn serve(&mut self) -> Duration {
        let since = Instant::now();
        loop {
            match self.news(pending::<Infallible>()).await {
                News::Done(never) => match never {},
                News::Client(client) => match &self.session {
                    Some(live) => live.open(client),
                    None => self.waiting.push(client),
                },
                News::Session(Event::PeerGoingAway) => self.leave_session(),
                News::Session(Event::LinkLost(_)) => {
                    *self.state.current() = None;
                    return since.elapsed();
                }
                other => self.take(&other),
            }
            if self.session.is_none() {
                return since.elapsed();
            }
        }
    }

    /// What happens first.
    async fn news<T>(&mut self, work: impl Future<Output = T>) -> News<T> {
        let Self { clients, session, retired, .. } = self;
        let client = async {
            match clients.recv().await {
                Ok(client) => News::Client(client),
                Err(_) if *retired => pending().await,
                Err(_) => News::Retired,
            }
        };
        let event = async {
            match session {
                Some(live) => live.handle.event().await.map_or(News::SessionGone, News::Session),
                None => pending().await,
            }
        };
        or(or(client, event), async { News::Done(work.await) }).await
    }

    /// News that mean the same at all times.
    fn take<T>(&mut self, news: &News<T>) {
        match news {
            News::Retired => self.retire(),
            News::Session(Event::Ended(end)) => {
                debug!("{}: session ended: {end:?}", self.name);
                self.session_ended();
            }
            News::SessionGone => self.session_ended(),
            News::Session(Event::PeerGoingAway) => self.leave_session(),
            News::Session(Event::LinkUp { .. } | Event::LinkLost(_)) | News::Done(_) | News::Client(_) => {}
        }
    }

    fn retire(&mut self) {
        self.retired = true;
        *self.state.current() = None;
        if let Some(live) = &self.session {
            live.handle.go_away(self.settings(|settings| settings.drain_for).unwrap_or(UNTIL_QUIET));
        }
    }

    /// The session, a new one if there is none.
    fn session(&mut self) -> Result<Live, SenderError> {
        if let Some(live) = &self.session {
            return Ok(live.clone());
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| SenderError::Upgrade(UpgradeError::Randomness(error)))?;
        let (shape, resume_for) = self.settings(|settings| (settings.shape, settings.resume_for));
        let resume_for_ms = u64::try_from(resume_for.as_millis()).unwrap_or(u64::MAX);
        let config = DriverConfig {
            session: Config { side: Side::Gateway, id: SessionId(id), shape, resume_for_ms },
            name: Arc::clone(&self.name),
            keep_alive: KeepAlive::default(),
            release_memory: true,
        };
        let (driver, handle) = Driver::new(config, NoServices).expect("the configuration checked the shape");
        self.common.spawn(driver.run());
        let live = Live { handle, tally: Arc::default() };
        self.state.sessions().push(live.clone());
        self.session = Some(live.clone());
        Ok(live)
    }

    fn session_ended(&mut self) {
        *self.state.current() = None;
        if let Some(live) = self.session.take() {
            self.state.forget(&live);
        }
    }

    /// The agent is shutting down: its session lives on for the streams it has, clients get another.
    fn leave_session(&mut self) {
        *self.state.current() = None;
        let Some(live) = self.session.take() else { return };
        info!("{}: the agent is shutting down, open streams may finish", self.name);
        let state = Arc::clone(&self.state);
        let finish = async move {
            // the agent closes the link when its streams have ended
            while let Some(Event::LinkUp { .. } | Event::PeerGoingAway) = live.handle.event().await {}
            live.handle.stop();
            state.forget(&live);
        };
        self.common.spawn(finish);
    }

    fn failed(&mut self, error: &SenderError, last: Duration) -> Duration {
        self.refuse_all(error);
        let text = error.to_string();
        if self.said.as_ref() == Some(&text) {
            debug!("{}: {text}", self.name);
        } else if let SenderError::Offline { .. } = error {
            // the end of its last link was told; a client that comes for it will be
            debug!("{}: {text}", self.name);
            self.said = Some(text);
        } else {
            warn!("{}: no link: {text}", self.name);
            self.said = Some(text);
        }
        if error.is_lasting() {
            self.backoff.after_refusal(last, error.retry_after(), random())
        } else {
            self.backoff.after_failure(last, error.retry_after(), random())
        }
    }

    fn refuse_all(&mut self, error: &SenderError) {
        for client in self.waiting.drain(..) {
            refuse(client, error);
        }
    }

    fn sender(&self) -> Arc<Sender> {
        self.settings(|settings| Arc::clone(&settings.sender))
    }

    fn settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&self.common.settings.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn refuse(client: Client, error: &SenderError) {
    reset(client.io);
    (client.on_end)(ClientEnd::Unreached(error));
}

fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
