//! Two sessions under random streams, ports that are slow or fail, and links that are cut, delayed and taken over.
//!
//! Each run is a seed. `UMBILICAL_SIM_STEPS` sets how many things happen in all (default: a few seconds' worth),
//! `UMBILICAL_SIM_SEED` repeats one run; a run that fails says its seed. Ports check each byte, `support/audit.rs` the
//! credit at each step, sessions their own sums in debug builds.
#![allow(clippy::cast_possible_truncation, reason = "the numbers of the tests are small")]

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use support::link::LinkShape;
use support::pair::{Host, Pair};
use support::ports::{Pace, Port, Then};
use support::random::Random;
use umbilical_mux::{End, Instant, MIN_REPLAY, Mode, ResetReason, Shape};

const STEPS: u64 = 3_000;
const STEPS_PER_RUN: u64 = 200;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is {text:?}")))
}

#[test]
fn whatever_happens_every_byte_arrives_once_and_in_order() {
    if let Some(seed) = number("UMBILICAL_SIM_SEED") {
        Run::new(seed).go();
        return;
    }
    let mut closed = 0;
    for seed in 0..number("UMBILICAL_SIM_STEPS").unwrap_or(STEPS).div_ceil(STEPS_PER_RUN) {
        let run = catch_unwind(AssertUnwindSafe(|| Run::new(seed).go()));
        closed += run.unwrap_or_else(|_| panic!("run {seed} failed: repeat it with UMBILICAL_SIM_SEED={seed}"));
    }
    assert!(closed > 100, "only {closed} streams ended in order: this simulates nothing");
}

