//! A saturating transfer uses the link and leaves no queue: the figure this product stands for.
//!
//! Utilisation is the share of time that the simulated link sends, so what framing costs is not in it; goodput is. Waits
//! are what each message finds in the link's queue. The echo's 64 bytes travel beside the transfer, and what they take
//! beyond the idle round trip is held against 5 ms at the median and 12 ms at the 99th percentile.

mod support;

use support::link::LinkShape;
use support::pair::{Pair, percentile};
use support::random::Random;
use umbilical_mux::Shape;

const ECHO: u64 = 1;
const BULK: u64 = 2;

/// Memory that no link here exhausts: what it does when it is small is told by `the_agents_defaults`.
const AMPLE: Shape = Shape { streams: 64, replay: 1024 * 1024, receive: 2 * 1024 * 1024 };

/// One way of the link, as a transfer on it has to share it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Up,
    Down,
}

#[derive(Debug)]
struct Figures {
    utilisation: f64,
    goodput_megabit: f64,
    /// Microseconds: waits in the link's queue, and the echo beyond its idle median.
    wait_p50: u64,
    echo_p50: u64,
    echo_p99: u64,
}

impl Figures {
    fn check(&self, name: &str, utilisation: f64, wait: u64, echo: (u64, u64)) {
        assert!(self.utilisation >= utilisation, "{name}: utilisation below {utilisation}: {self:?}");
        assert!(self.wait_p50 <= wait, "{name}: a standing queue of more than {wait} us: {self:?}");
        assert!(self.echo_p50 <= echo.0 && self.echo_p99 <= echo.1, "{name}: the echo is late: {self:?}");
    }
}

/// A session with an echo whose idle round trip was measured, in microseconds.
fn with_echo(memory: Shape, shape: LinkShape) -> (Pair, u64) {
    let mut pair = Pair::of(memory, memory, shape);
    pair.near.open(pair.now(), "echo:1", 0).expect("room");
    let mut idle: Vec<u64> = Vec::new();
    for _ in 0..40 {
        pair.run(41);
        idle.push(pair.ping(ECHO));
    }
    (pair, percentile(&mut idle, 0.5))
}

fn begin_bulk(pair: &mut Pair, way: Way) {
    let now = pair.now();
    match way {
        Way::Up => pair.near.open(now, "sink:2", u64::MAX / 2).expect("room"),
        Way::Down => pair.near.open(now, "both:2:9000000000000000000", 0).expect("room"),
    };
}

/// Measures for `seconds`, with the echo asked now and then.
fn measure(pair: &mut Pair, idle: u64, way: Way, seconds: u64) -> Figures {
    let index = usize::from(way == Way::Down);
    let carried = |pair: &Pair| if index == 0 { pair.far.got(BULK) } else { pair.near.got(BULK) };
    pair.link().ways[index].reset_measures();
    let (start, before) = (pair.now_us(), carried(pair));
    let (mut echoes, mut random) = (Vec::new(), Random::new(start));
    while pair.now_us() < start + seconds * 1_000_000 {
        pair.run(15 + random.below(40));
        echoes.push(pair.ping(ECHO).saturating_sub(idle));
    }
    let took = (pair.now_us() - start) as f64;
    let bytes = carried(pair) - before;
    let way = &pair.link().ways[index];
    let mut waits: Vec<u64> = way.waits.iter().copied().map(u64::from).collect();
    Figures {
        utilisation: way.busy_ns as f64 / 1_000.0 / took,
        goodput_megabit: bytes as f64 * 8.0 / took,
        wait_p50: percentile(&mut waits, 0.5),
        echo_p50: percentile(&mut echoes, 0.5),
        echo_p99: percentile(&mut echoes, 0.99),
    }
}

/// The figures of a transfer that has been going for two seconds.
fn saturate(memory: Shape, shape: LinkShape, way: Way, seconds: u64) -> Figures {
    let (mut pair, idle) = with_echo(memory, shape);
    begin_bulk(&mut pair, way);
    pair.run(2_000);
    measure(&mut pair, idle, way, seconds)
}

#[test]
fn a_slow_uplink_is_full_and_has_no_queue() {
    for noise in [0, 1_000, 2_000] {
        let figures = saturate(AMPLE, LinkShape::new(10.0, 0.7).jitter_us(noise), Way::Up, 20);
        figures.check(&format!("10 Mbit/s, 0.7 ms, noise {noise}"), 0.98, 4_500, (5_500, 10_000));
        assert!(figures.goodput_megabit >= 9.3, "{figures:?}");
    }
}

