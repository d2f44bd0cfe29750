//! The wire format is what docs/protocol.md says: golden vectors, one file each, and the dialogue in the document.
//!
//! A vector's file holds hexadecimal bytes and comments after `#`. Vectors are written by hand and never regenerated.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use umbilical_mux::{
    Config, End, Frame, Hello, Instant, MAX_HELLO, MAX_RECORD, MIN_RECORD, Mode, Ports, Read, ResetReason, Resumption,
    Session, SessionId, Shape, Side, Slot, Storage, StreamId, StreamState, VERSION, Violation, Write, carries_record,
};

const SESSION: SessionId =
    SessionId([0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);

const FIRST: Hello = Hello {
    version: VERSION,
    session: SESSION,
    link: 1,
    received: 0,
    resumes: 0,
    streams: 64,
    credit: 1_024,
    replay: 262_144,
    record: 65_472,
    features: 0,
};

/// What a vector stands for.
enum Means {
    /// These bytes, both ways.
    Hello(Hello),
    Message(Vec<(Frame<'static>, &'static [u8])>),
    /// Read as this; never written.
    ReadAsHello(Hello),
    ReadAs(Frame<'static>),
    /// Refused with this.
    NoHello(Violation),
    NoMessage(Violation),
}

fn message(frames: &[Frame<'static>]) -> Means {
    Means::Message(frames.iter().map(|frame| (*frame, &[][..])).collect())
}

fn data(stream: u32, payload: &'static [u8]) -> (Frame<'static>, &'static [u8]) {
    let length = payload.len().try_into().expect("a short payload");
    (Frame::Data { stream: StreamId(stream), length }, payload)
}

fn datagram(stream: u32, payload: &'static [u8]) -> (Frame<'static>, &'static [u8]) {
    let length = payload.len().try_into().expect("a short payload");
    (Frame::Datagram { stream: StreamId(stream), length }, payload)
}

fn open(stream: u32, mode: Mode, service: &'static str) -> Frame<'static> {
    Frame::Open { stream: StreamId(stream), mode, service }
}

fn vectors() -> Vec<(&'static str, Means)> {
    let id = StreamId;
    let largest = Hello {
        link: u32::MAX,
        received: u64::MAX,
        resumes: u32::MAX,
        streams: u16::MAX,
        credit: u32::MAX,
        replay: u32::MAX,
        record: u32::MAX,
        features: u32::MAX,
        ..FIRST
    };
    let ack = |records, held_us| Frame::Ack { records, held_us };
    let solicit = |within_ms| Frame::Solicit { within_ms };
    let reset = |stream, reason| Frame::Reset { stream: StreamId(stream), reason: ResetReason(reason) };
    let longest = "ääääääääääääääääxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    let every_reason: Vec<_> = (0..=10).map(|reason| reset(2 * u32::from(reason) + 2, reason)).collect();
    vec![
        ("hello_first", Means::Hello(FIRST)),
        ("hello_resumes", Means::Hello(Hello { link: 7, received: 70_000, resumes: 3, ..FIRST })),
        ("hello_largest", Means::Hello(largest)),
        ("hello_with_unknown_features", Means::Hello(Hello { features: 0x8000_0001, ..FIRST })),
        ("hello_with_later_fields", Means::ReadAsHello(FIRST)),
        ("hello_of_version_2", Means::NoHello(Violation::UnknownVersion(2))),
        ("hello_cut", Means::NoHello(Violation::Malformed(1))),
        ("ack_prefix", message(&[ack(1_000, 150)])),
        ("ack_largest", message(&[ack(u64::MAX, u32::MAX)])),
        ("ack_and_solicit_prefix", Means::Message(vec![(ack(5, 4_096), b""), (solicit(20), b""), data(1, b"x")])),
        ("solicit_at_once", message(&[solicit(0)])),
        ("solicit_latest", message(&[solicit(u16::MAX)])),
        (
            "open_with_data",
            Means::Message(vec![(open(1, Mode::Stream, "ssh"), b""), data(1, b"SSH-2.0-OpenSSH_9.2\r\n")]),
        ),
        ("open_from_agent", message(&[open(2, Mode::Stream, "time")])),
        ("open_datagram", message(&[open(3, Mode::Datagram, "snmp")])),
        ("open_longest_service", message(&[open(1, Mode::Stream, longest)])),
        ("open_largest_stream", message(&[open(u32::MAX, Mode::Stream, "x")])),
        ("data_of_two_streams", Means::Message(vec![data(1, b"one"), data(300, b"three hundred")])),
        ("data_empty", Means::Message(vec![data(1, b"")])),
        ("datagram", Means::Message(vec![datagram(3, b"\x30\x26\x02\x01\x01\x04\x06public")])),
        ("datagram_empty", Means::Message(vec![datagram(3, b"")])),
        ("credit", message(&[Frame::Credit { stream: id(1), bytes: 16_384 }])),
        ("return", message(&[Frame::Return { stream: id(1), bytes: 15_360 }])),
        ("fin", message(&[Frame::Fin { stream: id(1) }])),
        (
            "fin_of_opened_stream",
            Means::Message(vec![
                (open(5, Mode::Stream, "log"), b""),
                data(5, b"boot\n"),
                (Frame::Fin { stream: id(5) }, b""),
            ]),
        ),
        ("reset_busy", message(&[Frame::Reset { stream: id(2), reason: ResetReason::BUSY }])),
        ("reset_every_reason", message(&every_reason)),
        ("reset_unknown_reason", message(&[reset(1, 200)])),
        ("go_away", message(&[Frame::GoAway { drain_ms: 10_000 }])),
        ("varint_longer_than_needed", Means::ReadAs(Frame::Fin { stream: id(1) })),
        ("refused_unknown_kind", Means::NoMessage(Violation::Malformed(0))),
        ("refused_unknown_mode", Means::NoMessage(Violation::Malformed(0))),
        ("refused_service_not_utf8", Means::NoMessage(Violation::Malformed(0))),
        ("refused_service_longer_than_message", Means::NoMessage(Violation::Malformed(0))),
        ("refused_data_longer_than_message", Means::NoMessage(Violation::Truncated(7))),
        ("refused_data_without_length", Means::NoMessage(Violation::Malformed(0))),
        ("refused_varint_too_large", Means::NoMessage(Violation::Malformed(0))),
        ("refused_varint_without_end", Means::NoMessage(Violation::Malformed(0))),
    ]
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|char| !char.is_whitespace()).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {text:?}");
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).expect("hexadecimal digits");
    digits.chunks(2).map(byte).collect()
}

fn encode(frames: &[(Frame<'_>, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (frame, payload) in frames {
        let mut head = [0; 128];
        let length = frame.encode(&mut head).expect("room");
        bytes.extend_from_slice(&head[..length]);
        bytes.extend_from_slice(payload);
    }
    bytes
}

fn decode(message: &[u8]) -> Result<Vec<(Frame<'_>, &[u8])>, Violation> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < message.len() {
        let (frame, payload, taken) = Frame::decode(&message[at..], at)?;
        frames.push((frame, payload));
        at += taken;
    }
    Ok(frames)
}

#[test]
fn every_vector_is_what_is_written_and_what_is_read() {
    for (name, means) in vectors() {
        let text = std::fs::read_to_string(folder().join(name).with_extension("hex")).expect(name);
        let bytes = unhex(&text.lines().filter(|line| !line.starts_with('#')).collect::<String>());
        match means {
            Means::Hello(hello) => {
                assert_eq!(hello.encode(&mut [0; MAX_HELLO]), bytes, "{name} written");
                assert_eq!(Hello::decode(&bytes), Ok(hello), "{name} read");
            }
            Means::Message(frames) => {
                assert_eq!(encode(&frames), bytes, "{name} written");
                let numbered =
                    |(frame, _): &(Frame<'_>, &[u8])| !matches!(frame, Frame::Ack { .. } | Frame::Solicit { .. });
                assert_eq!(carries_record(&bytes), frames.iter().any(numbered), "{name}");
                assert_eq!(decode(&bytes), Ok(frames), "{name} read");
            }
            Means::ReadAsHello(hello) => assert_eq!(Hello::decode(&bytes), Ok(hello), "{name}"),
            Means::ReadAs(frame) => assert_eq!(decode(&bytes), Ok(vec![(frame, &[][..])]), "{name}"),
            Means::NoHello(violation) => assert_eq!(Hello::decode(&bytes), Err(violation), "{name}"),
            Means::NoMessage(violation) => assert_eq!(decode(&bytes), Err(violation), "{name}"),
        }
    }
}

#[test]
fn every_file_is_a_vector() {
    let files = std::fs::read_dir(folder()).expect("the vectors' folder");
    let files: BTreeSet<String> =
        files.map(|file| file.expect("an entry").file_name().into_string().expect("a plain name")).collect();
    let named: BTreeSet<String> = vectors().iter().map(|(name, _)| format!("{name}.hex")).collect();
    assert_eq!(files, named);
}

#[test]
fn every_kind_has_its_number() {
    let (mut kinds, mut seen) = (Vec::new(), BTreeSet::new());
    for (_, means) in vectors() {
        match means {
            Means::Message(frames) => kinds.extend(frames.iter().map(|frame| encode(&[*frame])[0])),
            Means::Hello(hello) => kinds.push(hello.encode(&mut [0; MAX_HELLO])[0]),
            _ => {}
        }
    }
    seen.extend(kinds);
    assert_eq!(seen, (0..=10).collect());
}

/// One message of the document's dialogue.
struct Line {
    from: Side,
    bytes: Vec<u8>,
    /// What the document says that the bytes say.
    says: String,
}

fn dialogue() -> Vec<Line> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(document).expect("docs/protocol.md");
    let block = text.split("```dialogue\n").nth(1).expect("a dialogue").split("```").next().expect("its end");
    let mut lines: Vec<Line> = Vec::new();
    for line in block.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            let from = match line.split(' ').next() {
                Some("gateway") => Side::Gateway,
                Some("agent") => Side::Agent,
                _ => panic!("nobody says {line:?}"),
            };
            lines.push(Line { from, bytes: Vec::new(), says: String::new() });
            continue;
        };
        let (hex, says) = line.split_once("  ").expect("bytes and what they say");
        let message = lines.last_mut().expect("a message before its bytes");
        message.bytes.extend(unhex(hex));
        message.says += says.trim();
        message.says += " ";
    }
    lines
}

