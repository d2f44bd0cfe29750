//! The memory that sessions work in.

use umbilical_mux::{Instant, Shape, Storage, StreamState};

pub(crate) type Memory = Storage<Box<[u8]>, Box<[StreamState]>>;
type Session = umbilical_mux::Session<Box<[u8]>, Box<[StreamState]>>;

/// How long a session keeps its memory after its last stream, in milliseconds.
const KEPT_FOR_MS: u64 = 10_000;

/// Whether a session has memory. It is lent while there are streams: a host of many sessions, most of them idle, pays for those that
/// are busy, and a device does not keep for good what one fast transfer has touched.
#[derive(Debug)]
pub(crate) struct Lease {
    shape: Shape,
    is_lent: bool,
    quiet_since: Option<Instant>,
}

impl Lease {
    /// Of a session that was made with memory of this shape.
    pub(crate) fn new(shape: Shape) -> Lease {
        Lease { shape, is_lent: true, quiet_since: None }
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// Lends the session memory if it has none: it is about to need it.
    pub(crate) fn lend(&mut self, session: &mut Session) {
        if !self.is_lent {
            self.is_lent = session.lend(allocate(self.shape)).is_ok();
        }
        self.quiet_since = None;
    }

    /// When the session will have been quiet for long enough, if it stays so.
    pub(crate) fn ends_at(&mut self, session: &Session, now: Instant) -> Option<Instant> {
        if !self.is_lent || !session.is_quiet() {
            self.quiet_since = None;
            return None;
        }
        Some(self.quiet_since.get_or_insert(now).after_millis(KEPT_FOR_MS))
    }

    /// Takes the memory back of a session that has been quiet for long enough; whether it did.
    pub(crate) fn end_if_due(&mut self, session: &mut Session, now: Instant) -> bool {
        let is_due = self.ends_at(session, now).is_some_and(|at| at <= now);
        if is_due {
            self.is_lent = session.reclaim(none()).is_none();
        }
        is_due && !self.is_lent
    }
}

/// Takes memory of a session's shape from the heap. It comes zeroed by the system; pages never used stay untouched.
pub(crate) fn allocate(shape: Shape) -> Memory {
    Storage {
        replay: vec![0; shape.replay].into_boxed_slice(),
        receive: vec![0; shape.receive_memory()].into_boxed_slice(),
        streams: vec![StreamState::EMPTY; usize::from(shape.streams)].into_boxed_slice(),
    }
}

/// What a session has that gave its memory back.
fn none() -> Memory {
    Storage { replay: Box::default(), receive: Box::default(), streams: Box::default() }
}
