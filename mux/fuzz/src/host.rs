//! A session with ports in memory. A port says a pattern, named by its service, and checks what it hears against the peer's.

use std::collections::BTreeMap;

use umbilical_mux::{
    Config, End, Instant, MAX_HELLO, Mode, Ports, Read, ResetReason, Session, SessionId, Shape, Side, Slot, Storage,
    StreamState, Write,
};

pub const ID: SessionId = SessionId([7; 16]);

/// Small, so that everything fills up soon.
pub const SHAPE: Shape = Shape { streams: 4, replay: 2 * umbilical_mux::MIN_REPLAY, receive: 2_048 };

pub struct Host {
    pub session: Session<Vec<u8>, Vec<StreamState>>,
    pub ports: MemoryPorts,
    opened: u32,
}

#[derive(Default)]
pub struct MemoryPorts {
    open: BTreeMap<Slot, Port>,
    /// The peer says what a port of the same name would.
    honest: bool,
    side: u8,
}

struct Port {
    service: String,
    mode: Mode,
    said: u64,
    to_say: u64,
    ends: bool,
    heard: u64,
    room: u64,
    finished: bool,
    /// Bytes of each datagram to say.
    letters: Vec<usize>,
}

/// Byte `at` of what `side` says on the stream to `service`.
fn pattern(service: &str, side: u8, at: u64) -> u8 {
    let start = service.bytes().fold(side, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    start.wrapping_add((at % 251) as u8)
}

impl Host {
    /// A host whose peer is honest, or not.
    pub fn new(side: Side, honest: bool) -> Self {
        let storage = Storage {
            replay: vec![0; SHAPE.replay],
            receive: vec![0; SHAPE.receive_memory()],
            streams: vec![StreamState::EMPTY; usize::from(SHAPE.streams)],
        };
        let config = Config { side, id: ID, shape: SHAPE, record: umbilical_mux::MAX_RECORD, resume_for_ms: 2_000, features: 0 };
        let session = Session::new(config, storage).expect("a good shape");
        let ports = MemoryPorts { open: BTreeMap::new(), honest, side: u8::from(side == Side::Agent) };
        Self { session, ports, opened: 0 }
    }

    /// This side's `Hello` as bytes.
    pub fn hello(&mut self, number: u32) -> Vec<u8> {
        self.session.hello(number).encode(&mut [0; MAX_HELLO]).to_vec()
    }

    /// Opens a stream, if there is room; its service's name is its own.
    pub fn open(&mut self, now: Instant, mode: Mode) {
        if let Ok(slot) = self.session.open(now, mode) {
            self.opened += 1;
            let service = format!("{}-{}", self.ports.side, self.opened);
            self.ports.put(slot, service, mode);
            self.session.handle_readable(slot);
        }
    }

    /// The port at `slot` has more to say, or in datagrams.
    pub fn say(&mut self, slot: Slot, bytes: u16) {
        if let Some(port) = self.ports.open.get_mut(&slot).filter(|port| !port.ends) {
            match port.mode {
                Mode::Stream => port.to_say += u64::from(bytes),
                Mode::Datagram => port.letters.push(usize::from(bytes).min(umbilical_mux::MAX_DATAGRAM)),
            }
        }
        self.session.handle_readable(slot);
    }

    /// The port at `slot` says no more.
    pub fn end(&mut self, slot: Slot) {
        if let Some(port) = self.ports.open.get_mut(&slot) {
            port.ends = true;
        }
        self.session.handle_readable(slot);
    }

    /// The port at `slot` can take more.
    pub fn make_room(&mut self, slot: Slot, bytes: u64) {
        if let Some(port) = self.ports.open.get_mut(&slot) {
            port.room = port.room.saturating_add(bytes);
        }
        self.session.handle_writable(slot, &mut self.ports);
    }

    pub fn reset(&mut self, slot: Slot) {
        self.session.reset(slot, ResetReason::ABORTED, &mut self.ports);
    }

    /// The next message, as bytes.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        let message = self.session.poll_message(now, &mut self.ports)?;
        Some([&message.prefix, message.record].concat())
    }

    /// What the ports said and heard, by the name of their service.
    pub fn heard_and_said(&self) -> BTreeMap<&str, (u64, u64, u64)> {
        let streams = self.ports.open.values().filter(|port| port.mode == Mode::Stream);
        streams.map(|port| (&port.service[..], (port.heard, port.said, port.to_say))).collect()
    }

    /// Checks that the session and its ports agree on what is open. Slots of streams that are still to be reset count.
    pub fn check(&self) {
        assert!(self.ports.open.len() <= usize::from(self.session.streams_open()));
        assert!(self.session.pool_used() <= SHAPE.receive as u32 + 254);
    }
}

impl MemoryPorts {
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn put(&mut self, slot: Slot, service: String, mode: Mode) {
        let port = Port {
            service,
            mode,
            said: 0,
            to_say: 0,
            ends: false,
            heard: 0,
            room: 0,
            finished: false,
            letters: Vec::new(),
        };
        assert!(self.open.insert(slot, port).is_none(), "a slot used twice at once");
    }

    fn port(&mut self, slot: Slot) -> &mut Port {
        self.open.get_mut(&slot).expect("a port that is open")
    }
}

impl Ports for MemoryPorts {
    fn service(&self, slot: Slot) -> &str {
        &self.open[&slot].service
    }

    fn accept(&mut self, slot: Slot, service: &str, mode: Mode) -> Result<(), ResetReason> {
        if service.starts_with('!') {
            return Err(ResetReason::NOT_ALLOWED);
        }
        self.put(slot, service.to_owned(), mode);
        Ok(())
    }

    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Read {
        let side = self.side;
        let port = self.port(slot);
        if let Some(letter) = port.letters.pop() {
            buffer[..letter].fill(0x11);
            return Read::Data(letter);
        }
        let count = port.to_say.min(buffer.len() as u64);
        if count == 0 {
            return if port.ends { Read::End } else { Read::Pending };
        }
        for byte in &mut buffer[..count as usize] {
            *byte = pattern(&port.service, side, port.said);
            port.said += 1;
        }
        port.to_say -= count;
        Read::Data(count as usize)
    }

    fn write(&mut self, slot: Slot, chunks: &[&[u8]]) -> Write {
        let (honest, side) = (self.honest, 1 - self.side);
        let port = self.port(slot);
        assert!(!port.finished, "bytes after the end");
        if port.mode == Mode::Datagram {
            assert_eq!(chunks.len(), 1, "a datagram in pieces");
            return Write::Taken(chunks[0].len());
        }
        let mut taken = 0;
        for byte in chunks.iter().flat_map(|chunk| chunk.iter()).take(port.room.min(1 << 20) as usize) {
            assert!(!honest || *byte == pattern(&port.service, side, port.heard), "another byte than was said");
            port.heard += 1;
            port.room -= 1;
            taken += 1;
        }
        Write::Taken(taken)
    }

    fn finish(&mut self, slot: Slot) {
        assert!(!std::mem::replace(&mut self.port(slot).finished, true), "ended twice");
    }

    fn release(&mut self, slot: Slot, _: End) {
        assert!(self.open.remove(&slot).is_some(), "released twice");
    }
}