#[test]
fn a_long_link_is_full_and_has_no_queue() {
    for noise in [0, 1_000, 2_000] {
        let figures = saturate(AMPLE, LinkShape::new(50.0, 40.0).jitter_us(noise), Way::Up, 20);
        figures.check(&format!("50 Mbit/s, 40 ms, noise {noise}"), 0.97, 4_500, (5_500, 12_000));
        assert!(figures.goodput_megabit >= 46.5, "{figures:?}");
    }
}

#[test]
fn a_very_slow_long_link_holds_two_packets() {
    // One packet takes 6 ms here: an echo waits for the one being sent, and one more.
    for noise in [0, 1_000, 2_000] {
        let figures = saturate(AMPLE, LinkShape::new(2.0, 100.0).jitter_us(noise), Way::Up, 40);
        figures.check(&format!("2 Mbit/s, 100 ms, noise {noise}"), 0.97, 12_000, (13_000, 25_000));
    }
}

#[test]
fn a_fast_link_is_full() {
    for noise in [0, 1_000, 2_000] {
        let figures = saturate(AMPLE, LinkShape::new(1_000.0, 0.2).jitter_us(noise), Way::Up, 2);
        figures.check(&format!("1 Gbit/s, 0.2 ms, noise {noise}"), 0.97, 4_500, (5_000, 8_000));
    }
}

#[test]
fn downwards_is_as_good() {
    for shape in [LinkShape::new(10.0, 0.7), LinkShape::new(50.0, 40.0)] {
        let figures = saturate(AMPLE, shape.clone(), Way::Down, 20);
        figures.check(&format!("downwards, {shape:?}"), 0.97, 4_500, (5_000, 12_000));
    }
}

#[test]
fn the_rate_is_followed_down_and_up() {
    let (mut pair, idle) = with_echo(AMPLE, LinkShape::new(10.0, 0.7));
    begin_bulk(&mut pair, Way::Up);
    pair.run(2_000);
    measure(&mut pair, idle, Way::Up, 5).check("10 Mbit/s at first", 0.98, 4_500, (5_000, 10_000));
    pair.link().set_rate(2.0);
    pair.run(1_000);
    measure(&mut pair, idle, Way::Up, 10).check("then 2 Mbit/s", 0.98, 12_000, (16_000, 25_000));
    pair.link().set_rate(10.0);
    pair.run(1_000);
    measure(&mut pair, idle, Way::Up, 10).check("10 Mbit/s again", 0.98, 4_500, (5_000, 10_000));
}

#[test]
fn the_rate_of_a_long_link_is_followed_down_and_up() {
    let (mut pair, idle) = with_echo(AMPLE, LinkShape::new(50.0, 40.0));
    begin_bulk(&mut pair, Way::Up);
    pair.run(2_000);
    pair.link().set_rate(10.0);
    pair.run(2_000);
    measure(&mut pair, idle, Way::Up, 10).check("then 10 Mbit/s", 0.97, 4_500, (6_000, 12_000));
    pair.link().set_rate(50.0);
    pair.run(3_000);
    measure(&mut pair, idle, Way::Up, 10).check("50 Mbit/s again", 0.97, 4_500, (5_000, 12_000));
}

#[test]
fn a_burst_after_an_idle_minute_is_no_worse() {
    for shape in [LinkShape::new(10.0, 0.7), LinkShape::new(50.0, 40.0)] {
        let (mut pair, idle) = with_echo(AMPLE, shape.clone());
        pair.near.open(pair.now(), "sink:2", 20_000_000).expect("room");
        assert!(pair.run_while(60_000, |pair| !pair.far.ports.is_open(BULK) || pair.far.got(BULK) < 20_000_000));
        pair.run(60_000);
        pair.near.say(BULK, u64::MAX / 4);
        // From the first moment on: an echo may meet the start of it, not a queue that stays.
        let first = measure(&mut pair, idle, Way::Up, 3);
        assert!(first.echo_p50 <= 5_000 && first.echo_p99 <= 30_000, "{first:?}");
        measure(&mut pair, idle, Way::Up, 10).check("after an idle minute", 0.97, 4_500, (5_000, 12_000));
    }
}

