//! Programs that are started together with whatever they start themselves, and end together.

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Kills a process group when it is dropped.
#[derive(Debug)]
pub struct GroupKiller(Option<Pid>);

impl GroupKiller {
    /// For the group of a child that leads one and was not waited for: until then its number belongs to nobody else.
    #[must_use]
    pub fn new(leader: u32) -> GroupKiller {
        GroupKiller(i32::try_from(leader).ok().filter(|id| *id > 1).map(Pid::from_raw))
    }

    /// The leader has ended by itself.
    pub fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for GroupKiller {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // a group that is gone needs no killing
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
