//! One simulated link: whole messages in order, each way with its own latency, rate and noise.
//!
//! What TCP, TLS and WebSocket add is modelled in bytes: 30 for each message, 52 for each packet of 1,448.
//! Each way has a queue without end, so that whatever queue there is, is the session's doing.

use std::collections::VecDeque;

use super::random::Random;

/// What a link is like, each way alike unless said otherwise. All times in microseconds.
#[derive(Clone, Debug)]
pub struct LinkShape {
    pub latency_us: u64,
    /// Bytes per second; `None` is without limit.
    pub rate: Option<u64>,
    /// Messages are late by up to so much, as a host's scheduler would have it.
    pub jitter_us: u64,
    pub seed: u64,
}

impl LinkShape {
    /// A link without limit, latency or noise.
    pub fn ideal() -> Self {
        Self { latency_us: 0, rate: None, jitter_us: 0, seed: 1 }
    }

    pub fn new(megabit: f64, round_trip_ms: f64) -> Self {
        let latency_us = (round_trip_ms * 500.0) as u64;
        Self { latency_us, rate: Some((megabit * 125_000.0) as u64), jitter_us: 0, seed: 1 }
    }

    pub fn jitter_us(self, jitter_us: u64) -> Self {
        Self { jitter_us, ..self }
    }

    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// Bytes of the connection's stream that a message of `length` bytes takes.
fn stream_bytes(length: usize) -> u64 {
    length as u64 + 30
}

/// Bytes on the wire for a message of `length` bytes.
pub fn wire_bytes(length: usize) -> u64 {
    let stream = stream_bytes(length);
    stream + 52 * stream.div_ceil(1_448)
}

/// One way of a link.
#[derive(Debug)]
pub struct Way {
    pub latency_us: u64,
    pub rate: Option<u64>,
    jitter_us: u64,
    random: Random,
    /// When the last byte handed in will have left, in nanoseconds.
    free_at_ns: u64,
    last_arrival: u64,
    /// Nothing arrives before this time.
    pub stalled_until: u64,
    /// So many messages more arrive, and then none; so many bytes of messages with their heads.
    pub carries: u64,
    pub carries_bytes: u64,
    flying: VecDeque<(u64, Vec<u8>)>,
    /// Nanoseconds of sending so far; how long each message waited for those before it, in microseconds; its bytes.
    pub busy_ns: u64,
    pub waits: Vec<u32>,
    pub lengths: Vec<usize>,
}

impl Way {
    fn new(shape: &LinkShape, seed: u64) -> Self {
        Self {
            latency_us: shape.latency_us,
            rate: shape.rate,
            jitter_us: shape.jitter_us,
            random: Random::new(seed),
            free_at_ns: 0,
            last_arrival: 0,
            stalled_until: 0,
            carries: u64::MAX,
            carries_bytes: u64::MAX,
            flying: VecDeque::new(),
            busy_ns: 0,
            waits: Vec::new(),
            lengths: Vec::new(),
        }
    }

    pub fn push(&mut self, now: u64, message: Vec<u8>) {
        let start = self.free_at_ns.max(now * 1_000);
        let takes = self.rate.map_or(0, |rate| wire_bytes(message.len()) * 1_000_000_000 / rate);
        self.waits.push(((start - now * 1_000) / 1_000) as u32);
        self.lengths.push(message.len());
        self.free_at_ns = start + takes;
        self.busy_ns += takes;
        let noise = self.random.below(self.jitter_us + 1);
        let arrival = (self.free_at_ns.div_ceil(1_000) + self.latency_us + noise).max(self.last_arrival);
        self.last_arrival = arrival;
        self.flying.push_back((arrival, message));
    }

    pub fn next_arrival(&self) -> Option<u64> {
        let whole = |message: &Vec<u8>| stream_bytes(message.len()) <= self.carries_bytes;
        let first = self.flying.front().filter(|(_, message)| self.carries > 0 && whole(message));
        first.map(|(at, _)| (*at).max(self.stalled_until))
    }

    /// The next message that has arrived by `now`.
    pub fn pop(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.next_arrival()? > now {
            return None;
        }
        let (_, message) = self.flying.pop_front()?;
        let used = |left: u64, by: u64| if left == u64::MAX { left } else { left - by };
        self.carries = used(self.carries, 1);
        self.carries_bytes = used(self.carries_bytes, stream_bytes(message.len()));
        Some(message)
    }

    /// Whether all that is handed in arrives, and without a stall from `now` on.
    pub fn works(&self, now: u64) -> bool {
        self.carries == u64::MAX && self.carries_bytes == u64::MAX && self.stalled_until <= now
    }

    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Forgets what was measured so far.
    pub fn reset_measures(&mut self) {
        self.busy_ns = 0;
        self.waits.clear();
        self.lengths.clear();
    }
}

/// A link with its number; it exists until it is cut.
#[derive(Debug)]
pub struct Link {
    pub number: u32,
    /// From the gateway to the agent, and back.
    pub ways: [Way; 2],
    /// The agent has seen its first message.
    pub greeted: bool,
}

impl Link {
    pub fn new(number: u32, shape: &LinkShape) -> Self {
        let seed = shape.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number) * 2);
        Self { number, ways: [Way::new(shape, seed), Way::new(shape, seed + 1)], greeted: false }
    }

    /// Whether it carries everything, both ways.
    pub fn works(&self, now: u64) -> bool {
        self.ways.iter().all(|way| way.works(now))
    }

    pub fn set_rate(&mut self, megabit: f64) {
        for way in &mut self.ways {
            way.rate = Some((megabit * 125_000.0) as u64);
        }
    }
}
