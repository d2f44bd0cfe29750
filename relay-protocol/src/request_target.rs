//! What a relay reads from the request line of a handshake, and the addresses it makes of it.
//!
//! ```text
//! /$hc/{path}[/suffix]?[user query&]sb-hc-action={action}[&sb-hc-id={id}][&sb-hc-token={token}]
//! ```
//!
//! Parameters come in any order. The suffix and the user's query travel on to the listener in the accept address.
//! Which part of the path is the entity is for the relay to say, see [`find_entity`].

use std::fmt;

use crate::address::{AddressError, MARKER, forbidden_character};
use crate::percent;

/// Longest entity path in bytes, as on Azure. Longer prefixes of a path are not looked up, so that a hostile path with
/// thousands of segments costs no more than this.
pub const MAX_ENTITY_PATH: usize = 260;

/// What a WebSocket request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Register a listener: this becomes a control channel.
    Listen,
    /// Reach a listener. Also what a request without `sb-hc-action` means.
    Connect,
    /// A listener's answer to an accept message.
    Accept,
    /// A listener fetching or answering an HTTP request on a socket of its own.
    Request,
}

/// How a listener refuses a sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status for the sender's handshake, as the listener wrote it; 400 if that is no number.
    pub status: u16,
    /// Reason phrase, decoded, untrusted.
    pub description: String,
}

/// A parsed request target. `Debug` leaves tokens and other parameters of the relay out.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestTarget {
    action: Action,
    raw_path: String,
    path: String,
    /// The protocol's own parameters, names in lower case, values decoded.
    params: Vec<(String, String)>,
    refusal: Option<Refusal>,
    user_query: String,
}

impl RequestTarget {
    /// Parses a request target in origin form, as it stands in the request line.
    ///
    /// # Errors
    /// No `/$hc/` in front, an action the protocol does not have, or a character no request target may contain.
    pub fn parse(path_and_query: &str) -> Result<Self, AddressError> {
        if let Some(char) = forbidden_character(path_and_query) {
            return Err(AddressError::Character(char));
        }
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let raw_path = after_marker(path).ok_or(AddressError::NotWebSocket)?;
        let params = relay_params(query);
        let find = |name: &str| params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let action = match find("sb-hc-action") {
            None => Action::Connect,
            Some(action) => match action.to_ascii_lowercase().as_str() {
                "listen" => Action::Listen,
                "connect" => Action::Connect,
                "accept" => Action::Accept,
                "request" => Action::Request,
                _ => return Err(AddressError::Action(action.to_owned())),
            },
        };
        let refusal = if action == Action::Accept { parse_refusal(query, find) } else { None };
        Ok(Self {
            action,
            raw_path: raw_path.to_owned(),
            path: percent::decode(raw_path).trim_matches('/').to_owned(),
            user_query: user_query(query),
            refusal,
            params,
        })
    }

    /// What is asked for.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// Entity and suffix, percent-decoded, without slashes at the ends: what [`find_entity`] takes.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Entity and suffix as received, after `/$hc/`.
    #[must_use]
    pub fn raw_path(&self) -> &str {
        &self.raw_path
    }

    /// The token in the query, decoded once. A `ServiceBusAuthorization` header is the other place for it.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.param("sb-hc-token")
    }

    /// The correlation id, decoded; of a listener also its name in the listener lists.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.param("sb-hc-id")
    }

    /// Any parameter of the protocol, by its full name in lower case (`sb-hc-...`), decoded. Of several the first.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Set if this is an [`Action::Accept`] that refuses the sender.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The application's query without `?`: what is left when the protocol's parameters are taken out, byte for byte.
    #[must_use]
    pub fn user_query(&self) -> &str {
        &self.user_query
    }

    /// The address that invites a listener to meet the sender of this request: same path, same suffix, same user query.
    ///
    /// `origin` is how listeners reach the relay (`wss://relay.example.net:8443`), `params` are the relay's own
    /// (`("sb-hc-id", ..)` and whatever else it wants back); their names must begin with `sb-hc-`, because that is what
    /// makes listeners drop them, and their values are escaped here.
    #[must_use]
    pub fn accept_address(&self, origin: &str, params: &[(&str, &str)]) -> String {
        let mut address = format!("{}/{MARKER}/{}?", origin.trim_end_matches('/'), self.raw_path);
        if !self.user_query.is_empty() {
            address.push_str(&self.user_query);
            address.push('&');
        }
        address.push_str("sb-hc-action=accept");
        push_params(&mut address, params);
        address
    }
}

impl fmt::Debug for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestTarget")
            .field("action", &self.action)
            .field("path", &self.path)
            .field("id", &self.id())
            .field("refusal", &self.refusal())
            .finish_non_exhaustive()
    }
}

/// An entity's path as a lookup key: without slashes at its ends, in lower case. Names differ by more than ASCII case.
#[must_use]
pub fn entity_key(path: &str) -> String {
    path.trim_matches('/').to_ascii_lowercase()
}

