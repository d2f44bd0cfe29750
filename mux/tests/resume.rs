//! Links that come and go: every byte arrives once and in order, or the stream is reset with the reason.

mod support;

use support::link::LinkShape;
use support::pair::{BACK, Pair, THERE};
use support::ports::Then;
use support::random::Random;
use support::storage::{RESUME_FOR_MS, SHAPE};
use umbilical_mux::{End, Hello, Mode, OpenError, ResetReason, Resumption, SessionId, Violation};

const ONE_WAY_US: u64 = 5_000;

fn some_way_away() -> LinkShape {
    LinkShape { latency_us: ONE_WAY_US, ..LinkShape::new(100.0, 10.0) }
}

/// Streams of several kinds from both sides. Ports check each byte; `finish` checks that none is missing.
fn begin(pair: &mut Pair) {
    for (key, service, say) in [(1, "echo:1", 60_000), (2, "source:2:90000", 0), (3, "sink:3", 70_000)] {
        pair.near.open(pair.now(), service, say).expect("room");
        pair.near.change(key, |port| port.then = Then::End);
    }
    pair.far.open(pair.now(), "echo:11", 50_000).expect("room");
    pair.far.change(11, |port| port.then = Then::End);
    pair.far.open(pair.now(), "both:12:40000", 30_000).expect("room");
}

fn finish(pair: &mut Pair) {
    let ended = |pair: &Pair, key| pair.near.ports.end(key).is_some() && pair.far.ports.end(key).is_some();
    let all = |pair: &Pair| ended(pair, 1) && ended(pair, 2) && ended(pair, 11) && pair.far.got(12) == 40_000;
    assert!(pair.run_while(60_000, |pair| !(all(pair) && pair.near.got(12) == 30_000)), "something is missing");
    pair.far.change(12, |port| port.then = Then::End);
    pair.near.change(12, |port| port.then = Then::End);
    pair.settle();
    for (key, near, far) in [(1, 60_000, 60_000), (2, 90_000, 0), (11, 50_000, 50_000), (12, 30_000, 40_000)] {
        assert_eq!((pair.near.got(key), pair.far.got(key)), (near, far), "stream {key}");
        let ends = (pair.near.ports.end(key), pair.far.ports.end(key));
        assert_eq!(ends, (Some(End::Closed), Some(End::Closed)), "stream {key}");
    }
    assert_eq!(pair.far.got(3), 70_000);
    assert!(pair.far.ports.port(3).finished, "the end of a half came over");
    pair.far.change(3, |port| port.then = Then::End);
    pair.settle();
    pair.assert_empty();
}

#[test]
fn a_link_may_break_after_any_number_of_messages_in_each_direction() {
    for there in (0..60).step_by(3) {
        for back in (0..60).step_by(4) {
            let mut pair = Pair::over(some_way_away());
            begin(&mut pair);
            (pair.link().ways[0].carries, pair.link().ways[1].carries) = (there, back);
            pair.run(100);
            pair.cut();
            pair.run(50);
            pair.connect();
            assert!(matches!(pair.near.resumptions[..], [Resumption::Fresh, Resumption::Resumed { .. }]));
            finish(&mut pair);
            for counters in [&pair.near, &pair.far].map(|host| host.session.counters()) {
                let (records, bytes) = (counters.records_resent, counters.bytes_resent);
                assert!((records..=records * 65_472).contains(&bytes), "{bytes} bytes in {records} records");
            }
        }
    }
}

#[test]
fn a_link_may_break_at_any_time() {
    for cut_us in (0..40_000).step_by(331) {
        let mut pair = Pair::over(some_way_away().jitter_us(300));
        begin(&mut pair);
        let at = pair.now_us() + cut_us;
        pair.run_until(at);
        pair.cut();
        pair.connect();
        finish(&mut pair);
    }
}

#[test]
fn links_may_break_again_and_again() {
    for messages in 1..40 {
        let mut pair = Pair::over(some_way_away());
        begin(&mut pair);
        for cut in 0..30 {
            // A few more with every link, in one direction and then in the other.
            let (there, back) = if cut % 2 == 0 { (messages, 1) } else { (1, messages) };
            (pair.link().ways[0].carries, pair.link().ways[1].carries) = (there, back);
            pair.run(40);
            pair.cut();
            pair.connect();
        }
        finish(&mut pair);
        assert_eq!(pair.near.refusals, []);
    }
}

#[test]
fn a_hello_or_its_answer_may_be_lost() {
    for (there, back) in [(0, 0), (1, 0), (2, 0), (0, 1)] {
        let mut pair = Pair::over(some_way_away());
        begin(&mut pair);
        for _ in 0..6 {
            pair.run(9);
            pair.cut();
            pair.dial();
            (pair.link().ways[0].carries, pair.link().ways[1].carries) = (there, back);
            pair.run(50);
            assert!(!pair.is_linked());
            pair.connect();
        }
        finish(&mut pair);
    }
}

