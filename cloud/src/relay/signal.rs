//! Something that happens once and that any number of tasks wait for.

use std::convert::Infallible;

use smol::channel::{Receiver, Sender, bounded};

/// Raised once, for everybody, for good. Clones are the same signal.
#[derive(Debug, Clone)]
pub(crate) struct Signal {
    // nothing is ever sent: closing the channel is the news
    sender: Sender<Infallible>,
    receiver: Receiver<Infallible>,
}

impl Default for Signal {
    fn default() -> Self {
        Self::new()
    }
}

impl Signal {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = bounded(1);
        Self { sender, receiver }
    }

    pub(crate) fn raise(&self) {
        self.sender.close();
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether anybody else has it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.receiver.receiver_count() > 1
    }

    /// Waits until it is raised.
    pub(crate) async fn raised(&self) {
        let Err(_closed) = self.receiver.recv().await;
    }
}
