//! Two hosts, the links between them, and the clock: near is the gateway, far is the agent.
//!
//! Each host does what a real one does. The gateway dials and says `Hello` first; from then on it reads no more of the link
//! before, but still writes to it until the answer has come. The agent answers `Hello` on any newer link, and from then on
//! takes nothing more from older ones; it closes them, and those that it refuses.

use std::collections::VecDeque;

use umbilical_mux::{Hello, Instant, MAX_HELLO, Shape, Side, Slot};

use super::audit::frames;
use super::host::Host;
use super::invariant::Invariant;
use super::link::{Link, LinkShape};
use super::storage::{RESUME_FOR_MS, SHAPE};

/// How long the gateway waits for the answer to its `Hello`.
const HELLO_WITHIN_US: u64 = 10_000_000;

/// A link that is closed says so by a message of no bytes, which sessions never send.
const CLOSED: Vec<u8> = Vec::new();

/// The gateway's way, and the agent's.
pub const THERE: usize = 0;
pub const BACK: usize = 1;

/// What a bad link makes of a message on its way: none, one or several.
pub type Tamper = Box<dyn FnMut(usize, Vec<u8>) -> Vec<Vec<u8>>>;

pub struct Pair {
    pub near: Host,
    pub far: Host,
    pub links: Vec<Link>,
    /// What new links are like.
    pub shape: LinkShape,
    now: u64,
    /// The gateway's link whose `Hello` is not yet answered, and until when it waits for that.
    dialling: Option<(u32, u64)>,
    next_link: u32,
    /// Messages handed over, and things that happened, so far.
    pub delivered: u64,
    pub steps: u64,
    idle_steps: u32,
    pub tamper: Option<Tamper>,
    /// Streams may end for lack of a link: one side went without for `resume-for`, or forgot the session, or never heard
    /// that it had begun. Until both are on one link again.
    pub excused: bool,
    /// The last messages handed over, in words, if wanted.
    pub trace: Option<VecDeque<String>>,
    /// The gateway's `Hello`s that arrived, and the agent's.
    pub heard: [Vec<Hello>; 2],
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
            steps: 0,
            idle_steps: 0,
            tamper: None,
            excused: false,
            trace: None,
            heard: [Vec::new(), Vec::new()],
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
        self.links.push(Link::new(number, &self.shape));
        let hello = self.near.session.hello(number);
        self.hand_over(number, THERE, hello.encode(&mut [0; MAX_HELLO]).to_vec());
        self.dialling = Some((number, self.now + HELLO_WITHIN_US));
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

    /// The link on which the gateway waits for the answer to its `Hello`.
    pub fn dialled(&self) -> Option<u32> {
        self.dialling.map(|(number, _)| number)
    }

    /// The link that both sides use.
    pub fn common_link(&self) -> Option<&Link> {
        self.links.iter().find(|link| self.is_linked() && Some(link.number) == self.near.link)
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
        let now = self.now();
        self.near.lose_link(now);
    }

    /// The agent notices that its link is gone.
    pub fn lose_far(&mut self) {
        let now = self.now();
        self.far.lose_link(now);
    }

