//! The one loop that drives a session: link, ports and clock in one task.
//!
//! A [`Driver`] owns a session for its whole life, across links. Its [`Handle`] brings it links and streams and asks how
//! it is doing; [`Event`]s tell its owner what became of them. The task touches only what woke it, so an idle port costs
//! nothing. In each turn it takes a few messages in and hands a few out, and then lets the executor's other tasks run.
//!
//! `keepalive.rs` decides whether a link lives; `memory.rs` when an idle session's memory is given back.

mod deadlines;
mod links;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use log::{debug, warn};
use smol::channel::{self, Receiver, Sender};
use smol::stream::Stream;
use smol::{Timer, future};
use umbilical_mux::{
    Config, Counters, End, Instant, MAX_MESSAGE, OpenError, ResetReason, Session, ShapeError, Slot, StreamState,
    carries_record,
};

use links::{Link, goodbye};

use crate::clock::Clock;
use crate::handle::{Command, Event, Handle, LinkEnd, NewStream, SessionEnd, Status};
use crate::keepalive::KeepAlive;
use crate::memory::{self, Lease};
use crate::port::Ended;
use crate::ports::{PortTable, Services};
use crate::ready::ReadySet;
use crate::websocket::{Incoming, WebSocketError};

/// WebSocket close codes of a session (docs/protocol.md).
pub mod close_code {
    /// The session ended in order.
    pub const NORMAL: u16 = 1000;
    /// The peer broke the protocol; the reason names the field.
    pub const VIOLATION: u16 = 4000;
    /// No more sessions here.
    pub const BUSY: u16 = 4001;
    /// A newer link has taken the session over.
    pub const TAKEN_OVER: u16 = 4002;
    /// This side is shutting down.
    pub const GOING_AWAY: u16 = 4003;
}

/// Messages taken in before the other direction gets its turn.
const TURN: usize = 8;

/// A message of fewer bytes goes out at once instead of with the next.
const SMALL: usize = 4 * 1024;

/// Turns before other tasks run.
const TURNS: usize = 4;

/// Numbers in the ready set before those of the ports.
const LINK_READ: usize = 0;
const LINK_WRITE: usize = 1;
const NEXT_LINK: usize = 2;
const TIMER: usize = 3;
const COMMANDS: usize = 4;
const FIRST_PORT: usize = 8;

/// What a driver is made with.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// The session's side, id, memory and patience.
    pub session: Config,
    /// What the log calls the peer: a device's name, a gateway's address.
    pub name: Arc<str>,
    /// When a link is asked for a sign of life, and when it is given up.
    pub keep_alive: KeepAlive,
}

/// Drives one session. Spawn [`run`](Self::run).
pub struct Driver {
    config: DriverConfig,
    session: Session<Box<[u8]>, Box<[StreamState]>>,
    lease: Lease,
    ports: PortTable,
    clock: Clock,
    ready: Arc<ReadySet>,
    wakers: Wakers,
    commands: Pin<Box<Receiver<Command>>>,
    events: Sender<Event>,
    link: Option<Link>,
    /// A link of the gateway's whose `Hello` is still to be answered, and the number of the last such link.
    next_link: Option<Link>,
    last_number: u32,
    timer: Timer,
    timer_at: Option<Instant>,
    /// When a session that is going away ends whatever is open.
    drain_until: Option<Instant>,
    told_going_away: bool,
    ended: Option<SessionEnd>,
    /// What it has counted, once it is over.
    totals: Arc<OnceLock<Counters>>,
}

struct Wakers {
    link_read: Waker,
    link_write: Waker,
    next_link: Waker,
    timer: Waker,
    commands: Waker,
}

impl Driver {
    /// A driver without a link, and the handle to it. It runs until it is [told to stop](Handle::stop), its session
    /// ends, or all handles are gone.
    ///
    /// # Errors
    /// What is wrong with the session's shape.
    pub fn new(config: DriverConfig, services: impl Services + 'static) -> Result<(Self, Handle), ShapeError> {
        let shape = config.session.shape;
        let session = Session::new(config.session, memory::allocate(shape))?;
        let (to_driver, commands) = channel::unbounded();
        let (events, from_driver) = channel::unbounded();
        let ready = ReadySet::new(FIRST_PORT + 2 * usize::from(shape.streams));
        let wakers = Wakers {
            link_read: ready.waker(LINK_READ),
            link_write: ready.waker(LINK_WRITE),
            next_link: ready.waker(NEXT_LINK),
            timer: ready.waker(TIMER),
            commands: ready.waker(COMMANDS),
        };
        ready.note(COMMANDS);
        let (clock, totals) = (Clock::start(), Arc::<OnceLock<Counters>>::default());
        let handle = Handle::new(to_driver, from_driver, Arc::clone(&totals));
        let driver = Self {
            session,
            lease: Lease::new(config.session.shape),
            ports: PortTable::new(Box::new(services), Arc::clone(&ready), FIRST_PORT),
            clock,
            ready,
            wakers,
            commands: Box::pin(commands),
            events,
            link: None,
            next_link: None,
            last_number: 0,
            timer: Timer::never(),
            timer_at: None,
            drain_until: None,
            told_going_away: false,
            ended: None,
            totals,
            config,
        };
        Ok((driver, handle))
    }

