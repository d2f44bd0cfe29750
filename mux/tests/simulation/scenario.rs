//! What happens in one run, as data: made from a seed, or by hand, and made smaller when it fails.

use std::fmt;

use umbilical_mux::{MIN_REPLAY, ResetReason, Shape};

use crate::intruder::Intrusion;
use crate::support::link::LinkShape;
use crate::support::random::Random;

/// Things that happen in a run made from a seed.
pub const EVENTS: usize = 200;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// The gateway's memory, and the agent's.
    pub near: Shape,
    pub far: Shape,
    pub link: LinkShape,
    /// In the order of their times.
    pub events: Vec<Event>,
}

#[derive(Clone, Debug)]
pub struct Event {
    /// Microseconds since the start.
    pub at_us: u64,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Gateway,
    Agent,
}

/// Streams are told apart by keys. Where one is picked, it is the `pick`th of those that are open then, modulo their number.
#[derive(Clone, Debug)]
pub enum What {
    /// A stream to a service of `support/ports.rs` that has so much to say.
    Open {
        on: On,
        service: &'static str,
        key: u64,
        say: u64,
        answer: u64,
        habit: Habit,
    },
    /// A port takes to another habit.
    Change {
        on: On,
        pick: u64,
        habit: Habit,
    },
    Reset {
        on: On,
        pick: u64,
        reason: ResetReason,
    },
    /// Datagrams of these lengths, from the gateway.
    Letters {
        pick: u64,
        lengths: Vec<usize>,
    },
    /// The gateway dials, whatever became of the link before; the new one is so far away.
    Dial {
        latency_us: u64,
    },
    /// The gateway dials until there is a link.
    Reconnect,
    /// Both sides notice that the link is gone; or one does; or nobody, and it carries only so many bytes more that way.
    Cut,
    GatewayLoses,
    AgentLoses,
    CutAfter {
        way: usize,
        bytes: u64,
    },
    Stall {
        way: usize,
        for_us: u64,
    },
    /// A side doubts that its link is alive, and asks.
    Doubt {
        on: On,
    },
    AgentRestarts,
    GoAway {
        on: On,
    },
    Intrude(Intrusion),
}

/// What a port does from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    AsBefore,
    /// Has room for so many bytes, without bound; takes so many each 30 ms.
    Room(u64),
    TakesAll,
    Takes(u64),
    /// Gives so many bytes at a time.
    Chunk(usize),
    Ends,
    Fails,
    /// Breaks once so many bytes more were taken.
    BreaksAfter(u64),
    Says(u64),
}

impl Scenario {
    pub fn from_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (near, far) = (shape(&mut random), shape(&mut random));
        let link = LinkShape {
            latency_us: random.below(40_000),
            rate: Some(100_000 + random.below(3_000_000)),
            jitter_us: random.below(4_000),
            seed,
        };
        let mut events = vec![Event { at_us: 0, what: What::Dial { latency_us: link.latency_us } }];
        let mut at_us = 0;
        while events.len() < EVENTS {
            let what = what(&mut random, events.len() as u64);
            at_us += wait(&mut random);
            let ends_link = matches!(what, What::Cut | What::GatewayLoses | What::AgentLoses | What::CutAfter { .. });
            events.push(Event { at_us, what });
            if ends_link && !random.one_in(3) {
                at_us += wait(&mut random);
                events.push(Event { at_us, what: What::Dial { latency_us: random.below(60_000) } });
            }
        }
        Self { seed, near, far, link, events }
    }
}

fn shape(random: &mut Random) -> Shape {
    let streams = 1 + random.below(40) as u16;
    let receive = usize::from(streams) * 512 + random.below(200_000) as usize;
    Shape { streams, replay: MIN_REPLAY + random.below(200_000) as usize, receive }
}

/// Microseconds until the next thing happens: mostly within a round trip or two, at times longer than streams wait.
fn wait(random: &mut Random) -> u64 {
    let most = match random.below(120) {
        0 => 130_000_000,
        1..4 => 1_500_000,
        4..28 => 200_000,
        _ => 20_000,
    };
    random.below(most)
}

fn what(random: &mut Random, key: u64) -> What {
    let on = if random.one_in(2) { On::Gateway } else { On::Agent };
    let pick = random.next() % 1_000;
    match random.below(100) {
        0..38 => {
            let size = [150_000, 40_000, 40_000, 6_000, 6_000, 6_000, 6_000, 100][random.below(8) as usize];
            let services = ["echo", "echo", "sink", "source", "both", "deaf", "nothing", "mail", "mail"];
            let service = services[random.below(9) as usize];
            let (say, answer) = (random.below(size), random.below(size));
            What::Open { on, service, key, say, answer, habit: habit(random) }
        }
        38..58 => What::Change { on, pick, habit: habit(random) },
        58..64 => What::Reset { on, pick, reason: ResetReason(random.below(7) as u8) },
        64..73 => {
            let length = |random: &mut Random| {
                let most = if random.one_in(8) { 16_000 } else { 200 };
                8 + random.below(most) as usize
            };
            What::Letters { pick, lengths: (0..1 + random.below(20)).map(|_| length(random)).collect() }
        }
        73..91 => trouble(random),
        91 if random.one_in(4) => What::AgentRestarts,
        91 if random.one_in(4) => What::GoAway { on },
        91..96 => What::Intrude(Intrusion::random(random)),
        96 => What::Doubt { on },
        _ => What::Reconnect,
    }
}

fn trouble(random: &mut Random) -> What {
    let way = random.below(2) as usize;
    match random.below(10) {
        0 => What::Cut,
        1 => What::GatewayLoses,
        2 => What::AgentLoses,
        // Another latency than before: a later Hello may arrive first.
        3..6 => What::Dial { latency_us: random.below(60_000) },
        6 => What::Reconnect,
        7 => What::Stall { way, for_us: random.below(500_000) },
        _ => What::CutAfter { way, bytes: random.below(40_000) },
    }
}

fn habit(random: &mut Random) -> Habit {
    match random.below(10) {
        0 => Habit::Room(random.below(5_000)),
        1 => Habit::TakesAll,
        2 => Habit::Chunk(1 + random.below(2_000) as usize),
        3 => Habit::Ends,
        4 if random.one_in(3) => Habit::Fails,
        5 if random.one_in(3) => Habit::BreaksAfter(random.below(4_000)),
        6 => Habit::Takes(1 + random.below(3_000)),
        7 => Habit::Says(random.below(10_000)),
        _ => Habit::AsBefore,
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { near, far, link, .. } = self;
        for (name, shape) in [("gateway", near), ("agent", far)] {
            writeln!(f, "  {name:7} {} streams, ring {}, pool {}", shape.streams, shape.replay, shape.receive)?;
        }
        let rate = link.rate.map_or("any rate".to_owned(), |rate| format!("{rate} bytes/s"));
        writeln!(f, "  link    {} us each way, {} us of jitter, {rate}", link.latency_us, link.jitter_us)?;
        for event in &self.events {
            writeln!(f, "  {:.6} s  {:?}", event.at_us as f64 / 1e6, event.what)?;
        }
        Ok(())
    }
}