fn describe(bytes: &[u8]) -> String {
    let mut text = String::new();
    if let Ok(hello) = Hello::decode(bytes) {
        let Hello { version, session, link, received, resumes, streams, credit, replay, record, features } = hello;
        assert_eq!(hello.encode(&mut [0; MAX_HELLO]), bytes, "written as it is read");
        let session = session.0.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        return format!(
            "Hello version={version} session={session} link={link} received={received} resumes={resumes} \
             streams={streams} credit={credit} replay={replay} record={record} features={features} "
        );
    }
    let frames = decode(bytes).expect("a message");
    assert_eq!(encode(&frames), bytes, "written as it is read");
    for (frame, payload) in frames {
        let written = match frame {
            Frame::Hello => panic!("a hello that is none"),
            Frame::Ack { records, held_us } => {
                write!(text, "Ack records={records} held_us={held_us} ")
            }
            Frame::Solicit { within_ms } => write!(text, "Solicit within_ms={within_ms} "),
            Frame::Open { stream, mode, service } => {
                let mode = if mode == Mode::Stream { "stream" } else { "datagram" };
                write!(text, "Open stream={} mode={mode} service={service:?} ", stream.0)
            }
            Frame::Data { stream, length } => {
                write!(text, "Data stream={} length={length} {:?} ", stream.0, String::from_utf8_lossy(payload))
            }
            Frame::Datagram { stream, length } => {
                write!(text, "Datagram stream={} length={length} ", stream.0)
            }
            Frame::Credit { stream, bytes } => write!(text, "Credit stream={} bytes={bytes} ", stream.0),
            Frame::Return { stream, bytes } => write!(text, "Return stream={} bytes={bytes} ", stream.0),
            Frame::Fin { stream } => write!(text, "Fin stream={} ", stream.0),
            Frame::Reset { stream, reason } => write!(text, "Reset stream={} reason={} ", stream.0, reason.0),
            Frame::GoAway { drain_ms } => write!(text, "GoAway drain_ms={drain_ms} "),
        };
        written.expect("text grows");
    }
    text
}