/// Finds the entity that `path` is about: the longest registered prefix of whole segments, ignoring ASCII case.
///
/// `lookup` is asked with keys as [`entity_key`] makes them, longest first. Returns what it found, and the suffix
/// without its leading slash, in the case it came in.
pub fn find_entity<E>(path: &str, mut lookup: impl FnMut(&str) -> Option<E>) -> Option<(E, &str)> {
    let path = path.trim_matches('/');
    let whole = (path.len() <= MAX_ENTITY_PATH).then_some(path.len());
    let bytes = path.bytes().take(MAX_ENTITY_PATH + 1).enumerate();
    let borders = bytes.filter(|(_, byte)| *byte == b'/').map(|(at, _)| at).collect::<Vec<_>>();
    whole.into_iter().chain(borders.into_iter().rev()).find_map(|end| {
        let found = lookup(&path[..end].to_ascii_lowercase())?;
        Some((found, path[end..].trim_start_matches('/')))
    })
}

/// An HTTP request's target as the application behind its listener knows it: without the path of the `entity` in front,
/// which is given as well, as it came and without a slash at its end. Both begin with `/`, unless the target is not below
/// the entity: then nothing is taken off, and the prefix is empty.
///
/// `/Hyco/a/b?c` at the entity `hyco` is (`/Hyco`, `/a/b?c`).
pub fn application_target<'t>(target: &'t str, entity: &str) -> (&'t str, String) {
    let path = &target[..target.find('?').unwrap_or(target.len())];
    let segments = 1 + entity.trim_matches('/').matches('/').count();
    // the slash in front of the first segment is the first one
    let end = path.match_indices('/').nth(segments).map_or(path.len(), |(at, _)| at);
    let is_entity = path.starts_with('/') && entity_key(&percent::decode(&path[..end])) == entity_key(entity);
    if !is_entity {
        return ("", target.to_owned());
    }
    let rest = &target[end..];
    let slash = if rest.starts_with('/') { "" } else { "/" };
    (&path[..end], format!("{slash}{rest}"))
}

/// The application's part of a query (without `?`).
///
/// A pair is the protocol's when its key begins with `sb-hc-`, ignoring case, and it has a `=`, even with nothing
/// behind. A bare `sb-hc-word` is the application's. All else is passed on byte for byte, empty pairs included.
#[must_use]
pub fn user_query(query: &str) -> String {
    let mut rest = String::with_capacity(query.len());
    let mut any = false;
    for pair in query.split('&').filter(|pair| relay_pair(pair).is_none()) {
        if any {
            rest.push('&');
        }
        any = true;
        rest.push_str(pair);
    }
    rest
}

fn after_marker(path: &str) -> Option<&str> {
    let path = path.strip_prefix('/')?;
    let (marker, rest) = path.split_once('/').unwrap_or((path, ""));
    // some HTTP stacks escape the dollar sign
    percent::decode(marker).eq_ignore_ascii_case(MARKER).then_some(rest)
}

/// Appends the relay's own parameters, each with its `&`.
pub(crate) fn push_params(address: &mut String, params: &[(&str, &str)]) {
    for (name, value) in params {
        debug_assert!(name.starts_with("sb-hc-"), "listeners would take {name} for the application's");
        address.push('&');
        address.push_str(name);
        address.push('=');
        address.push_str(&percent::encode(value));
    }
}

pub(crate) fn relay_params(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter_map(relay_pair);
    pairs.map(|(key, value)| (key.to_ascii_lowercase(), percent::decode_form(value).into_owned())).collect()
}

fn relay_pair(pair: &str) -> Option<(&str, &str)> {
    const PREFIX: &str = "sb-hc-";
    let (key, value) = pair.split_once('=')?;
    key.get(..PREFIX.len())?.eq_ignore_ascii_case(PREFIX).then_some((key, value))
}

/// A listener that appends a status means to refuse, so an unreadable one does not leave the sender waiting.
fn parse_refusal<'q>(query: &str, find: impl Fn(&str) -> Option<&'q str>) -> Option<Refusal> {
    let (status, description) = match find("sb-hc-statuscode") {
        Some(status) => (status.to_owned(), find("sb-hc-statusdescription").map(str::to_owned)),
        None => unprefixed_refusal(query)?,
    };
    Some(Refusal { status: status.parse().unwrap_or(400), description: description.unwrap_or_default() })
}

/// `statusCode` and `statusDescription` as Node's packages append them, without the prefix. Only what stands behind
/// the relay's own parameters counts: in front of them is the sender's query, which may well contain these words.
fn unprefixed_refusal(query: &str) -> Option<(String, Option<String>)> {
    let mut appended = query.split('&').collect::<Vec<_>>();
    let own = appended.iter().rposition(|pair| relay_pair(pair).is_some())?;
    let appended = appended.split_off(own + 1);
    let find = |name: &str| {
        let mut pairs = appended.iter().filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(percent::decode_form(value).into_owned())
    };
    Some((find("statusCode")?, find("statusDescription")))
}
