//! Memory for sessions in tests.

use umbilical_mux::{Config, MAX_RECORD, Session, SessionId, Shape, Side, Storage, StreamState};

pub type TestSession = Session<Vec<u8>, Vec<StreamState>>;

pub const ID: SessionId = SessionId([7; 16]);

/// The agent's defaults.
pub const SHAPE: Shape = Shape { streams: 64, replay: 256 * 1024, receive: 256 * 1024 };

pub const RESUME_FOR_MS: u64 = 120_000;

pub fn storage(shape: Shape) -> Storage<Vec<u8>, Vec<StreamState>> {
    Storage {
        replay: vec![0; shape.replay],
        receive: vec![0; shape.receive_memory()],
        streams: vec![StreamState::EMPTY; usize::from(shape.streams)],
    }
}

pub fn session(side: Side, shape: Shape) -> TestSession {
    let config = Config { side, id: ID, shape, record: MAX_RECORD, resume_for_ms: RESUME_FOR_MS, features: 0 };
    Session::new(config, storage(shape)).expect("a good shape")
}
