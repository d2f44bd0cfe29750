//! The sessions of this device: which gateway's link belongs to which.
//!
//! ```text
//! link ── Hello ──► known session id: the session takes the link, the one before is closed
//!                   unknown, table has room: a new session
//!                   unknown, table full: refused with close code 4001
//! ```
//!
//! Owns: the table, and reading the gateway's `Hello`. Leaves to others: the session itself and its memory
//! (`umbilical_link::driver`), dialling services (`services`).

use std::{cell::RefCell, fmt, future::poll_fn, rc::Rc, sync::Arc, time::Duration};

use log::{debug, info, warn};
use smol::{LocalExecutor, Task, Timer, channel::Receiver, future};
use umbilical_link::{
    Driver, DriverConfig, Event, Handle, KeepAlive, LinkEnd, NewLink, SessionEnd, Status, WebSocket, close_code,
    upgrade::Upgraded,
    websocket::{Incoming, WebSocketError},
};
use umbilical_mux::{
    Config, Counters, FEATURE_REPORT, Hello, MAX_RECORD, Resumption, SessionId, Shape, Side, Violation,
};

use crate::report::{Question, Reporter};
use crate::services::{PeerServices, ServiceTable};
use crate::sys::give_back_freed_memory;

/// How long the gateway may take to say `Hello`, and to read a refusal.
const HELLO: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(2);

/// What sessions are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// Memory of each.
    pub shape: Shape,
    /// How long streams wait for a link.
    pub resume_for: Duration,
    /// Longest silence on an idle link.
    pub keep_alive: Duration,
}

/// All sessions of this device.
pub struct Sessions {
    executor: Rc<LocalExecutor<'static>>,
    services: Arc<ServiceTable>,
    limits: RefCell<Limits>,
    table: RefCell<Vec<Entry>>,
    draining: RefCell<bool>,
    doubts: Rc<event_listener::Event>,
    record: RefCell<Record>,
    reporter: Reporter,
    questions: Receiver<Question>,
}

/// What is known of all sessions, also of those that are in the table no more.
#[derive(Default)]
struct Record {
    /// Those that have not ended.
    open: Vec<Handle>,
    /// What those have counted that have.
    past: Counters,
    links: u64,
    resumes: u64,
}

/// Sums over all sessions since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Sessions that have not ended.
    pub sessions: u64,
    /// Streams open.
    pub streams: u64,
    /// Links that came up.
    pub links: u64,
    /// Of them, those on which streams of before went on.
    pub resumes: u64,
    /// All else that they count.
    pub counters: Counters,
}

struct Entry {
    id: SessionId,
    handle: Handle,
    task: Task<()>,
}

impl Sessions {
    /// No session yet; their tasks run on `executor`.
    #[must_use]
    pub fn new(executor: Rc<LocalExecutor<'static>>, services: Arc<ServiceTable>, limits: Limits) -> Sessions {
        let (limits, table, draining) = (RefCell::new(limits), RefCell::default(), RefCell::new(false));
        let ((reporter, questions), record) = (Reporter::new(), RefCell::default());
        let doubts = Rc::default();
        Sessions { executor, services, limits, table, draining, doubts, record, reporter, questions }
    }

    /// Takes a link in: waits for the gateway's `Hello` on it and gives it to its session. `peer` is what logs call the
    /// gateway.
    pub async fn join(self: &Rc<Self>, upgraded: Upgraded, peer: &str) {
        let mut socket = WebSocket::new(upgraded);
        let hello = match read_hello(&mut socket).await {
            Ok(hello) => hello,
            Err(NoHello::Violation(violation)) => {
                warn!("{peer}: link refused: {violation}");
                return refuse(socket, close_code::VIOLATION, &violation.to_string()).await;
            }
            Err(other) => return warn!("{peer}: link without a session: {other}"),
        };
        if let Err((socket, refusal)) = self.take(socket, hello, peer).await {
            warn!("{peer}: link refused: {refusal}");
            refuse(socket, refusal.close_code(), &refusal.to_string()).await;
        }
    }

