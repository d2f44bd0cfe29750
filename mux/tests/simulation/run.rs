//! One run: a scenario played on two sessions, everything checked on the way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use umbilical_mux::{End, Instant, MIN_REPLAY, Mode, ResetReason, Shape, Violation};

use crate::intruder::Intruder;
use crate::scenario::{Event, Habit, On, Scenario, What};
use crate::support::host::Host;
use crate::support::invariant::Invariant;
use crate::support::pair::Pair;
use crate::support::ports::{Pace, Port, Then};
use crate::watch::Watch;

/// The memory of an agent that restarted with another configuration.
const RESTARTED: Shape = Shape { streams: 8, replay: MIN_REPLAY, receive: 20_000 };

/// A run that went well.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub steps: u64,
    /// Streams that ended in order, on both sides, and their bytes.
    pub closed: u64,
    pub bytes: u64,
    /// Records sent again on links that took over; links that came too late.
    pub resent: u64,
    pub late: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.closed += other.closed;
        self.bytes += other.bytes;
        self.resent += other.resent;
        self.late += other.late;
    }
}

/// A run that did not.
#[derive(Debug)]
pub struct Failure {
    /// The invariant's name and what was found.
    pub what: String,
    pub steps: u64,
    pub at_us: u64,
    /// The last messages before, if the pair was told to keep them.
    pub trace: VecDeque<String>,
}

impl Failure {
    /// Another scenario fails alike if this is the same.
    pub fn kind(&self) -> &str {
        self.what.split_once(':').map_or(&*self.what, |(kind, _)| kind)
    }
}

/// Plays `scenario` on sessions that `plant` may have spoilt.
pub fn play(scenario: &Scenario, plant: impl FnOnce(&mut Pair)) -> Result<Outcome, Failure> {
    let mut run = Run::new(scenario);
    plant(&mut run.pair);
    let done = quietly(|| catch_unwind(AssertUnwindSafe(|| run.go(&scenario.events))));
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Failure {
            what: text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default(),
            steps: run.pair.steps,
            at_us: run.pair.now_us(),
            trace: run.pair.trace.take().unwrap_or_default(),
        }
    })
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does something whose panics are told in another way.
fn quietly<T>(something: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let done = something();
    QUIET.set(before);
    done
}

struct Run {
    pair: Pair,
    watch: Watch,
    intruder: Intruder,
    start_us: u64,
}

impl Run {
    fn new(scenario: &Scenario) -> Self {
        let pair = Pair::unlinked(scenario.near, scenario.far, scenario.link.clone());
        Self { start_us: pair.now_us(), pair, watch: Watch::default(), intruder: Intruder::new() }
    }

    fn go(&mut self, events: &[Event]) -> Outcome {
        for event in events {
            self.run_until(self.start_us + event.at_us);
            self.watch.look_now(&self.pair);
            self.happens(&event.what);
        }
        self.run_until(self.pair.now_us() + 200_000);
        self.finish()
    }

    fn run_until(&mut self, until: u64) {
        while self.pair.step(until) {
            self.watch.look(&self.pair);
        }
    }

    fn happens(&mut self, what: &What) {
        let now = self.pair.now();
        match what {
            What::Open { on, service, key, say, answer, habit } => {
                let (name, mode) = match *service {
                    "mail" => (format!("mail:{key}"), Mode::Datagram),
                    "source" | "both" | "deaf" => (format!("{service}:{key}:{answer}"), Mode::Stream),
                    service => (format!("{service}:{key}"), Mode::Stream),
                };
                // A full table, or a peer that is going away, is an answer too.
                let _ = self.host(*on).open_with(now, &name, mode, |port| {
                    port.to_say = if mode == Mode::Stream { *say } else { 0 };
                    take_to(*habit, port, now);
                });
            }
            What::Change { on, pick, habit } => {
                let host = self.host(*on);
                if let Some(key) = picked(&host.ports.keys(), *pick) {
                    host.change(key, |port| take_to(*habit, port, now));
                }
            }
            What::Reset { on, pick, reason } => {
                let host = self.host(*on);
                if let Some(key) = picked(&host.ports.keys(), *pick) {
                    host.reset(key, *reason);
                }
            }
            What::Letters { pick, lengths } => self.send_letters(*pick, lengths),
            What::Dial { latency_us } => {
                self.pair.shape.latency_us = *latency_us;
                self.dial();
            }
            What::Reconnect => self.reconnect(),
            What::Cut => self.pair.cut(),
            What::GatewayLoses => self.pair.lose_near(),
            What::AgentLoses => self.pair.lose_far(),
            What::CutAfter { way, bytes } => {
                if let Some(link) = self.pair.links.last_mut() {
                    link.ways[*way].carries_bytes = *bytes;
                }
            }
            What::Stall { way, for_us } => {
                if let Some(link) = self.pair.links.last_mut() {
                    link.ways[*way].stalled_until = now.as_micros() + for_us;
                }
            }
            What::Doubt { on } => self.host(*on).session.probe(),
            What::AgentRestarts => self.pair.restart_far(RESTARTED),
            What::GoAway { on } => self.host(*on).session.go_away(1_000),
            What::Intrude(intrusion) => self.intruder.intrude(*intrusion, &mut self.pair),
        }
    }

    fn host(&mut self, on: On) -> &mut Host {
        match on {
            On::Gateway => &mut self.pair.near,
            On::Agent => &mut self.pair.far,
        }
    }

