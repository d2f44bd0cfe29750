//! For each invariant a bug that breaks it: links that lose, double and change what they carry, hosts that have more memory
//! than they say, a session that forgets. A check that none of them trips would check nothing.

use umbilical_mux::{Frame, Hello, MAX_HELLO, MIN_REPLAY, Shape, Side};

use crate::intruder::Intrusion;
use crate::run::{Failure, play};
use crate::scenario::{Event, Habit, On, Scenario, What};
use crate::shrink::{report, shrink};
use crate::support::audit::{Audit, frames};
use crate::support::host::Host;
use crate::support::hostile::frame;
use crate::support::invariant::Invariant;
use crate::support::link::LinkShape;
use crate::support::pair::{BACK, Pair, THERE, Tamper};

const SHAPE: Shape = Shape { streams: 8, replay: 64 * 1024, receive: 64 * 1024 };

fn scenario(events: impl IntoIterator<Item = (u64, What)>) -> Scenario {
    let dial = (0, What::Dial { latency_us: 20_000 });
    let events = [dial].into_iter().chain(events).map(|(at_ms, what)| Event { at_us: at_ms * 1_000, what }).collect();
    let link = LinkShape { latency_us: 20_000, ..LinkShape::new(24.0, 40.0) };
    Scenario { seed: 0, near: SHAPE, far: SHAPE, link, events }
}

fn open(on: On, service: &'static str, key: u64, bytes: u64) -> What {
    What::Open { on, service, key, say: bytes, answer: bytes, habit: Habit::AsBefore }
}

/// An upload and a download, and another link in the middle.
fn transfers() -> Scenario {
    scenario([
        (0, open(On::Gateway, "both", 1, 900_000)),
        (300, What::Dial { latency_us: 20_000 }),
        (320, What::Change { on: On::Gateway, pick: 0, habit: Habit::Says(50_000) }),
    ])
}

/// What is wrong with `scenario` once `plant` was planted; nothing must be without it.
fn fails(scenario: &Scenario, plant: impl FnOnce(&mut Pair)) -> Failure {
    let sound = play(scenario, |_| {});
    assert!(sound.is_ok(), "{sound:?}");
    play(scenario, plant).expect_err("the planted bug is found")
}

fn assert_breaks(invariant: Invariant, scenario: &Scenario, plant: impl FnOnce(&mut Pair)) {
    let failure = fails(scenario, plant);
    assert_eq!(failure.kind(), invariant.to_string(), "{}", failure.what);
}

