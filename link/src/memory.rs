//! The memory that sessions work in.

use std::time::Duration;

use umbilical_mux::{Shape, Storage, StreamState};

/// How long a session that may give its memory back keeps it after its last stream.
pub(crate) const RELEASE_AFTER: Duration = Duration::from_secs(10);

pub(crate) type Memory = Storage<Box<[u8]>, Box<[StreamState]>>;

/// Takes memory of a session's shape from the heap. It comes zeroed by the system; pages never used stay untouched.
pub(crate) fn allocate(shape: Shape) -> Memory {
    Storage {
        replay: vec![0; shape.replay].into_boxed_slice(),
        receive: vec![0; shape.receive_memory()].into_boxed_slice(),
        streams: vec![StreamState::EMPTY; usize::from(shape.streams)].into_boxed_slice(),
    }
}

/// What a session has that gave its memory back.
pub(crate) fn none() -> Memory {
    Storage { replay: Box::default(), receive: Box::default(), streams: Box::default() }
}
