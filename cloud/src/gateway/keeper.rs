//! The task of a device: a session with it, the links that carry the session, the clients that wait for one.
//!
//! ```text
//!                                                      ┌─── the device arrives once more ───┐
//!                                                      ▼                                    │
//! rest ── due, or a client or the device arrives ──► dial ──────────► link ──────────────► serve
//!   ▲                                                  │ fails          │ fails              │ lost
//!   └──────────────────────────────────────────────────┴────────────────┴────────────────────┘
//! ```
//!
//! It keeps a link up, so that the first client finds one. While there is none, a client's arrival makes the next dial
//! immediate, and what comes of that dial decides about the client: a stream, or a closed connection. Clients never wait
//! longer than one dial; only after a restart that held their connections they wait for the devices to come back, too.
//!
//! Owns: sessions and their succession, when to dial. Leaves to others: how to dial (`sender`), the session itself
//! (`umbilical_link::driver`).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use smol::Timer;
use smol::channel::Receiver;
use smol::future::{or, pending};
use umbilical_link::upgrade::{UpgradeError, Upgraded};
use umbilical_link::{Driver, DriverConfig, Event, NewLink, NoServices, WebSocket};
use umbilical_mux::{Config, FEATURE_REPORT, MAX_RECORD, SessionId, Side};

use super::backoff::{self, Backoff};
use super::device::{Client, ClientEnd, Common, Live, Settings, State, reset};
use super::link_record::Cut;
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
    /// Clients that came while there was no link, or none to be trusted.
    waiting: Vec<Client>,
    session: Option<Live>,
    /// Since when the session has a link.
    up: Option<Instant>,
    /// That link is probably what is left of an earlier connection of the device, and another one is being dialled.
    doubted: bool,
    /// No exposure leads here any more, or the gateway is stopping.
    retired: bool,
    backoff: Backoff,
    /// What the log was told last about having no link.
    said: Option<String>,
}

/// What a keeper hears of.
enum News<T> {
    /// What it does at the moment is done.
    Done(T),
    Client(Client),
    Other(Other),
}

enum Other {
    Retired,
    Session(Event),
    SessionGone,
}

/// Why a rest is over.
enum Rested {
    /// It is time to dial.
    Due,
    /// A link that was given up on came up.
    Linked,
    /// There is nothing left to do.
    Over,
}

/// Why a link is no longer only used.
enum Served {
    /// It is lost, and had held for so long.
    Lost { held: Duration },
    /// Another one should take its place.
    Arrived,
}

