//! Ports in memory: they say a pattern and check the pattern that they get, byte by byte.
//!
//! What a service's port does is in its name, `KIND:KEY` or `KIND:KEY:BYTES`:
//! `sink` takes all and says nothing, `echo` says what it gets, `source` says so many bytes and ends, `both` does that
//! and takes all, `deaf` takes nothing until it is allowed to, `mail` is for datagrams. KEY tells streams apart; both
//! ends of a stream share it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;

use umbilical_mux::{End, Mode, Ports, Read, ResetReason, Slot, Write};

use super::invariant::Invariant;

/// Bytes after which the pattern repeats: a prime, so that no block size divides it.
const PERIOD: usize = 65_521;

/// The pattern that the opener's (0) or the other's (1) half of stream `key` carries at `offset`, `length` bytes of it.
pub fn pattern(key: u64, half: u8, offset: u64, length: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut random = super::random::Random::new(42);
        let once: Vec<u8> = (0..PERIOD).map(|_| random.next() as u8).collect();
        once.iter().chain(&once).copied().collect()
    });
    let start = (offset + key * 7_919 + u64::from(half) * 31_337) % PERIOD as u64;
    &table[start as usize..start as usize + length]
}

/// Wakes a paced port every so often: so many bytes each time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes: u64,
    pub every_us: u64,
    pub next: u64,
}

impl Pace {
    /// A reader that has its turn's worth of `room` waits for nothing.
    fn is_wanted(&self, room: u64) -> bool {
        room < self.bytes || room == u64::MAX
    }
}

#[derive(Debug)]
pub struct Port {
    pub key: u64,
    pub service: String,
    pub mode: Mode,
    /// Which half of the stream's pattern this port says.
    half: u8,
    echoes: bool,
    /// Bytes still to be said, and said; what comes after them.
    pub to_say: u64,
    pub said: u64,
    pub then: Then,
    /// The session was told that it ended: what it would say now is not asked for.
    pub over: bool,
    /// A read gives so many bytes at most.
    pub chunk: usize,
    pub say_pace: Option<Pace>,
    /// Bytes got and checked; bytes it has room for.
    pub got: u64,
    pub room: u64,
    pub take_pace: Option<Pace>,
    pub finished: bool,
    /// Writing fails once so many bytes were taken.
    pub breaks_after: Option<(u64, ResetReason)>,
    pub letters_out: VecDeque<Vec<u8>>,
    pub letters_in: Vec<Vec<u8>>,
    /// The session was told that there is nothing to read: it must be told when there is.
    pub asked: bool,
}

/// What a port does when it has nothing more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Wait,
    End,
    Fail(ResetReason),
}

impl Port {
    /// A port that says nothing and takes everything.
    pub fn new(service: &str, mode: Mode, half: u8) -> Self {
        let key = service.split(':').nth(1).and_then(|key| key.parse().ok()).unwrap_or(0);
        Self {
            key,
            service: service.to_owned(),
            mode,
            half,
            echoes: false,
            to_say: 0,
            said: 0,
            then: Then::Wait,
            over: false,
            chunk: usize::MAX,
            say_pace: None,
            got: 0,
            room: u64::MAX,
            take_pace: None,
            finished: false,
            breaks_after: None,
            letters_out: VecDeque::new(),
            letters_in: Vec::new(),
            asked: false,
        }
    }

    /// The port of a service, by its name.
    fn serve(service: &str, mode: Mode) -> Result<Self, ResetReason> {
        let bytes = service.split(':').nth(2).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        let mut port = Self::new(service, mode, 1);
        match (service.split(':').next().unwrap_or_default(), mode) {
            ("sink", Mode::Stream) | ("mail", Mode::Datagram) => {}
            ("echo", Mode::Stream) => (port.echoes, port.half) = (true, 0),
            ("source", Mode::Stream) => (port.to_say, port.then) = (bytes, Then::End),
            ("both", Mode::Stream) => port.to_say = bytes,
            ("deaf", Mode::Stream) => (port.room, port.to_say) = (0, bytes),
            ("sink" | "echo" | "source" | "both" | "deaf" | "mail", _) => return Err(ResetReason::WRONG_MODE),
            _ => return Err(ResetReason::NOT_ALLOWED),
        }
        Ok(port)
    }

    /// Whether this end opened the stream; of services that echo, both ends say so.
    pub fn is_opener(&self) -> bool {
        self.half == 0
    }

    fn heard_half(&self) -> u8 {
        if self.service.starts_with("echo") { 0 } else { 1 - self.half }
    }
}

/// How a stream ended, with its port as it was then.
#[derive(Debug)]
pub struct Ended {
    pub end: End,
    pub port: Port,
}

/// All ports of one host.
#[derive(Debug, Default)]
pub struct TestPorts {
    slots: BTreeMap<Slot, Port>,
    by_key: BTreeMap<u64, Slot>,
    /// By key.
    pub ended: BTreeMap<u64, Ended>,
    /// Slots that became readable by themselves.
    pub readable: Vec<Slot>,
    /// Times that ports were asked to read.
    pub reads: u64,
    /// Streams that ended because there was no link, or the peer forgot them.
    pub given_up: u64,
}

impl TestPorts {
    pub fn put(&mut self, slot: Slot, port: Port) {
        self.by_key.insert(port.key, slot);
        let before = self.slots.insert(slot, port);
        assert!(before.is_none(), "slot {slot:?} is used twice at once");
    }

    pub fn slot(&self, key: u64) -> Option<Slot> {
        self.by_key.get(&key).copied()
    }

