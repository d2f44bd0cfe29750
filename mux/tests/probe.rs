//! A link that is in doubt: the peer answers, whether or not it owes anything, and nobody answers an answer.

mod support;

use support::link::LinkShape;
use support::pair::Pair;
use support::ports::Then;

const MS: u64 = 1_000;
const ONE_WAY_US: u64 = 5 * MS;

fn idle() -> Pair {
    let mut pair = Pair::over(LinkShape { latency_us: ONE_WAY_US, ..LinkShape::new(100.0, 10.0) });
    pair.near.open(pair.now(), "echo:1", 10_000).expect("room");
    pair.near.change(1, |port| port.then = Then::End);
    pair.settle();
    pair
}

/// Messages that come over within 100 ms.
fn delivered(pair: &mut Pair) -> u64 {
    let before = pair.delivered;
    pair.run(100);
    pair.delivered - before
}

#[test]
fn an_idle_peer_answers_once() {
    let mut pair = idle();
    assert_eq!(delivered(&mut pair), 0, "it is idle");
    for _ in 0..3 {
        pair.near.session.probe();
        assert_eq!(delivered(&mut pair), 2, "a question and an answer");
        pair.far.session.probe();
        assert_eq!(delivered(&mut pair), 2, "a question and an answer");
    }
}

#[test]
fn both_may_ask_at_once() {
    let mut pair = idle();
    pair.near.session.probe();
    pair.far.session.probe();
    assert_eq!(delivered(&mut pair), 4);
}

#[test]
fn an_answer_says_nothing_of_the_round_trip() {
    let mut pair = idle();
    let before = pair.near.session.link_estimate().round_trip_us;
    pair.run(30_000);
    pair.near.session.probe();
    pair.run(100);
    assert_eq!(pair.near.session.link_estimate().round_trip_us, before);
}

#[test]
fn a_question_that_was_not_asked_is_not_for_the_next_link() {
    let messages_of_the_next_link = |asked: bool| {
        let mut pair = idle();
        pair.cut();
        if asked {
            pair.near.session.probe();
        }
        pair.run(100);
        let before = pair.delivered;
        pair.connect();
        pair.settle();
        pair.delivered - before
    };
    assert_eq!(messages_of_the_next_link(true), messages_of_the_next_link(false));
}
