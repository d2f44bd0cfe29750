//! The life of a stream: open with data at once, half-close, reset, refusal, slots used again.

mod support;

use support::link::LinkShape;
use support::pair::Pair;
use support::ports::Then;
use support::storage::SHAPE;
use umbilical_mux::{End, Mode, OpenError, ResetReason, Shape};

const ONE_WAY_US: u64 = 20_000;

fn far_away() -> LinkShape {
    LinkShape { latency_us: ONE_WAY_US, ..LinkShape::ideal() }
}

/// Runs until stream `key` is over on both sides.
fn until_over(pair: &mut Pair, key: u64) -> (End, End) {
    let over = pair.run_while(60_000, |pair| pair.near.ports.end(key).is_none() || pair.far.ports.end(key).is_none());
    assert!(over, "stream {key} is not over after a minute");
    (pair.near.ports.end(key).expect("over"), pair.far.ports.end(key).expect("over"))
}

#[test]
fn the_first_bytes_travel_with_the_open() {
    let mut pair = Pair::over(far_away());
    let start = pair.now_us();
    let key = pair.near.open(pair.now(), "sink:1", 500).expect("room");
    pair.run_while(1_000, |pair| !pair.far.ports.is_open(key) || pair.far.got(key) < 500);
    assert_eq!(pair.now_us() - start, ONE_WAY_US, "one way, no handshake");
}

#[test]
fn a_stream_opened_before_the_first_link_goes_out_with_it() {
    let mut pair = Pair::unlinked(SHAPE, SHAPE, far_away());
    let key = pair.near.open(pair.now(), "echo:1", 10_000).expect("room");
    pair.run(500);
    pair.connect();
    assert!(pair.run_while(1_000, |pair| pair.near.got(key) < 10_000));
}

#[test]
fn both_sides_open_streams() {
    let mut pair = Pair::over(far_away());
    for key in 1..=20 {
        pair.near.open(pair.now(), &format!("echo:{key}"), 30_000).expect("room");
        pair.far.open(pair.now(), &format!("echo:{}", 100 + key), 30_000).expect("room");
    }
    pair.settle();
    for key in 1..=20 {
        assert_eq!((pair.near.got(key), pair.far.got(100 + key)), (30_000, 30_000));
    }
}

#[test]
fn a_half_closed_stream_carries_the_other_half_to_its_end() {
    let mut pair = Pair::over(far_away());
    // The near half ends at once; the echo answers all of it and then ends its own.
    let key = pair.near.open(pair.now(), "echo:1", 100_000).expect("room");
    pair.near.change(key, |port| port.then = Then::End);
    assert_eq!(until_over(&mut pair, key), (End::Closed, End::Closed));
    assert_eq!((pair.near.got(key), pair.far.got(key)), (100_000, 100_000));
    assert!(pair.near.ports.port(key).finished && pair.far.ports.port(key).finished);
    pair.settle();
    pair.assert_empty();
}

#[test]
fn the_far_half_may_end_first() {
    let mut pair = Pair::over(far_away());
    let key = pair.near.open(pair.now(), "source:1:50000", 0).expect("room");
    assert!(pair.run_while(10_000, |pair| !pair.near.ports.port(key).finished));
    assert_eq!(pair.near.got(key), 50_000);
    assert!(pair.near.ports.is_open(key), "this half is still open");
    pair.near.change(key, |port| (port.to_say, port.then) = (70_000, Then::End));
    assert_eq!(until_over(&mut pair, key), (End::Closed, End::Closed));
    assert_eq!(pair.far.got(key), 70_000);
}

#[test]
fn a_stream_without_a_byte_opens_and_closes() {
    let mut pair = Pair::over(far_away());
    let key = pair.near.open(pair.now(), "source:1:0", 0).expect("room");
    pair.near.change(key, |port| port.then = Then::End);
    assert_eq!(until_over(&mut pair, key), (End::Closed, End::Closed));
    pair.settle();
    pair.assert_empty();
}

#[test]
fn the_end_waits_for_a_slow_reader() {
    let mut pair = Pair::over(far_away());
    let key = pair.near.open(pair.now(), "deaf:1", 800).expect("room");
    pair.near.change(key, |port| port.then = Then::End);
    pair.run(5_000);
    assert!(!pair.far.ports.port(key).finished, "bytes still wait for the port");
    pair.far.change(key, |port| (port.room, port.then) = (u64::MAX, Then::End));
    assert_eq!(until_over(&mut pair, key), (End::Closed, End::Closed));
    assert_eq!(pair.far.got(key), 800);
}

