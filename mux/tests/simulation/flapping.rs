//! A day of a link that comes and goes: streams go on, and in the end there is as much memory as before.
//!
//! Sessions never ask for memory; what they could lose is the use of what they were lent. So it is measured in use: how many
//! streams can be opened, and how much the agent takes for a port that takes nothing.

use umbilical_mux::{Mode, ResetReason, Resumption};

use crate::support::invariant::Invariant;
use crate::support::link::LinkShape;
use crate::support::pair::{BACK, Pair, THERE};
use crate::support::ports::Then;
use crate::support::random::Random;
use crate::support::storage::SHAPE;

const DAY_US: u64 = 24 * 3_600 * 1_000_000;

/// Bytes that a block of the pool holds.
const BLOCK: u64 = 254;

/// A terminal: its stream is open all day.
const SHELL: u64 = 1;

const FAILS: Then = Then::Fail(ResetReason::FAILED);

fn link(seed: u64) -> LinkShape {
    LinkShape { latency_us: 15_000, ..LinkShape::new(20.0, 30.0) }.jitter_us(2_000).seed(seed)
}

/// What there is to use: streams that can be opened beside those that are, and bytes that the agent takes for a stream that
/// was fast and whose port then stopped.
fn capacity(pair: &mut Pair, key: u64) -> (u64, u64) {
    pair.shape = link(1);
    pair.connect();
    pair.near.open(pair.now(), &format!("sink:{key}"), 20_000_000).expect("room");
    pair.run(3_000);
    pair.far.change(key, |port| port.room = 0);
    pair.run(3_000);
    let bytes = pair.near.ports.port(key).said - pair.far.got(key);
    let mut streams = 1;
    while pair.near.open(pair.now(), &format!("sink:{}", key + streams), 0).is_ok() {
        streams += 1;
    }
    pair.run(1_000);
    assert!((key..key + streams).all(|key| pair.far.ports.is_open(key)), "the agent has as much room");
    for key in key..key + streams {
        pair.near.reset(key, ResetReason::ABORTED);
    }
    pair.run(1_000);
    (streams, bytes)
}

struct Day {
    pair: Pair,
    random: Random,
    next_key: u64,
    shell_said: u64,
}

impl Day {
    fn new() -> Self {
        let mut pair = Pair::of(SHAPE, SHAPE, link(1));
        pair.near.open(pair.now(), &format!("echo:{SHELL}"), 0).expect("room");
        Self { pair, random: Random::new(24), next_key: 1_000, shell_said: 0 }
    }

    fn run(&mut self, us: u64) {
        self.pair.run_until(self.pair.now_us() + us);
    }

    /// A keystroke, and a client that comes for a while, from either side.
    fn use_it(&mut self) {
        self.pair.near.say(SHELL, 64);
        self.shell_said += 64;
        let key = self.next_key;
        self.next_key += 1;
        let (say, answer) = (self.random.below(20_000), self.random.below(40_000));
        let now = self.pair.now();
        let host = if self.random.one_in(3) { &mut self.pair.far } else { &mut self.pair.near };
        let opened = match self.random.below(4) {
            0 => host.open_with(now, &format!("mail:{key}"), Mode::Datagram, |port| port.then = FAILS),
            1 => host.open_with(now, &format!("echo:{key}"), Mode::Stream, |port| {
                (port.to_say, port.then) = (say, Then::End);
            }),
            _ => host.open_with(now, &format!("source:{key}:{answer}"), Mode::Stream, |port| {
                (port.to_say, port.then) = (say, Then::End);
            }),
        };
        if opened.is_ok() && self.random.one_in(5) {
            host.change(key, |port| port.then = FAILS);
        }
        // What is over is told no more.
        self.pair.far.ports.ended.clear();
        self.pair.near.ports.ended.clear();
        self.pair.heard = [Vec::new(), Vec::new()];
    }

    /// The link goes, one way or another, for up to a minute and a half.
    fn flap(&mut self) {
        match self.random.below(6) {
            0 => self.pair.cut(),
            1 => self.pair.lose_near(),
            2 => self.pair.lose_far(),
            3 => self.pair.link().ways[THERE].carries_bytes = self.random.below(5_000),
            4 => self.pair.link().ways[BACK].carries_bytes = self.random.below(5_000),
            _ => {}
        }
        let most = if self.random.one_in(20) { 90_000_000 } else { 4_000_000 };
        let away = self.random.below(most);
        self.run(away);
        self.pair.links.clear();
        self.pair.shape = link(self.random.next());
        self.pair.dial();
        if self.random.one_in(3) {
            // Another one within the same round trip.
            let soon = self.random.below(30_000);
            self.run(soon);
            self.pair.dial();
        }
    }
}

#[test]
fn a_day_of_a_flapping_link_leaves_memory_where_it_was() {
    let mut day = Day::new();
    let before = capacity(&mut day.pair, 100);
    while day.pair.now_us() < DAY_US {
        for _ in 0..3 {
            day.use_it();
            let pause = day.random.below(4_000_000);
            day.run(pause);
        }
        day.flap();
    }
    let links = day.pair.near.resumptions.len();
    let resumed = day.pair.near.resumptions.iter().filter(|one| matches!(one, Resumption::Resumed { .. })).count();
    assert!(links > 6_000 && resumed == links - 1, "{resumed} of {links} links went on with the session");
    let after = capacity(&mut day.pair, 200);
    // Where the last grants fell differs by a few bytes; a block of the pool that is lost is more.
    let same = before.0 == after.0 && before.1.abs_diff(after.1) < BLOCK;
    Invariant::Memory.require(same, || format!("streams and bytes were {before:?} and are {after:?}"));
    assert_eq!(day.pair.near.got(SHELL), day.shell_said, "the terminal has every key echoed");
    day.pair.near.change(SHELL, |port| port.then = Then::End);
    day.pair.settle();
    day.pair.assert_empty();
}

#[test]
fn a_port_that_keeps_a_little_back_shows_in_the_memory_left() {
    let mut day = Day::new();
    let before = capacity(&mut day.pair, 100);
    day.pair.near.open(day.pair.now(), "deaf:50", 3_000).expect("room");
    day.run(1_000_000);
    let after = capacity(&mut day.pair, 200);
    assert!(after.0 == before.0 - 1 && after.1 + BLOCK <= before.1, "{before:?} and then {after:?}");
}
