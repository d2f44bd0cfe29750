//! Names of hybrid connections that are made at run time, and patterns of them.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use umbilical_relay_protocol::{PathPattern, is_entity_path};

#[test]
fn names() {
    for good in
        ["a", "gateway-0042", "Plant/line_2/x.y", "0", &"a".repeat(260), "a--b", "a/b/c", "Listeners", "a/listeners/b"]
    {
        assert!(is_entity_path(good), "{good}");
    }
    for bad in [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "-a",
        "a-",
        ".",
        "..",
        "a/../b",
        "a b",
        "a%20b",
        "$Resources",
        "a*",
        "ü",
        "a\n",
        "a/Listeners",
        "a/b/LISTENERS",
        &"a".repeat(261),
    ] {
        assert!(!is_entity_path(bad), "{bad}");
    }
}

#[test]
fn patterns() {
    for (pattern, path, matches) in [
        ("gateway-*", "gateway-0042", true),
        ("gateway-*", "GATEWAY-7", true),
        ("gateway-*", "gateway-", true),
        ("gateway-*", "gateway", false),
        ("gateway-*", "my-gateway-7", false),
        ("gateway-*", "gateway-7/x", false),
        ("*", "anything", true),
        ("*", "any/thing", false),
        ("*/*", "any/thing", true),
        ("/plant/*/", "plant/7", true),
        ("plant/*", "plant", false),
        ("exact", "Exact", true),
        ("exact", "exactly", false),
        ("a*b*c", "abc", true),
        ("a*b*c", "a-x-b-y-c", true),
        ("a*b*c", "a-c-b", false),
        ("a*bc*bcd", "abcd", false),
        ("a*bc*bcd", "abcbcd", true),
        ("ab*ba", "aba", false),
        ("a**a", "aa", true),
    ] {
        assert_eq!(PathPattern::new(pattern).unwrap().matches(path), matches, "{pattern} {path}");
    }
    for bad in ["", "/", "a b", "a//b", "?", "$hc/*"] {
        assert_eq!(PathPattern::new(bad), None, "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pattern_matches_what_it_was_filled_with(parts in prop::collection::vec("[a-c]{0,3}", 1..5), fill in prop::collection::vec("[a-c]{0,3}", 5)) {
        let pattern = PathPattern::new(&format!("x{}x", parts.join("*"))).unwrap();
        let filled: String = parts.iter().zip(&fill).map(|(part, fill)| format!("{part}{fill}")).collect();
        let last = fill.get(parts.len() - 1).map_or(0, String::len);
        let filled = format!("x{}x", &filled[..filled.len() - last]);
        prop_assert!(pattern.matches(&filled), "{} {}", pattern, filled);
    }
}
