//! A peer that breaks rules: each break is named, nothing panics, nothing grows.
#![allow(clippy::cast_possible_truncation, reason = "the numbers of the tests are small")]

mod support;

use support::hostile::{AnyBytes, HELLO, ack, data, datagram, frame, open, random_frame};
use support::ports::TestPorts;
use support::random::Random;
use support::storage::{SHAPE, TestSession, session};
use umbilical_mux::{
    Frame, Hello, Instant, MAX_HELLO, MAX_MESSAGE, MAX_RECORD, MAX_SERVICE, Mode, ResetReason, SessionId, Shape, Side,
    Slot, StreamId, Violation,
};

const NOW: Instant = Instant::from_micros(5_000_000);

/// The agent, with a link to whoever writes these messages.
struct Victim {
    session: TestSession,
    ports: TestPorts,
}

impl Victim {
    fn of(shape: Shape) -> Self {
        let mut victim = Self { session: session(Side::Agent, shape), ports: TestPorts::default() };
        victim.session.handle_hello(NOW, &HELLO, &mut victim.ports).expect("a good hello");
        victim
    }

    fn new() -> Self {
        Self::of(SHAPE)
    }

    fn gets(&mut self, message: &[u8]) -> Result<(), Violation> {
        self.session.handle_message(NOW, message, &mut self.ports)
    }

    /// Opens a stream of its own, and says what it has to say.
    fn opens(&mut self, service: &str) {
        let slot = self.session.open(NOW, Mode::Stream).expect("room");
        self.ports.put(slot, support::ports::Port::new(service, Mode::Stream, 0));
        while self.session.poll_message(NOW, &mut self.ports).is_some() {}
    }
}

/// The stream's pattern from its start, as the opener says it.
fn said(key: u64, length: usize) -> &'static [u8] {
    support::ports::pattern(key, 0, 0, length)
}

/// Messages of which the last breaks a rule, after a link and the stream 1 to a service that takes nothing.
fn broken(messages: &[Vec<u8>]) -> Violation {
    let mut victim = Victim::new();
    victim.gets(&open(1, "deaf:1")).expect("a good open");
    let (last, before) = messages.split_last().expect("a message");
    for message in before {
        victim.gets(message).expect("a good message");
    }
    let violation = victim.gets(last).expect_err("a rule is broken");
    // Whatever was broken, the host can end it all.
    victim.session.abandon(&mut victim.ports, ResetReason::FAILED);
    assert_eq!((victim.ports.open(), victim.session.streams_open(), victim.session.pool_used()), (0, 0, 0));
    assert!(!victim.session.is_linked() && !victim.session.is_established());
    violation
}

const ONE: StreamId = StreamId(1);

#[test]
fn messages_that_cannot_be_read() {
    assert_eq!(broken(&[vec![]]), Violation::Malformed(0));
    assert_eq!(broken(&[vec![0xff; 3]]), Violation::Malformed(0));
    assert_eq!(broken(&[[ack(0), vec![77]].concat()]), Violation::Malformed(ack(0).len()));
    assert_eq!(broken(&[vec![5; MAX_MESSAGE + 1]]), Violation::RecordTooLong(MAX_MESSAGE + 1));
    // A payload that is said to be longer than its message; and one that ends one byte early.
    assert_eq!(broken(&[frame(Frame::Data { stream: ONE, length: u16::MAX })]), Violation::Truncated(0));
    let mut short = data(1, said(1, 10));
    short.pop();
    assert_eq!(broken(&[short.clone()]), Violation::Truncated(0));
    let first = data(1, said(1, 3));
    assert_eq!(broken(&[[first.clone(), short].concat()]), Violation::Truncated(first.len()));
    // Every frame, cut off after any of its bytes.
    let good = [open(3, "sink:3"), frame(Frame::Credit { stream: ONE, bytes: 70_000 }), datagram(1, b"letter")];
    for whole in good {
        for length in 1..whole.len() {
            let violation = broken(&[whole[..length].to_vec()]);
            assert!(matches!(violation, Violation::Malformed(0) | Violation::Truncated(0)), "{violation}");
        }
    }
    // A service name that is not text.
    let mut name = open(3, "sink");
    *name.last_mut().expect("bytes") = 0xff;
    assert_eq!(broken(&[name]), Violation::Malformed(0));
}

