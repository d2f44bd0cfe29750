//! Credit: backed by the pool at every step, enough for a fast stream, given back by an idle one.
//!
//! After each step of a pair, `support/audit.rs` checks from the frames alone that nobody sends more than was granted
//! and that what is granted or waiting fits the pool; sessions check in debug builds that the pool's memory suffices.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of the tests are small")]

mod support;

use support::link::LinkShape;
use support::pair::Pair;
use support::ports::{Pace, Then};
use support::random::Random;
use support::storage::SHAPE;
use umbilical_mux::{End, ResetReason, Shape};

const ENDLESS: u64 = u64::MAX / 2;

/// 5 MB/s and a round trip of 20 ms: the link holds 100 KB, the pool two and a half times that.
fn link() -> LinkShape {
    LinkShape::new(40.0, 20.0)
}

/// What every stream may count on, with the default shape.
const FLOOR: u64 = 1_024;

fn open_sinks(pair: &mut Pair, keys: impl Iterator<Item = u64>, kind: &str) {
    for key in keys {
        pair.near.open(pair.now(), &format!("{kind}:{key}"), ENDLESS).expect("room");
    }
}

/// Bytes that arrive for `key` within a second.
fn in_a_second(pair: &mut Pair, key: u64) -> u64 {
    let before = pair.far.got(key);
    pair.run(1_000);
    pair.far.got(key) - before
}

#[test]
fn the_window_of_a_fast_stream_grows_until_it_fills_the_link() {
    let mut pair = Pair::over(link());
    open_sinks(&mut pair, 1..2, "sink");
    pair.run(2_000);
    let bytes = in_a_second(&mut pair, 1);
    assert!(bytes >= 4_500_000, "{bytes} bytes in a second of a link for 5,000,000");
}

#[test]
fn a_lone_stream_gets_most_of_the_pool() {
    let mut pair = Pair::over(LinkShape::new(200.0, 20.0));
    open_sinks(&mut pair, 1..2, "sink");
    pair.run(2_000);
    pair.far.change(1, |port| port.room = 0);
    pair.run(2_000);
    let waiting = pair.near.ports.port(1).said - pair.far.got(1);
    let pool = SHAPE.receive as u64;
    assert!((pool * 6 / 10..=pool).contains(&waiting), "{waiting} bytes wait in a pool of {pool}");
    // All of it comes out again.
    pair.far.change(1, |port| port.room = u64::MAX);
    pair.near.change(1, |port| (port.to_say, port.then) = (0, Then::End));
    pair.run(1_000);
    assert_eq!(pair.far.got(1), pair.near.ports.port(1).said);
    assert!(pair.far.ports.port(1).finished);
}

#[test]
fn a_stuck_reader_holds_nobody_up() {
    let mut pair = Pair::over(link());
    // Those that never read hold no more than their floors.
    open_sinks(&mut pair, 100..150, "deaf");
    pair.run(2_000);
    assert_eq!(pair.far.session.pool_used(), 0);
    assert_eq!(pair.near.session.counters().credit_stalls, 50, "each waits for its reader, and once");
    for key in 100..150 {
        assert_eq!(pair.near.ports.port(key).said, FLOOR);
    }
    open_sinks(&mut pair, 1..2, "sink");
    pair.run(2_000);
    let bytes = in_a_second(&mut pair, 1);
    assert!(bytes >= 4_500_000, "{bytes} bytes in a second beside 50 stuck readers");
}

#[test]
fn a_reader_that_stuck_while_it_was_fast_leaves_the_others_their_floors() {
    let mut pair = Pair::over(LinkShape::new(200.0, 20.0));
    open_sinks(&mut pair, 1..2, "sink");
    pair.run(2_000);
    pair.far.change(1, |port| port.room = 0);
    pair.run(1_000);
    assert!(pair.far.session.pool_used() > 128 * 1024, "it holds most of the pool");
    open_sinks(&mut pair, 2..12, "sink");
    pair.run(500);
    for key in 2..12 {
        // A floor for each round trip and a half at the least.
        let bytes = in_a_second(&mut pair, key);
        assert!(bytes >= FLOOR * 33, "stream {key}: {bytes} bytes in a second");
    }
    // Its reset gives all back.
    pair.far.reset(1, ResetReason::ABORTED);
    pair.run(1_000);
    let bytes = in_a_second(&mut pair, 2);
    assert!(bytes >= 500_000, "{bytes} bytes in a second once the pool is free again");
}

#[test]
fn a_slow_reader_keeps_a_small_window() {
    let mut pair = Pair::over(link());
    for key in 1..=30 {
        pair.near.open(pair.now(), &format!("deaf:{key}"), ENDLESS).expect("room");
    }
    pair.run(500);
    for key in 1..=30 {
        let next = pair.now_us() + key * 1_000;
        pair.far.change(key, |port| port.take_pace = Some(Pace { bytes: 500, every_us: 100_000, next }));
    }
    for _ in 0..100 {
        pair.run(100);
        let used = pair.far.session.pool_used();
        assert!(used <= 30 * 2_048, "{used} bytes held beyond the floors by 5 KB/s readers");
    }
    for key in 1..=30 {
        let bytes = in_a_second(&mut pair, key);
        assert!((4_000..=5_000).contains(&bytes), "stream {key}: {bytes} bytes in a second at 5,000");
    }
}