    /// Datagrams say their number, from 1 in each stream, and repeat its low byte.
    fn send_letters(&mut self, pick: u64, lengths: &[usize]) {
        let host = &mut self.pair.near;
        let can = |port: &Port| port.mode == Mode::Datagram && port.is_opener() && port.then == Then::Wait;
        let can = |key: &u64| host.ports.find_open(*key).is_some_and(can);
        let keys: Vec<u64> = host.ports.keys().into_iter().filter(can).collect();
        let Some(key) = picked(&keys, pick) else { return };
        host.change(key, |port| {
            for length in lengths {
                port.said += 1;
                let mut letter = vec![port.said as u8; *length];
                letter[..8].copy_from_slice(&port.said.to_le_bytes());
                port.letters_out.push_back(letter);
            }
        });
    }

    fn dial(&mut self) {
        if self.pair.links.len() > 4 {
            self.pair.links.remove(0);
        }
        self.pair.dial();
    }

    fn reconnect(&mut self) {
        for _ in 0..3 {
            self.dial();
            let until = self.pair.now_us() + 60_000_000;
            while self.pair.dialled().is_some() && self.pair.step(until) {
                self.watch.look(&self.pair);
            }
            if self.pair.is_linked() {
                return;
            }
        }
        Invariant::Progress.require(false, || "no link after three dials".to_owned());
    }

    /// All ports do what they can, the link holds: everything ends, and what ended in order is complete.
    fn finish(&mut self) -> Outcome {
        self.reconnect();
        for _ in 0..3 {
            self.watch.look_now(&self.pair);
            for host in [&mut self.pair.near, &mut self.pair.far] {
                for key in host.ports.keys() {
                    host.change(key, |port| {
                        (port.say_pace, port.take_pace, port.breaks_after) = (None, None, None);
                        (port.room, port.chunk) = (u64::MAX, usize::MAX);
                        if port.then == Then::Wait {
                            port.then = Then::End;
                        }
                    });
                }
            }
            self.settle();
        }
        self.check_letters();
        self.check_refusals();
        self.pair.assert_empty();
        self.check_closed()
    }

    /// Until nothing moves any more, and longer than the watch is patient.
    fn settle(&mut self) {
        let mut still_since = self.pair.now_us();
        while self.pair.now_us() < still_since + 30_000_000 {
            if !self.pair.step(still_since + 30_000_000) {
                break;
            }
            self.watch.look(&self.pair);
            if !self.pair.is_still() {
                still_since = self.pair.now_us();
            }
        }
        self.watch.look_now(&self.pair);
    }

    /// What the two refuse of each other is late, no more: an older link, or one that the gateway has given up, whose `Hello`
    /// counts less than was acknowledged since.
    fn check_refusals(&self) {
        let Pair { near, far, .. } = &self.pair;
        let late = |refusal: &Violation| matches!(refusal, Violation::StaleLink(_) | Violation::BadAck(_));
        let other = near.refusals.iter().find(|refusal| !matches!(refusal, Violation::StaleLink(_)));
        let other = other.or_else(|| far.refusals.iter().find(|refusal| !late(refusal)));
        Invariant::Peace.require(other.is_none(), || format!("refused: {other:?}"));
    }

    /// Datagrams come whole, each at most once, in order.
    fn check_letters(&self) {
        let ports = &self.pair.far.ports;
        for port in ports.ended.values().map(|ended| &ended.port).filter(|port| port.mode == Mode::Datagram) {
            let mut last = 0;
            for letter in &port.letters_in {
                let (number, rest) = letter.split_first_chunk().expect("a number in front");
                let number = u64::from_le_bytes(*number);
                Invariant::Bytes.require(number > last && rest.iter().all(|byte| *byte == number as u8), || {
                    format!("stream {}: datagram {number} came after {last}, or mixed up", port.key)
                });
                last = number;
            }
        }
    }

    fn check_closed(&self) -> Outcome {
        let Pair { near, far, steps, .. } = &self.pair;
        let resent = [near, far].map(|host| host.session.counters().records_resent).iter().sum();
        let mut outcome = Outcome { steps: *steps, closed: 0, bytes: 0, resent, late: far.refusals.len() as u64 };
        for (key, near) in &near.ports.ended {
            let Some(far) = far.ports.ended.get(key) else { continue };
            if (near.end, far.end) != (End::Closed, End::Closed) {
                continue;
            }
            outcome.closed += 1;
            outcome.bytes += near.port.got + far.port.got;
            let said = |port: &Port| if port.mode == Mode::Stream { port.said } else { 0 };
            Invariant::Bytes.require((near.port.got, far.port.got) == (said(&far.port), said(&near.port)), || {
                format!("stream {key}: bytes are missing")
            });
            Invariant::Bytes
                .require(near.port.finished && far.port.finished, || format!("stream {key}: an end is missing"));
        }
        outcome
    }
}

fn picked(keys: &[u64], pick: u64) -> Option<u64> {
    keys.get((pick as usize).checked_rem(keys.len())?).copied()
}

fn take_to(habit: Habit, port: &mut Port, now: Instant) {
    let waits = port.then == Then::Wait;
    match habit {
        Habit::AsBefore => {}
        Habit::Room(bytes) => port.room = bytes,
        Habit::TakesAll => port.room = u64::MAX,
        Habit::Takes(bytes) => {
            port.take_pace = Some(Pace { bytes, every_us: 30_000, next: now.as_micros() + 30_000 });
        }
        Habit::Chunk(bytes) => port.chunk = bytes,
        Habit::Ends if waits => port.then = Then::End,
        Habit::Fails if waits => port.then = Then::Fail(ResetReason::FAILED),
        Habit::BreaksAfter(bytes) => {
            port.breaks_after = Some((port.got + bytes, ResetReason::ABORTED));
        }
        Habit::Says(bytes) if waits && port.mode == Mode::Stream => port.to_say += bytes,
        Habit::Ends | Habit::Fails | Habit::Says(_) => {}
    }
}