#[test]
fn a_newer_link_takes_over_while_the_older_one_still_delivers() {
    for wait_us in (0..20_000).step_by(719) {
        let mut pair = Pair::over(some_way_away());
        begin(&mut pair);
        pair.run(7);
        for _ in 0..5 {
            pair.dial();
            let at = pair.now_us() + wait_us;
            pair.run_until(at);
        }
        pair.connect();
        finish(&mut pair);
        assert_eq!(pair.near.resumptions[1..].iter().filter(|begun| **begun == Resumption::Fresh).count(), 0);
    }
}

#[test]
fn a_side_that_does_not_notice_the_end_of_its_link_is_told_by_the_next() {
    for near_notices in [true, false] {
        let mut pair = Pair::over(some_way_away());
        begin(&mut pair);
        pair.run(15);
        pair.links.clear();
        if near_notices {
            pair.lose_near();
        } else {
            pair.lose_far();
        }
        pair.run(3_000);
        pair.connect();
        finish(&mut pair);
    }
}

#[test]
fn many_cuts_at_random_times() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut pair = Pair::over(some_way_away().seed(seed).jitter_us(2_000));
        begin(&mut pair);
        for _ in 0..12 {
            let at = pair.now_us() + random.below(25_000);
            pair.run_until(at);
            match random.below(4) {
                0 => pair.cut(),
                1 => pair.lose_near(),
                2 => pair.lose_far(),
                _ => {}
            }
            pair.dial();
        }
        pair.connect();
        finish(&mut pair);
    }
}

#[test]
fn what_was_opened_said_and_closed_without_a_link_goes_out_with_the_next() {
    let mut pair = Pair::over(some_way_away());
    pair.near.open(pair.now(), "echo:1", 100).expect("room");
    pair.run(100);
    pair.cut();
    pair.near.say(1, 200);
    pair.near.open(pair.now(), "echo:2", 300).expect("room");
    pair.near.open(pair.now(), "sink:3", 400).expect("room");
    pair.near.reset(3, ResetReason::ABORTED);
    pair.far.reset(1, ResetReason::FAILED);
    pair.run(1_000);
    let reads = (pair.near.ports.reads, pair.far.ports.reads);
    assert!(pair.near.ports.is_open(1), "nobody told it yet");
    pair.run(1_000);
    assert_eq!((pair.near.ports.reads, pair.far.ports.reads), reads, "ports are not read without a link");
    pair.connect();
    pair.settle();
    assert_eq!(pair.near.ports.end(1), Some(End::Reset(ResetReason::FAILED)));
    assert_eq!(pair.near.got(2), 300);
    assert_eq!(pair.far.ports.open(), 1, "a stream reset before it was announced is never heard of");
}

#[test]
fn a_go_away_that_was_lost_is_said_again() {
    for carries in 0..6 {
        let mut pair = Pair::over(some_way_away());
        begin(&mut pair);
        pair.run(11);
        pair.link().ways[1].carries = carries;
        pair.far.session.go_away(30_000);
        pair.run(100);
        pair.cut();
        pair.connect();
        pair.run(20);
        assert!(pair.near.session.peer_is_going_away());
        assert_eq!(pair.near.open(pair.now(), "echo:99", 1), Err(OpenError::GoingAway));
        assert_eq!(pair.far.open(pair.now(), "echo:99", 1), Err(OpenError::GoingAway));
        finish(&mut pair);
    }
}

#[test]
fn a_going_away_side_says_so_to_a_peer_that_restarted() {
    let mut pair = Pair::over(some_way_away());
    pair.near.session.go_away(30_000);
    pair.run(100);
    assert!(pair.far.session.peer_is_going_away());
    pair.cut();
    pair.restart_far(SHAPE);
    pair.connect();
    pair.run(100);
    assert!(pair.far.session.peer_is_going_away());
}

#[test]
fn a_peer_that_forgot_makes_it_begin_anew_and_old_streams_end_with_that_reason() {
    let mut pair = Pair::over(some_way_away());
    begin(&mut pair);
    pair.run(15);
    pair.cut();
    let waiting = pair.near.open(pair.now(), "echo:50", 5_000).expect("room");
    pair.restart_far(SHAPE);
    pair.connect();
    assert_eq!(pair.near.resumptions.last(), Some(&Resumption::Fresh));
    for key in [1, 2, 3] {
        assert_eq!(pair.near.ports.end(key), Some(End::Reset(ResetReason::SESSION_LOST)));
    }
    // What the peer never heard of is as good as new.
    assert!(pair.run_while(1_000, |pair| pair.near.got(waiting) < 5_000));
    pair.near.change(waiting, |port| port.then = Then::End);
    pair.settle();
    pair.assert_empty();
}