#[test]
fn the_documents_dialogue_says_what_it_says_it_says() {
    let lines = dialogue();
    assert_eq!(lines.len(), 14);
    for line in lines {
        assert_eq!(describe(&line.bytes), line.says);
    }
}

/// A port that says something and perhaps ends, or echoes.
#[derive(Default)]
struct EchoPorts {
    says: Vec<u8>,
    ends: bool,
    echoes: bool,
    got: Vec<u8>,
    released: Vec<End>,
}

impl Ports for EchoPorts {
    fn service(&self, _: Slot) -> &str {
        "echo"
    }

    fn accept(&mut self, _: Slot, service: &str, mode: Mode) -> Result<(), ResetReason> {
        assert_eq!((service, mode), ("echo", Mode::Stream));
        Ok(())
    }

    fn read(&mut self, _: Slot, buffer: &mut [u8]) -> Read {
        if self.says.is_empty() {
            return if self.ends { Read::End } else { Read::Pending };
        }
        let count = self.says.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.says[..count]);
        self.says.drain(..count);
        Read::Data(count)
    }

    fn write(&mut self, _: Slot, chunks: &[&[u8]]) -> Write {
        let all = chunks.concat();
        self.got.extend(&all);
        if self.echoes {
            self.says.extend(&all);
        }
        Write::Taken(all.len())
    }

    fn finish(&mut self, _: Slot) {
        self.ends |= self.echoes;
    }

    fn release(&mut self, _: Slot, end: End) {
        self.released.push(end);
    }
}