#[test]
fn a_stalled_reader_does_not_fool_it() {
    for shape in [LinkShape::new(10.0, 0.7), LinkShape::new(50.0, 40.0)] {
        let (mut pair, idle) = with_echo(AMPLE, shape.clone());
        // One reader never takes a byte, another one stops and goes on every now and then.
        pair.near.open(pair.now(), "deaf:3", u64::MAX / 2).expect("room");
        pair.near.open(pair.now(), "sink:4", u64::MAX / 2).expect("room");
        begin_bulk(&mut pair, Way::Up);
        pair.run(2_000);
        let mut worst = 0;
        for _ in 0..5 {
            pair.far.change(4, |port| port.room = 0);
            let figures = measure(&mut pair, idle, Way::Up, 2);
            worst = worst.max(figures.echo_p99);
            assert!(figures.utilisation >= 0.93, "{shape:?}: {figures:?}");
            pair.far.change(4, |port| port.room = u64::MAX);
            let figures = measure(&mut pair, idle, Way::Up, 2);
            worst = worst.max(figures.echo_p99);
            assert!(figures.utilisation >= 0.95 && figures.echo_p50 <= 5_000, "{shape:?}: {figures:?}");
        }
        assert!(worst <= 14_000, "{shape:?}: echo p99 {worst}");
    }
}

#[test]
fn fifty_transfers_leave_no_more_queue_than_one() {
    for shape in [LinkShape::new(10.0, 0.7), LinkShape::new(50.0, 40.0)] {
        let (mut pair, idle) = with_echo(AMPLE, shape.clone());
        begin_bulk(&mut pair, Way::Up);
        for key in 10..59 {
            pair.near.open(pair.now(), &format!("sink:{key}"), u64::MAX / 2).expect("room");
        }
        pair.run(3_000);
        measure(&mut pair, idle, Way::Up, 10).check(&format!("50, {shape:?}"), 0.97, 4_500, (5_000, 12_000));
    }
}

#[test]
fn the_base_does_not_creep_up_in_five_minutes() {
    for shape in [LinkShape::new(10.0, 0.7).jitter_us(300), LinkShape::new(50.0, 40.0).jitter_us(300)] {
        // Nobody asks for an echo: nothing small ever shows the bare round trip.
        let mut pair = Pair::of(AMPLE, AMPLE, shape.clone());
        begin_bulk(&mut pair, Way::Up);
        pair.run(5_000);
        let mut minutes = Vec::new();
        for _ in 0..5 {
            pair.link().ways[0].reset_measures();
            pair.run(60_000);
            let way = &pair.link().ways[0];
            let utilisation = way.busy_ns as f64 / 60e9;
            let mut waits: Vec<u64> = way.waits.iter().copied().map(u64::from).collect();
            assert!(utilisation >= 0.97, "{shape:?}: {utilisation}");
            minutes.push(percentile(&mut waits, 0.5));
        }
        assert!(minutes.iter().all(|p50| *p50 <= 4_500), "{shape:?}: standing queue each minute, in us: {minutes:?}");
    }
}

#[test]
fn a_relay_on_the_same_host_says_nothing_of_the_link_behind_it() {
    // What the kernel says of a loopback; the narrow link is beyond the relay.
    let (mut pair, idle) = with_echo(AMPLE, LinkShape::new(10.0, 0.7));
    pair.near.session.set_segment(65_483, 30);
    begin_bulk(&mut pair, Way::Up);
    pair.run(2_000);
    measure(&mut pair, idle, Way::Up, 20).check("10 Mbit/s behind a relay", 0.98, 4_500, (5_000, 10_000));
}

#[test]
fn messages_fill_whole_packets() {
    for (segment, framing) in [(1_448, 30), (1_448, 0), (1_200, 26)] {
        let mut pair = Pair::of(AMPLE, AMPLE, LinkShape::new(10.0, 0.7));
        pair.near.session.set_segment(segment, framing);
        begin_bulk(&mut pair, Way::Up);
        pair.run(2_000);
        // Each asks for an acknowledgement here, so that what is left for the record is the same for all.
        let way = &mut pair.link().ways[0];
        let longest = way.lengths.iter().max().expect("messages") + usize::from(framing);
        assert_eq!(
            longest % usize::from(segment),
            0,
            "{longest} bytes, {framing} of them framing, {segment} to a packet"
        );
    }
}

#[test]
fn the_agents_defaults_fill_a_link_of_their_size() {
    let defaults = Shape { streams: 64, replay: 256 * 1024, receive: 256 * 1024 };
    for (megabit, utilisation) in [(10.0, 0.97), (30.0, 0.95)] {
        for way in [Way::Up, Way::Down] {
            let shape = LinkShape::new(megabit, 40.0);
            let figures = saturate(defaults, shape, way, 10);
            figures.check(&format!("defaults, {megabit} Mbit/s, 40 ms, {way:?}"), utilisation, 5_000, (5_500, 14_000));
        }
    }
}
