//! Who may listen and who may send: finds the token of a handshake and asks the rules.

use std::time::{SystemTime, UNIX_EPOCH};

use umbilical_relay_protocol::{AUTHORIZATION_HEADER, Grant, Rejection, RequestTarget, Right, TokenError, authorize};

use super::namespace::Found;
use crate::http::RequestHead;

/// Whether this handshake may register a listener.
///
/// # Errors
/// No token, or one that does not allow it.
pub(crate) fn listener(entity: &Found, head: &RequestHead, target: &RequestTarget) -> Result<Grant, Rejection> {
    let token = token(head, target).ok_or_else(Rejection::token_missing)?;
    grant(entity, token, Right::Listen).map_err(|error| Rejection::token_refused(&error))
}

/// Whether this handshake may be joined with a listener. `None` if the entity lets everybody in; then a token is not
/// even looked at.
///
/// # Errors
/// No token, or one that does not allow it.
pub(crate) fn sender(entity: &Found, head: &RequestHead, target: &RequestTarget) -> Result<Option<Grant>, Rejection> {
    if !entity.requires_client_authorization {
        return Ok(None);
    }
    let token = token(head, target).ok_or_else(Rejection::token_missing)?;
    grant(entity, token, Right::Send).map(Some).map_err(|error| Rejection::token_refused(&error))
}

/// Whether a listener's new token may take the old one's place.
///
/// # Errors
/// Why not.
pub(crate) fn renewal(entity: &Found, token: &str) -> Result<Grant, TokenError> {
    grant(entity, token, Right::Listen)
}

/// Seconds since 1970 by this machine's clock.
pub(crate) fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn token<'h>(head: &'h RequestHead, target: &'h RequestTarget) -> Option<&'h str> {
    head.header(AUTHORIZATION_HEADER).or_else(|| target.token()).filter(|token| !token.trim().is_empty())
}

fn grant(entity: &Found, token: &str, right: Right) -> Result<Grant, TokenError> {
    authorize(token, right, &entity.path, &entity.rules, &entity.namespace_rules, now_unix())
}