    /// How many sessions there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.borrow().len()
    }

    /// How many streams they have.
    pub async fn streams(&self) -> usize {
        self.statuses().await.iter().map(|status| usize::from(status.streams)).sum()
    }

    /// Whether streams wait for a link: after a while they will be given up.
    pub async fn wait_for_links(&self) -> bool {
        self.statuses().await.iter().any(|status| status.streams > 0 && !status.linked)
    }

    async fn statuses(&self) -> Vec<Status> {
        let handles: Vec<_> = self.table.borrow().iter().map(|entry| entry.handle.clone()).collect();
        let mut statuses = Vec::with_capacity(handles.len());
        for handle in handles {
            statuses.extend(handle.status().await);
        }
        statuses
    }

    /// What gateways ask of the agent itself ([`crate::report`]).
    #[must_use]
    pub fn questions(&self) -> Receiver<Question> {
        self.questions.clone()
    }

    /// What all sessions have counted, those that are over included.
    pub async fn totals(&self) -> Totals {
        let (open, mut totals) = {
            let record = self.record.borrow();
            let (sessions, links, resumes) = (record.open.len() as u64, record.links, record.resumes);
            (record.open.clone(), Totals { sessions, streams: 0, links, resumes, counters: record.past })
        };
        for handle in open {
            if let Some(status) = handle.status().await {
                totals.streams += u64::from(status.streams);
                totals.counters.add(&status.counters);
            } else {
                // it has ended since
                totals.counters.add(&handle.totals().unwrap_or_default());
            }
        }
        totals
    }

    /// New sessions are made like this; those that exist stay as they are.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.borrow_mut() = limits;
    }

    /// Asks all links for a sign of life, as the device has slept, and tells those who wait for doubts.
    pub fn doubt(&self) {
        for entry in &*self.table.borrow() {
            entry.handle.doubt();
        }
        self.doubts.notify(usize::MAX);
    }

    /// Told when the device has slept or a link has fallen silent: its other connections may have gone the same way.
    #[must_use]
    pub fn doubts(&self) -> Rc<event_listener::Event> {
        Rc::clone(&self.doubts)
    }

    /// Ends all sessions: no new streams, open ones have `drain_for` to finish. Returns when all have ended.
    pub async fn drain(&self, drain_for: Duration) {
        *self.draining.borrow_mut() = true;
        let entries = std::mem::take(&mut *self.table.borrow_mut());
        for entry in &entries {
            entry.handle.go_away(drain_for);
        }
        for entry in entries {
            entry.task.await;
        }
    }

    async fn take(self: &Rc<Self>, socket: WebSocket, hello: Hello, peer: &str) -> Result<(), (WebSocket, Refusal)> {
        let id = hello.session;
        let mut link = NewLink { socket, hello: Some(hello) };
        if let Some(handle) = self.handle(id) {
            match handle.link(link) {
                Ok(()) => return Ok(()),
                // it ended at this very moment
                Err(over) => {
                    link = *over.0;
                    self.forget(id);
                }
            }
        }
        if *self.draining.borrow() {
            return Err((link.socket, Refusal::GoingAway));
        }
        let limits = *self.limits.borrow();
        if self.count() >= limits.sessions && !self.evict().await {
            return Err((link.socket, Refusal::Full { sessions: limits.sessions }));
        }
        // while eviction waited, another link may have brought the same session
        let handle = self.handle(id).unwrap_or_else(|| self.begin(id, limits, peer));
        handle.link(link).map_err(|over| (over.0.socket, Refusal::GoingAway))
    }

    fn begin(self: &Rc<Self>, id: SessionId, limits: Limits, peer: &str) -> Handle {
        let peer: Arc<str> = peer.into();
        let reporter = self.reporter.clone();
        let services = PeerServices { table: Arc::clone(&self.services), peer: Arc::clone(&peer), reporter };
        let resume_for_ms = u64::try_from(limits.resume_for.as_millis()).unwrap_or(u64::MAX);
        let config = DriverConfig {
            session: Config {
                side: Side::Agent,
                id,
                shape: limits.shape,
                record: MAX_RECORD,
                resume_for_ms,
                features: FEATURE_REPORT,
            },
            name: Arc::clone(&peer),
            keep_alive: keep_alive(limits.keep_alive),
        };
        let (driver, handle) = Driver::new(config, services).expect("the configuration checked the shape");
        info!("{peer}: session {id:?} begins, {} of {}", self.count() + 1, limits.sessions);
        let (sessions, events) = (Rc::clone(self), handle.clone());
        let task = self.executor.spawn(async move {
            let heard = async {
                while let Some(event) = events.event().await {
                    report(&peer, id, &event);
                    sessions.note(&event);
                    if matches!(event, Event::LinkLost(LinkEnd::Silent(_))) {
                        sessions.doubt();
                    }
                    if matches!(event, Event::LinkUp { .. } | Event::Ended(_)) {
                        give_back_freed_memory();
                    }
                }
            };
            future::zip(driver.run(), heard).await;
            sessions.ended(&events);
            sessions.forget(id);
        });
        self.record.borrow_mut().open.push(handle.clone());
        self.table.borrow_mut().push(Entry { id, handle: handle.clone(), task });
        handle
    }

    fn note(&self, event: &Event) {
        if let Event::LinkUp { resumption, .. } = event {
            let mut record = self.record.borrow_mut();
            record.links += 1;
            record.resumes += u64::from(matches!(resumption, Resumption::Resumed { .. }));
        }
    }

    fn ended(&self, session: &Handle) {
        let mut record = self.record.borrow_mut();
        record.open.retain(|handle| !handle.is(session));
        record.past.add(&session.totals().unwrap_or_default());
    }

    /// Makes room by ending a session that has neither a link nor a stream: what a restarted gateway leaves behind.
    async fn evict(&self) -> bool {
        let handles: Vec<_> = self.table.borrow().iter().map(|entry| (entry.id, entry.handle.clone())).collect();
        for (id, handle) in handles {
            let idle = handle.status().await.is_none_or(|status| !status.linked && status.streams == 0);
            if idle {
                handle.stop();
                self.forget(id);
                return true;
            }
        }
        false
    }

    fn handle(&self, id: SessionId) -> Option<Handle> {
        self.table.borrow().iter().find(|entry| entry.id == id).map(|entry| entry.handle.clone())
    }

    fn forget(&self, id: SessionId) {
        let mut table = self.table.borrow_mut();
        if let Some(index) = table.iter().position(|entry| entry.id == id) {
            // it ends by itself: what it has to say to its gateway is still to be written
            table.swap_remove(index).task.detach();
        }
    }
}

