//! A session never touches the heap: counted while it forwards bulk and small data, opens, closes, resets and resumes.
#![allow(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use umbilical_mux::{
    Config, End, Instant, MAX_DATAGRAM, MAX_MESSAGE, MAX_RECORD, Mode, Ports, Read, ResetReason, Session, SessionId,
    Shape, Side, Slot, Storage, StreamState, Write,
};

/// The system's allocator; counts what the thread asks it for.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has no count any more, and needs none.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the pointer came from `alloc` above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STREAMS: usize = 16;

/// Ports that read and take so many bytes at once, and never allocate.
struct FixedPorts {
    chunk: usize,
    /// Bytes still to be said by each slot; `None` once all is said and the half may end.
    to_say: [u64; STREAMS],
    ends: bool,
    takes: usize,
    mode: Mode,
    got: u64,
    released: u64,
}

impl FixedPorts {
    fn new(chunk: usize, takes: usize) -> Self {
        Self { chunk, to_say: [0; STREAMS], ends: false, takes, mode: Mode::Stream, got: 0, released: 0 }
    }
}

impl Ports for FixedPorts {
    fn service(&self, _: Slot) -> &str {
        "service"
    }

    fn accept(&mut self, slot: Slot, _: &str, _: Mode) -> Result<(), ResetReason> {
        self.to_say[slot.index()] = 0;
        Ok(())
    }

    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Read {
        let left = &mut self.to_say[slot.index()];
        let count = (*left).min(buffer.len().min(self.chunk) as u64);
        match (count, self.ends) {
            (0, true) => return Read::End,
            (0, false) => return Read::Pending,
            _ => {}
        }
        *left -= count;
        Read::Data(usize::try_from(count).expect("as long as the buffer at most"))
    }

    fn write(&mut self, _: Slot, chunks: &[&[u8]]) -> Write {
        let offered: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let taken = if self.mode == Mode::Datagram { offered } else { offered.min(self.takes) };
        self.got += taken as u64;
        Write::Taken(taken)
    }

    fn finish(&mut self, _: Slot) {}

    fn release(&mut self, _: Slot, _: End) {
        self.released += 1;
    }
}

struct Host {
    session: Session<Vec<u8>, Vec<StreamState>>,
    ports: FixedPorts,
}

struct Two {
    near: Host,
    far: Host,
    buffer: Box<[u8; MAX_MESSAGE]>,
    now: Instant,
    links: u32,
}

fn side(side: Side, ports: FixedPorts) -> Host {
    let shape = Shape { streams: 16, replay: 128 * 1024, receive: 128 * 1024 };
    let storage = Storage {
        replay: vec![0; shape.replay],
        receive: vec![0; shape.receive_memory()],
        streams: vec![StreamState::EMPTY; STREAMS],
    };
    let config = Config { side, id: SessionId([1; 16]), shape, record: MAX_RECORD, resume_for_ms: 1_000, features: 0 };
    Host { session: Session::new(config, storage).expect("a good shape"), ports }
}

impl Two {
    fn new(chunk: usize, takes: usize) -> Self {
        Self {
            near: side(Side::Gateway, FixedPorts::new(chunk, takes)),
            far: side(Side::Agent, FixedPorts::new(chunk, takes)),
            buffer: Box::new([0; MAX_MESSAGE]),
            now: Instant::from_micros(1),
            links: 0,
        }
    }

    fn link(&mut self) {
        self.links += 1;
        let Self { near, far, now, links, .. } = self;
        let hello = near.session.hello(*links);
        far.session.handle_hello(*now, &hello, &mut far.ports).expect("a good hello");
        let answer = far.session.hello(*links);
        near.session.handle_hello(*now, &answer, &mut near.ports).expect("a good answer");
    }