#[test]
fn a_reset_reaches_the_other_side_with_its_reason() {
    for reason in [ResetReason::ABORTED, ResetReason::TIMED_OUT, ResetReason(200)] {
        let mut pair = Pair::over(far_away());
        let key = pair.near.open(pair.now(), "both:1:100000000", 100_000_000).expect("room");
        pair.run(500);
        pair.far.reset(key, reason);
        pair.far.ports.port(key);
        assert_eq!(until_over(&mut pair, key), (End::Reset(reason), End::Local(reason)));
        pair.settle();
        pair.assert_empty();
    }
}

#[test]
fn a_reset_from_both_sides_at_once_ends_it_once() {
    let mut pair = Pair::over(far_away());
    let key = pair.near.open(pair.now(), "both:1:100000000", 100_000_000).expect("room");
    pair.run(500);
    pair.near.reset(key, ResetReason::ABORTED);
    pair.far.reset(key, ResetReason::FAILED);
    let ends = (End::Local(ResetReason::ABORTED), End::Local(ResetReason::FAILED));
    assert_eq!(until_over(&mut pair, key), ends);
    pair.settle();
    pair.assert_empty();
}

#[test]
fn a_stream_reset_before_it_was_announced_is_never_heard_of() {
    let mut pair = Pair::over(far_away());
    let key = pair.near.open(pair.now(), "sink:1", 100).expect("room");
    pair.near.reset(key, ResetReason::ABORTED);
    let other = pair.near.open(pair.now(), "sink:2", 100).expect("room");
    pair.settle();
    assert_eq!(pair.near.ports.end(key), Some(End::Local(ResetReason::ABORTED)));
    assert_eq!((pair.far.ports.open(), pair.far.got(other)), (1, 100));
}

#[test]
fn a_port_that_breaks_while_read_or_written_resets_its_stream() {
    let mut pair = Pair::over(far_away());
    let reading = pair.near.open(pair.now(), "sink:1", 5_000).expect("room");
    pair.near.change(reading, |port| port.then = Then::Fail(ResetReason::FAILED));
    let writing = pair.near.open(pair.now(), "source:2:90000", 0).expect("room");
    pair.near.change(writing, |port| port.breaks_after = Some((10_000, ResetReason::ABORTED)));
    // A slow reader breaks when it is given what waited for it.
    let slow = pair.near.open(pair.now(), "deaf:3", 600).expect("room");
    pair.run(100);
    pair.far.change(slow, |port| (port.room, port.breaks_after) = (600, Some((300, ResetReason::UNREACHABLE))));
    pair.settle();
    let ends = |key| (pair.near.ports.end(key).expect("over"), pair.far.ports.end(key).expect("over"));
    assert_eq!(ends(reading), (End::Local(ResetReason::FAILED), End::Reset(ResetReason::FAILED)));
    assert_eq!(pair.far.got(reading), 5_000, "what was said before arrives");
    assert_eq!(ends(writing), (End::Local(ResetReason::ABORTED), End::Reset(ResetReason::ABORTED)));
    assert_eq!(ends(slow), (End::Reset(ResetReason::UNREACHABLE), End::Local(ResetReason::UNREACHABLE)));
    pair.assert_empty();
}

#[test]
fn an_unknown_service_is_refused_and_others_do_not_notice() {
    let mut pair = Pair::over(far_away());
    let refused = pair.near.open(pair.now(), "nothing:1", 100).expect("room");
    let wrong = pair.near.open_with(pair.now(), "echo:2", Mode::Datagram, |_| {}).expect("room");
    let good = pair.near.open(pair.now(), "echo:3", 100).expect("room");
    pair.settle();
    assert_eq!(pair.near.ports.end(refused), Some(End::Reset(ResetReason::NOT_ALLOWED)));
    assert_eq!(pair.near.ports.end(wrong), Some(End::Reset(ResetReason::WRONG_MODE)));
    assert!(pair.far.ports.ended.is_empty(), "what was not accepted is not released");
    assert_eq!(pair.near.got(good), 100);
}

