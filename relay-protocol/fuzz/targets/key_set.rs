#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{BearerToken, KeySet, MAX_KEYS};

/// The ES256 example of RFC 7515, appendix A.3.
const TOKEN: &str = include_str!("../seeds/bearer_token/rfc7515-a3");

fuzz_target!(|text: &str| {
    let Ok(keys) = KeySet::parse(text) else { return };
    assert!((1..=MAX_KEYS).contains(&keys.len()));
    let token = BearerToken::parse(TOKEN).expect("a good token");
    assert!(!token.verify(&keys) || token.key_is_known(&keys));
});