#[test]
fn frames_in_the_wrong_place() {
    let mut hello = [0; MAX_HELLO];
    assert_eq!(broken(&[HELLO.encode(&mut hello).to_vec()]), Violation::Misplaced("hello"));
    assert_eq!(broken(&[[ack(0), ack(0)].concat()]), Violation::Misplaced("ack"));
    assert_eq!(broken(&[[data(1, said(1, 1)), ack(0)].concat()]), Violation::Misplaced("ack"));
    let solicit = frame(Frame::Solicit { within_ms: 5 });
    assert_eq!(broken(&[[solicit.clone(), solicit.clone()].concat()]), Violation::Misplaced("solicit"));
    assert_eq!(broken(&[[data(1, said(1, 1)), solicit].concat()]), Violation::Misplaced("solicit"));
}

#[test]
fn acknowledgements_of_what_was_never_sent() {
    assert_eq!(broken(&[ack(1)]), Violation::BadAck(1));
    assert_eq!(broken(&[ack(u64::MAX)]), Violation::BadAck(u64::MAX));
    // Fewer than before.
    let mut victim = Victim::new();
    victim.opens("echo:9");
    victim.gets(&ack(1)).expect("that was sent");
    assert_eq!(victim.gets(&ack(0)), Err(Violation::BadAck(0)));
    assert_eq!(victim.gets(&ack(2)), Err(Violation::BadAck(2)));
}

#[test]
fn streams_that_cannot_be_opened() {
    for id in [0, 1, 2, 4, u32::MAX - 1] {
        assert_eq!(broken(&[open(id, "sink:5")]), Violation::BadStreamId(StreamId(id)), "id {id}");
    }
    assert_eq!(broken(&[open(9, "sink:9"), open(7, "sink:7")]), Violation::BadStreamId(StreamId(7)));
    assert_eq!(broken(&[open(3, "")]), Violation::BadService);
    assert_eq!(broken(&[open(3, &"x".repeat(MAX_SERVICE + 1))]), Violation::BadService);
}

#[test]
fn streams_that_were_never_opened() {
    let mut victim = Victim::new();
    victim.opens("echo:9"); // stream 2
    for id in [0, 3, 4, u32::MAX] {
        let stream = StreamId(id);
        let all = [
            data(id, b"x"),
            datagram(id, b"x"),
            frame(Frame::Credit { stream, bytes: 1 }),
            frame(Frame::Return { stream, bytes: 1 }),
            frame(Frame::Fin { stream }),
            frame(Frame::Reset { stream, reason: ResetReason::FAILED }),
        ];
        for message in all {
            assert_eq!(broken(&[message]), Violation::UnknownStream(stream));
        }
    }
    assert_eq!(victim.gets(&frame(Frame::Credit { stream: StreamId(2), bytes: 1 })), Ok(()));
}

#[test]
fn credit_that_is_exceeded_or_impossible() {
    let floor = 1_024;
    assert_eq!(broken(&[data(1, said(1, floor + 1))]), Violation::CreditExceeded(ONE, 1));
    let by_two = [data(1, said(1, floor)), data(1, b"xy")];
    assert_eq!(broken(&by_two), Violation::CreditExceeded(ONE, 2));
    let most = Frame::Credit { stream: ONE, bytes: u32::MAX };
    assert_eq!(broken(&[frame(most)]), Violation::BadCredit(ONE));
    let half = frame(Frame::Credit { stream: ONE, bytes: u32::MAX / 4 });
    assert_eq!(broken(&[half.clone(), half]), Violation::BadCredit(ONE));
    let back = Frame::Return { stream: ONE, bytes: 1_025 };
    assert_eq!(broken(&[frame(back)]), Violation::BadCredit(ONE));
    let all = Frame::Return { stream: ONE, bytes: 1_024 };
    assert_eq!(broken(&[frame(all), data(1, said(1, 1))]), Violation::CreditExceeded(ONE, 1));
}

#[test]
fn what_comes_after_the_end() {
    let fin = frame(Frame::Fin { stream: ONE });
    assert_eq!(broken(&[fin.clone(), fin.clone()]), Violation::AfterFin(ONE));
    assert_eq!(broken(&[fin.clone(), data(1, b"")]), Violation::AfterFin(ONE));
    let mail = frame(Frame::Open { stream: StreamId(3), mode: Mode::Datagram, service: "mail:3" });
    let over = frame(Frame::Fin { stream: StreamId(3) });
    assert_eq!(broken(&[mail, over, datagram(3, b"")]), Violation::AfterFin(StreamId(3)));
}

