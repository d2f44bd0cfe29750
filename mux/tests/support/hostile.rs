//! A peer that is none: messages made by hand, and frames at random.

use umbilical_mux::{End, Frame, Hello, Mode, Ports, Read, ResetReason, Slot, StreamId, VERSION, Write};

use super::ports::TestPorts;
use super::random::Random;
use super::storage::ID;

/// What a peer with the default shape says first.
pub const HELLO: Hello = Hello {
    version: VERSION,
    session: ID,
    link: 1,
    received: 0,
    resumes: 0,
    streams: 64,
    credit: 1_024,
    replay: 262_144,
    record: 65_472,
    features: 0,
};

pub fn frame(frame: Frame<'_>) -> Vec<u8> {
    let mut bytes = [0; 100];
    let length = frame.encode(&mut bytes).expect("room");
    bytes[..length].to_vec()
}

pub fn open(stream: u32, service: &str) -> Vec<u8> {
    frame(Frame::Open { stream: StreamId(stream), mode: Mode::Stream, service })
}

pub fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().try_into().expect("a short payload");
    [frame(Frame::Data { stream: StreamId(stream), length }), payload.to_vec()].concat()
}

pub fn datagram(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len().try_into().expect("a short payload");
    [frame(Frame::Datagram { stream: StreamId(stream), length }), payload.to_vec()].concat()
}

pub fn ack(records: u64) -> Vec<u8> {
    frame(Frame::Ack { records, held_us: 0 })
}

/// Any frame, with small numbers mostly, for few streams, so that most frames meet one; and sometimes wild ones.
pub fn random_frame(random: &mut Random) -> Vec<u8> {
    let stream = StreamId(random.below(12) as u32);
    let bytes = if random.one_in(8) { random.next() as u32 } else { random.below(600) as u32 };
    let services = ["sink:0", "echo:0", "source:0:5000", "deaf:0", "mail:0", "nothing:0"];
    let mode = if random.one_in(4) { Mode::Datagram } else { Mode::Stream };
    match random.below(12) {
        0 => ack(random.below(6)),
        1 => frame(Frame::Solicit { within_ms: bytes as u16 }),
        2..=4 => frame(Frame::Open { stream, mode, service: services[random.below(6) as usize] }),
        5 => frame(Frame::Credit { stream, bytes }),
        6 => frame(Frame::Return { stream, bytes }),
        7 => frame(Frame::Fin { stream }),
        8 => frame(Frame::Reset { stream, reason: ResetReason(random.next() as u8) }),
        9 if random.one_in(10) => frame(Frame::GoAway { drain_ms: bytes }),
        10 => datagram(stream.0, &vec![7; random.below(300) as usize]),
        _ => data(stream.0, &vec![7; random.below(300) as usize]),
    }
}

/// Ports of [`TestPorts`] check a pattern; what a hostile peer says has none.
#[derive(Default)]
pub struct AnyBytes(pub TestPorts);

impl Ports for AnyBytes {
    fn service(&self, slot: Slot) -> &str {
        self.0.service(slot)
    }

    fn accept(&mut self, slot: Slot, service: &str, mode: Mode) -> Result<(), ResetReason> {
        self.0.accept(slot, service, mode)
    }

    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Read {
        self.0.read(slot, buffer)
    }

    fn write(&mut self, slot: Slot, chunks: &[&[u8]]) -> Write {
        let offered: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        // Some take all, some half, some nothing.
        Write::Taken(offered * (slot.index() % 3) / 2)
    }

    fn finish(&mut self, slot: Slot) {
        self.0.finish(slot);
    }

    fn release(&mut self, slot: Slot, end: End) {
        self.0.release(slot, end);
        self.0.ended.clear();
    }
}