/// Why a link is not taken.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Full { sessions: usize },
    GoingAway,
}

impl Refusal {
    fn close_code(self) -> u16 {
        match self {
            Refusal::Full { .. } => close_code::BUSY,
            Refusal::GoingAway => close_code::GOING_AWAY,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Full { sessions } => {
                write!(f, "this device has {sessions} sessions, which is all that `memory.sessions` allows")
            }
            Refusal::GoingAway => f.write_str("this device is shutting down"),
        }
    }
}

enum NoHello {
    Violation(Violation),
    Closed(u16, String),
    Broken(WebSocketError),
    Late,
}

impl fmt::Display for NoHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoHello::Violation(violation) => violation.fmt(f),
            NoHello::Closed(code, reason) => write!(f, "closed by the gateway with code {code} {reason}"),
            NoHello::Broken(error) => error.fmt(f),
            NoHello::Late => write!(f, "no hello came within {} s", HELLO.as_secs()),
        }
    }
}

async fn read_hello(socket: &mut WebSocket) -> Result<Hello, NoHello> {
    let hello = poll_fn(|cx| {
        loop {
            return match std::task::ready!(socket.poll_incoming(cx)) {
                Ok(Incoming::Pong) => continue,
                Ok(Incoming::Message(message)) => Hello::decode(message).map_err(NoHello::Violation),
                Ok(Incoming::Closed(code, reason)) => Err(NoHello::Closed(code, reason)),
                Err(error) => Err(NoHello::Broken(error)),
            }
            .into();
        }
    });
    let late = async {
        Timer::after(HELLO).await;
        Err(NoHello::Late)
    };
    future::or(hello, late).await
}

async fn refuse(mut socket: WebSocket, code: u16, reason: &str) {
    if socket.close(code, reason).is_ok() {
        let late = async {
            Timer::after(GOODBYE).await;
        };
        future::or(socket.shutdown(), late).await;
    }
}

/// How long the gateway may take to answer a ping at most.
const ANSWER: Duration = Duration::from_secs(15);

/// The answer has a quarter of the interval, and no longer than [`ANSWER`].
fn keep_alive(every: Duration) -> KeepAlive {
    KeepAlive { ping_after: every, dead_after: every + ANSWER.min(every / 4), ..KeepAlive::default() }
}

fn report(peer: &str, id: SessionId, event: &Event) {
    match event {
        // the driver tells of links itself
        Event::LinkUp { .. } | Event::LinkLost(_) | Event::LinkFailed(_) => {}
        Event::PeerGoingAway => debug!("{peer}: session {id:?}: the gateway is shutting down"),
        Event::Ended(SessionEnd::Stopped) => info!("{peer}: session {id:?} ended"),
        Event::Ended(SessionEnd::Expired) => info!("{peer}: session {id:?} ended: no link came back in time"),
        // the driver said why when it happened
        Event::Ended(SessionEnd::Violation(_)) => debug!("{peer}: session {id:?} ended"),
    }
}