struct Run {
    random: Random,
    pair: Pair,
    next_key: u64,
    /// Numbers of the datagrams handed to each stream's near port.
    letters: BTreeMap<u64, u64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut shape = || {
            let streams = 1 + random.below(40) as u16;
            let receive = usize::from(streams) * 512 + random.below(200_000) as usize;
            Shape { streams, replay: MIN_REPLAY + random.below(200_000) as usize, receive }
        };
        let (near, far) = (shape(), shape());
        let link = LinkShape {
            latency_us: random.below(40_000),
            rate: Some(100_000 + random.below(3_000_000)),
            jitter_us: random.below(4_000),
            seed,
        };
        Self { pair: Pair::unlinked(near, far, link), random, next_key: 1, letters: BTreeMap::new() }
    }

    /// How many streams ended in order.
    fn go(mut self) -> u64 {
        for _ in 0..STEPS_PER_RUN {
            self.something_happens();
            let wait = match self.random.below(40) {
                0 => 1_500_000,
                1 => 130_000_000,
                2..10 => 200_000,
                _ => 20_000,
            };
            let until = self.pair.now_us() + self.random.below(wait);
            self.pair.run_until(until);
            self.check_letters();
        }
        self.end()
    }

    fn something_happens(&mut self) {
        match self.random.below(100) {
            0..40 => self.open(),
            40..60 => self.change_a_port(),
            60..66 => self.reset_a_stream(),
            66..76 => self.send_letters(),
            76..96 => self.trouble_the_link(),
            96 => self.pair.restart_far(Shape { streams: 8, replay: MIN_REPLAY, receive: 20_000 }),
            _ => self.reconnect(),
        }
    }

    fn side(&mut self) -> (Instant, &mut Host) {
        let now = self.pair.now();
        let host = if self.random.one_in(2) { &mut self.pair.near } else { &mut self.pair.far };
        (now, host)
    }

    /// A key that is open on `host`.
    fn pick(random: &mut Random, host: &Host) -> Option<u64> {
        let keys = host.ports.keys();
        keys.get(random.below(keys.len() as u64) as usize).copied()
    }

    fn open(&mut self) {
        let mut random = Random::new(self.random.next());
        let key = self.next_key;
        self.next_key += 1;
        let size = if random.one_in(10) { 150_000 } else { 6_000 };
        let (say, answer) = (random.below(size), random.below(size));
        let (service, mode) = match random.below(9) {
            0 | 1 => (format!("echo:{key}"), Mode::Stream),
            2 => (format!("sink:{key}"), Mode::Stream),
            3 => (format!("source:{key}:{answer}"), Mode::Stream),
            4 => (format!("both:{key}:{answer}"), Mode::Stream),
            5 => (format!("deaf:{key}:{answer}"), Mode::Stream),
            6 => (format!("nothing:{key}"), Mode::Stream),
            _ => (format!("mail:{key}"), Mode::Datagram),
        };
        let (now, host) = self.side();
        // A full table, or a peer that is going away, is an answer too.
        let opened = host.open_with(now, &service, mode, |port| {
            if mode == Mode::Stream {
                port.to_say = say;
            }
            alter(&mut random, port, now);
        });
        if opened.is_ok() && mode == Mode::Datagram {
            self.letters.insert(key, 0);
        }
    }

    fn change_a_port(&mut self) {
        let mut random = Random::new(self.random.next());
        let (now, host) = self.side();
        if let Some(key) = Self::pick(&mut random, host) {
            host.change(key, |port| alter(&mut random, port, now));
        }
    }

    fn reset_a_stream(&mut self) {
        let mut random = Random::new(self.random.next());
        let (_, host) = self.side();
        if let Some(key) = Self::pick(&mut random, host) {
            host.reset(key, ResetReason(random.below(12) as u8));
        }
    }

    fn send_letters(&mut self) {
        let open = |key: &u64| self.pair.near.ports.is_open(*key);
        let Some(key) = self.letters.keys().copied().find(open) else { return };
        let next = self.letters.get_mut(&key).expect("a key of it");
        for _ in 0..1 + self.random.below(20) {
            *next += 1;
            let length = 8 + if self.random.one_in(8) { self.random.below(16_000) } else { self.random.below(200) };
            let mut letter = vec![*next as u8; length as usize];
            letter[..8].copy_from_slice(&next.to_le_bytes());
            self.pair.near.change(key, |port| port.letters_out.push_back(letter));
        }
    }

    /// Datagrams come whole, each at most once, in order.
    fn check_letters(&self) {
        for key in self.letters.keys().filter(|key| self.pair.far.ports.is_open(**key)) {
            let mut last = 0;
            for letter in &self.pair.far.ports.port(*key).letters_in {
                let (number, rest) = letter.split_first_chunk().expect("a number in front");
                let number = u64::from_le_bytes(*number);
                assert!(number > last, "datagram {number} of stream {key} came after {last}");
                assert!(rest.iter().all(|byte| *byte == number as u8), "datagram {number} of stream {key} is mixed up");
                last = number;
            }
        }
    }

    fn trouble_the_link(&mut self) {
        let what = self.random.below(8);
        if self.pair.links.len() > 4 {
            self.pair.links.remove(0);
        }
        match what {
            0 => self.pair.cut(),
            1 => self.pair.lose_near(),
            2 => self.pair.lose_far(),
            3 | 4 => self.pair.dial(),
            5 => self.reconnect(),
            _ => {
                let until = self.pair.now_us() + self.random.below(500_000);
                let way = self.random.below(2) as usize;
                let carries = self.random.below(30);
                let Some(link) = self.pair.links.last_mut() else { return self.reconnect() };
                if what == 6 {
                    link.ways[way].stalled_until = until;
                } else {
                    link.ways[way].carries = carries;
                }
            }
        }
    }

    fn reconnect(&mut self) {
        for _ in 0..3 {
            self.pair.dial();
            if self.pair.run_while(60_000, |pair| !pair.is_linked()) {
                return;
            }
        }
        panic!("no link after three dials");
    }

    /// All ports do what they can, the link holds: everything ends, and what ended in order is complete.
    fn end(mut self) -> u64 {
        self.reconnect();
        if self.random.one_in(4) {
            self.side().1.session.go_away(1_000);
        }
        for _ in 0..3 {
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
            self.pair.settle();
        }
        self.check_letters();
        self.pair.assert_empty();
        let mut closed = 0;
        for (key, near) in &self.pair.near.ports.ended {
            let Some(far) = self.pair.far.ports.ended.get(key) else { continue };
            if (near.end, far.end) != (End::Closed, End::Closed) {
                continue;
            }
            closed += 1;
            let counts = (near.port.got, far.port.got);
            assert_eq!(counts, (far.port.said, near.port.said), "bytes of stream {key} are missing");
            assert!(near.port.finished && far.port.finished, "stream {key} was not ended on both sides");
        }
        closed
    }
}

/// Some new habits for a port.
fn alter(random: &mut Random, port: &mut Port, now: Instant) {
    let next = now.as_micros() + 1 + random.below(50_000);
    match random.below(10) {
        0 => port.room = random.below(5_000),
        1 => port.room = u64::MAX,
        2 => port.chunk = 1 + random.below(2_000) as usize,
        3 if port.then == Then::Wait => port.then = Then::End,
        4 if port.then == Then::Wait && random.one_in(3) => port.then = Then::Fail(ResetReason::FAILED),
        5 if random.one_in(3) => port.breaks_after = Some((port.got + random.below(4_000), ResetReason::ABORTED)),
        6 => port.take_pace = Some(Pace { bytes: 1 + random.below(3_000), every_us: 30_000, next }),
        7 if port.mode == Mode::Stream && port.then == Then::Wait => port.to_say += random.below(10_000),
        _ => {}
    }
}