/// The answer that says so is lost, as often as it likes: the state of before is not continued by accident.
#[test]
fn a_peer_that_forgot_may_lose_its_answer() {
    for lost in 1..4 {
        for before_ms in [0, 6, 11, 30, 200] {
            let mut pair = Pair::over(some_way_away());
            begin(&mut pair);
            pair.run(before_ms);
            pair.cut();
            pair.restart_far(SHAPE);
            for _ in 0..lost {
                pair.dial();
                pair.link().ways[1].carries = 0;
                pair.far.open(pair.now(), "echo:77", 3_000).expect("room");
                pair.run(50);
                pair.cut();
                if pair.far.ports.is_open(77) {
                    pair.far.reset(77, ResetReason::ABORTED);
                }
                pair.far.ports.ended.clear();
            }
            pair.connect();
            assert_eq!(pair.near.resumptions[..], [Resumption::Fresh, Resumption::Fresh]);
            assert_eq!((pair.near.refusals.len(), pair.far.refusals.len()), (0, 0));
            assert_eq!(pair.near.ports.end(3), Some(End::Reset(ResetReason::SESSION_LOST)));
            let key = pair.near.open(pair.now(), "echo:51", 5_000).expect("room");
            let back = pair.far.open(pair.now(), "echo:52", 5_000).expect("room");
            let done = pair.run_while(1_000, |pair| pair.near.got(key) < 5_000 || pair.far.got(back) < 5_000);
            assert!(done, "the new session works");
        }
    }
}

#[test]
fn the_answer_to_the_first_hello_may_be_lost() {
    let mut pair = Pair::unlinked(SHAPE, SHAPE, some_way_away());
    begin(&mut pair);
    for _ in 0..3 {
        pair.dial();
        pair.link().ways[1].carries = 0;
        pair.run(50);
        pair.cut();
    }
    // The agent said its streams on a link of which the gateway never heard.
    assert!(pair.near.ports.is_open(1) && !pair.near.session.is_established());
    pair.connect();
    assert_eq!(pair.near.resumptions, [Resumption::Fresh]);
    assert!(pair.run_while(10_000, |pair| pair.near.got(1) < 60_000));
    assert_eq!(pair.far.ports.end(11), Some(End::Reset(ResetReason::SESSION_LOST)));
}

/// How the link before is when the next one is dialled.
#[derive(Clone, Copy, Debug)]
enum Before {
    Alive,
    /// The gateway, the agent or nobody knows that it is gone.
    GoneForGateway,
    GoneForAgent,
    GoneForNobody,
    /// It is gone one way only.
    HalfDead(usize),
}

/// Records are in flight both ways; one link or several, within a round trip of each other, take over; perhaps one side is
/// shutting down.
#[test]
fn a_new_link_takes_over_whatever_became_of_the_one_before() {
    let befores = [Before::Alive, Before::GoneForGateway, Before::GoneForAgent, Before::GoneForNobody];
    let befores = befores.into_iter().chain([THERE, BACK].map(Before::HalfDead));
    for before in befores {
        for going in [None, Some(THERE), Some(BACK)] {
            for (dials, apart_us) in [(1, 0), (2, 0), (3, 2_000), (3, 7_000), (2, 11_000)] {
                let mut pair = Pair::over(some_way_away());
                begin(&mut pair);
                pair.run(13);
                match before {
                    Before::Alive => {}
                    Before::HalfDead(way) => pair.link().ways[way].carries = 0,
                    Before::GoneForNobody => pair.links.clear(),
                    Before::GoneForGateway => {
                        pair.links.clear();
                        pair.lose_near();
                    }
                    Before::GoneForAgent => {
                        pair.links.clear();
                        pair.lose_far();
                    }
                }
                match going {
                    Some(THERE) => pair.near.session.go_away(30_000),
                    Some(_) => pair.far.session.go_away(30_000),
                    None => {}
                }
                for dial in 0..dials {
                    // The later one is nearer, and may be there first.
                    pair.shape.latency_us = ONE_WAY_US - dial * 1_500;
                    pair.dial();
                    let at = pair.now_us() + apart_us;
                    pair.run_until(at);
                }
                pair.run_while(1_000, |pair| !pair.is_linked() || pair.dialled().is_some());
                finish(&mut pair);
                let begun = pair.near.resumptions.iter().filter(|one| **one == Resumption::Fresh).count();
                assert_eq!(begun, 1, "{before:?}, going: {going:?}, {dials} dials {apart_us} us apart");
            }
        }
    }
}

