//! Who may listen and who may send: finds the token of a handshake and asks the rules, or who made it.

use std::time::{SystemTime, UNIX_EPOCH};

use umbilical_relay_protocol::{
    AUTHORIZATION_HEADER, BearerToken, Grant, HttpTarget, Rejection, RequestTarget, Right, TokenError, authorize,
};

use super::namespace::Found;
use crate::http::RequestHead;

/// Whether this handshake may register a listener.
///
/// # Errors
/// No token, or one that does not allow it.
pub(crate) async fn listener(entity: &Found, head: &RequestHead, target: &RequestTarget) -> Result<Grant, Rejection> {
    let token = token(head, target.token()).ok_or_else(Rejection::token_missing)?;
    grant(entity, token, Right::Listen, target.path()).await.map_err(|error| Rejection::token_refused(&error))
}

/// Whether this handshake may be joined with a listener. `None` if the entity lets everybody in; then a token is not
/// even looked at.
///
/// # Errors
/// No token, or one that does not allow it.
pub(crate) async fn sender(
    entity: &Found,
    head: &RequestHead,
    target: &RequestTarget,
) -> Result<Option<Grant>, Rejection> {
    if !entity.requires_client_authorization {
        return Ok(None);
    }
    let token = token(head, target.token()).ok_or_else(Rejection::token_missing)?;
    grant(entity, token, Right::Send, target.path()).await.map(Some).map_err(|error| Rejection::token_refused(&error))
}

/// Whether this plain HTTP request may be relayed. Returns whether its `Authorization` header was the credential, which is
/// looked at only if there is no other; else that header is the application's.
///
/// # Errors
/// No token, or one that does not allow it.
pub(crate) async fn http_sender(entity: &Found, head: &RequestHead, target: &HttpTarget) -> Result<bool, Rejection> {
    if !entity.requires_client_authorization {
        return Ok(false);
    }
    let own = token(head, target.token());
    let token = own.or_else(|| head.header("authorization")).ok_or_else(Rejection::token_missing)?;
    grant(entity, token, Right::Send, target.path()).await.map_err(|error| Rejection::token_refused(&error))?;
    Ok(own.is_none())
}

/// Whether a listener's new token may take the old one's place.
///
/// # Errors
/// Why not.
pub(crate) async fn renewal(entity: &Found, token: &str) -> Result<Grant, TokenError> {
    grant(entity, token, Right::Listen, &entity.path).await
}

/// Whether this request to the namespace itself has `right` at `path`. Its token is in the header where listeners and senders
/// have theirs, or in `Authorization`.
///
/// # Errors
/// No token, or one that does not allow it.
pub(crate) async fn manager(entity: &Found, head: &RequestHead, right: Right, path: &str) -> Result<Grant, Rejection> {
    let token = head.header(AUTHORIZATION_HEADER).or_else(|| head.header("authorization"));
    let token = token.filter(|token| !token.trim().is_empty()).ok_or_else(Rejection::token_missing)?;
    grant(entity, token, right, path).await.map_err(|error| Rejection::token_refused(&error))
}

/// Seconds since 1970 by this machine's clock.
pub(crate) fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn token<'h>(head: &'h RequestHead, in_query: Option<&'h str>) -> Option<&'h str> {
    head.header(AUTHORIZATION_HEADER).or(in_query).filter(|token| !token.trim().is_empty())
}

/// `path` is the requested one, suffix included: some senders sign for that.
async fn grant(entity: &Found, token: &str, right: Right, path: &str) -> Result<Grant, TokenError> {
    match BearerToken::recognize(token) {
        // keys may have to be fetched for it: that is no part of what each connection keeps in memory
        Some(_) => Box::pin(entity.issuers.authorize(token, right, path, now_unix())).await,
        None => authorize(token, right, path, &entity.rules, &entity.namespace_rules, now_unix()),
    }
}
