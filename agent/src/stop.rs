//! A wish to stop that many tasks can wait for: expressed once, seen by all, also by those that ask later.

use smol::channel::{Receiver, Sender, bounded};

/// Whoever holds this can end what the [`Stop`]s guard, by dropping it.
#[derive(Debug)]
pub struct Stopper(#[expect(dead_code, reason = "held only to be dropped")] Sender<Never>);

/// One who waits for the end.
#[derive(Debug, Clone)]
pub struct Stop(Receiver<Never>);

#[derive(Debug)]
enum Never {}

/// A pair that belongs together.
#[must_use]
pub fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = bounded(1);
    (Stopper(sender), Stop(receiver))
}

impl Stop {
    /// Returns when the [`Stopper`] is gone.
    pub async fn wanted(&self) {
        // nobody can send what does not exist: this ends when the sender is dropped
        let _ = self.0.recv().await;
    }

    /// Whether the [`Stopper`] is gone.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.is_closed()
    }
}