    /// The agent restarts: it knows no session any more.
    pub fn restart_far(&mut self, shape: Shape) {
        self.far = Host::new(Side::Agent, shape);
        self.excused = true;
        self.heard[THERE].clear();
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

    /// Nothing is on its way and no port does anything by itself.
    pub fn is_still(&self) -> bool {
        self.links.iter().all(|link| link.ways.iter().all(|way| way.in_flight() == 0))
            && self.near.ports.next_pace().is_none()
            && self.far.ports.next_pace().is_none()
    }

    /// Runs until nothing is on its way and nothing is to be done but to wait.
    pub fn settle(&mut self) {
        let until = self.now + 3_600_000_000;
        let mut quiet_since = None;
        while self.step(until) {
            let since = *quiet_since.get_or_insert(self.now);
            if !self.is_still() {
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
        self.steps += 1;
        self.idle_steps = if at > self.now { 0 } else { self.idle_steps + 1 };
        Invariant::Progress.require(self.idle_steps < 100_000, || "the clock stands still".to_owned());
        self.now = self.now.max(at);
        self.deliver();
        self.dialling = self.dialling.filter(|(_, until)| *until > self.now);
        let now = self.now();
        for host in [&mut self.near, &mut self.far] {
            self.excused |= host.lost_at.is_some_and(|at| at.after_millis(RESUME_FOR_MS) <= now);
            host.session.handle_timeout(now, &mut host.ports);
            let (readable, writable) = host.ports.keep_pace(self.now);
            readable.into_iter().for_each(|slot| host.session.handle_readable(slot));
            for slot in writable {
                host.session.handle_writable(slot, &mut host.ports);
            }
            host.audit.check(&host.ports);
        }
        self.check_excuse();
        true
    }

    fn check_excuse(&mut self) {
        for (name, host) in [("gateway", &mut self.near), ("agent", &mut self.far)] {
            let given_up = std::mem::take(&mut host.ports.given_up);
            Invariant::Unbroken
                .require(given_up == 0 || self.excused, || format!("the {name} gave {given_up} streams up"));
        }
    }

    /// What comes back on the gateway's link is not read while it waits for the answer on the next.
    fn is_unread(&self, link: u32, way: usize) -> bool {
        way == BACK && self.dialling.is_some_and(|(number, _)| number != link) && self.near.link == Some(link)
    }

    fn next_event(&self) -> Option<u64> {
        let ways = self.links.iter().flat_map(|link| [(link, THERE), (link, BACK)]);
        let read = ways.filter(|(link, way)| !self.is_unread(link.number, *way));
        let links = read.filter_map(|(link, way)| link.ways[way].next_arrival());
        let hosts = [&self.near, &self.far].into_iter().flat_map(|host| {
            [host.session.next_timeout().map(Instant::as_micros), host.ports.next_pace()].into_iter().flatten()
        });
        links.chain(hosts).chain(self.dialling.map(|(_, until)| until)).min()
    }

    /// Lets both sides say what they have to say.
    fn pump(&mut self) {
        for way in [THERE, BACK] {
            loop {
                let now = self.now();
                let host = if way == THERE { &mut self.near } else { &mut self.far };
                host.wake();
                let Some(message) = host.session.poll_message(now, &mut host.ports) else { break };
                host.audit.wrote(message.record);
                let bytes = [&message.prefix, message.record].concat();
                if let Some(number) = host.link {
                    self.hand_over(number, way, bytes);
                }
            }
        }
    }

    /// Hands a message to a link, if it is still there.
    fn hand_over(&mut self, link: u32, way: usize, message: Vec<u8>) {
        let Some(link) = self.links.iter_mut().find(|other| other.number == link) else { return };
        let messages = match &mut self.tamper {
            Some(tamper) => tamper(way, message),
            None => vec![message],
        };
        messages.into_iter().for_each(|message| link.ways[way].push(self.now, message));
    }

    fn deliver(&mut self) {
        for index in 0..self.links.len() {
            for way in [THERE, BACK] {
                let number = self.links[index].number;
                while !self.is_unread(number, way)
                    && let Some(message) = self.links[index].ways[way].pop(self.now)
                {
                    self.delivered += 1;
                    self.note(number, way, &message);
                    if way == THERE { self.far_gets(index, &message) } else { self.near_gets(number, &message) }
                }
            }
        }
    }

    fn far_gets(&mut self, index: usize, message: &[u8]) {
        let (now, number) = (self.now(), self.links[index].number);
        if !std::mem::replace(&mut self.links[index].greeted, true) {
            return self.far_greeted(number, message);
        }
        if self.far.link == Some(number) {
            self.far.takes(now, message);
        }
    }

    /// The first message of a link: the agent answers, or refuses.
    fn far_greeted(&mut self, number: u32, message: &[u8]) {
        let now = self.now();
        // A gateway that never heard an answer knows of no session to go on with.
        self.excused |= self.near.resumptions.is_empty();
        let before = self.far.link;
        let hello = Hello::decode(message).expect("a hello first");
        self.heard[THERE].push(hello);
        if !self.far.hello(now, &hello) {
            return self.hand_over(number, BACK, CLOSED);
        }
        if let Some(before) = before {
            self.hand_over(before, BACK, CLOSED);
        }
        let answer = self.far.session.hello(number);
        self.hand_over(number, BACK, answer.encode(&mut [0; MAX_HELLO]).to_vec());
        self.meet();
    }

    fn near_gets(&mut self, number: u32, message: &[u8]) {
        let now = self.now();
        if self.dialling.take_if(|(dialled, _)| *dialled == number).is_none() {
            if self.near.link == Some(number) {
                self.near.takes(now, message);
            }
        } else if message != CLOSED {
            let before = self.near.link;
            let hello = Hello::decode(message).expect("a hello first");
            self.heard[BACK].push(hello);
            let unwanted = if self.near.hello(now, &hello) { before } else { Some(number) };
            if let Some(unwanted) = unwanted {
                self.hand_over(unwanted, THERE, CLOSED);
            }
            self.meet();
        }
    }

    /// Somebody else answers instead of the agent; the link is none.
    pub fn hijack_dial(&mut self) {
        if let Some((number, _)) = self.dialling.take() {
            self.links.retain(|link| link.number != number);
        }
    }

    /// Both sides on one link have settled what was lost before.
    fn meet(&mut self) {
        self.check_excuse();
        self.excused &= !self.is_linked();
    }

    fn note(&mut self, link: u32, way: usize, message: &[u8]) {
        let Some(trace) = &mut self.trace else { return };
        if trace.len() == 30 {
            trace.pop_front();
        }
        let what = match message {
            [] => "closed".to_owned(),
            [0, ..] => format!("{:?}", Hello::decode(message)),
            _ => frames(message).iter().map(|(frame, _)| format!("{frame:?}")).collect::<Vec<_>>().join(", "),
        };
        let to = ["agent", "gateway"][way];
        trace.push_back(format!("{:.6} s  link {link}, {to} gets {what}", self.now as f64 / 1e6));
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
            Invariant::Memory.require((host.session.streams_open(), host.ports.open()) == (0, 0), || {
                format!("streams left: {} in the table, {} ports", host.session.streams_open(), host.ports.open())
            });
            Invariant::Memory.require(host.session.pool_used() == 0, || "bytes left in the pool".to_owned());
            Invariant::Memory.require(host.session.is_quiet(), || "something left to say".to_owned());
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
