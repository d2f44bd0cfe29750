//! Which listeners a sender wants, or does not want: two undocumented headers of the hosted service.
//!
//! ```text
//! Microsoft-Relay-AllowedListeners: {listener id}, {listener id}
//! Microsoft-Relay-DisallowedListeners: {listener id}
//! ```
//!
//! An id is the `sb-hc-id` that the listener has registered with. A header without any id says nothing.

use super::tracking;
use crate::http::RequestHead;

const ALLOWED: &str = "Microsoft-Relay-AllowedListeners";
const DISALLOWED: &str = "Microsoft-Relay-DisallowedListeners";

/// A sender's wishes.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    allowed: Vec<String>,
    disallowed: Vec<String>,
}

impl Affinity {
    /// What the headers say. They are bounded as all headers are.
    pub(crate) fn of(head: &RequestHead) -> Self {
        let ids = |name| head.list(name).map(|id| tracking::without_suffix(id).to_owned()).collect();
        Self { allowed: ids(ALLOWED), disallowed: ids(DISALLOWED) }
    }

    /// Whether the listener of this id will do.
    pub(crate) fn admits(&self, id: &str) -> bool {
        let among = |ids: &[String]| ids.iter().any(|wanted| wanted.eq_ignore_ascii_case(id));
        (self.allowed.is_empty() || among(&self.allowed)) && !among(&self.disallowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn affinity(headers: &[(&str, &str)]) -> Affinity {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Affinity::of(&RequestHead { method: "GET".into(), target: "/".into(), minor_version: 1, headers })
    }

    #[test]
    fn without_wishes_anybody_will_do() {
        for headers in [&[][..], &[("Microsoft-Relay-AllowedListeners", " , ")]] {
            assert!(affinity(headers).admits("x"));
        }
    }

    #[test]
    fn allowed_restricts_and_disallowed_excludes() {
        let suffixed = format!("a,{}_G0", GUID.to_uppercase());
        let allowed = affinity(&[("microsoft-relay-allowedlisteners", &suffixed)]);
        assert!(allowed.admits("A") && allowed.admits(GUID) && !allowed.admits("b"));
        let both = affinity(&[
            ("Microsoft-Relay-AllowedListeners", "a, b"),
            ("Microsoft-Relay-DisallowedListeners", "b"),
            ("Microsoft-Relay-DisallowedListeners", "c"),
        ]);
        assert!(both.admits("a") && !both.admits("b") && !both.admits("c") && !both.admits("d"));
    }
}
