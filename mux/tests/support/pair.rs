//! Two hosts, the links between them, and the clock: near is the gateway, far is the agent.
//!
//! Each host does what a real one does: the gateway dials and says `Hello` first, from then on takes nothing more from
//! older links; the agent answers `Hello` on any newer link, and from then on takes nothing more from older ones.

use umbilical_mux::{
    Hello, Instant, MAX_HELLO, Mode, OpenError, ResetReason, Resumption, Shape, Side, Slot, Violation,
};

use super::audit::Audit;
use super::link::{Link, LinkShape};
use super::ports::{Port, TestPorts};
use super::storage::{SHAPE, TestSession, session};

pub struct Host {
    pub session: TestSession,
    pub ports: TestPorts,
    pub audit: Audit,
    /// Number of the link it uses.
    link: Option<u32>,
    /// Links begun that way.
    pub resumptions: Vec<Resumption>,
    /// Links it did not want, and why.
    pub refusals: Vec<Violation>,
}

impl Host {
    fn new(side: Side, shape: Shape) -> Self {
        let mut session = session(side, shape);
        let audit = Audit::new(session.hello(0).credit, shape.receive);
        Self { session, ports: TestPorts::default(), audit, link: None, resumptions: Vec::new(), refusals: Vec::new() }
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
    fn hello(&mut self, now: Instant, hello: &Hello) -> bool {
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
        self.link = Some(hello.link);
        true
    }

    fn wake(&mut self) {
        for slot in std::mem::take(&mut self.ports.readable) {
            self.session.handle_readable(slot);
        }
    }
}

pub struct Pair {
    pub near: Host,
    pub far: Host,
    pub links: Vec<Link>,
    /// What new links are like.
    pub shape: LinkShape,
    now: u64,
    /// The gateway's link whose `Hello` is not yet answered.
    dialling: Option<u32>,
    next_link: u32,
    /// Messages handed over so far, both ways.
    pub delivered: u64,
    idle_steps: u32,
}

impl Pair {
    /// Two sessions of the default shape with a link between them.
    pub fn over(shape: LinkShape) -> Self {
        Self::of(SHAPE, SHAPE, shape)
    }

    pub fn of(near: Shape, far: Shape, shape: LinkShape) -> Self {
        let mut pair = Self::unlinked(near, far, shape);
        pair.connect();
        pair
    }

    pub fn unlinked(near: Shape, far: Shape, shape: LinkShape) -> Self {
        Self {
            near: Host::new(Side::Gateway, near),
            far: Host::new(Side::Agent, far),
            links: Vec::new(),
            shape,
            now: 1_000_000,
            dialling: None,
            next_link: 1,
            delivered: 0,
            idle_steps: 0,
        }
    }

    pub fn now(&self) -> Instant {
        Instant::from_micros(self.now)
    }

    pub fn now_us(&self) -> u64 {
        self.now
    }

    pub fn link(&mut self) -> &mut Link {
        self.links.last_mut().expect("a link")
    }

    /// Begins a new link, whatever became of the one before.
    pub fn dial(&mut self) {
        let number = self.next_link;
        self.next_link += 1;
        self.near.link = None;
        self.near.session.handle_link_lost(Instant::from_micros(self.now));
        let mut link = Link::new(number, &self.shape);
        let mut buffer = [0; MAX_HELLO];
        let hello = self.near.session.hello(number);
        link.ways[0].push(self.now, hello.encode(&mut buffer).to_vec());
        self.links.push(link);
        self.dialling = Some(number);
    }

    /// Dials and waits until both sides are up.
    pub fn connect(&mut self) {
        self.dial();
        let number = self.next_link - 1;
        self.run_while(60_000, |pair| pair.near.link != Some(number));
        assert!(self.is_linked(), "no link within a minute");
    }

    pub fn is_linked(&self) -> bool {
        self.near.link.is_some() && self.near.link == self.far.link
    }

    /// The links break and both sides notice; what was in flight is lost.
    pub fn cut(&mut self) {
        self.links.clear();
        self.dialling = None;
        self.lose_near();
        self.lose_far();
    }

    /// The gateway notices that its link is gone.
    pub fn lose_near(&mut self) {
        self.near.link = None;
        self.near.session.handle_link_lost(self.now());
    }

    /// The agent notices that its link is gone.
    pub fn lose_far(&mut self) {
        self.far.link = None;
        self.far.session.handle_link_lost(self.now());
    }

    /// The agent restarts: it knows no session any more.
    pub fn restart_far(&mut self, shape: Shape) {
        self.far = Host::new(Side::Agent, shape);
    }

    /// Runs for `ms` milliseconds.
    pub fn run(&mut self, ms: u64) {
        self.run_until(self.now + ms * 1_000);
    }

    pub fn run_until(&mut self, until: u64) {
        while self.step(until) {}
    }

    /// Runs while `going`, for `ms` milliseconds at most; whether it ended before.
    pub fn run_while(&mut self, ms: u64, mut going: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + ms * 1_000;
        while going(self) {
            if !self.step(until) {
                return !going(self);
            }
        }
        true
    }

