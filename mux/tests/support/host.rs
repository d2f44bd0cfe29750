//! One end of a session with its ports, as its host keeps them.

use umbilical_mux::{Hello, Instant, Mode, OpenError, ResetReason, Resumption, Shape, Side, Violation};

use super::audit::Audit;
use super::invariant::Invariant;
use super::ports::{Port, TestPorts};
use super::storage::{TestSession, session};

pub struct Host {
    pub session: TestSession,
    pub ports: TestPorts,
    pub audit: Audit,
    /// Number of the link it uses; if it lost one, since when it has none.
    pub link: Option<u32>,
    pub lost_at: Option<Instant>,
    /// Links begun that way.
    pub resumptions: Vec<Resumption>,
    /// Links it did not want, and why.
    pub refusals: Vec<Violation>,
}

impl Host {
    pub fn new(side: Side, shape: Shape) -> Self {
        let mut session = session(side, shape);
        let audit = Audit::new(session.hello(0).credit, shape);
        Self {
            session,
            ports: TestPorts::default(),
            audit,
            link: None,
            lost_at: None,
            resumptions: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Opens a stream that says `say` bytes; `service` says what the other end does. Gives its key.
    pub fn open(&mut self, now: Instant, service: &str, say: u64) -> Result<u64, OpenError> {
        self.open_with(now, service, Mode::Stream, |port| port.to_say = say)
    }

    pub fn open_with(
        &mut self,
        now: Instant,
        service: &str,
        mode: Mode,
        change: impl FnOnce(&mut Port),
    ) -> Result<u64, OpenError> {
        let slot = self.session.open(now, mode)?;
        let mut port = Port::new(service, mode, 0);
        change(&mut port);
        let key = port.key;
        self.ports.put(slot, port);
        self.session.handle_readable(slot);
        Ok(key)
    }

    /// Stream `key` has `bytes` more to say.
    pub fn say(&mut self, key: u64, bytes: u64) {
        let (slot, port) = self.ports.port_mut(key);
        port.to_say += bytes;
        self.session.handle_readable(slot);
    }

    /// Stream `key` changes in some other way that its session should look at.
    pub fn change(&mut self, key: u64, change: impl FnOnce(&mut Port)) {
        let (slot, port) = self.ports.port_mut(key);
        change(port);
        self.session.handle_readable(slot);
        self.session.handle_writable(slot, &mut self.ports);
    }

    pub fn reset(&mut self, key: u64, reason: ResetReason) {
        let slot = self.ports.slot(key).expect("an open stream");
        self.session.reset(slot, reason, &mut self.ports);
    }

    pub fn got(&self, key: u64) -> u64 {
        self.ports.port(key).got
    }

    /// Whether it takes the link.
    pub fn hello(&mut self, now: Instant, hello: &Hello) -> bool {
        let resumption = match self.session.handle_hello(now, hello, &mut self.ports) {
            Ok(resumption) => resumption,
            Err(violation) => {
                self.refusals.push(violation);
                return false;
            }
        };
        // Only a session that goes on has records of before: otherwise the peer counts from nothing too.
        let fresh = resumption == Resumption::Fresh;
        self.audit.linked(if fresh { 0 } else { hello.received }, fresh);
        self.resumptions.push(resumption);
        (self.link, self.lost_at) = (Some(hello.link), None);
        true
    }

    /// A message of its link has come.
    pub fn takes(&mut self, now: Instant, message: &[u8]) {
        if message.is_empty() {
            return self.lose_link(now);
        }
        self.audit.got(message);
        let taken = self.session.handle_message(now, message, &mut self.ports);
        Invariant::Peace.require(taken.is_ok(), || format!("{taken:?}"));
    }

    /// Notices that its link is gone.
    pub fn lose_link(&mut self, now: Instant) {
        if self.link.take().is_some() {
            self.lost_at = Some(now);
        }
        self.session.handle_link_lost(now);
    }

    pub fn wake(&mut self) {
        for slot in std::mem::take(&mut self.ports.readable) {
            self.session.handle_readable(slot);
        }
    }
}
