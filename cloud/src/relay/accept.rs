//! A listener at a rendezvous: with its socket for the sender, or with its refusal.

use log::debug;
use umbilical_relay_protocol::{Rejection, RequestTarget};

use super::Shared;
use super::handshake::{Handshake, Word};
use super::rendezvous::Answer;

/// The parameter of an accept or request address that holds its secret. Listeners drop all that begins with `sb-hc-` before they
/// show the address to anybody.
pub(crate) const SECRET_PARAMETER: &str = "sb-hc-rendezvous";

/// Answers the listener's handshake and hands its socket to the sender that waits.
pub(crate) async fn accept(shared: &Shared, handshake: Handshake, target: &RequestTarget) {
    let waiting = target.param(SECRET_PARAMETER).and_then(|secret| shared.rendezvous.take(secret));
    let Some(waiting) = waiting else {
        return handshake.refuse(shared, Rejection::rendezvous_unknown(), Word::Regret).await;
    };
    if let Some(refusal) = target.refusal() {
        debug!("sender {} refused by its listener with {}", waiting.id, refusal.status);
        waiting.answer(Answer::Refused(Rejection::by_listener(refusal.status, &refusal.description)));
        return handshake.refuse(shared, Rejection::refusal_taken(), Word::Listener).await;
    }
    let chosen = handshake.subprotocols();
    let subprotocol = chosen.iter().find(|chosen| waiting.offered.contains(chosen));
    if subprotocol.is_none() && !chosen.is_empty() {
        waiting.answer(Answer::Refused(Rejection::new(502, "The listener chose a subprotocol that was not offered")));
        let rejection = Rejection::new(400, "The sender did not offer this subprotocol");
        return handshake.refuse(shared, rejection, Word::Blame).await;
    }
    if let Some(upgraded) = handshake.accept(shared, subprotocol.map(String::as_str)).await {
        waiting.answer(Answer::Joined(upgraded));
    }
}
