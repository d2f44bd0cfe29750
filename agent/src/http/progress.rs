//! Whether a conversation with the service goes on: a request that is sent counts as much as a response that comes.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use smol::Timer;

use super::failure::Failure;

/// When something last happened, and how long nothing may.
pub(super) struct Progress {
    at: Cell<Instant>,
    pub(super) timeout: Duration,
}

impl Progress {
    pub(super) fn new(timeout: Duration) -> Progress {
        Progress { at: Cell::new(Instant::now()), timeout }
    }

    pub(super) fn made(&self) {
        self.at.set(Instant::now());
    }

    /// Fails when nothing has happened for too long.
    pub(super) async fn late<T>(&self) -> Result<T, Failure> {
        loop {
            let due = self.at.get() + self.timeout;
            if due <= Instant::now() {
                return Err(Failure::Silent { after: self.timeout });
            }
            Timer::at(due).await;
        }
    }
}