    /// So many milliseconds, in steps of one.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now.after_millis(1);
            let Self { near, far, buffer, now, .. } = self;
            carry(*now, near, far, &mut buffer[..]);
            carry(*now, far, near, &mut buffer[..]);
        }
    }

    fn open(&mut self, say: u64) -> Slot {
        let slot = self.near.session.open(self.now, self.near.ports.mode).expect("room");
        self.near.ports.to_say[slot.index()] = say;
        self.near.session.handle_readable(slot);
        slot
    }
}

fn carry(now: Instant, from: &mut Host, to: &mut Host, buffer: &mut [u8]) {
    from.session.handle_timeout(now, &mut from.ports);
    for slot in 0..16 {
        from.session.handle_writable(Slot::at(slot), &mut from.ports);
    }
    while let Some(message) = from.session.poll_message(now, &mut from.ports) {
        let (prefix, record) = (message.prefix.len(), message.record.len());
        buffer[..prefix].copy_from_slice(&message.prefix);
        buffer[prefix..prefix + record].copy_from_slice(message.record);
        to.session.handle_message(now, &buffer[..prefix + record], &mut to.ports).expect("a good message");
    }
}

/// How often `work` asks for memory.
fn allocations(two: &mut Two, mut work: impl FnMut(&mut Two)) -> u64 {
    let before = COUNT.get();
    work(two);
    COUNT.get() - before
}

#[test]
fn the_allocator_counts() {
    let before = COUNT.get();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(COUNT.get() - before, 1);
}

#[test]
fn bulk_is_forwarded_without_an_allocation() {
    let mut two = Two::new(usize::MAX, usize::MAX);
    two.link();
    let count = allocations(&mut two, |two| {
        for _ in 0..STREAMS {
            two.open(2_000_000);
        }
        two.run(2_000);
    });
    assert_eq!((count, two.far.ports.got), (0, 16 * 2_000_000));
}

#[test]
fn small_reads_and_slow_readers_allocate_nothing() {
    let mut two = Two::new(7, 300);
    two.link();
    let count = allocations(&mut two, |two| {
        for _ in 0..STREAMS {
            two.open(20_000);
        }
        two.run(4_000);
    });
    assert_eq!((count, two.far.ports.got), (0, 16 * 20_000));
}

#[test]
fn streams_that_come_and_go_allocate_nothing() {
    let mut two = Two::new(usize::MAX, usize::MAX);
    (two.near.ports.ends, two.far.ports.ends) = (true, true);
    two.link();
    let count = allocations(&mut two, |two| {
        for turn in 0..500 {
            let slot = two.open(1_000);
            two.run(2);
            if turn % 5 == 0 {
                two.near.session.reset(slot, ResetReason::ABORTED, &mut two.near.ports);
            }
            for slot in 0..16 {
                two.far.session.handle_readable(Slot::at(slot));
            }
            two.run(3);
        }
    });
    assert_eq!((count, two.near.ports.released, two.far.ports.got), (0, 500, 500_000));
}

#[test]
fn links_that_come_and_go_allocate_nothing() {
    let mut two = Two::new(usize::MAX, usize::MAX);
    two.link();
    let count = allocations(&mut two, |two| {
        for _ in 0..50 {
            if two.near.session.streams_open() < 16 {
                two.open(50_000);
            }
            two.near.session.handle_link_lost(two.now);
            two.far.session.handle_link_lost(two.now);
            two.link();
            two.run(5);
        }
        two.near.session.handle_link_lost(two.now);
        two.run(2_000);
    });
    assert_eq!((count, two.near.ports.released), (0, 16), "given up after resume-for");
}

#[test]
fn datagrams_allocate_nothing() {
    let mut two = Two::new(MAX_DATAGRAM, usize::MAX);
    (two.near.ports.mode, two.far.ports.mode) = (Mode::Datagram, Mode::Datagram);
    two.link();
    let count = allocations(&mut two, |two| {
        two.open(3_000_000);
        two.run(1_000);
    });
    assert_eq!((count, two.far.ports.got), (0, 3_000_000));
}
