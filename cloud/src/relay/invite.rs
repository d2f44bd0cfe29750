//! Telling one of the listeners: which one, and what if it does not read.

use umbilical_relay_protocol::Rejection;

use super::Shared;
use super::affinity::Affinity;
use super::namespace::{Found, Listener, Notice, Unpicked};

/// Puts what `notice` makes for a listener into that listener's queue: one chosen at random, another one if that queue is
/// full. Returns the listener that was told.
///
/// # Errors
/// There is none, or none that will do, or none that has room, or what `notice` says.
pub(crate) fn invite(
    shared: &Shared,
    entity: &Found,
    affinity: &Affinity,
    mut notice: impl FnMut(&Listener) -> Result<Notice, Rejection>,
) -> Result<Listener, Uninvited> {
    let mut passed_over = Vec::new();
    loop {
        let random = getrandom::u32().map_err(|_| Uninvited::Refused(Rejection::internal()))?;
        let listener = match shared.namespace.pick(entity, affinity, &passed_over, random) {
            Ok(listener) => listener,
            Err(Unpicked::Nobody) => return Err(Uninvited::Nobody),
            Err(Unpicked::Excluded) => return Err(Uninvited::Refused(Rejection::listeners_excluded())),
            Err(Unpicked::PassedOver) => return Err(Uninvited::Refused(Rejection::busy())),
        };
        let notice = notice(&listener).map_err(Uninvited::Refused)?;
        match listener.notices.try_send(notice) {
            Ok(()) => return Ok(listener),
            Err(_) => passed_over.push(listener.serial),
        }
    }
}

/// Why no listener was told.
pub(crate) enum Uninvited {
    /// There is none. What that is called depends on who asks.
    Nobody,
    /// Anything else.
    Refused(Rejection),
}