/// Whether it carries bytes of streams, or datagrams.
fn is_load(message: &[u8]) -> bool {
    let load = |(frame, _): &(Frame<'_>, _)| matches!(frame, Frame::Data { .. } | Frame::Datagram { .. });
    message.first().is_some_and(|kind| *kind != 0) && frames(message).iter().any(load)
}

/// A link that does something to the `nth` message with load that goes that way.
fn to_load(way: usize, nth: u64, mut change: impl FnMut(Vec<u8>) -> Vec<Vec<u8>> + 'static) -> Tamper {
    let mut count = 0;
    Box::new(move |on, message| {
        count += u64::from(on == way && is_load(&message));
        if on == way && is_load(&message) && count == nth { change(message) } else { vec![message] }
    })
}

/// A link that changes frames that go that way.
fn to_frames(way: usize, mut change: impl FnMut(&mut Frame<'_>) + 'static) -> Tamper {
    Box::new(move |on, message| {
        if on != way || message.first().is_none_or(|kind| *kind == 0) {
            return vec![message];
        }
        let changed = frames(&message).into_iter().map(|(mut one, payload)| {
            change(&mut one);
            [&frame(one), payload].concat()
        });
        vec![changed.collect::<Vec<_>>().concat()]
    })
}

/// Links of which the second changes the `Hello` that goes that way.
fn to_hello(way: usize, mut change: impl FnMut(&mut Hello) + 'static) -> Tamper {
    Box::new(move |on, message| {
        if on != way || message.first() != Some(&0) {
            return vec![message];
        }
        let mut hello = Hello::decode(&message).expect("a hello");
        if hello.link == 2 {
            change(&mut hello);
        }
        vec![hello.encode(&mut [0; MAX_HELLO]).to_vec()]
    })
}

#[test]
fn a_lost_record() {
    for way in [THERE, BACK] {
        let plant = |pair: &mut Pair| pair.tamper = Some(to_load(way, 7, |_| Vec::new()));
        assert_breaks(Invariant::Bytes, &transfers(), plant);
    }
}

#[test]
fn a_record_that_comes_twice() {
    for way in [THERE, BACK] {
        let plant = |pair: &mut Pair| pair.tamper = Some(to_load(way, 7, |message| vec![message.clone(), message]));
        assert_breaks(Invariant::Bytes, &transfers(), plant);
    }
}

#[test]
fn records_in_another_order() {
    let mut kept = None;
    let mut records = 0;
    let swap: Tamper = Box::new(move |way, message| {
        records += u32::from(way == THERE && is_load(&message));
        if way == THERE && records == 7 && kept.is_none() {
            kept = Some(message);
            return Vec::new();
        }
        let late = if way == THERE && records > 7 { kept.take_if(|late| !late.is_empty()) } else { None };
        [Some(message), late].into_iter().flatten().collect()
    });
    assert_breaks(Invariant::Bytes, &transfers(), |pair| pair.tamper = Some(swap));
}

/// What a session would do that counts what it received wrongly.
#[test]
fn a_record_too_many_counted_as_received() {
    for way in [THERE, BACK] {
        let plant = |pair: &mut Pair| pair.tamper = Some(to_hello(way, |hello| hello.received += 1));
        assert_breaks(Invariant::Bytes, &transfers(), plant);
    }
}

#[test]
fn a_datagram_that_comes_twice() {
    let events = [(0, open(On::Gateway, "mail", 1, 0)), (100, What::Letters { pick: 0, lengths: vec![100; 5] })];
    let twice = |message: Vec<u8>| {
        let last = frames(&message).pop().map(|(one, payload)| [&frame(one), payload].concat());
        vec![[message, last.expect("a datagram")].concat()]
    };
    assert_breaks(Invariant::Bytes, &scenario(events), |pair| pair.tamper = Some(to_load(THERE, 3, twice)));
}

#[test]
fn more_credit_than_was_granted() {
    let events = [
        (0, open(On::Gateway, "sink", 1, 150_000)),
        (70, What::Change { on: On::Agent, pick: 0, habit: Habit::Room(9_000) }),
    ];
    let more = to_frames(BACK, |frame| {
        if let Frame::Credit { bytes, .. } = frame {
            *bytes += 5_000;
        }
    });
    assert_breaks(Invariant::Credit, &scenario(events), |pair| pair.tamper = Some(more));
}

/// An agent with another memory than it may have.
fn of_other_memory(pair: &mut Pair, has: Shape, may_have: Shape) {
    pair.far = Host::new(Side::Agent, has);
    let floor = pair.far.session.hello(0).credit;
    pair.far.audit = Audit::new(floor, may_have);
}

#[test]
fn a_pool_that_is_larger_than_it_may_be() {
    let events = [
        (0, open(On::Gateway, "sink", 1, 900_000)),
        (600, What::Change { on: On::Agent, pick: 0, habit: Habit::Room(0) }),
    ];
    let larger = Shape { receive: 4 * SHAPE.receive, ..SHAPE };
    assert_breaks(Invariant::Pool, &scenario(events), |pair| of_other_memory(pair, larger, SHAPE));
}

#[test]
fn a_ring_that_is_larger_than_it_may_be() {
    let events = [(0, open(On::Agent, "sink", 1, 900_000))];
    let small = Scenario { far: Shape { replay: MIN_REPLAY, ..SHAPE }, ..scenario(events) };
    assert_breaks(Invariant::Ring, &small, |pair| of_other_memory(pair, SHAPE, small.far));
}

#[test]
fn a_record_that_is_another_one_when_it_is_sent_again() {
    let [first, second] = [b"one", b"two"].map(|payload| crate::support::hostile::data(1, payload));
    let writes = |again: &[u8]| {
        let mut audit = Audit::new(1_024, SHAPE);
        audit.wrote(&first);
        audit.linked(0, false);
        audit.wrote(again);
    };
    writes(&first);
    let broken = std::panic::catch_unwind(|| writes(&second)).expect_err("the change is noticed");
    let text = broken.downcast::<String>().expect("a text");
    assert!(text.starts_with(&Invariant::Resending.to_string()), "{text}");
}

#[test]
fn acknowledgements_that_never_come() {
    let deaf: Tamper = Box::new(|way, message| {
        let heard = |(one, _): &(Frame<'_>, &[u8])| !matches!(one, Frame::Ack { .. });
        if way == THERE || message.first().is_none_or(|kind| *kind == 0) {
            return vec![message];
        }
        let rest: Vec<u8> = frames(&message)
            .iter()
            .filter(|one| heard(one))
            .flat_map(|(one, payload)| [&frame(*one), *payload].concat())
            .collect();
        if rest.is_empty() { Vec::new() } else { vec![rest] }
    });
    let upload = scenario([(0, open(On::Gateway, "sink", 1, 150_000))]);
    assert_breaks(Invariant::Progress, &upload, |pair| pair.tamper = Some(deaf));
}

#[test]
fn one_stream_that_never_gets_credit() {
    let slow =
        What::Open { on: On::Gateway, service: "source", key: 2, say: 0, answer: 150_000, habit: Habit::Takes(100) };
    let events = [(0, open(On::Gateway, "sink", 1, 50_000)), (10, slow), (60_000, What::Reconnect)];
    let starved = to_frames(BACK, |frame| {
        if let Frame::Credit { stream, bytes } = frame
            && stream.0 == 1
        {
            *bytes = 0;
        }
    });
    assert_breaks(Invariant::Fairness, &scenario(events), |pair| pair.tamper = Some(starved));
}

#[test]
fn a_session_that_is_forgotten_for_no_reason() {
    for way in [THERE, BACK] {
        let plant =
            |pair: &mut Pair| pair.tamper = Some(to_hello(way, |hello| (hello.resumes, hello.received) = (0, 0)));
        assert_breaks(Invariant::Unbroken, &transfers(), plant);
    }
}

/// Who knows the session's id is not kept out: that is what the check for those who do not must notice.
#[test]
fn an_intruder_who_knows_the_id() {
    let forge = Intrusion::Forge { to_agent: true, id: 7 };
    let failure = play(&scenario([(200, What::Intrude(forge))]), |_| {}).expect_err("the intruder is noticed");
    assert_eq!(failure.kind(), Invariant::Refusal.to_string());
}

#[test]
fn an_acknowledgement_of_what_was_never_sent() {
    let eager = to_frames(BACK, |frame| {
        if let Frame::Ack { records, .. } = frame {
            *records += 1_000;
        }
    });
    assert_breaks(Invariant::Peace, &transfers(), |pair| pair.tamper = Some(eager));
}

#[test]
fn a_stream_that_is_left_behind() {
    let mut pair = Pair::over(LinkShape::ideal());
    pair.assert_empty();
    pair.near.open(pair.now(), "echo:1", 10).expect("room");
    pair.run(100);
    let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.assert_empty()));
    let text = left.expect_err("the stream is noticed").downcast::<String>().expect("a text");
    assert!(text.starts_with(&Invariant::Memory.to_string()), "{text}");
}

/// Of a run with two hundred events what remains is told: few, and how to see them again.
#[test]
fn a_failing_run_is_told_by_what_it_takes() {
    let lossy = |pair: &mut Pair| pair.tamper = Some(to_load(THERE, 20, |_| Vec::new()));
    let mut told = 0;
    for seed in 0..10 {
        let scenario = Scenario::from_seed(seed);
        let Err(failure) = play(&scenario, lossy) else { continue };
        let kind = failure.kind().to_owned();
        let (least, failure) = shrink(&scenario, failure, |fewer| play(fewer, lossy).err());
        assert!(least.events.len() <= 10, "{least}");
        let text = report(&scenario, &least, &failure);
        let command = format!("UMBILICAL_SIM_SEED={seed} cargo test -p umbilical-mux --test simulation");
        assert!(text.starts_with(&kind) && text.contains(&command), "{text}");
        told += 1;
    }
    assert!(told >= 5, "{told} runs of 10 met the planted bug");
}
