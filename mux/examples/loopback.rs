//! Two sessions over a link in memory, as on a host without an operating system: no heap, all memory from the stack.
//!
//!     cargo run -p umbilical-mux --example loopback
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "an example shows what happens and stops where it does not"
)]

use std::cell::RefCell;

use embedded_io::{ErrorKind, ErrorType, ReadReady};
use heapless::{Deque, Vec};
use umbilical_mux::{
    ByteLink, Config, End, Instant, MIN_RECORD, MIN_REPLAY, Mode, Ports, Progress, Read, ResetReason, Session,
    SessionId, Shape, Side, Slot, Storage, StreamState, Write,
};

const SHAPE: Shape = Shape { streams: 2, replay: MIN_REPLAY, receive: 4 * 1024 };

/// One direction of the link.
type Pipe = RefCell<Deque<u8, { 2 * MIN_REPLAY }>>;

/// One end of the link: what a driver of a modem or a TCP stack would be.
struct Modem<'a> {
    incoming: &'a Pipe,
    outgoing: &'a Pipe,
}

impl ErrorType for Modem<'_> {
    type Error = ErrorKind;
}

impl embedded_io::Read for Modem<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let mut incoming = self.incoming.borrow_mut();
        let count = buffer.len().min(incoming.len());
        buffer.iter_mut().zip(core::iter::from_fn(|| incoming.pop_front())).for_each(|(byte, got)| *byte = got);
        Ok(count)
    }
}

impl ReadReady for Modem<'_> {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        Ok(!self.incoming.borrow().is_empty())
    }
}

impl embedded_io::Write for Modem<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let mut outgoing = self.outgoing.borrow_mut();
        let count = bytes.iter().take_while(|byte| outgoing.push_back(**byte).is_ok()).count();
        if count > 0 { Ok(count) } else { Err(ErrorKind::OutOfMemory) }
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// One port: the client's says its words and ends, the service's says what it hears.
#[derive(Default)]
struct Port {
    echoes: bool,
    to_say: Deque<u8, 64>,
    heard: Vec<u8, 64>,
    ends: bool,
    end: Option<End>,
}

impl Ports for Port {
    fn service(&self, _: Slot) -> &str {
        "echo"
    }

    fn accept(&mut self, _: Slot, service: &str, _: Mode) -> Result<(), ResetReason> {
        if service == "echo" { Ok(()) } else { Err(ResetReason::NOT_ALLOWED) }
    }

    fn read(&mut self, _: Slot, buffer: &mut [u8]) -> Read {
        let count = buffer.len().min(self.to_say.len());
        buffer.iter_mut().zip(core::iter::from_fn(|| self.to_say.pop_front())).for_each(|(byte, said)| *byte = said);
        match count {
            0 if self.ends => Read::End,
            0 => Read::Pending,
            count => Read::Data(count),
        }
    }

    fn write(&mut self, _: Slot, chunks: &[&[u8]]) -> Write {
        let mut taken = 0;
        for byte in chunks.iter().copied().flatten() {
            if self.heard.push(*byte).is_err() || self.echoes && self.to_say.push_back(*byte).is_err() {
                break;
            }
            taken += 1;
        }
        Write::Taken(taken)
    }

    fn finish(&mut self, _: Slot) {
        self.ends = true;
    }

    fn release(&mut self, _: Slot, end: End) {
        self.end = Some(end);
    }
}

fn main() {
    let (mut replay, mut receive) = ([[0; SHAPE.replay]; 2], [[0; SHAPE.receive_memory()]; 2]);
    let [near_replay, far_replay] = &mut replay;
    let [near_receive, far_receive] = &mut receive;
    let session = |side, replay, receive| {
        let config = Config {
            side,
            id: SessionId(*b"sixteen of these"),
            shape: SHAPE,
            record: MIN_RECORD,
            resume_for_ms: 120_000,
            features: 0,
        };
        let streams = [StreamState::EMPTY; SHAPE.streams as usize];
        Session::<&mut [u8], _>::new(config, Storage { replay, receive, streams }).expect("a good shape")
    };
    let mut gateway = session(Side::Gateway, &mut near_replay[..], &mut near_receive[..]);
    let mut agent = session(Side::Agent, &mut far_replay[..], &mut far_receive[..]);
    let (mut client, mut service) = (Port::default(), Port { echoes: true, ..Port::default() });

    let (there, back) = (Pipe::default(), Pipe::default());
    let mut near = ByteLink::dial(Modem { incoming: &back, outgoing: &there }, 1);
    let mut far = ByteLink::answer(Modem { incoming: &there, outgoing: &back });

    let words = b"hello, device";
    client.to_say.extend(words.iter().copied());
    client.ends = true;
    let slot = gateway.open(Instant::default(), Mode::Stream).expect("room for a stream");
    gateway.handle_readable(slot);

    let mut millis = 0;
    while client.end.is_none() || service.end.is_none() {
        let now = Instant::default().after_millis(millis);
        let here = near.turn(now, &mut gateway, &mut client).expect("a link that lives");
        let there = far.turn(now, &mut agent, &mut service).expect("a link that lives");
        // A real host is told by its ports; this one has only one, which may have said something.
        agent.handle_readable(Slot::at(0));
        if [here, there] == [Progress::Nothing; 2] {
            millis += 1;
        }
        assert!(millis < 1_000, "no echo within a second");
    }
    assert_eq!((client.end, service.end), (Some(End::Closed), Some(End::Closed)));
    assert_eq!((&client.heard[..], &service.heard[..]), (&words[..], &words[..]));
    println!("{} bytes there and back in {millis} ms", words.len());
}

#[test]
fn an_echo_comes_back() {
    main();
}