#[test]
fn the_other_mode() {
    assert_eq!(broken(&[datagram(1, b"x")]), Violation::WrongMode(ONE));
    let mail = frame(Frame::Open { stream: StreamId(3), mode: Mode::Datagram, service: "mail:3" });
    assert_eq!(broken(&[mail, data(3, b"x")]), Violation::WrongMode(StreamId(3)));
}

#[test]
fn opens_for_which_there_is_no_room() {
    let mut victim = Victim::of(Shape { streams: 1, ..SHAPE });
    victim.gets(&open(1, "sink:1")).expect("room");
    // Any number in a row is one run of refusals.
    for id in (3..20_000).step_by(2) {
        victim.gets(&open(id, "sink:1")).expect("refused, no more");
    }
    // With ids left out between them, each needs a place.
    let mut kept = 1;
    let last = loop {
        let id = 20_001 + 4 * kept;
        if let Err(violation) = victim.gets(&open(id, "sink:1")) {
            assert_eq!(violation, Violation::TooManyRefused(StreamId(id)));
            break kept;
        }
        kept += 1;
    };
    assert!((8..=64).contains(&last), "{last} refusals are kept");
    assert_eq!(victim.session.streams_open(), 1);
}

#[test]
fn hellos_that_are_refused_change_nothing() {
    let mut victim = Victim::new();
    victim.gets(&open(1, "deaf:1")).expect("a good open");
    let again = Hello { link: 2, resumes: 1, ..HELLO };
    let refused = [
        (Hello { session: SessionId([8; 16]), ..again }, Violation::WrongSession),
        (Hello { link: 1, ..again }, Violation::StaleLink(1)),
        (Hello { link: 0, ..again }, Violation::StaleLink(0)),
        (Hello { streams: 0, ..again }, Violation::BadLimit("streams")),
        (Hello { credit: 16 * 1024 * 1024 + 1, ..again }, Violation::BadLimit("credit")),
        (Hello { credit: 1_025, ..again }, Violation::BadLimit("credit")),
        (Hello { record: 16_319, ..again }, Violation::BadLimit("record")),
        (Hello { record: 16_320, ..again }, Violation::BadLimit("record")),
        (Hello { received: 1, ..again }, Violation::BadAck(1)),
        (Hello { received: u64::MAX, ..again }, Violation::BadAck(u64::MAX)),
    ];
    for (hello, violation) in refused {
        assert_eq!(victim.session.handle_hello(NOW, &hello, &mut victim.ports), Err(violation));
        assert!(victim.ports.is_open(1) && victim.session.is_linked() && victim.session.link_number() == 1);
    }
    victim.gets(&data(1, said(1, 1_024))).expect("all goes on");
    assert!(victim.session.handle_hello(NOW, &again, &mut victim.ports).is_ok());
}

/// An agent that could answer with any number could keep every later link out.
#[test]
fn an_answer_for_another_link_than_was_dialled_is_refused() {
    let mut gateway = session(Side::Gateway, SHAPE);
    let mut ports = TestPorts::default();
    let _ = gateway.hello(3);
    for link in [1, 2, 4, u32::MAX] {
        let answer = gateway.handle_hello(NOW, &Hello { link, ..HELLO }, &mut ports);
        assert_eq!(answer, Err(Violation::WrongLink(link)));
        assert!(!gateway.is_linked() && gateway.link_number() == 0);
    }
    assert!(gateway.handle_hello(NOW, &Hello { link: 3, ..HELLO }, &mut ports).is_ok());
}

#[test]
fn first_messages_that_are_no_hello() {
    let mut bytes = [0; MAX_HELLO];
    let good = HELLO.encode(&mut bytes).to_vec();
    assert_eq!(Hello::decode(&good), Ok(HELLO));
    // A later version may say more.
    assert_eq!(Hello::decode(&[&good[..], &[1, 2, 3]].concat()), Ok(HELLO));
    assert_eq!(Hello::decode(&[]), Err(Violation::NoHello));
    assert_eq!(Hello::decode(&[0xff]), Err(Violation::NoHello));
    assert_eq!(Hello::decode(&open(1, "sink:1")), Err(Violation::NoHello));
    assert_eq!(Hello::decode(&[0, 2, 9]), Err(Violation::UnknownVersion(2)));
    for length in 1..good.len() {
        assert_eq!(Hello::decode(&good[..length]), Err(Violation::Malformed(1)));
    }
    let mut fresh = session(Side::Agent, SHAPE);
    let before = fresh.handle_message(NOW, &open(1, "sink:1"), &mut TestPorts::default());
    assert_eq!(before, Err(Violation::NoHello));
}

