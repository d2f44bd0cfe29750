//! Whatever is written reads the same, and whatever bytes come, decoding neither panics nor looks beyond its frame.

use proptest::prelude::*;
use umbilical_mux::{
    Frame, Hello, MAX_HELLO, MAX_MESSAGE, MAX_SERVICE, Mode, ResetReason, SessionId, StreamId, VERSION, Violation,
};

/// A frame with all it owns; [`Frame`] borrows.
#[derive(Clone, Debug)]
enum Owned {
    Plain(Frame<'static>),
    Open(StreamId, Mode, String),
    Data(StreamId, Vec<u8>),
    Datagram(StreamId, Vec<u8>),
}

impl Owned {
    fn frame(&self) -> (Frame<'_>, &[u8]) {
        let length = |payload: &[u8]| payload.len().try_into().expect("a payload of 16 bits");
        match self {
            Self::Plain(frame) => (*frame, &[]),
            Self::Open(stream, mode, service) => (Frame::Open { stream: *stream, mode: *mode, service }, &[]),
            Self::Data(stream, payload) => (Frame::Data { stream: *stream, length: length(payload) }, payload),
            Self::Datagram(stream, payload) => (Frame::Datagram { stream: *stream, length: length(payload) }, payload),
        }
    }

    fn write(&self) -> Vec<u8> {
        let (frame, payload) = self.frame();
        let mut head = [0; 8 + MAX_SERVICE];
        let length = frame.encode(&mut head).expect("room for any frame's head");
        [&head[..length], payload].concat()
    }
}

/// Numbers of every length.
fn number() -> impl Strategy<Value = u32> {
    (0u32..=32, any::<u32>()).prop_map(|(bits, number)| number.checked_shr(bits).unwrap_or(0))
}

fn stream() -> impl Strategy<Value = StreamId> {
    number().prop_map(StreamId)
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Stream), Just(Mode::Datagram)]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..40), Just(vec![0xa5; 300]), Just(vec![0; 16_312])]
}

/// Up to 64 bytes of text.
fn service() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..=MAX_SERVICE / 4).prop_map(String::from_iter)
}