    /// Runs until nothing is on its way and nothing is to be done but to wait.
    pub fn settle(&mut self) {
        let until = self.now + 3_600_000_000;
        let quiet = |pair: &Self| {
            pair.links.iter().all(|link| link.ways.iter().all(|way| way.in_flight() == 0))
                && pair.near.ports.next_pace().is_none()
                && pair.far.ports.next_pace().is_none()
        };
        let mut quiet_since = None;
        while self.step(until) {
            let since = *quiet_since.get_or_insert(self.now);
            if !quiet(self) {
                quiet_since = None;
            } else if self.now > since + 60_000_000 {
                return;
            }
        }
    }

    /// Goes on to the next thing that happens; false, with the clock at `until`, if that is later.
    pub fn step(&mut self, until: u64) -> bool {
        self.pump();
        let next = self.next_event().filter(|at| *at <= until);
        let Some(at) = next else {
            self.now = self.now.max(until);
            return false;
        };
        self.idle_steps = if at > self.now { 0 } else { self.idle_steps + 1 };
        assert!(self.idle_steps < 1_000_000, "the clock stands still");
        self.now = self.now.max(at);
        self.deliver();
        let now = self.now();
        for host in [&mut self.near, &mut self.far] {
            host.session.handle_timeout(now, &mut host.ports);
            let (readable, writable) = host.ports.keep_pace(self.now);
            readable.into_iter().for_each(|slot| host.session.handle_readable(slot));
            for slot in writable {
                host.session.handle_writable(slot, &mut host.ports);
            }
            host.audit.check(&host.ports);
        }
        true
    }

    fn next_event(&self) -> Option<u64> {
        let links = self.links.iter().flat_map(|link| &link.ways).filter_map(|way| way.next_arrival());
        let hosts = [&self.near, &self.far].into_iter().flat_map(|host| {
            [host.session.next_timeout().map(Instant::as_micros), host.ports.next_pace()].into_iter().flatten()
        });
        links.chain(hosts).min()
    }

    /// Lets both sides say what they have to say.
    fn pump(&mut self) {
        let now = self.now();
        for (way, host) in [&mut self.near, &mut self.far].into_iter().enumerate() {
            host.wake();
            while let Some(message) = host.session.poll_message(now, &mut host.ports) {
                let bytes = [&message.prefix, message.record].concat();
                host.audit.wrote(&bytes);
                if let Some(link) = self.links.iter_mut().find(|link| Some(link.number) == host.link) {
                    link.ways[way].push(self.now, bytes);
                }
                host.wake();
            }
        }
    }

    fn deliver(&mut self) {
        for index in 0..self.links.len() {
            for way in [0, 1] {
                while let Some(message) = self.links[index].ways[way].pop(self.now) {
                    self.delivered += 1;
                    if way == 0 { self.far_gets(index, &message) } else { self.near_gets(index, &message) }
                }
            }
        }
    }

    fn far_gets(&mut self, index: usize, message: &[u8]) {
        let (now, number) = (self.now(), self.links[index].number);
        let host = &mut self.far;
        if host.link == Some(number) {
            host.audit.got(message);
            let taken = host.session.handle_message(now, message, &mut host.ports);
            taken.expect("the far side broke no rule");
        } else if number > host.session.link_number()
            && let Ok(hello) = Hello::decode(message)
            && host.hello(now, &hello)
        {
            let mut buffer = [0; MAX_HELLO];
            let answer = host.session.hello(number).encode(&mut buffer).to_vec();
            self.links[index].ways[1].push(self.now, answer);
        }
    }

    fn near_gets(&mut self, index: usize, message: &[u8]) {
        let (now, number) = (self.now(), self.links[index].number);
        let host = &mut self.near;
        if self.dialling == Some(number) {
            self.dialling = None;
            host.hello(now, &Hello::decode(message).expect("a hello first"));
        } else if host.link == Some(number) {
            host.audit.got(message);
            let taken = host.session.handle_message(now, message, &mut host.ports);
            taken.expect("the near side broke no rule");
        }
    }

    /// Microseconds until 64 bytes said by `key` have come back from its echo; gives up after 20 seconds.
    pub fn ping(&mut self, key: u64) -> u64 {
        let (start, before) = (self.now, self.near.got(key));
        self.near.say(key, 64);
        let back = self.run_while(20_000, |pair| pair.near.got(key) < before + 64);
        assert!(back, "no echo within 20 s");
        self.now - start
    }

    /// Streams open on both sides, and nothing in the pools.
    pub fn assert_empty(&self) {
        for host in [&self.near, &self.far] {
            assert_eq!((host.session.streams_open(), host.ports.open()), (0, 0), "streams left");
            assert_eq!(host.session.pool_used(), 0, "bytes left in the pool");
            assert!(host.session.is_quiet(), "something left to say");
        }
    }
}

/// The value that a share of `share` of `values` does not exceed.
pub fn percentile(values: &mut [u64], share: f64) -> u64 {
    assert!(!values.is_empty(), "no values");
    values.sort_unstable();
    values[((values.len() - 1) as f64 * share).round() as usize]
}

pub fn slot(index: u16) -> Slot {
    Slot::at(index)
}