    /// The port of stream `key`, open or ended.
    pub fn port(&self, key: u64) -> &Port {
        let ended = || self.ended.get(&key).map(|ended| &ended.port);
        self.find_open(key).or_else(ended).expect("a stream of that key")
    }

    pub fn find_open(&self, key: u64) -> Option<&Port> {
        self.by_key.get(&key).and_then(|slot| self.slots.get(slot))
    }

    pub fn port_mut(&mut self, key: u64) -> (Slot, &mut Port) {
        let slot = self.by_key[&key];
        (slot, self.slots.get_mut(&slot).expect("an open stream of that key"))
    }

    pub fn is_open(&self, key: u64) -> bool {
        self.slot(key).is_some()
    }

    pub fn open(&self) -> usize {
        self.slots.len()
    }

    pub fn keys(&self) -> Vec<u64> {
        self.slots.values().map(|port| port.key).collect()
    }

    pub fn end(&self, key: u64) -> Option<End> {
        self.ended.get(&key).map(|ended| ended.end)
    }

    pub fn next_pace(&self) -> Option<u64> {
        let pace = |port: &Port| [port.say_pace, port.take_pace.filter(|pace| pace.is_wanted(port.room))];
        self.slots.values().flat_map(pace).flatten().map(|pace| pace.next).min()
    }

    /// Does what paced ports do until `now`; the slots that became readable, and writable.
    pub fn keep_pace(&mut self, now: u64) -> (Vec<Slot>, Vec<Slot>) {
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        for (slot, port) in &mut self.slots {
            if let Some(pace) = port.say_pace.as_mut().filter(|pace| pace.next <= now) {
                pace.next = now + pace.every_us;
                port.to_say += pace.bytes;
                readable.push(*slot);
            }
            let room = port.room;
            if let Some(pace) = port.take_pace.as_mut().filter(|pace| pace.next <= now && pace.is_wanted(room)) {
                pace.next = now + pace.every_us;
                // A reader that was waited for has no more than one turn's worth of room.
                port.room = pace.bytes;
                writable.push(*slot);
            }
        }
        (readable, writable)
    }
}

impl Ports for TestPorts {
    fn service(&self, slot: Slot) -> &str {
        &self.slots[&slot].service
    }

    fn accept(&mut self, slot: Slot, service: &str, mode: Mode) -> Result<(), ResetReason> {
        self.put(slot, Port::serve(service, mode)?);
        self.readable.push(slot);
        Ok(())
    }

    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Read {
        self.reads += 1;
        assert!(!buffer.is_empty(), "asked to read nothing");
        let port = self.slots.get_mut(&slot).expect("read of a stream that is open");
        if let Some(letter) = port.letters_out.pop_front() {
            assert!(buffer.len() >= letter.len(), "a datagram of {} bytes cut to {}", letter.len(), buffer.len());
            buffer[..letter.len()].copy_from_slice(&letter);
            return Read::Data(letter.len());
        }
        let count = port.to_say.min(buffer.len() as u64).min(port.chunk as u64) as usize;
        if count > 0 {
            buffer[..count].copy_from_slice(pattern(port.key, port.half, port.said, count));
            port.said += count as u64;
            port.to_say -= count as u64;
            return Read::Data(count);
        }
        match port.then {
            Then::Wait => {
                port.asked = true;
                Read::Pending
            }
            Then::End => {
                port.over = true;
                Read::End
            }
            Then::Fail(reason) => Read::Failed(reason),
        }
    }

    fn write(&mut self, slot: Slot, chunks: &[&[u8]]) -> Write {
        let port = self.slots.get_mut(&slot).expect("write to a stream that is open");
        Invariant::Bytes.require(!port.finished, || format!("stream {}: bytes after the end", port.key));
        if port.mode == Mode::Datagram {
            let [letter] = chunks else { panic!("a datagram in {} pieces", chunks.len()) };
            if port.room > 0 {
                port.letters_in.push(letter.to_vec());
            }
            return Write::Taken(letter.len());
        }
        let mut taken = 0;
        for chunk in chunks {
            assert!(!chunk.is_empty(), "asked to take nothing");
            let count = port.room.min(chunk.len() as u64) as usize;
            let expected = pattern(port.key, port.heard_half(), port.got, count);
            Invariant::Bytes.require(&chunk[..count] == expected, || {
                format!("stream {}: other bytes than said at {}", port.key, port.got)
            });
            port.got += count as u64;
            port.room -= if port.room == u64::MAX { 0 } else { count as u64 };
            taken += count;
            if let Some((_, reason)) = port.breaks_after.filter(|(bytes, _)| port.got >= *bytes) {
                return Write::Failed(reason);
            }
            if count < chunk.len() {
                break;
            }
        }
        if port.echoes && taken > 0 {
            port.to_say += taken as u64;
            self.readable.push(slot);
        }
        Write::Taken(taken)
    }

    fn finish(&mut self, slot: Slot) {
        let port = self.slots.get_mut(&slot).expect("end of a stream that is open");
        let before = std::mem::replace(&mut port.finished, true);
        Invariant::Bytes.require(!before, || format!("stream {}: ended twice", port.key));
        if port.echoes {
            port.then = Then::End;
            self.readable.push(slot);
        }
    }

    fn release(&mut self, slot: Slot, end: End) {
        let port = self.slots.remove(&slot).expect("release of a stream that is open");
        if self.by_key.get(&port.key) == Some(&slot) {
            self.by_key.remove(&port.key);
        }
        if matches!(end, End::Reset(ResetReason::RESUME_EXPIRED | ResetReason::SESSION_LOST)) {
            self.given_up += 1;
        }
        let before = self.ended.insert(port.key, Ended { end, port });
        assert!(before.is_none_or(|before| before.port.key == 0), "released twice");
    }
}
