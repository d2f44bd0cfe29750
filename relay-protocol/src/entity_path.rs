//! What a hybrid connection that is made at run time may be called, and patterns of such names.
//!
//! Names come from strangers' requests and end up in logs, URLs and XML: letters, digits, `.`, `_` and `-`, in segments
//! joined by `/`, as on Azure. The last is not `Listeners`: that is what the management API calls the listeners of what is
//! in front of it. What an operator writes into a configuration is not bound by this.

use std::fmt;

use crate::request_target::MAX_ENTITY_PATH;

/// The resource below a hybrid connection that its listeners are.
const LISTENERS: &str = "Listeners";

/// Whether a hybrid connection may be made with this path: 1 to [`MAX_ENTITY_PATH`] bytes, each segment beginning and
/// ending with a letter or digit, the last of several not `Listeners`.
#[must_use]
pub fn is_entity_path(path: &str) -> bool {
    path.len() <= MAX_ENTITY_PATH && path.split('/').all(is_segment) && listeners_of(path).is_none()
}

/// The path in front of a last segment `Listeners`, in any case.
#[must_use]
pub fn listeners_of(path: &str) -> Option<&str> {
    path.rsplit_once('/').filter(|(_, last)| last.eq_ignore_ascii_case(LISTENERS)).map(|(entity, _)| entity)
}

fn is_segment(segment: &str) -> bool {
    let ends_well = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = segment.as_bytes();
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// A pattern of entity paths: `*` stands for any characters of one segment, or none; the rest for itself in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern(String);

impl PathPattern {
    /// Reads a pattern; slashes at its ends are dropped. `None` if no path could match it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_matches('/');
        is_entity_path(&text.replace('*', "x")).then(|| Self(text.to_ascii_lowercase()))
    }

    /// Whether all of `path` matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let path = path.to_ascii_lowercase();
        let (mut pattern, mut segments) = (self.0.split('/'), path.split('/'));
        loop {
            match (pattern.next(), segments.next()) {
                (None, None) => return true,
                (Some(pattern), Some(segment)) if matches_segment(pattern, segment) => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first part must begin it, the last must end it, those in between are looked for from left to right.
fn matches_segment(pattern: &str, segment: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == segment };
    let Some(segment) = segment.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut segment) = segment.strip_suffix(last) else { return false };
    for part in middle.split('*') {
        match segment.find(part) {
            Some(at) => segment = &segment[at + part.len()..],
            None => return false,
        }
    }
    true
}
