//! The task of a device: a session with it, the links that carry the session, the clients that wait for one.
//!
//! ```text
//! rest ── due, or a client comes, or the device arrives ──► dial ──► link ──► serve
//!   ▲                                                        │ fails   │ fails  │ lost
//!   └────────────────────────────────────────────────────────┴─────────┴────────┘
//! ```
//!
//! It keeps a link up, so that the first client finds one. While there is none, a client's arrival makes the next dial
//! immediate, and what comes of that dial decides about the client: a stream, or a closed connection. Clients never wait
//! longer than one dial.
//!
//! Owns: sessions and their succession, when to dial. Leaves to others: how to dial (`sender`), the session itself
//! (`umbilical_link::driver`).

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use smol::Timer;
use smol::channel::Receiver;
use smol::future::{or, pending};
use umbilical_link::upgrade::{UpgradeError, Upgraded};
use umbilical_link::{Driver, DriverConfig, Event, KeepAlive, NewLink, NoServices, WebSocket};
use umbilical_mux::{Config, SessionId, Side};

use super::backoff::{self, Backoff};
use super::device::{Client, ClientEnd, Common, Live, Settings, State, reset};
use super::sender::{Sender, SenderError};

/// Time between a dial that failed and the next one that a client asks for, when each costs a relay elsewhere a TLS
/// handshake.
const BREATH: Duration = Duration::from_millis(250);

/// How long a device without exposures keeps its open streams: until they end, within reason.
const UNTIL_QUIET: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) struct Keeper {
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
    /// What the log was told last about having no link.
    said: Option<String>,
}

/// What a keeper waits for.
enum News<T> {
    /// What it does at the moment is done.
    Done(T),
    Client(Client),
    Retired,
    Session(Event),
    SessionGone,
}

/// What became of a dial.
enum Dialled {
    Reached(Upgraded),
    Failed(SenderError),
    /// The device arrived at the relay meanwhile: who was asked before may be what is left of its last connection.
    Again,
}

type Arrival = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Keeper {
    pub(super) fn new(name: Arc<str>, common: Common, clients: Receiver<Client>, state: Arc<State>) -> Self {
        let (waiting, backoff) = (Vec::new(), Backoff::default());
        Self { name, state, common, clients, waiting, session: None, retired: false, backoff, said: None }
    }

    /// Runs until the device is dropped and its streams have ended.
    pub(super) async fn run(mut self) {
        let mut pause = Duration::ZERO;
        let mut arrival: Arrival = Box::pin(pending());
        while self.rest(pause, &mut arrival).await {
            let sender = self.settings(|settings| Arc::clone(&settings.sender));
            arrival = Box::pin(sender.arrival(&self.name));
            pause = match self.dial(&sender, &mut arrival).await {
                Dialled::Again => Duration::ZERO,
                Dialled::Failed(error) => self.failed(&error).await,
                Dialled::Reached(upgraded) => {
                    let held = if self.link(upgraded).await { self.serve().await } else { Duration::ZERO };
                    let longest = self.longest_pause().await;
                    self.backoff.after_link(held, longest, random())
                }
            };
        }
        debug!("{}: no longer kept", self.name);
    }

    /// Waits until it is time to dial: after `pause`, at the device's arrival, or for a client. `false` if there is
    /// nothing left to do.
    async fn rest(&mut self, pause: Duration, arrival: &mut Arrival) -> bool {
        let since = Instant::now();
        let breath = if self.settings(|settings| settings.sender.is_cheap()) { Duration::ZERO } else { BREATH };
        let mut until = since + pause;
        loop {
            if self.retired && self.session.is_none() {
                return false;
            }
            if until <= Instant::now() {
                return true;
            }
            let due = async { _ = Timer::at(until).await };
            match self.news(or(due, arrival.as_mut())).await {
                News::Done(()) => return true,
                News::Client(client) => {
                    self.waiting.push(client);
                    until = until.min(since + breath);
                }
                other => self.take(&other),
            }
        }
    }

    async fn dial(&mut self, sender: &Sender, arrival: &mut Arrival) -> Dialled {
        let name = Arc::clone(&self.name);
        let outcome = async { sender.dial(&name).await.map_or_else(Dialled::Failed, Dialled::Reached) };
        let arrived = async {
            arrival.await;
            Dialled::Again
        };
        let mut dial = pin!(or(outcome, arrived));
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
        let live = self.state.begin(handle);
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

    /// Tells the clients that wait, and the log what it does not know yet; the pause before the next dial.
    async fn failed(&mut self, error: &SenderError) -> Duration {
        self.refuse_all(error);
        let text = error.to_string();
        let new = self.said.as_ref() != Some(&text);
        // that a device is offline is no surprise: the end of its last link was told, and its clients will be
        if new && !matches!(error, SenderError::Offline { .. }) {
            warn!("{}: no link: {text}", self.name);
        } else {
            debug!("{}: no link: {text}", self.name);
        }
        self.said = Some(text);
        let (longest, asked) = (self.longest_pause().await, error.retry_after());
        if error.is_lasting() {
            self.backoff.after_refusal(longest, asked, random())
        } else {
            self.backoff.after_failure(longest, asked, random())
        }
    }

    fn refuse_all(&mut self, error: &SenderError) {
        for client in self.waiting.drain(..) {
            reset(client.io);
            (client.on_end)(ClientEnd::Unreached(error));
        }
    }

    async fn longest_pause(&mut self) -> Duration {
        let Some(live) = &mut self.session else { return backoff::LONGEST };
        let waited_for = live.handle.status().await.is_some_and(|status| status.streams > 0);
        if waited_for { backoff::LONGEST_WAITED_FOR } else { backoff::LONGEST }
    }

    fn settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&self.common.settings.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