fn frame() -> impl Strategy<Value = Owned> {
    let records = (any::<u64>(), 0u32..64).prop_map(|(records, bits)| records >> bits);
    prop_oneof![
        (records, number()).prop_map(|(records, held_us)| Owned::Plain(Frame::Ack { records, held_us })),
        any::<u16>().prop_map(|within_ms| Owned::Plain(Frame::Solicit { within_ms })),
        (stream(), mode(), service()).prop_map(|(stream, mode, service)| Owned::Open(stream, mode, service)),
        (stream(), payload()).prop_map(|(stream, payload)| Owned::Data(stream, payload)),
        (stream(), payload()).prop_map(|(stream, payload)| Owned::Datagram(stream, payload)),
        (stream(), number()).prop_map(|(stream, bytes)| Owned::Plain(Frame::Credit { stream, bytes })),
        (stream(), number()).prop_map(|(stream, bytes)| Owned::Plain(Frame::Return { stream, bytes })),
        stream().prop_map(|stream| Owned::Plain(Frame::Fin { stream })),
        (stream(), any::<u8>())
            .prop_map(|(stream, reason)| Owned::Plain(Frame::Reset { stream, reason: ResetReason(reason) })),
        number().prop_map(|drain_ms| Owned::Plain(Frame::GoAway { drain_ms })),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let place = (any::<[u8; 16]>(), number(), any::<u64>(), number());
    let limits = (any::<u16>(), number(), number(), number(), number());
    (place, limits).prop_map(|((session, link, received, resumes), (streams, credit, replay, record, features))| {
        Hello {
            version: VERSION,
            session: SessionId(session),
            link,
            received,
            resumes,
            streams,
            credit,
            replay,
            record,
            features,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Each frame ends where the next one begins, whatever comes behind it.
    #[test]
    fn frames_read_as_they_were_written(
        frames in proptest::collection::vec(frame(), 1..6),
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let lengths: Vec<usize> = frames.iter().map(|frame| frame.write().len()).collect();
        let mut message: Vec<u8> = frames.iter().flat_map(Owned::write).collect();
        message.extend(behind);
        let mut at = 0;
        for (frame, length) in frames.iter().zip(lengths) {
            let (read, payload, taken) = Frame::decode(&message[at..], at).expect("what was written");
            prop_assert_eq!((read, payload), frame.frame());
            prop_assert_eq!(taken, length);
            at += taken;
        }
    }

    /// A frame that is cut anywhere is refused, at its offset.
    #[test]
    fn a_cut_frame_is_refused(frame in frame(), cut in any::<prop::sample::Index>(), at in 0usize..MAX_MESSAGE) {
        let bytes = frame.write();
        let cut = &bytes[..cut.index(bytes.len())];
        let refused = Frame::decode(cut, at).expect_err("a part is no frame");
        prop_assert!(matches!(refused, Violation::Malformed(a) | Violation::Truncated(a) if a == at), "{refused}");
    }

    /// No frame is written into less than its room, and then nothing claims to be.
    #[test]
    fn a_frame_is_written_whole_or_not(frame in frame(), room in 0usize..80) {
        let (frame, payload) = frame.frame();
        let mut whole = [0; 8 + MAX_SERVICE];
        let length = frame.encode(&mut whole).expect("room for any frame's head");
        prop_assert!(payload.is_empty() || length <= 8);
        let mut out = [0; 80];
        prop_assert_eq!(frame.encode(&mut out[..room]), (room >= length).then_some(length));
    }

    /// What is accepted says the same when it is written again, no longer than before, and lies within the message.
    #[test]
    fn any_bytes_are_a_frame_or_refused(
        kind in 0u8..14,
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..4, Just(0x80), Just(0xff)], 0..60),
    ) {
        let bytes = [&[kind][..], &rest].concat();
        if let Ok((frame, payload, taken)) = Frame::decode(&bytes, 0) {
            prop_assert!(taken <= bytes.len() && kind <= 10);
            prop_assert_eq!(payload, &bytes[taken - payload.len()..taken]);
            let mut head = [0; 128];
            let length = frame.encode(&mut head).expect("room");
            prop_assert!(length + payload.len() <= taken);
            let again = [&head[..length], payload].concat();
            prop_assert_eq!(Frame::decode(&again, 0), Ok((frame, payload, again.len())));
            // It was decided by its own bytes alone.
            prop_assert_eq!(Frame::decode(&bytes[..taken], 0), Ok((frame, payload, taken)));
            if taken > 0 {
                prop_assert!(Frame::decode(&bytes[..taken - 1], 0).is_err());
            }
        }
    }

    /// A `Hello` reads as it was written, with whatever a later version adds.
    #[test]
    fn a_hello_reads_as_it_was_written(hello in hello(), later in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut out = [0; MAX_HELLO];
        let written = hello.encode(&mut out).to_vec();
        prop_assert!(written.len() <= 63);
        prop_assert_eq!(Hello::decode(&written), Ok(hello));
        prop_assert_eq!(Hello::decode(&[&written[..], &later].concat()), Ok(hello));
    }

    /// A `Hello` that is cut is refused, and one of another version by its number, whatever follows.
    #[test]
    fn a_cut_or_foreign_hello_is_refused(
        hello in hello(),
        version in any::<u16>(),
        cut in any::<prop::sample::Index>(),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut out = [0; MAX_HELLO];
        let written = hello.encode(&mut out).to_vec();
        let cut = cut.index(written.len());
        let expected = if cut == 0 { Violation::NoHello } else { Violation::Malformed(1) };
        prop_assert_eq!(Hello::decode(&written[..cut]), Err(expected));
        if version != VERSION {
            let other = Hello { version, ..hello }.encode(&mut out).to_vec();
            prop_assert_eq!(Hello::decode(&other), Err(Violation::UnknownVersion(version)));
            let head = other.len() - (written.len() - 2);
            prop_assert_eq!(
                Hello::decode(&[&other[..head], &rest].concat()),
                Err(Violation::UnknownVersion(version))
            );
        }
    }

    /// Any bytes are a `Hello` or refused.
    #[test]
    fn any_bytes_are_a_hello_or_refused(
        start in prop_oneof![Just(&[][..]), Just(&[0][..]), Just(&[0, 1][..])],
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x80), Just(0xff)], 0..70),
    ) {
        let bytes = [start, &rest].concat();
        if let Ok(hello) = Hello::decode(&bytes) {
            let again = hello.encode(&mut [0; MAX_HELLO]).to_vec();
            prop_assert!(again.len() <= bytes.len());
            prop_assert_eq!(Hello::decode(&again), Ok(hello));
        }
    }
}