#[test]
fn an_idle_stream_gives_its_credit_back() {
    let mut pair = Pair::over(link());
    for key in [1, 2] {
        pair.near.open(pair.now(), &format!("sink:{key}"), 3_000_000).expect("room");
    }
    pair.run(300);
    assert!(pair.far.session.pool_used() > 40_000, "windows grew");
    assert!(pair.run_while(10_000, |pair| pair.far.got(1) + pair.far.got(2) < 6_000_000));
    pair.run(500);
    assert!(pair.far.session.pool_used() > 40_000, "it may want to go on");
    pair.run(2_500);
    assert_eq!(pair.far.session.pool_used(), 0, "bytes of the pool held by idle streams");
    // And it grows again.
    pair.near.say(1, ENDLESS);
    pair.run(2_000);
    assert!(in_a_second(&mut pair, 1) >= 4_500_000);
}

#[test]
fn a_stream_that_ends_or_breaks_gives_its_credit_back() {
    let mut pair = Pair::over(link());
    open_sinks(&mut pair, 1..4, "sink");
    pair.run(2_000);
    assert!(pair.far.session.pool_used() > 40_000);
    pair.near.change(1, |port| (port.to_say, port.then) = (0, Then::End));
    pair.near.reset(2, ResetReason::ABORTED);
    pair.far.change(3, |port| port.breaks_after = Some((0, ResetReason::FAILED)));
    pair.run(500);
    assert!(pair.far.ports.is_open(1), "its other half is open");
    assert_eq!(pair.far.session.pool_used(), 0);
    assert_eq!(pair.near.ports.end(3), Some(End::Reset(ResetReason::FAILED)));
}

#[test]
fn many_fast_streams_share_the_pool() {
    let mut pair = Pair::over(LinkShape::new(200.0, 20.0));
    open_sinks(&mut pair, 1..33, "sink");
    pair.run(3_000);
    let before: Vec<u64> = (1..33).map(|key| pair.far.got(key)).collect();
    pair.run(3_000);
    let mut bytes: Vec<u64> = (1..33).zip(before).map(|(key, before)| pair.far.got(key) - before).collect();
    bytes.sort_unstable();
    let mean = bytes.iter().sum::<u64>() / 32;
    assert!(bytes[0] * 10 >= mean * 8, "the smallest share is {} of {mean}", bytes[0]);
    // The window of a stream is its share of the pool: nobody gets by on the floor alone.
    assert!(bytes[0] >= 3 * 3 * FLOOR * 50, "{} bytes", bytes[0]);
    assert!(pair.far.audit.peak >= SHAPE.receive as u64 / 2, "{} bytes of the pool were used", pair.far.audit.peak);
}

/// Readers that take odd amounts, stop, go on and break, in pools of every kind.
#[test]
fn the_pool_backs_every_byte_whatever_readers_do() {
    let shapes = [
        Shape { streams: 1, receive: 512, ..SHAPE },
        Shape { streams: 1, ..SHAPE },
        Shape { streams: 64, receive: 64 * 512, ..SHAPE },
        Shape { streams: 5, receive: 10_000, ..SHAPE },
        SHAPE,
    ];
    for (seed, shape) in (0..).zip(shapes.into_iter().cycle()).take(5) {
        let mut random = Random::new(seed);
        let mut pair = Pair::of(SHAPE, shape, LinkShape::new(10.0, 4.0));
        let mut next_key = 1;
        for _ in 0..120 {
            let open: Vec<u64> = pair.far.ports.keys();
            let key = open.get(random.below(open.len() as u64) as usize).copied();
            match (random.below(6), key) {
                (0 | 1, _) | (_, None) => {
                    let kind = if random.one_in(2) { "sink" } else { "deaf" };
                    if pair.near.open(pair.now(), &format!("{kind}:{next_key}"), ENDLESS).is_ok() {
                        next_key += 1;
                    }
                }
                (2, Some(key)) => pair.far.change(key, |port| port.room = 0),
                (3, Some(key)) => pair.far.change(key, |port| port.room = random.below(3_000)),
                (4, Some(key)) => pair.far.change(key, |port| port.room = u64::MAX),
                (_, Some(key)) if random.one_in(3) => pair.far.reset(key, ResetReason::ABORTED),
                (_, Some(key)) => pair.near.change(key, |port| port.chunk = 1 + random.below(300) as usize),
            }
            let at = pair.now_us() + random.below(20_000);
            pair.run_until(at);
        }
        // What is on its way arrives, and then everything ends.
        for _ in 0..2 {
            for key in pair.near.ports.keys() {
                pair.near.change(key, |port| (port.to_say, port.then) = (0, Then::End));
            }
            for key in pair.far.ports.keys() {
                pair.far.change(key, |port| (port.room, port.then) = (u64::MAX, Then::End));
            }
            pair.settle();
        }
        pair.assert_empty();
    }
}
