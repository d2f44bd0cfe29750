//! A second opinion on credit: what one host may still get, from nothing but the frames it wrote and got.

use std::collections::BTreeMap;

use umbilical_mux::{Frame, MAX_MESSAGE, MAX_RECORD, Mode, StreamId};

use super::ports::TestPorts;

#[derive(Debug, Default)]
struct Books {
    key: u64,
    /// Bytes granted and not yet arrived; bytes arrived.
    window: u64,
    arrived: u64,
}

/// The books of one host.
#[derive(Debug)]
pub struct Audit {
    floor: u64,
    most: u64,
    streams: BTreeMap<u32, Books>,
    /// Records this host wrote, those it wrote on this link included; of them, in the books.
    written: u64,
    booked: u64,
    /// The most that was ever granted or waiting at once.
    pub peak: u64,
}

/// A message taken apart: whether it is numbered, and its frames.
pub fn frames(message: &[u8]) -> (bool, Vec<(Frame<'_>, &[u8])>) {
    assert!(!message.is_empty() && message.len() <= MAX_MESSAGE, "a message of {} bytes", message.len());
    let (mut at, mut all) = (0, Vec::new());
    while at < message.len() {
        let (frame, payload, taken) = Frame::decode(&message[at..], at).expect("a frame that its writer can read");
        all.push((frame, payload));
        at += taken;
    }
    let record = all.iter().skip_while(|(frame, _)| matches!(frame, Frame::Ack { .. } | Frame::Solicit { .. }));
    (record.count() > 0, all)
}

impl Audit {
    pub fn new(floor: u32, receive: usize) -> Self {
        // The pool is made of blocks: it may back a little more than was asked for.
        let most = receive as u64 + 254;
        Self { floor: floor.into(), most, streams: BTreeMap::new(), written: 0, booked: 0, peak: 0 }
    }

    /// A new link, on which the peer has `received` records of before.
    pub fn linked(&mut self, received: u64, fresh: bool) {
        if fresh {
            self.streams.clear();
            self.booked = 0;
        }
        self.written = received;
    }

    /// The host wrote `message`.
    pub fn wrote(&mut self, message: &[u8]) {
        let (numbered, frames) = frames(message);
        if !numbered {
            return;
        }
        self.written += 1;
        if self.written <= self.booked {
            return; // sent again
        }
        self.booked = self.written;
        let mut record = 0;
        for (frame, payload) in frames {
            record += payload.len();
            match frame {
                Frame::Open { stream, mode, service } => self.open(stream, mode, service),
                Frame::Credit { stream, bytes } => {
                    assert!(bytes > 0, "a grant of nothing");
                    if let Some(books) = self.streams.get_mut(&stream.0) {
                        books.window += u64::from(bytes);
                    }
                }
                Frame::Hello
                | Frame::Ack { .. }
                | Frame::Solicit { .. }
                | Frame::Data { .. }
                | Frame::Datagram { .. }
                | Frame::Return { .. }
                | Frame::Fin { .. }
                | Frame::Reset { .. }
                | Frame::GoAway { .. } => {}
            }
        }
        assert!(record <= MAX_RECORD, "a record of {record} bytes");
    }

    /// `message` is about to be handed to the host.
    pub fn got(&mut self, message: &[u8]) {
        for (frame, payload) in frames(message).1 {
            match frame {
                Frame::Open { stream, mode, service } => self.open(stream, mode, service),
                Frame::Data { stream, .. } => {
                    if let Some(books) = self.streams.get_mut(&stream.0) {
                        let bytes = payload.len() as u64;
                        assert!(bytes <= books.window, "stream {}: {bytes} bytes of {}", stream.0, books.window);
                        books.window -= bytes;
                        books.arrived += bytes;
                    }
                }
                Frame::Return { stream, bytes } => {
                    if let Some(books) = self.streams.get_mut(&stream.0) {
                        assert!(u64::from(bytes) <= books.window, "stream {}: more returned than granted", stream.0);
                        books.window -= u64::from(bytes);
                    }
                }
                Frame::Fin { stream } => {
                    if let Some(books) = self.streams.get_mut(&stream.0) {
                        books.window = 0;
                    }
                }
                Frame::Hello
                | Frame::Ack { .. }
                | Frame::Solicit { .. }
                | Frame::Datagram { .. }
                | Frame::Credit { .. }
                | Frame::Reset { .. }
                | Frame::GoAway { .. } => {}
            }
        }
    }

    fn open(&mut self, stream: StreamId, mode: Mode, service: &str) {
        let key = service.split(':').nth(1).and_then(|key| key.parse().ok()).unwrap_or(0);
        let window = if mode == Mode::Stream { self.floor } else { 0 };
        self.streams.insert(stream.0, Books { key, window, arrived: 0 });
    }

    /// Bytes granted or waiting, checked against the pool.
    pub fn check(&mut self, ports: &TestPorts) {
        self.streams.retain(|_, books| ports.is_open(books.key));
        let held = |books: &Books| books.window + books.arrived.saturating_sub(ports.port(books.key).got);
        let sum = self.streams.values().map(held).sum();
        assert!(sum <= self.most, "{sum} bytes granted or waiting, {} in the pool", self.most);
        self.peak = self.peak.max(sum);
    }
}