/// Each side hears again every `Hello` it ever heard, and those of sessions that have another id.
#[test]
fn what_was_said_before_and_what_is_made_up_is_refused_and_changes_nothing() {
    let mut pair = Pair::over(some_way_away());
    begin(&mut pair);
    for _ in 0..4 {
        pair.run(6);
        pair.connect();
    }
    let now = pair.now();
    let heard = pair.heard.clone();
    assert!(heard.iter().all(|hellos| hellos.len() == 5));
    for (host, hellos) in [(&mut pair.far, &heard[THERE]), (&mut pair.near, &heard[BACK])] {
        for hello in hellos {
            let replayed = host.session.handle_hello(now, hello, &mut host.ports);
            assert_eq!(replayed, Err(Violation::StaleLink(hello.link)));
            for id in 0..=u8::MAX {
                let session = SessionId([id; 16]);
                let forged = Hello { session, link: 6, ..*hello };
                if session != hello.session {
                    let taken = host.session.handle_hello(now, &forged, &mut host.ports);
                    assert_eq!(taken, Err(Violation::WrongSession));
                }
            }
        }
    }
    finish(&mut pair);
}

#[test]
fn a_link_that_is_not_newer_is_refused_and_nothing_changes() {
    let mut pair = Pair::over(some_way_away());
    begin(&mut pair);
    pair.run(15);
    let now = pair.now();
    for link in [0, 1] {
        let hello = pair.near.session.hello(link);
        let refused = pair.far.session.handle_hello(now, &hello, &mut pair.far.ports);
        assert_eq!(refused, Err(Violation::StaleLink(link)));
    }
    let hello = Hello { session: SessionId([8; 16]), ..pair.near.session.hello(9) };
    let refused = pair.far.session.handle_hello(now, &hello, &mut pair.far.ports);
    assert_eq!(refused, Err(Violation::WrongSession));
    finish(&mut pair);
}

#[test]
fn streams_wait_for_a_link_as_long_as_they_may_and_no_longer() {
    let mut pair = Pair::over(some_way_away());
    begin(&mut pair);
    pair.run(15);
    pair.cut();
    pair.run(RESUME_FOR_MS - 11);
    assert_eq!((pair.near.session.streams_open(), pair.far.session.streams_open()), (5, 5));
    pair.connect();
    pair.run(8);
    pair.cut();
    pair.run(RESUME_FOR_MS - 1);
    assert_eq!(pair.near.session.streams_open(), 5, "a link in between begins the time anew");
    pair.run(1);
    for key in [1, 3, 11] {
        for host in [&pair.near, &pair.far] {
            assert_eq!(host.ports.end(key), Some(End::Reset(ResetReason::RESUME_EXPIRED)));
        }
    }
    pair.assert_empty();
    pair.connect();
    assert_eq!(pair.near.resumptions.last(), Some(&Resumption::Fresh));
    let key = pair.near.open(pair.now(), "echo:20", 500).expect("room");
    assert!(pair.run_while(1_000, |pair| pair.near.got(key) < 500));
}

#[test]
fn the_side_that_waits_on_learns_that_the_other_gave_up() {
    for gateway_gives_up in [true, false] {
        let mut pair = Pair::over(some_way_away());
        begin(&mut pair);
        pair.run(15);
        pair.links.clear();
        if gateway_gives_up {
            pair.lose_near();
        } else {
            pair.lose_far();
        }
        pair.run(RESUME_FOR_MS);
        let expired = if gateway_gives_up { &pair.near } else { &pair.far };
        assert_eq!(expired.ports.end(1), Some(End::Reset(ResetReason::RESUME_EXPIRED)));
        pair.connect();
        let waited = if gateway_gives_up { &pair.far } else { &pair.near };
        assert_eq!(waited.ports.end(1), Some(End::Reset(ResetReason::SESSION_LOST)));
        pair.assert_empty();
        pair.near.open(pair.now(), "echo:20", 500).expect("room");
        pair.far.open(pair.now(), "echo:21", 500).expect("room");
        assert!(pair.run_while(1_000, |pair| pair.near.got(20) < 500 || pair.far.got(21) < 500));
    }
}

#[test]
fn an_answer_that_comes_after_the_session_was_given_up_is_refused_and_the_next_begins_anew() {
    let mut pair = Pair::over(some_way_away());
    begin(&mut pair);
    pair.run(15);
    pair.cut();
    pair.run(RESUME_FOR_MS - 7);
    pair.dial();
    // Its own time is over while the answer that goes on with it is on its way.
    pair.run(100);
    assert_eq!(pair.near.refusals, [Violation::StaleLink(2)]);
    assert_eq!(pair.near.ports.end(1), Some(End::Reset(ResetReason::RESUME_EXPIRED)));
    assert!(pair.far.ports.is_open(1));
    pair.connect();
    assert_eq!(pair.far.ports.end(1), Some(End::Reset(ResetReason::SESSION_LOST)));
    pair.assert_empty();
    pair.near.open_with(pair.now(), "mail:20", Mode::Datagram, |_| {}).expect("room");
    pair.run(100);
    assert!(pair.far.ports.is_open(20));
}