type Arrival = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Keeper {
    pub(super) fn new(name: Arc<str>, common: Common, clients: Receiver<Client>, state: Arc<State>) -> Self {
        let (waiting, backoff) = (Vec::new(), Backoff::default());
        Self {
            name,
            state,
            common,
            clients,
            waiting,
            session: None,
            up: None,
            doubted: false,
            retired: false,
            backoff,
            said: None,
        }
    }

    /// Runs until the device is dropped and its streams have ended.
    pub(super) async fn run(mut self) {
        let mut pause = Duration::ZERO;
        let mut arrival: Arrival = Box::pin(pending());
        loop {
            if self.up.is_some() {
                if let Served::Lost { held } = self.serve(&mut arrival).await {
                    let longest = self.longest_pause().await;
                    pause = self.backoff.after_link(held, longest, random());
                    continue;
                }
            } else {
                match self.rest(pause, &mut arrival).await {
                    Rested::Over => break,
                    Rested::Linked => continue,
                    Rested::Due => {}
                }
            }
            pause = match self.dial(&mut arrival).await {
                Err(error) => self.failed(&error).await,
                Ok(upgraded) => {
                    if self.link(upgraded).await {
                        continue;
                    }
                    let longest = self.longest_pause().await;
                    self.backoff.after_failure(longest, None, random())
                }
            };
        }
        debug!("{}: no longer kept", self.name);
    }

    /// Waits until it is time to dial: after `pause`, at the device's arrival, or for a client.
    async fn rest(&mut self, pause: Duration, arrival: &mut Arrival) -> Rested {
        let since = Instant::now();
        let breath = if self.sender().is_cheap() { Duration::ZERO } else { BREATH };
        let mut until = since + pause;
        loop {
            if self.retired && self.session.is_none() {
                return Rested::Over;
            }
            if self.up.is_some() {
                return Rested::Linked;
            }
            if until <= Instant::now() {
                return Rested::Due;
            }
            let due = async { _ = Timer::at(until).await };
            match self.news(or(due, arrival.as_mut())).await {
                News::Done(()) => return Rested::Due,
                News::Client(client) => {
                    self.waiting.push(client);
                    until = until.min(since + breath);
                }
                News::Other(other) => self.take(&other),
            }
        }
    }

    /// Dials. A device that arrives meanwhile is the relay's business: it announces the gateway again.
    async fn dial(&mut self, arrival: &mut Arrival) -> Result<Upgraded, SenderError> {
        let (sender, name) = (self.sender(), Arc::clone(&self.name));
        // whoever arrives after a refusal was decided is not waited for in vain
        *arrival = Box::pin(sender.arrival(&name));
        // on the heap: handshakes are large, and most of the time nobody dials
        let mut dial = Box::pin(sender.dial(&name));
        let outcome = loop {
            match self.news(dial.as_mut()).await {
                News::Done(outcome) => break outcome,
                News::Client(client) => self.client(client),
                News::Other(other) => self.take(&other),
            }
        };
        if outcome.is_ok() {
            drop(dial);
            *arrival = Box::pin(sender.arrival(&name));
        }
        outcome
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
                News::Client(client) => self.client(client),
                News::Other(other) => {
                    self.take(&other);
                    match other {
                        Other::Session(Event::LinkUp { .. }) => return true,
                        Other::Session(Event::LinkFailed(end)) => {
                            warn!("{}: link not established: {end}", self.name);
                            self.refuse_all(&SenderError::NoSession { reason: end.to_string() });
                            return false;
                        }
                        _ if self.session.is_none() => return false,
                        _ => {}
                    }
                }
            }
        }
    }

    /// Lets the link be used until it ends, or until the device arrives once more: then the link is probably what is left
    /// of its last connection.
    async fn serve(&mut self, arrival: &mut Arrival) -> Served {
        while let Some(since) = self.up {
            match self.news(arrival.as_mut()).await {
                News::Done(()) => {
                    let sender = self.sender();
                    // of several agents, the one that has arrived is not the one that has the session
                    if sender.is_alone(&self.name) {
                        info!("{}: it has connected to the relay anew, so it is linked anew", self.name);
                        self.doubted = true;
                        *self.state.current() = None;
                        return Served::Arrived;
                    }
                    *arrival = Box::pin(sender.arrival(&self.name));
                }
                News::Client(client) => self.client(client),
                News::Other(other) => self.take(&other),
            }
            if self.up.is_none() {
                return Served::Lost { held: since.elapsed() };
            }
        }
        Served::Lost { held: Duration::ZERO }
    }

    /// What happens first.
    async fn news<T>(&mut self, work: impl Future<Output = T>) -> News<T> {
        let Self { clients, session, retired, .. } = self;
        let client = async {
            match clients.recv().await {
                Ok(client) => News::Client(client),
                Err(_) if *retired => pending().await,
                Err(_) => News::Other(Other::Retired),
            }
        };
        let event = async {
            match session {
                Some(live) => News::Other(live.handle.event().await.map_or(Other::SessionGone, Other::Session)),
                None => pending().await,
            }
        };
        or(or(client, event), async { News::Done(work.await) }).await
    }

    /// What means the same at all times.
    fn take(&mut self, other: &Other) {
        match other {
            Other::Retired => self.retire(),
            Other::Session(Event::LinkUp { resumption, .. }) => {
                self.state.links().came_up(Instant::now(), *resumption);
                self.linked();
            }
            // it never was one
            Other::Session(Event::LinkFailed(_)) => {}
            Other::Session(Event::LinkLost(end)) => {
                if let Some(cut) = Cut::of(end) {
                    self.state.links().cut(Instant::now(), cut);
                }
                self.unlinked();
            }
            Other::Session(Event::PeerGoingAway) => self.leave_session(),
            Other::Session(Event::Ended(end)) => {
                debug!("{}: session ended: {end:?}", self.name);
                self.session_ended();
            }
            Other::SessionGone => self.session_ended(),
        }
    }

    fn linked(&mut self) {
        (self.up, self.said) = (Some(Instant::now()), None);
        self.admit();
    }

    /// Clients may use the link that there is.
    fn admit(&mut self) {
        let Some(live) = &self.session else { return };
        self.doubted = false;
        for client in self.waiting.drain(..) {
            live.open(client);
        }
        *self.state.current() = Some(live.clone()).filter(|_| !self.retired);
    }

    fn unlinked(&mut self) {
        (self.up, self.doubted) = (None, false);
        self.state.links().left(Instant::now());
        *self.state.current() = None;
    }

    /// A client that came by way of this task.
    fn client(&mut self, client: Client) {
        match &self.session {
            Some(live) if self.up.is_some() && !self.doubted => live.open(client),
            _ => self.waiting.push(client),
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
        let (shape, resume_for, keep_alive) =
            self.settings(|settings| (settings.shape, settings.resume_for, settings.keep_alive));
        let resume_for_ms = u64::try_from(resume_for.as_millis()).unwrap_or(u64::MAX);
        let config = DriverConfig {
            session: Config {
                side: Side::Gateway,
                id: SessionId(id),
                shape,
                record: MAX_RECORD,
                resume_for_ms,
                features: FEATURE_REPORT,
            },
            name: Arc::clone(&self.name),
            keep_alive,
        };
        let (driver, handle) = Driver::new(config, NoServices).expect("the configuration checked the shape");
        self.common.spawn(driver.run());
        let live = self.state.begin(handle);
        self.session = Some(live.clone());
        Ok(live)
    }

    fn session_ended(&mut self) {
        self.unlinked();
        if let Some(live) = self.session.take() {
            self.state.forget(&live);
        }
    }

    /// The agent is shutting down: its session lives on for the streams it has, clients get another.
    fn leave_session(&mut self) {
        self.unlinked();
        let Some(live) = self.session.take() else { return };
        info!("{}: the agent is shutting down, open streams may finish", self.name);
        let state = Arc::clone(&self.state);
        let finish = async move {
            // the agent closes the link when its streams have ended
            while let Some(Event::LinkUp { .. } | Event::LinkFailed(_) | Event::PeerGoingAway) =
                live.handle.event().await
            {}
            live.handle.stop();
            while live.handle.event().await.is_some() {}
            state.forget(&live);
        };
        self.common.spawn(finish);
    }

    /// Tells the clients that wait, and the log what it does not know yet; the pause before the next dial.
    async fn failed(&mut self, error: &SenderError) -> Duration {
        let returning = self.returning(error);
        if returning.is_zero() {
            self.refuse_all(error);
        }
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
        let pause = if error.is_lasting() {
            self.backoff.after_refusal(longest, asked, random())
        } else {
            self.backoff.after_failure(longest, asked, random())
        };
        if returning.is_zero() { pause } else { pause.min(returning) }
    }

    /// How long clients go on waiting for a device that is not there.
    fn returning(&self, error: &SenderError) -> Duration {
        match (error, self.settings(|settings| settings.returning_until)) {
            (SenderError::Offline { .. }, Some(until)) => until.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        }
    }

    /// Of a link that was to take the place of another, nothing has come: the other one is what there is.
    fn refuse_all(&mut self, error: &SenderError) {
        if self.up.is_some() {
            return self.admit();
        }
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

    fn sender(&self) -> Arc<Sender> {
        self.settings(|settings| Arc::clone(&settings.sender))
    }

    fn settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> T {
        read(&self.common.settings.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use std::sync::RwLock;

    use smol::{Executor, channel};
    use umbilical_mux::Shape;

    use super::*;
    use crate::relay::Relay;
    use crate::relay::config::RelayConfig;
    use crate::relay::signal::Signal;

    /// Bytes of a device's task, besides its session: ten thousand of them are 20 MiB.
    const BUDGET: usize = 2048;

    #[test]
    fn a_device_costs_little() {
        let executor = Arc::new(Executor::new());
        let relay = Relay::start(&executor, &RelayConfig::default()).unwrap();
        let settings = Settings {
            sender: Arc::new(Sender::Embedded(relay)),
            shape: Shape { streams: 1, replay: 16 * 1024, receive: 16 * 1024 },
            resume_for: Duration::ZERO,
            keep_alive: umbilical_link::KeepAlive::default(),
            ask_agents: None,
            drain_for: None,
            returning_until: None,
        };
        let settings = Arc::new(RwLock::new(settings));
        let common = Common { executor, settings, alive: Arc::default(), stopping: Signal::new() };
        let (_clients, waiting) = channel::unbounded();
        let keeper = Keeper::new("device".into(), common, waiting, Arc::new(State::new("device".into())));
        let size = size_of_val(&keeper.run());
        assert!(size <= BUDGET, "{size} bytes");
    }
}