/// A real session that hears the document's peer.
struct Host {
    session: Session<Vec<u8>, Vec<StreamState>>,
    ports: EchoPorts,
    /// Frames of the records that it wrote, one after the other; written again or not.
    wrote: Vec<Vec<u8>>,
    resumptions: Vec<Resumption>,
}

impl Host {
    fn new(side: Side) -> Self {
        let shape = Shape { streams: 64, replay: 256 * 1024, receive: 256 * 1024 };
        let storage = Storage {
            replay: vec![0; shape.replay],
            receive: vec![0; shape.receive_memory()],
            streams: vec![StreamState::EMPTY; 64],
        };
        let config = Config { side, id: SESSION, shape, record: MAX_RECORD, resume_for_ms: 120_000, features: 0 };
        let session = Session::new(config, storage).expect("a good shape");
        let ports = EchoPorts { echoes: side == Side::Agent, ..EchoPorts::default() };
        Self { session, ports, wrote: Vec::new(), resumptions: Vec::new() }
    }

    fn hear(&mut self, now: Instant, message: &[u8]) {
        if let Ok(hello) = Hello::decode(message) {
            self.resumptions.push(self.session.handle_hello(now, &hello, &mut self.ports).expect("a good hello"));
        } else {
            self.session.handle_message(now, message, &mut self.ports).expect("a message that breaks no rule");
        }
    }

