//! What a relay reads from the request line of a plain HTTP request, and the address where a listener fetches it.
//!
//! ```text
//! /{path}[/suffix][?user query][&sb-hc-id={id}][&sb-hc-token={token}]           a sender's request
//! {origin}/$hc/{path}?sb-hc-action=request&sb-hc-id={id}[..]                    its rendezvous
//! ```
//!
//! Which part of the path is the entity is for the relay to say, see [`crate::find_entity`].

use std::fmt;

use crate::address::{AddressError, MARKER, forbidden_character};
use crate::percent;
use crate::request_target::{push_params, relay_params, user_query};

/// A parsed target of a plain HTTP request. `Debug` leaves tokens and queries out.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpTarget {
    path: String,
    /// As the listener gets it.
    request_target: String,
    /// The protocol's own parameters, names in lower case, values decoded.
    params: Vec<(String, String)>,
}

impl HttpTarget {
    /// Parses a request target in origin form, as it stands in the request line.
    ///
    /// # Errors
    /// A character that no request target may contain.
    pub fn parse(path_and_query: &str) -> Result<Self, AddressError> {
        if let Some(char) = forbidden_character(path_and_query) {
            return Err(AddressError::Character(char));
        }
        let (raw_path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let user_query = user_query(query);
        let mut request_target = raw_path.to_owned();
        if !user_query.is_empty() {
            request_target.push('?');
            request_target.push_str(&user_query);
        }
        let path = percent::decode(raw_path).trim_matches('/').to_owned();
        Ok(Self { path, request_target, params: relay_params(query) })
    }

    /// Entity and suffix, percent-decoded, without slashes at the ends: what [`crate::find_entity`] takes.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Path with the entity's name, and the application's query, byte for byte: what a listener gets to know.
    #[must_use]
    pub fn request_target(&self) -> &str {
        &self.request_target
    }

    /// The token in the query, decoded once.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.param("sb-hc-token")
    }

    /// The correlation id, decoded.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.param("sb-hc-id")
    }

    fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTarget").field("path", &self.path).field("id", &self.id()).finish_non_exhaustive()
    }
}

/// The address of a request rendezvous: where a listener of `entity` (its path, decoded) fetches a request, or answers
/// one that is too long or too slow for the control channel.
///
/// `origin` and `params` are as for [`crate::RequestTarget::accept_address`].
#[must_use]
pub fn request_address(origin: &str, entity: &str, params: &[(&str, &str)]) -> String {
    let path = percent::encode_path(entity);
    let mut address = format!("{}/{MARKER}/{path}?sb-hc-action=request", origin.trim_end_matches('/'));
    push_params(&mut address, params);
    address
}
