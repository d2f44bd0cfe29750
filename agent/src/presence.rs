//! Whether the device is connected to any relay that is no reserve, for the reserves, which wait for that to end.

use std::{cell::Cell, rc::Rc, time::Duration};

use event_listener::Event;
use smol::{Timer, future};

/// Counts the control channels that are open.
#[derive(Debug, Default)]
pub struct Presence {
    channels: Cell<usize>,
    /// The first one has come, or the last one gone.
    turned: Event,
}

/// One open control channel; gone when it is dropped.
#[derive(Debug)]
pub struct Here(Rc<Presence>);

impl Presence {
    /// A control channel is open.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Here {
        self.change(self.channels.get() + 1);
        Here(Rc::clone(self))
    }

    /// Returns when there has been none for so long.
    pub async fn is_missing_for(&self, long: Duration) {
        self.holds(|channels| channels == 0, long).await;
    }

    /// Returns when there has been one for so long.
    pub async fn is_back_for(&self, long: Duration) {
        self.holds(|channels| channels > 0, long).await;
    }

    async fn holds(&self, wanted: impl Fn(usize) -> bool, long: Duration) {
        loop {
            let turned = self.turned.listen();
            if !wanted(self.channels.get()) {
                turned.await;
                continue;
            }
            let lost = async {
                turned.await;
                false
            };
            let held = async {
                Timer::after(long).await;
                true
            };
            if future::or(lost, held).await {
                return;
            }
        }
    }

    fn change(&self, channels: usize) {
        if (self.channels.replace(channels) == 0) != (channels == 0) {
            self.turned.notify(usize::MAX);
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.0.change(self.0.channels.get() - 1);
    }
}
