//! Datagrams: whole or not at all, without credit, never stored.

#![allow(clippy::cast_possible_truncation, reason = "the numbers of the tests are small")]

mod support;

use support::link::LinkShape;
use support::pair::Pair;
use support::random::Random;
use support::storage::SHAPE;
use umbilical_mux::{End, MAX_DATAGRAM, MIN_REPLAY, Mode, ResetReason, Shape};

fn letter(number: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(number);
    (0..length).map(|_| random.next() as u8).collect()
}

fn open_mail(pair: &mut Pair, key: u64) {
    pair.near.open_with(pair.now(), &format!("mail:{key}"), Mode::Datagram, |_| {}).expect("room");
}

fn send(pair: &mut Pair, key: u64, letter: Vec<u8>) {
    pair.near.change(key, |port| port.letters_out.push_back(letter));
}

#[test]
fn borders_are_kept_at_any_length() {
    let mut pair = Pair::over(LinkShape::new(50.0, 10.0));
    open_mail(&mut pair, 1);
    let lengths = [0, 1, 0, 2, 63, 64, 65, 1_472, 1_473, 9_000, MAX_DATAGRAM - 1, MAX_DATAGRAM, 0, 5];
    let letters: Vec<_> = (0..).zip(lengths).map(|(number, length)| letter(number, length)).collect();
    for letter in &letters {
        send(&mut pair, 1, letter.clone());
    }
    pair.run(1_000);
    assert!(pair.far.ports.port(1).letters_in == letters, "other datagrams than sent");
    // And back.
    pair.far.change(1, |port| port.letters_out.extend(letters.iter().cloned()));
    pair.run(1_000);
    assert!(pair.near.ports.port(1).letters_in == letters, "other datagrams than answered");
}

#[test]
fn what_a_port_does_not_take_is_dropped_and_not_stored() {
    let mut pair = Pair::over(LinkShape::new(50.0, 10.0));
    open_mail(&mut pair, 1);
    pair.run(100);
    pair.far.change(1, |port| port.room = 0);
    for number in 0..500 {
        send(&mut pair, 1, letter(number, 4_000));
        pair.run(3);
        assert_eq!(pair.far.session.pool_used(), 0);
    }
    pair.run(100);
    pair.far.change(1, |port| port.room = u64::MAX);
    pair.run(100);
    assert_eq!(pair.far.ports.port(1).letters_in.len(), 0, "datagrams of before were kept");
    send(&mut pair, 1, letter(1_000, 100));
    pair.run(100);
    assert_eq!(pair.far.ports.port(1).letters_in, [letter(1_000, 100)]);
}

#[test]
fn they_need_no_credit() {
    // A pool that would be full after 512 bytes; far more than that arrives.
    let small = Shape { streams: 1, receive: 512, ..SHAPE };
    let mut pair = Pair::of(small, small, LinkShape::new(50.0, 10.0));
    open_mail(&mut pair, 1);
    for number in 0..200 {
        send(&mut pair, 1, letter(number, 2_000));
    }
    pair.run(2_000);
    assert_eq!(pair.far.ports.port(1).letters_in.len(), 200);
}

#[test]
fn they_outlive_a_link_once_each_and_in_order() {
    for cut in 0..25 {
        let mut pair = Pair::over(LinkShape::new(20.0, 10.0));
        open_mail(&mut pair, 1);
        for number in 0..60 {
            send(&mut pair, 1, letter(number, number as usize * 20));
        }
        pair.link().ways[0].carries = cut;
        pair.run(200);
        pair.cut();
        pair.connect();
        pair.run(1_000);
        let all: Vec<_> = (0..60).map(|number| letter(number, number as usize * 20)).collect();
        assert!(pair.far.ports.port(1).letters_in == all, "cut after {cut} messages");
    }
}

#[test]
fn the_smallest_ring_carries_the_largest_datagram_beside_a_busy_stream() {
    let tight = Shape { replay: MIN_REPLAY, ..SHAPE };
    let mut pair = Pair::of(tight, tight, LinkShape::new(50.0, 10.0));
    pair.near.open(pair.now(), "sink:2", u64::MAX / 2).expect("room");
    open_mail(&mut pair, 1);
    for number in 0..20 {
        send(&mut pair, 1, letter(number, MAX_DATAGRAM));
    }
    pair.run(5_000);
    assert_eq!(pair.far.ports.port(1).letters_in.len(), 20);
    assert!(pair.far.got(2) > 500_000, "the stream goes on beside: {}", pair.far.got(2));
}

#[test]
fn a_half_that_ends_is_told_and_a_broken_port_resets() {
    let mut pair = Pair::over(LinkShape::new(50.0, 10.0));
    open_mail(&mut pair, 1);
    open_mail(&mut pair, 2);
    send(&mut pair, 1, letter(1, 10));
    pair.near.change(1, |port| port.then = support::ports::Then::End);
    pair.near.change(2, |port| port.then = support::ports::Then::Fail(ResetReason::FAILED));
    pair.run(100);
    assert!(pair.far.ports.port(1).finished);
    assert_eq!(pair.far.ports.port(1).letters_in, [letter(1, 10)]);
    assert_eq!(pair.far.ports.end(2), Some(End::Reset(ResetReason::FAILED)));
    pair.far.change(1, |port| port.then = support::ports::Then::End);
    pair.settle();
    pair.assert_empty();
}

/// A datagram longer than any frame can carry never gets into a session: ports read into [`MAX_DATAGRAM`] bytes.
#[test]
fn a_port_is_always_offered_room_for_the_longest_datagram() {
    let mut pair = Pair::over(LinkShape::new(1.0, 50.0));
    open_mail(&mut pair, 1);
    for key in 2..10 {
        pair.near.open(pair.now(), &format!("echo:{key}"), u64::MAX / 2).expect("room");
    }
    // The port asserts that each one fits what it is offered, among all that a slow link makes small.
    for number in 0..30 {
        send(&mut pair, 1, letter(number, MAX_DATAGRAM));
        send(&mut pair, 1, letter(number, 3));
        pair.run(50);
    }
    pair.run(60_000);
    assert_eq!(pair.far.ports.port(1).letters_in.len(), 60);
}

/// A stream that was woken for nothing is asked first, with the room that it would need; then it is the datagram's turn.
#[test]
fn they_do_not_wait_behind_a_stream_that_has_nothing_to_say() {
    let mut pair = Pair::over(LinkShape::new(50.0, 10.0));
    pair.near.open(pair.now(), "sink:1", 0).expect("room");
    open_mail(&mut pair, 2);
    pair.run(1_000);
    pair.near.change(1, |_| {});
    send(&mut pair, 2, letter(1, 100));
    pair.run(1_000);
    assert_eq!(pair.far.ports.port(2).letters_in, [letter(1, 100)]);
}