    fn speak(&mut self, now: Instant) {
        self.session.handle_readable(Slot::at(0));
        while let Some(message) = self.session.poll_message(now, &mut self.ports) {
            if !message.record.is_empty() {
                self.wrote.push(message.record.to_vec());
            }
        }
    }
}

/// The records of the document are what two sessions write, and each takes the other's messages.
#[test]
fn the_documents_dialogue_is_one_that_sessions_have() {
    let mut gateway = Host::new(Side::Gateway);
    let mut agent = Host::new(Side::Agent);
    let record = |bytes: &[u8]| {
        let numbered = |frame: &Frame<'_>| !matches!(frame, Frame::Ack { .. } | Frame::Solicit { .. });
        let frames = decode(bytes).unwrap_or_default();
        encode(&frames.into_iter().filter(|(frame, _)| numbered(frame)).collect::<Vec<_>>())
    };
    for (index, line) in dialogue().into_iter().enumerate() {
        let now = Instant::from_micros(100_000 * (index as u64 + 1));
        let hello = Hello::decode(&line.bytes);
        let (speaker, hearer) =
            if line.from == Side::Gateway { (&mut gateway, &mut agent) } else { (&mut agent, &mut gateway) };
        match index {
            2 => {
                let slot = speaker.session.open(now, Mode::Stream).expect("room");
                assert_eq!(slot, Slot::at(0));
                speaker.ports.says.extend(b"hi\n");
            }
            4 => speaker.ports.ends = true,
            10 => speaker.session.probe(),
            12 => speaker.session.go_away(5_000),
            _ => {}
        }
        let before = speaker.wrote.len();
        match hello {
            Ok(hello) => assert_eq!(speaker.session.hello(hello.link), hello, "message {index}"),
            Err(_) => {
                speaker.speak(now);
                let expected = record(&line.bytes);
                let wrote = speaker.wrote[before..].concat();
                assert_eq!(wrote, expected, "message {index}");
            }
        }
        if index == 4 {
            // The link breaks.
            gateway.session.handle_link_lost(now);
            agent.session.handle_link_lost(now);
        } else {
            hearer.hear(now, &line.bytes);
        }
    }
    assert_eq!(gateway.ports.got, b"hi\n");
    assert_eq!([gateway.ports.released, agent.ports.released], [vec![End::Closed], vec![End::Closed]]);
    assert_eq!(gateway.resumptions, [Resumption::Fresh, Resumption::Resumed { resent: 1 }]);
    assert_eq!(agent.resumptions, [Resumption::Fresh, Resumption::Resumed { resent: 0 }]);
    assert!(gateway.session.peer_is_going_away() && agent.session.is_quiet());
}

#[test]
fn the_documents_numbers_are_the_codes() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(document).expect("docs/protocol.md");
    let prefix = umbilical_mux::MAX_PREFIX;
    for row in [
        format!(
            "| record | {} or what its receiver announced, up to {} |",
            thousands(MIN_RECORD),
            thousands(MAX_RECORD)
        ),
        format!("| prefix | {prefix} |"),
        format!("| message | a record of that length and {prefix}; a longer one is a violation |"),
        format!("| `Hello` | {MAX_HELLO} as written; 63 are used today |"),
        format!("| datagram | {} bytes |", thousands(umbilical_mux::MAX_DATAGRAM)),
        format!("| service name | 1 to {} bytes |", umbilical_mux::MAX_SERVICE),
        format!("| replay ring | {} bytes or more", thousands(umbilical_mux::MIN_REPLAY)),
        format!("at most {} by this implementation", thousands(umbilical_mux::MAX_STREAMS)),
    ] {
        assert!(text.contains(&row), "not in the document: {row}");
    }
    for reason in 0..=u8::MAX {
        let name = ResetReason(reason).text();
        let row = format!("\n| {reason} | {name} | ");
        assert_eq!(text.contains(&row), name != "unknown", "reason {reason} in the document");
    }
}

fn thousands(number: usize) -> String {
    format!("{},{:03}", number / 1_000, number % 1_000)
}
