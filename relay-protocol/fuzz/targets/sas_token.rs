#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{Key, Right, Rule, SasToken, authorize};

fuzz_target!(|text: &str| {
    let Ok(token) = SasToken::parse(text) else { return };
    let key = Key::new("a key that no seed was signed with").expect("not empty");
    assert!(!token.verify(key.as_bytes()), "found a signature by chance");
    let rule = Rule {
        name: token.key_name().to_owned(),
        primary: key.clone(),
        secondary: None,
        rights: [Right::Manage].into_iter().collect(),
    };
    assert!(authorize(text, Right::Listen, "hyco", &[rule], &[], 0).is_err());
    let again = SasToken::sign(&token.resource(), token.key_name(), key.as_bytes(), token.expires());
    let again = SasToken::parse(&again).expect("our own token");
    assert!(again.verify(key.as_bytes()));
    assert_eq!(
        (again.resource(), again.key_name(), again.expires()),
        (token.resource(), token.key_name(), token.expires())
    );
    assert_eq!(again.covers(&[], text), token.covers(&[], text));
});