#[test]
fn a_service_name_that_cannot_be_said_fails_its_stream_alone() {
    let mut pair = Pair::over(far_away());
    let long = format!("sink:1:{}", "x".repeat(70));
    let key = pair.near.open(pair.now(), &long, 100).expect("room");
    let good = pair.near.open(pair.now(), "echo:2", 100).expect("room");
    pair.settle();
    assert_eq!(pair.near.ports.end(key), Some(End::Local(ResetReason::NOT_ALLOWED)));
    assert_eq!(pair.near.got(good), 100);
}

#[test]
fn a_full_table_is_known_before_anything_is_sent() {
    let mut pair = Pair::of(Shape { streams: 9, ..SHAPE }, Shape { streams: 3, ..SHAPE }, far_away());
    for key in 1..=3 {
        pair.near.open(pair.now(), &format!("echo:{key}"), 100).expect("room");
    }
    assert_eq!(pair.near.open(pair.now(), "echo:4", 100), Err(OpenError::Full));
    pair.run(200);
    pair.near.change(2, |port| port.then = Then::End);
    until_over(&mut pair, 2);
    let key = pair.near.open(pair.now(), "echo:5", 100).expect("a slot is free again");
    assert!(pair.run_while(1_000, |pair| pair.near.got(key) < 100));
}

#[test]
fn streams_that_cross_and_find_no_slot_are_refused_as_busy() {
    let shape = Shape { streams: 300, ..SHAPE };
    let mut pair = Pair::of(shape, shape, far_away());
    for key in 1..=300 {
        pair.near.open(pair.now(), &format!("echo:{key}"), 100).expect("room");
        pair.far.open(pair.now(), &format!("echo:{}", 1_000 + key), 100).expect("room");
    }
    pair.settle();
    // Each side filled its own table first; then the other's streams came.
    for key in (1..=300).chain(1_001..=1_300) {
        let host = if key > 1_000 { &pair.far } else { &pair.near };
        assert_eq!(host.ports.end(key), Some(End::Reset(ResetReason::BUSY)), "stream {key}");
    }
    pair.assert_empty();
    let key = pair.near.open(pair.now(), "echo:2000", 100).expect("room again");
    pair.settle();
    assert_eq!(pair.near.got(key), 100);
}

#[test]
fn slots_are_used_again_and_bytes_never_mixed_up() {
    let shape = Shape { streams: 4, ..SHAPE };
    let mut pair = Pair::of(shape, shape, LinkShape { latency_us: 1_000, ..LinkShape::ideal() });
    for key in 1..=2_000u64 {
        let open = |pair: &Pair| pair.near.session.streams_open().max(pair.far.session.streams_open());
        assert!(pair.run_while(60_000, |pair| open(pair) >= 4), "streams end");
        pair.near.open(pair.now(), &format!("echo:{key}"), 1 + key * 37 % 5_000).expect("room");
        if key % 3 == 0 {
            pair.near.change(key, |port| port.then = Then::Fail(ResetReason::ABORTED));
        } else {
            pair.near.change(key, |port| port.then = Then::End);
        }
    }
    pair.settle();
    pair.assert_empty();
    let counters = (pair.near.session.counters(), pair.far.session.counters());
    assert_eq!((counters.0.streams_opened, counters.1.streams_opened), (2_000, 2_000));
    assert_eq!(counters.0.streams_reset.total(), 666);
    let reasons: Vec<_> = counters.1.streams_reset.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(reasons, [(ResetReason::ABORTED, 666)]);
    assert_eq!(counters.0.bytes_sent, counters.1.bytes_received);
}

#[test]
fn a_going_away_session_finishes_what_is_open_and_opens_nothing_more() {
    let mut pair = Pair::over(far_away());
    let key = pair.near.open(pair.now(), "echo:1", 200_000).expect("room");
    pair.run(50);
    let late = pair.near.open(pair.now(), "echo:2", 100).expect("not yet told");
    pair.far.session.go_away(5_000);
    assert_eq!(pair.far.open(pair.now(), "echo:3", 1), Err(OpenError::GoingAway));
    pair.run(100);
    assert!(pair.near.session.peer_is_going_away());
    assert_eq!(pair.near.open(pair.now(), "echo:4", 1), Err(OpenError::GoingAway));
    pair.near.change(key, |port| port.then = Then::End);
    assert_eq!(until_over(&mut pair, key), (End::Closed, End::Closed));
    assert_eq!(pair.near.got(key), 200_000);
    assert_eq!(pair.near.ports.end(late), Some(End::Reset(ResetReason::GOING_AWAY)));
    pair.settle();
    pair.assert_empty();
}
