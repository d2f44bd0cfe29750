//! Who gets how much of the link: busy streams the same, sparse ones at once.

mod support;

use support::link::LinkShape;
use support::pair::{Pair, percentile};
use support::storage::SHAPE;
use umbilical_mux::{Mode, Shape};

const AMPLE: Shape = Shape { streams: 128, replay: 1024 * 1024, receive: 1024 * 1024 };

fn shares(pair: &Pair, keys: impl Iterator<Item = u64>, before: &[u64]) -> Vec<u64> {
    keys.zip(before).map(|(key, before)| pair.far.got(key) - before).collect()
}

/// The smallest share by the mean, and the largest.
fn spread(shares: &[u64]) -> (f64, f64) {
    let mean = shares.iter().sum::<u64>() as f64 / shares.len() as f64;
    let (least, most) = (shares.iter().min().expect("shares"), shares.iter().max().expect("shares"));
    (*least as f64 / mean, *most as f64 / mean)
}

#[test]
fn fifty_busy_streams_get_the_same() {
    for shape in [LinkShape::new(10.0, 0.7), LinkShape::new(50.0, 40.0), LinkShape::new(200.0, 0.2)] {
        for memory in [SHAPE, AMPLE] {
            let mut pair = Pair::of(memory, memory, shape.clone());
            for key in 1..=50 {
                // Not all at once: latecomers get the same as those that were there.
                pair.run(key % 7);
                pair.near.open(pair.now(), &format!("sink:{key}"), u64::MAX / 2).expect("room");
            }
            pair.run(1_000);
            let before: Vec<u64> = (1..=50).map(|key| pair.far.got(key)).collect();
            pair.run(2_000);
            let (least, most) = spread(&shares(&pair, 1..=50, &before));
            assert!(least >= 0.8 && most <= 1.25, "{shape:?}, {memory:?}: {least:.2} to {most:.2} of the mean");
        }
    }
}

#[test]
fn a_sparse_stream_does_not_wait_for_busy_ones() {
    for shape in [LinkShape::new(10.0, 0.7), LinkShape::new(50.0, 40.0)] {
        let mut pair = Pair::of(AMPLE, AMPLE, shape.clone());
        pair.near.open(pair.now(), "echo:1", 0).expect("room");
        pair.run(500);
        let idle = pair.ping(1);
        for key in 10..60 {
            pair.near.open(pair.now(), &format!("sink:{key}"), u64::MAX / 2).expect("room");
        }
        pair.run(2_000);
        let mut late: Vec<u64> = Vec::new();
        for _ in 0..100 {
            pair.run(29);
            late.push(pair.ping(1) - idle);
        }
        // Fifty records of the busy ones would be 55 ms on the slower link.
        let (p50, p99) = (percentile(&mut late, 0.5), percentile(&mut late, 0.99));
        assert!(p50 <= 5_000 && p99 <= 12_000, "{shape:?}: {p50} and {p99} us over the idle round trip");
    }
}

#[test]
fn streams_that_fall_silent_now_and_then_do_not_starve_a_busy_one() {
    // Forty requests and answers that begin again as soon as they are done, more than the link can carry.
    let mut pair = Pair::of(AMPLE, AMPLE, LinkShape::new(10.0, 2.0));
    for key in 10..50 {
        pair.near.open(pair.now(), &format!("echo:{key}"), 900).expect("room");
    }
    pair.near.open(pair.now(), "sink:1", u64::MAX / 2).expect("room");
    let mut asked: Vec<u64> = vec![900; 40];
    let start = pair.now_us();
    while pair.step(start + 5_000_000) {
        for (key, asked) in (10..50).zip(&mut asked) {
            if pair.near.got(key) == *asked {
                pair.near.say(key, 900);
                *asked += 900;
            }
        }
    }
    let bulk = pair.far.got(1) as f64;
    let others = asked.iter().sum::<u64>() as f64 / 40.0;
    assert!(bulk >= 0.5 * others, "the busy stream got {bulk} bytes, each of the others {others}");
    assert!(asked.iter().all(|asked| *asked as f64 >= 0.7 * others), "{asked:?}");
}

#[test]
fn datagrams_do_not_starve_busy_streams() {
    let mut pair = Pair::of(AMPLE, AMPLE, LinkShape::new(10.0, 2.0));
    pair.near
        .open_with(pair.now(), "mail:1", Mode::Datagram, |port| port.letters_out.extend(vec![vec![7; 1_000]; 20_000]))
        .expect("room");
    pair.near.open(pair.now(), "sink:2", u64::MAX / 2).expect("room");
    pair.run(5_000);
    let (mail, bulk) = (pair.far.ports.port(1).letters_in.len() as u64 * 1_000, pair.far.got(2));
    assert!(bulk >= mail / 2 && mail >= bulk / 2, "datagrams {mail} bytes, the stream {bulk}");
}

#[test]
fn control_frames_go_before_everything() {
    // With the link full of bulk, an open and its answer take about one round trip more than the standing queue.
    let mut pair = Pair::of(AMPLE, AMPLE, LinkShape::new(10.0, 20.0));
    for key in 10..40 {
        pair.near.open(pair.now(), &format!("sink:{key}"), u64::MAX / 2).expect("room");
    }
    pair.run(3_000);
    for key in 100..130 {
        let start = pair.now_us();
        pair.near.open(pair.now(), &format!("source:{key}:1"), 0).expect("room");
        assert!(pair.run_while(1_000, |pair| pair.near.ports.is_open(key) && pair.near.got(key) == 0));
        let took = pair.now_us() - start;
        assert!(took <= 20_000 + 9_000, "stream {key}: first byte after {took} us");
        pair.run(31);
    }
}
