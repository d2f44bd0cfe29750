//! The session: what two ends share for longer than any link - its memory, the change of links, what comes in.
//!
//! What goes out is in [`outgoing`], what a host may ask about it in [`status`].

mod outgoing;
mod status;

use core::mem::replace;

pub use outgoing::Message;
pub use status::{Counters, LinkEstimate, Resets, Resumption};

use crate::frame::Frame;
use crate::inflight::{Arrived, Inflight};
use crate::limits::MAX_CREDIT_AT_OPEN;
use crate::replay::Ring;
use crate::streams::{Peer, Streams, Unannounced};
use crate::table::StreamState;
use crate::{
    Hello, Instant, MAX_PREFIX, MAX_RECORD, MIN_RECORD, Mode, OpenError, Ports, ResetReason, SessionId, Shape,
    ShapeError, Side, Slot, Storage, VERSION, Violation,
};

/// What a session is made with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which end this is.
    pub side: Side,
    /// Drawn by the gateway; the agent takes it from the gateway's `Hello`.
    pub id: SessionId,
    /// The memory it will be lent.
    pub shape: Shape,
    /// Bytes of a record that its links take: [`MIN_RECORD`] to [`MAX_RECORD`], or the nearer of the two.
    pub record: usize,
    /// How long streams wait for a new link, in milliseconds.
    pub resume_for_ms: u64,
    /// The optional features that this side has, one bit each (docs/protocol.md, section 4).
    pub features: u32,
}

/// One end of a session. It owns no socket, clock or heap: messages, time and [`Ports`] go in; messages and the next
/// deadline come out.
///
/// The host's loop: hand each message of the link to [`handle_message`](Self::handle_message), tell of ports by
/// [`handle_readable`](Self::handle_readable) and [`handle_writable`](Self::handle_writable), of time by
/// [`handle_timeout`](Self::handle_timeout), and whenever the link can take one, ask
/// [`poll_message`](Self::poll_message) for the next message until there is none.
#[derive(Debug)]
pub struct Session<B, S> {
    config: Config,
    streams: Streams<B, S>,
    ring: Ring<B>,
    inflight: Inflight,
    link: Link,
    /// Records of this session: acknowledged by the peer, received from it.
    acked: u64,
    received: u64,
    ack: Ack,
    /// Bytes sent since an acknowledgement was asked for at once, and whether one was asked for of the last record.
    unsolicited: u32,
    asked: Asked,
    /// The peer is to be asked for a sign of life.
    probe: bool,
}

/// How soon an acknowledgement was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Not,
    Lazily,
    AtOnce,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    number: u32,
    /// The number of the gateway's last `Hello`, which the answer must bear.
    dialled: u32,
    up: bool,
    /// The link with which the session's state began; 0 if there is none.
    began: u32,
    /// When streams are given up for lack of a link.
    give_up: Option<Instant>,
    peer_features: u32,
}

/// What this side owes the peer.
#[derive(Clone, Copy, Debug, Default)]
struct Ack {
    /// Records arrived that were not acknowledged, or the peer asks for a sign of life.
    owed: bool,
    due: Option<Instant>,
    arrived: Instant,
}