    /// Runs until the session is over.
    pub async fn run(mut self) {
        let end = future::poll_fn(|cx| self.poll(cx)).await;
        let (code, reason) = match end {
            SessionEnd::Violation(violation) => (close_code::VIOLATION, violation.to_string()),
            SessionEnd::Expired => (close_code::NORMAL, "session expired".to_owned()),
            SessionEnd::Stopped => (close_code::GOING_AWAY, "shutting down".to_owned()),
        };
        self.session.abandon(&mut self.ports, ResetReason::GOING_AWAY);
        let _ = self.totals.set(self.session.counters());
        self.turn_commands_away();
        self.tell(Event::Ended(end));
        for link in [self.link.take(), self.next_link.take()].into_iter().flatten() {
            goodbye(link, code, &reason).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        self.ready.register(cx.waker());
        for _ in 0..TURNS {
            let now = self.clock.now();
            let woken = self.take_woken(now);
            let received = self.receive(now);
            let sent = self.send(now);
            if let Some(end) = self.ended.or_else(|| self.drained(now)) {
                return Poll::Ready(end);
            }
            if !woken && !received && !sent {
                self.set_timer(now);
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Attends to all sources that woke the task; whether there were any.
    fn take_woken(&mut self, now: Instant) -> bool {
        let mut any = false;
        for word in 0..self.ready.words() {
            for number in self.ready.take(word) {
                any = true;
                match number {
                    LINK_READ => self.link.iter_mut().for_each(|link| link.readable = true),
                    LINK_WRITE => self.link.iter_mut().for_each(|link| link.writable = true),
                    NEXT_LINK => self.poll_next_link(now),
                    TIMER => self.poll_timer(now),
                    COMMANDS => self.poll_commands(now),
                    port => self.poll_port(port - FIRST_PORT),
                }
            }
        }
        any
    }

    fn poll_port(&mut self, number: usize) {
        let Ok(slot) = u16::try_from(number / 2).map(Slot::at) else { return };
        match self.ports.poll_dial(slot) {
            Poll::Pending => return,
            Poll::Ready(Err(reason)) => return self.session.reset(slot, reason, &mut self.ports),
            Poll::Ready(Ok(())) => {}
        }
        if number.is_multiple_of(2) {
            self.session.handle_readable(slot);
        }
        // When a dialled service is there, both directions are news; otherwise this costs nothing unless bytes wait.
        self.session.handle_writable(slot, &mut self.ports);
    }

    /// Takes messages of the link in, a few; whether there were any. None once a `Hello` went out on the next link: it
    /// counts what had been received, and the peer will send the rest again there.
    fn receive(&mut self, now: Instant) -> bool {
        if self.next_link.is_some() {
            return false;
        }
        for turn in 0..TURN {
            let Some(link) = self.link.as_mut().filter(|link| link.readable) else { return turn > 0 };
            match link.socket.poll_incoming(&mut Context::from_waker(&self.wakers.link_read)) {
                Poll::Pending => {
                    link.readable = false;
                    return turn > 0;
                }
                Poll::Ready(Ok(Incoming::Message(message))) => {
                    if !self.lease.is_lent() && carries_record(message) {
                        self.lease.lend(&mut self.session);
                    }
                    if let Err(violation) = self.session.handle_message(now, message, &mut self.ports) {
                        warn!("{}: peer broke the protocol, session ended: {violation}", self.config.name);
                        self.ended = Some(SessionEnd::Violation(violation));
                        return true;
                    }
                    link.heard(now);
                    if self.session.peer_is_going_away() && !std::mem::replace(&mut self.told_going_away, true) {
                        self.tell(Event::PeerGoingAway);
                    }
                }
                // a relay's, perhaps: it says nothing about the peer
                Poll::Ready(Ok(Incoming::Pong)) => link.writable = true, // a ping wants an answer
                Poll::Ready(Ok(Incoming::Closed(code, reason))) => {
                    self.lose_link(now, LinkEnd::Closed(code, reason));
                    return true;
                }
                Poll::Ready(Err(error)) => {
                    self.lose_link(now, LinkEnd::Broken(error));
                    return true;
                }
            }
        }
        true
    }

    /// Hands messages to the link while it takes them, a few; whether there were any.
    fn send(&mut self, now: Instant) -> bool {
        self.send_some(now).unwrap_or_else(|error| {
            self.lose_link(now, LinkEnd::Broken(error));
            true
        })
    }

    fn send_some(&mut self, now: Instant) -> Result<bool, WebSocketError> {
        if !self.lease.is_lent() && !self.session.is_quiet() {
            self.lease.lend(&mut self.session); // it has a word to say about shutting down
        }
        let Some(link) = self.link.as_mut().filter(|link| link.writable) else { return Ok(false) };
        let mut cx = Context::from_waker(&self.wakers.link_write);
        if link.socket.poll_ready(&mut cx)?.is_pending() {
            link.writable = false;
            return Ok(false);
        }
        let mut sent = 0;
        while sent < MAX_MESSAGE && link.socket.has_room() {
            let Some(message) = self.session.poll_message(now, &mut self.ports) else { break };
            let small = message.record.len() < SMALL;
            sent += message.prefix.len() + message.record.len();
            link.socket.send(&mut cx, &message.prefix, message.record).map_err(WebSocketError::Io)?;
            if small {
                break; // a keystroke is on its way before ports are asked for more
            }
        }
        if sent > 0 {
            link.writable = link.socket.poll_ready(&mut cx)?.is_ready();
        }
        Ok(sent > 0)
    }

    fn poll_commands(&mut self, now: Instant) {
        loop {
            match self.commands.as_mut().poll_next(&mut Context::from_waker(&self.wakers.commands)) {
                Poll::Pending => return,
                Poll::Ready(None | Some(Command::Stop)) => {
                    self.ended.get_or_insert(SessionEnd::Stopped);
                    return;
                }
                Poll::Ready(Some(Command::Link(link))) => self.offer_link(now, *link),
                Poll::Ready(Some(Command::Open(stream))) => self.open(now, stream),
                Poll::Ready(Some(Command::GoAway(time))) => {
                    self.session.go_away(u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
                    self.ports.end_datagrams();
                    self.drain_until = Some(now.after_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)));
                }
                Poll::Ready(Some(Command::Doubt)) => self.ask_for_a_sign(now),
                Poll::Ready(Some(Command::Status(answer))) => {
                    let _ = answer.try_send(self.status());
                }
            }
        }
    }

    /// Nobody waits for an answer that will not come: what is in the queue would stay there for as long as handles do.
    fn turn_commands_away(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Open(stream) = command {
                refuse(stream, ResetReason::GOING_AWAY);
            }
        }
    }

    fn open(&mut self, now: Instant, stream: NewStream) {
        self.lease.lend(&mut self.session);
        match self.session.open(now, stream.io.mode()) {
            Ok(slot) => {
                let NewStream { service, io, on_end } = stream;
                self.ports.put(slot, service, io, on_end);
                self.session.handle_readable(slot);
            }
            Err(error) => {
                debug!("{}: stream to {} not opened: {error}", self.config.name, stream.service);
                let reason = match error {
                    OpenError::Full => ResetReason::BUSY,
                    OpenError::GoingAway | OpenError::Exhausted => ResetReason::GOING_AWAY,
                };
                refuse(stream, reason);
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            linked: self.session.is_linked(),
            link_number: self.session.link_number(),
            streams: self.session.streams_open(),
            counters: self.session.counters(),
            estimate: self.session.link_estimate(),
            pool_used: self.session.pool_used(),
            pool_shared: self.session.pool_shared(),
            peer_features: self.session.peer_features(),
        }
    }

    fn drained(&self, now: Instant) -> Option<SessionEnd> {
        let until = self.drain_until?;
        // without a link there is nobody to take leave of
        let alone = !self.session.is_linked() && self.session.streams_open() == 0;
        (self.session.is_quiet() || alone || now >= until).then_some(SessionEnd::Stopped)
    }

    fn tell(&self, event: Event) {
        // An owner that does not listen wants no news.
        let _ = self.events.try_send(event);
    }
}

/// Ends a stream that never was one.
fn refuse(stream: NewStream, reason: ResetReason) {
    let NewStream { io, on_end, .. } = stream;
    io.abort();
    drop(io);
    on_end(&Ended { end: End::Local(reason), sent: 0, received: 0, lasted: Duration::ZERO });
}
