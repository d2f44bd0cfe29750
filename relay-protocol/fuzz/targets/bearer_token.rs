#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{BearerToken, Issuer, KeySet, RELAY_AUDIENCE, Right};

/// The keys of RFC 7515, appendix A.2 and A.3.
const KEYS: &str = include_str!("../seeds/key_set/rfc7515");

fuzz_target!(|text: &str| {
    let Ok(token) = BearerToken::parse(text) else { return };
    let keys = KeySet::parse(KEYS).expect("a good set");
    let signed = token.verify(&keys);
    assert!(!signed || token.issuer() == "joe", "found a signature by chance");
    let issuer = Issuer {
        name: "joe".into(),
        issuer: token.issuer().to_owned(),
        audience: RELAY_AUDIENCE.into(),
        grants: Vec::new(),
    };
    // what the appendix signs is for nobody in particular
    assert!(issuer.authorize(&token, Right::Listen, "hyco", &keys, 0).is_err());
    let again = format!("bearer  {}", BearerToken::recognize(text).expect("it was parsed"));
    assert_eq!(BearerToken::parse(&again).as_ref(), Ok(&token));
});