impl<B, S> Session<B, S>
where
    B: AsRef<[u8]> + AsMut<[u8]>,
    S: AsRef<[StreamState]> + AsMut<[StreamState]>,
{
    /// A session without a link, working in `storage`.
    ///
    /// # Errors
    /// What is wrong with the shape, or too small in the storage for it.
    pub fn new(config: Config, storage: Storage<B, S>) -> Result<Self, ShapeError> {
        config.shape.check()?;
        let config = Config { record: config.record.clamp(MIN_RECORD, MAX_RECORD), ..config };
        let mut session = Self {
            config,
            streams: Streams::new(config.side, storage.streams, storage.receive),
            ring: Ring::new(storage.replay),
            inflight: Inflight::new(config.shape.replay),
            link: Link { number: 0, dialled: 0, up: false, began: 0, give_up: None, peer_features: 0 },
            acked: 0,
            received: 0,
            ack: Ack::default(),
            unsolicited: 0,
            asked: Asked::AtOnce,
            probe: false,
        };
        session.check_storage()?;
        Ok(session)
    }

    /// Takes the memory back from a session that [is quiet](Self::is_quiet), against empty memory. It keeps its place
    /// and its link; it can carry no stream and say nothing until memory is [lent](Self::lend) again, which is due before it
    /// opens a stream or takes a message that [carries a record](crate::carries_record), and as soon as it is no longer quiet.
    /// `None` if it is in use.
    pub fn reclaim(&mut self, empty: Storage<B, S>) -> Option<Storage<B, S>> {
        if !self.is_quiet() {
            return None;
        }
        Some(Storage {
            replay: self.ring.replace(empty.replay),
            receive: self.streams.pool.replace(empty.receive),
            streams: self.streams.table.replace(empty.streams),
        })
    }

    /// Lends memory to a session that gave its own back.
    ///
    /// # Errors
    /// What is too small in the storage for the session's shape.
    pub fn lend(&mut self, storage: Storage<B, S>) -> Result<(), ShapeError> {
        debug_assert_eq!(self.ring.capacity(), 0, "memory lent to a session that has some");
        self.ring.replace(storage.replay);
        self.streams.pool.replace(storage.receive);
        self.streams.table.replace(storage.streams);
        self.check_storage()
    }

    fn check_storage(&mut self) -> Result<(), ShapeError> {
        let Shape { streams, replay, .. } = self.config.shape;
        let memory = self.config.shape.receive_memory();
        self.streams.budget = self.config.shape.budget();
        if self.streams.table.capacity() < streams {
            return Err(ShapeError::Streams { most: usize::from(self.streams.table.capacity()) });
        }
        if self.ring.capacity() < replay {
            return Err(ShapeError::Replay { least: replay });
        }
        if self.streams.pool.memory() < memory {
            return Err(ShapeError::Receive { least: memory, most: memory });
        }
        Ok(())
    }

    /// This side's `Hello` for link `number`. The gateway sends it first, with a number above all before; the agent
    /// answers with the gateway's number, after [`handle_hello`](Self::handle_hello). The gateway then takes no answer but
    /// the one with the number of its last `Hello`.
    #[must_use]
    pub fn hello(&mut self, number: u32) -> Hello {
        self.link.dialled = number;
        let Shape { streams, replay, .. } = self.config.shape;
        Hello {
            version: VERSION,
            session: self.config.id,
            link: number,
            received: self.received,
            resumes: match self.config.side {
                Side::Agent if self.link.began == number => 0,
                Side::Gateway | Side::Agent => self.link.began,
            },
            streams,
            credit: self.config.shape.budget().floor(),
            replay: u32::try_from(replay).unwrap_or(u32::MAX),
            record: u32::try_from(self.config.record).unwrap_or(u32::MAX),
            features: self.config.features,
        }
    }

    /// The peer's `Hello` on a new link; records go over it from now on. A link still up is taken over.
    ///
    /// # Errors
    /// A violation: the new link must be closed, nothing has changed.
    pub fn handle_hello(
        &mut self,
        now: Instant,
        hello: &Hello,
        ports: &mut impl Ports,
    ) -> Result<Resumption, Violation> {
        if hello.session != self.config.id {
            return Err(Violation::WrongSession);
        }
        if hello.link <= self.link.number {
            return Err(Violation::StaleLink(hello.link));
        }
        if hello.link != self.link.dialled && self.config.side == Side::Gateway {
            return Err(Violation::WrongLink(hello.link));
        }
        if hello.streams == 0 {
            return Err(Violation::BadLimit("streams"));
        }
        if hello.credit > MAX_CREDIT_AT_OPEN {
            return Err(Violation::BadLimit("credit"));
        }
        let record = usize::try_from(hello.record).unwrap_or(usize::MAX).min(MAX_RECORD);
        if record < MIN_RECORD {
            return Err(Violation::BadLimit("record"));
        }
        let began = self.link.began;
        let continues = began != 0 && hello.resumes == began;
        if hello.resumes != 0 && !continues && self.config.side == Side::Gateway {
            // The answer to a `Hello` of before this side gave the session up: what the agent goes on with is gone.
            return Err(Violation::StaleLink(hello.link));
        }
        if continues && hello.credit != self.streams.peer.credit {
            return Err(Violation::BadLimit("credit"));
        }
        if continues && record != self.streams.peer.record {
            return Err(Violation::BadLimit("record"));
        }
        if continues && (hello.received < self.acked || hello.received > self.acked + self.ring.stored()) {
            return Err(Violation::BadAck(hello.received));
        }
        if began != 0 && !continues {
            self.forget(ports, ResetReason::SESSION_LOST, Unannounced::Stay);
        }
        while continues && self.acked < hello.received {
            self.acked += 1;
            self.ring.pop();
        }
        self.ring.rewind();
        self.inflight.restart(now);
        (self.unsolicited, self.asked, self.probe) = (0, Asked::AtOnce, false);
        self.ack = Ack { arrived: now, ..Ack::default() };
        self.streams.peer = Peer { streams: hello.streams, credit: hello.credit, record };
        let began = if continues { began } else { hello.link };
        let peer_features = hello.features;
        self.link = Link { number: hello.link, up: true, began, give_up: None, peer_features, ..self.link };
        let resent = self.ring.stored();
        self.streams.counters.records_resent += resent;
        Ok(if continues { Resumption::Resumed { resent } } else { Resumption::Fresh })
    }

    /// The link is gone. Streams stay for `resume_for_ms`; ports are not read meanwhile.
    pub fn handle_link_lost(&mut self, now: Instant) {
        if self.link.up {
            self.link.up = false;
            self.link.give_up = Some(now.after_millis(self.config.resume_for_ms));
        }
    }

    /// Takes one message of the link; its payload is offered to the ports at once.
    ///
    /// # Errors
    /// A violation: the link must be closed and the session [abandoned](Self::abandon), since part of the message may
    /// have taken effect.
    pub fn handle_message(&mut self, now: Instant, message: &[u8], ports: &mut impl Ports) -> Result<(), Violation> {
        if message.is_empty() {
            return Err(Violation::Malformed(0));
        }
        if message.len() > self.config.record + MAX_PREFIX {
            return Err(Violation::RecordTooLong(message.len()));
        }
        if !self.link.up {
            return Err(Violation::NoHello);
        }
        let (mut at, mut numbered) = (0, false);
        let (mut acked, mut solicited) = (false, false);
        while at < message.len() {
            let (frame, payload, taken) = Frame::decode(message.get(at..).unwrap_or_default(), at)?;
            at += taken;
            match frame {
                Frame::Ack { records, held_us } if !numbered && !replace(&mut acked, true) => {
                    self.on_ack(now, records, held_us)?;
                }
                Frame::Solicit { within_ms } if !numbered && !replace(&mut solicited, true) => {
                    let due = now.after_millis(u64::from(within_ms));
                    self.ack.due = Some(self.ack.due.map_or(due, |before| before.min(due)));
                }
                _ => {
                    numbered = true;
                    self.streams.handle_frame(now, frame, payload, ports)?;
                }
            }
        }
        if numbered {
            self.received += 1;
            self.streams.counters.records_received += 1;
            (self.ack.owed, self.ack.arrived) = (true, now);
        } else if solicited {
            self.ack.owed = true; // perhaps for the second time: it may be the link that is in doubt
        }
        self.streams.budget.check(&self.streams.table);
        Ok(())
    }

    fn on_ack(&mut self, now: Instant, records: u64, held_us: u32) -> Result<(), Violation> {
        if records < self.acked || records > self.acked + self.ring.sent() {
            return Err(Violation::BadAck(records));
        }
        let mut arrived = Arrived { bytes: 0, round_trip: 0 };
        while self.acked < records {
            self.acked += 1;
            if let Some((length, Some(sent_at))) = self.ring.pop() {
                arrived.bytes = arrived.bytes.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
                arrived.round_trip = now.micros_since_stamp(sent_at).saturating_sub(held_us);
            }
        }
        if arrived.bytes > 0 {
            self.inflight.on_acked(now, arrived, self.acked, self.acked + self.ring.sent());
        }
        Ok(())
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_message`](Self::poll_message) has something to do next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let ack = self.ack.due.filter(|_| self.link.up && self.ack.owed);
        let idle = self.streams.idle_check.filter(|_| self.link.up);
        [ack, self.link.give_up, idle].into_iter().flatten().min()
    }

    /// Does what is due at `now`. Calling it early is harmless.
    pub fn handle_timeout(&mut self, now: Instant, ports: &mut impl Ports) {
        if self.link.give_up.is_some_and(|at| at <= now) {
            self.abandon(ports, ResetReason::RESUME_EXPIRED);
        }
        if self.link.up && self.streams.idle_check.is_some_and(|at| at <= now) {
            self.streams.give_idle_credit_back(now);
        }
    }

    /// Ends all streams here with `reason` and forgets what was to be sent; the next link begins anew. For a session
    /// that is given up: after a [`Violation`], or because the host is ending.
    pub fn abandon(&mut self, ports: &mut impl Ports, reason: ResetReason) {
        self.forget(ports, reason, Unannounced::End);
        (self.link.up, self.link.began, self.link.give_up) = (false, 0, None);
    }

    fn forget(&mut self, ports: &mut impl Ports, reason: ResetReason, unannounced: Unannounced) {
        self.streams.start_over(ports, reason, unannounced);
        self.ring.clear();
        (self.acked, self.received) = (0, 0);
    }

    /// Opens a stream: gives its slot, at which the host then keeps its port. [`Ports::service`] names the service
    /// when `Open` is written; what the port has to say travels with it.
    ///
    /// # Errors
    /// [`OpenError`]; the session is as before.
    pub fn open(&mut self, now: Instant, mode: Mode) -> Result<Slot, OpenError> {
        self.streams.open(now, mode)
    }

    /// Ends a stream at once, in both directions. Harmless if it is over already.
    pub fn reset(&mut self, slot: Slot, reason: ResetReason, ports: &mut impl Ports) {
        self.streams.reset(slot, reason, ports);
    }

    /// The port at `slot` has, or may have, bytes to read, or ended.
    pub fn handle_readable(&mut self, slot: Slot) {
        self.streams.handle_readable(slot);
    }

    /// The port at `slot` can take bytes again: gives it what waits for it in the pool.
    pub fn handle_writable(&mut self, slot: Slot, ports: &mut impl Ports) {
        self.streams.handle_writable(slot, ports);
    }

    /// Asks the peer for a sign of life with the next message: it answers at once, whether or not it owes anything.
    pub fn probe(&mut self) {
        self.probe = true;
    }

    /// No new streams from now on, on either side; open ones have `drain_ms` to finish, then the host ends it.
    pub fn go_away(&mut self, drain_ms: u32) {
        self.streams.shutdown.begin(drain_ms);
    }

    /// The peer is shutting down: open streams elsewhere.
    #[must_use]
    pub fn peer_is_going_away(&self) -> bool {
        self.streams.shutdown.there
    }

    /// No streams, and everything said was heard: memory can be reclaimed, a draining session can end.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.streams.is_quiet() && self.ring.stored() == 0
    }

    /// Whose session this is.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.config.id
    }

    /// Number of the current or last link; 0 before the first.
    #[must_use]
    pub fn link_number(&self) -> u32 {
        self.link.number
    }

    /// Whether records can go out.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.link.up
    }

    /// Whether there is state that a new link would continue.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.link.began != 0
    }

    /// Streams open, of both sides.
    #[must_use]
    pub fn streams_open(&self) -> u16 {
        self.streams.table.live()
    }

    /// Counts since the session began.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.streams.counters
    }

    /// Bytes of the receive pool that streams hold beyond what each may count on.
    #[must_use]
    pub fn pool_used(&self) -> u32 {
        self.streams.budget.used()
    }

    /// Bytes of the receive pool that there are beyond that.
    #[must_use]
    pub fn pool_shared(&self) -> u32 {
        self.streams.budget.elastic()
    }

    /// The optional features that the peer announced in its last `Hello`, one bit each; none before the first.
    #[must_use]
    pub fn peer_features(&self) -> u32 {
        self.link.peer_features
    }

    /// What the link looks like.
    #[must_use]
    pub fn link_estimate(&self) -> LinkEstimate {
        LinkEstimate {
            round_trip_us: self.inflight.round_trip(),
            in_flight: self.inflight.in_flight(),
            limit: self.inflight.limit(),
        }
    }

    /// Tells the link's TCP payload per packet and what the host adds to each message, both in bytes, so that messages
    /// fill whole packets. Payloads larger than Ethernet's are taken for Ethernet's.
    pub fn set_segment(&mut self, payload: u16, framing: u16) {
        self.inflight.set_segment(payload, framing);
    }
}
