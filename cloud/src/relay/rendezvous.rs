//! Where a sender waits for the listener it was promised. An address is good once, for as long as the sender waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol::channel::{Receiver, Sender, bounded};
use umbilical_link::upgrade::Upgraded;
use umbilical_relay_protocol::Rejection;

use super::tracking;

/// Every sender that waits, by the secret in its address.
#[derive(Default)]
pub(crate) struct Rendezvous {
    waiting: Mutex<HashMap<String, Waiting>>,
}

/// A sender that waits, as the listener's socket finds it.
pub(crate) struct Waiting {
    /// The subprotocols it offers, in its order of preference.
    pub(crate) offered: Vec<String>,
    /// Names the connection in logs.
    pub(crate) id: String,
    answer: Sender<Answer>,
}

/// What the listener said.
pub(crate) enum Answer {
    /// Here is its socket, already answered.
    Joined(Upgraded),
    /// It refuses.
    Refused(Rejection),
}

/// The sender's end. Dropping it makes the address void.
pub(crate) struct Invitation {
    rendezvous: Arc<Rendezvous>,
    /// 128 random bits in hexadecimal digits: who knows them is the listener.
    pub(crate) secret: String,
    answers: Receiver<Answer>,
}

impl Rendezvous {
    /// Makes a new address.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn open(self: &Arc<Self>, id: String, offered: Vec<String>) -> Result<Invitation, getrandom::Error> {
        let secret = tracking::random_hex()?;
        let (answer, answers) = bounded(1);
        self.lock().insert(secret.clone(), Waiting { offered, id, answer });
        Ok(Invitation { rendezvous: Arc::clone(self), secret, answers })
    }

    /// Uses an address up. `None` if there is no such, or no longer.
    pub(crate) fn take(&self, secret: &str) -> Option<Waiting> {
        self.lock().remove(secret)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Lets the sender know. If it has left meanwhile, a joined socket is closed.
    pub(crate) fn answer(&self, answer: Answer) {
        let _ = self.answer.try_send(answer);
    }
}

impl Invitation {
    /// Waits for the listener. `None` if it came and vanished before it had said anything.
    pub(crate) async fn answer(&self) -> Option<Answer> {
        self.answers.recv().await.ok()
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        self.rendezvous.lock().remove(&self.secret);
    }
}

#[cfg(test)]
mod tests {
    use smol::block_on;

    use super::*;

    #[test]
    fn an_address_is_good_once() {
        let rendezvous = Arc::new(Rendezvous::default());
        let invitation = rendezvous.open("id".into(), vec!["p".into()]).unwrap();
        let waiting = rendezvous.take(&invitation.secret).unwrap();
        assert!(rendezvous.take(&invitation.secret).is_none());
        waiting.answer(Answer::Refused(Rejection::busy()));
        assert!(matches!(block_on(invitation.answer()), Some(Answer::Refused(_))));
    }

    #[test]
    fn an_address_dies_with_its_sender() {
        let rendezvous = Arc::new(Rendezvous::default());
        let invitation = rendezvous.open("id".into(), Vec::new()).unwrap();
        let secret = invitation.secret.clone();
        drop(invitation);
        assert!(rendezvous.take(&secret).is_none());
    }

    #[test]
    fn a_listener_that_vanishes_ends_the_wait() {
        let rendezvous = Arc::new(Rendezvous::default());
        let invitation = rendezvous.open("id".into(), Vec::new()).unwrap();
        drop(rendezvous.take(&invitation.secret));
        assert!(block_on(invitation.answer()).is_none());
    }
}
