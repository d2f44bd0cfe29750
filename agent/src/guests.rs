//! Who is here and may finish when the agent stops: connections of foreign senders, HTTP requests.
//!
//! Owns: their number, the door that closes behind them, waiting for the last one. Leaves to others: what they do here.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use smol::{
    Timer, future,
    lock::{RwLock, RwLockReadGuardArc},
};

/// The guests of one kind.
#[derive(Debug, Default)]
pub struct Guests {
    here: Rc<Cell<usize>>,
    /// Read-locked by every guest: who gets to write knows that all have left.
    doors: Arc<RwLock<()>>,
    /// Nobody gets in any more.
    closed: Cell<bool>,
}

/// The place of one guest, who leaves when it is dropped.
#[derive(Debug)]
pub struct Seat {
    here: Rc<Cell<usize>>,
    _door: RwLockReadGuardArc<()>,
}

impl Guests {
    /// Lets one in; `None` when the doors are closed.
    #[must_use]
    pub fn enter(&self) -> Option<Seat> {
        let door = self.doors.try_read_arc().filter(|_| !self.closed.get())?;
        self.here.set(self.here.get() + 1);
        Some(Seat { here: Rc::clone(&self.here), _door: door })
    }

    /// How many are here.
    #[must_use]
    pub fn count(&self) -> usize {
        self.here.get()
    }

    /// Lets nobody in any more; those inside have `drain_for` to finish. Gives how many have not.
    pub async fn drain(&self, drain_for: Duration) -> usize {
        self.closed.set(true);
        let empty = async {
            self.doors.write().await;
        };
        let late = async {
            Timer::after(drain_for).await;
        };
        future::or(empty, late).await;
        self.count()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.here.set(self.here.get() - 1);
    }
}
