//! A second opinion on credit and memory: what one host may still get, and what it must keep, from nothing but the
//! frames it wrote and got.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use umbilical_mux::{Frame, MAX_MESSAGE, MAX_RECORD, Mode, Shape, StreamId};

use super::invariant::Invariant;
use super::ports::TestPorts;

/// Bytes that the replay ring needs beside each record.
const RING_HEAD: usize = 6;

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
    ring: usize,
    streams: BTreeMap<u32, Books>,
    /// Records this host wrote, those it wrote on this link included; of them, in the books; acknowledged.
    written: u64,
    booked: u64,
    acked: u64,
    /// Length and hash of each record in the books that is not acknowledged, and the sum of the lengths.
    kept: VecDeque<(usize, u64)>,
    kept_bytes: usize,
    /// The most that was ever granted or waiting at once.
    pub peak: u64,
}

/// The frames of a message, each with its payload.
pub fn frames(message: &[u8]) -> Vec<(Frame<'_>, &[u8])> {
    assert!(message.len() <= MAX_MESSAGE, "a message of {} bytes", message.len());
    let (mut at, mut all) = (0, Vec::new());
    while at < message.len() {
        let (frame, payload, taken) = Frame::decode(&message[at..], at).expect("a frame that its writer can read");
        all.push((frame, payload));
        at += taken;
    }
    all
}

impl Audit {
    /// For a host whose streams start with a credit of `floor` bytes, in memory of that shape.
    pub fn new(floor: u32, shape: Shape) -> Self {
        // The pool is made of blocks: it may back a little more than was asked for.
        let most = shape.receive as u64 + 254;
        Self {
            floor: floor.into(),
            most,
            ring: shape.replay,
            streams: BTreeMap::new(),
            written: 0,
            booked: 0,
            acked: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            peak: 0,
        }
    }

    /// A new link, on which the peer has `received` records of before.
    pub fn linked(&mut self, received: u64, fresh: bool) {
        if fresh {
            self.streams.clear();
            self.kept.clear();
            (self.booked, self.acked, self.kept_bytes) = (0, 0, 0);
        }
        self.acknowledged(received);
        self.written = received;
    }

    fn acknowledged(&mut self, records: u64) {
        while self.acked < records {
            let Some((length, _)) = self.kept.pop_front() else { return };
            self.kept_bytes -= length + RING_HEAD;
            self.acked += 1;
        }
    }

    /// The host wrote a message with this record.
    pub fn wrote(&mut self, record: &[u8]) {
        if record.is_empty() {
            return;
        }
        self.written += 1;
        let hash = hash(record);
        if self.written <= self.booked {
            let kept = self.kept.get((self.written - self.acked - 1) as usize);
            Invariant::Resending.require(kept == Some(&(record.len(), hash)), || {
                format!("record {} of {} bytes is another one than before", self.written, record.len())
            });
            return;
        }
        self.booked = self.written;
        self.kept.push_back((record.len(), hash));
        self.kept_bytes += record.len() + RING_HEAD;
        Invariant::Ring.require(self.kept_bytes <= self.ring, || {
            format!("{} records of {} bytes in a ring of {}", self.kept.len(), self.kept_bytes, self.ring)
        });
        assert!(record.len() <= MAX_RECORD, "a record of {} bytes", record.len());
        for (frame, _) in frames(record) {
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
    }

    /// `message` is about to be handed to the host.
    pub fn got(&mut self, message: &[u8]) {
        for (frame, payload) in frames(message) {
            match frame {
                Frame::Open { stream, mode, service } => self.open(stream, mode, service),
                Frame::Data { stream, .. } => {
                    if let Some(books) = self.streams.get_mut(&stream.0) {
                        let bytes = payload.len() as u64;
                        Invariant::Credit.require(bytes <= books.window, || {
                            format!("stream {}: {bytes} bytes, {} were granted", stream.0, books.window)
                        });
                        books.window -= bytes;
                        books.arrived += bytes;
                    }
                }
                Frame::Return { stream, bytes } => {
                    if let Some(books) = self.streams.get_mut(&stream.0) {
                        Invariant::Credit.require(u64::from(bytes) <= books.window, || {
                            format!("stream {}: {bytes} bytes returned, {} were granted", stream.0, books.window)
                        });
                        books.window -= u64::from(bytes);
                    }
                }
                Frame::Fin { stream } => {
                    if let Some(books) = self.streams.get_mut(&stream.0) {
                        books.window = 0;
                    }
                }
                Frame::Ack { records, .. } => self.acknowledged(records),
                Frame::Hello
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
        Invariant::Pool
            .require(sum <= self.most, || format!("{sum} bytes granted or waiting, {} in the pool", self.most));
        self.peak = self.peak.max(sum);
    }
}

fn hash(record: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.hash(&mut hasher);
    hasher.finish()
}