/// After anything at all, the session stays within its memory and can be ended.
fn assert_bounded(victim: &mut Victim) {
    assert!(victim.session.streams_open() <= SHAPE.streams);
    assert!(victim.ports.open() <= usize::from(SHAPE.streams));
    assert!(victim.session.pool_used() as usize <= SHAPE.receive);
    for _ in 0..10_000 {
        match victim.session.poll_message(NOW, &mut victim.ports) {
            Some(message) => assert!(message.record.len() <= MAX_RECORD),
            None => break,
        }
    }
    victim.session.abandon(&mut victim.ports, ResetReason::FAILED);
    assert_eq!((victim.ports.open(), victim.session.streams_open(), victim.session.pool_used()), (0, 0, 0));
    victim.ports.ended.clear();
}

#[test]
fn random_bytes() {
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let mut victim = Victim::of(Shape { streams: 64, replay: 32_768, receive: 64 * 512 });
        for _ in 0..4 {
            let mut message = vec![0; random.below(200) as usize];
            message.iter_mut().for_each(|byte| *byte = random.next() as u8);
            if let Some(first) = message.first_mut() {
                *first %= 12; // a kind of frame, mostly
            }
            let _ = Hello::decode(&message);
            if victim.gets(&message).is_err() {
                break;
            }
        }
        assert_bounded(&mut victim);
    }
}

#[test]
fn random_frames_in_random_order() {
    let mut violations = std::collections::HashSet::new();
    for seed in 0..4_000 {
        let mut random = Random::new(seed);
        let mut victim = session(Side::Agent, SHAPE);
        let mut ports = AnyBytes(TestPorts::default());
        victim.handle_hello(NOW, &HELLO, &mut ports).expect("a good hello");
        for turn in 0..200 {
            let now = NOW.after_millis(turn * 10);
            let message: Vec<u8> = (0..1 + random.below(3)).flat_map(|_| random_frame(&mut random)).collect();
            match victim.handle_message(now, &message, &mut ports) {
                // Here the peer would be cut off; going on looks further, as memory must hold even then.
                Err(violation) => drop(violations.insert(std::mem::discriminant(&violation))),
                Ok(()) => {
                    for slot in std::mem::take(&mut ports.0.readable) {
                        victim.handle_readable(slot);
                    }
                }
            }
            victim.handle_timeout(now, &mut ports);
            if random.one_in(3) {
                victim.handle_writable(Slot::at(random.below(12) as u16), &mut ports);
                while victim.poll_message(now, &mut ports).is_some() {}
            }
            assert!(victim.streams_open() <= SHAPE.streams && victim.pool_used() as usize <= SHAPE.receive);
        }
        victim.abandon(&mut ports, ResetReason::FAILED);
        assert_eq!((ports.0.open(), victim.streams_open(), victim.pool_used()), (0, 0, 0));
    }
    assert!(violations.len() >= 7, "kinds of violations met: {violations:?}");
}

#[test]
fn an_honest_message_with_a_bit_turned() {
    let honest = [open(1, "sink:1"), data(1, said(1, 900)), frame(Frame::Fin { stream: ONE })].concat();
    for bit in 0..honest.len().min(200) * 8 {
        let mut message = honest.clone();
        message[bit / 8] ^= 1 << (bit % 8);
        let mut victim = session(Side::Agent, SHAPE);
        let mut ports = AnyBytes(TestPorts::default());
        victim.handle_hello(NOW, &HELLO, &mut ports).expect("a good hello");
        let _ = victim.handle_message(NOW, &message, &mut ports);
        while victim.poll_message(NOW, &mut ports).is_some() {}
        victim.abandon(&mut ports, ResetReason::FAILED);
        assert_eq!((victim.streams_open(), victim.pool_used()), (0, 0));
    }
}
