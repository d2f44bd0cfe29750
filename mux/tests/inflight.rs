//! exploration
mod support;

use support::link::LinkShape;
use support::pair::{Pair, percentile};
use umbilical_mux::Shape;

fn explore(name: &str, shape: LinkShape, seconds: u64) {
    let memory = Shape { streams: 64, replay: 1024 * 1024, receive: 2 * 1024 * 1024 };
    let mut pair = Pair::of(memory, memory, shape);
    let ping = pair.near.open(pair.now(), "echo:1", 0).unwrap();
    let mut idle: Vec<u64> = (0..50)
        .map(|_| {
            pair.run(37);
            pair.ping(ping)
        })
        .collect();
    let upload = pair.near.open(pair.now(), "sink:2", u64::MAX / 2).unwrap();
    pair.run(5_000);
    pair.link().ways[0].reset_measures();
    let (t0, g0) = (pair.now_us(), pair.far.got(upload));
    let mut busy = Vec::new();
    let mut random = support::random::Random::new(3);
    while pair.now_us() < t0 + seconds * 1_000_000 {
        pair.run(20 + random.below(60));
        busy.push(pair.ping(ping));
    }
    let took = pair.now_us() - t0;
    let goodput = (pair.far.got(upload) - g0) as f64 * 8.0 / took as f64;
    let way = &mut pair.link().ways[0];
    let util = way.busy_ns as f64 / 1000.0 / took as f64;
    let mut waits: Vec<u64> = way.waits.iter().map(|w| u64::from(*w)).collect();
    let e = pair.near.session.link_estimate();
    println!(
        "{name:28} util {util:.3} goodput {goodput:7.2} Mbit/s  wait p50 {:6} p95 {:6} max {:6}  idle p50 {:6} p99 {:6} busy +p50 {:6} +p99 {:6}  est {e:?}",
        percentile(&mut waits, 0.5),
        percentile(&mut waits, 0.95),
        percentile(&mut waits, 1.0),
        percentile(&mut idle, 0.5),
        percentile(&mut idle, 0.99),
        percentile(&mut busy, 0.5) as i64 - percentile(&mut idle, 0.5) as i64,
        percentile(&mut busy, 0.99) as i64 - percentile(&mut idle, 0.5) as i64
    );
}

#[test]
fn explore_all() {
    for jitter in [0, 1000, 2000] {
        explore(&format!("10M 0.7ms j{jitter}"), LinkShape::new(10.0, 0.7).jitter_us(jitter), 40);
        explore(&format!("50M 40ms j{jitter}"), LinkShape::new(50.0, 40.0).jitter_us(jitter), 40);
        explore(&format!("2M 100ms j{jitter}"), LinkShape::new(2.0, 100.0).jitter_us(jitter), 40);
        explore(&format!("1G 0.2ms j{jitter}"), LinkShape::new(1000.0, 0.2).jitter_us(jitter), 3);
    }
}
#[test]
fn trace() {
    let memory = Shape { streams: 64, replay: 1024 * 1024, receive: 2 * 1024 * 1024 };
    let mut pair = Pair::of(memory, memory, LinkShape::new(50.0, 40.0).jitter_us(2000));
    let ping = pair.near.open(pair.now(), "echo:1", 0).unwrap();
    for _ in 0..50 {
        pair.run(37);
        pair.ping(ping);
    }
    let t00 = pair.now_us();
    pair.near.open(pair.now(), "sink:2", u64::MAX / 2).unwrap();
    while pair.now_us() < t00 + 25_000_000 {
        pair.link().ways[0].reset_measures();
        let t0 = pair.now_us();
        pair.run(20);
        let took = pair.now_us() - t0;
        let way = &mut pair.link().ways[0];
        let util = way.busy_ns as f64 / 1000.0 / took as f64;
        let mut waits: Vec<u64> = way.waits.iter().map(|w| u64::from(*w)).collect();
        let e = pair.near.session.link_estimate();
        if waits.is_empty() {
            waits.push(0)
        }
        println!(
            "{:8} util {util:.2} waits {:5} {:5}  {:?} {} of {}",
            (pair.now_us() - t00) / 1000,
            percentile(&mut waits, 0.0),
            percentile(&mut waits, 1.0),
            e.round_trip_us,
            e.in_flight,
            e.limit
        );
    }
}
#[test]
fn sweep() {
    for mbit in [0.5, 2.0, 10.0, 30.0, 100.0, 1000.0] {
        for rtt in [0.2, 2.0, 10.0, 40.0, 100.0, 300.0] {
            if mbit * rtt > 30_000.0 {
                continue;
            }
            for jitter in [0, 500, 2000] {
                explore(
                    &format!("{mbit}M {rtt}ms j{jitter}"),
                    LinkShape::new(mbit, rtt).jitter_us(jitter),
                    if mbit > 500.0 { 3 } else { 20 },
                );
            }
        }
    }
}
