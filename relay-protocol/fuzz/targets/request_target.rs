#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{Action, MAX_ENTITY_PATH, Rendezvous, RequestTarget, find_entity};

fuzz_target!(|text: &str| {
    let Ok(target) = RequestTarget::parse(text) else { return };
    find_entity(target.path(), |key| -> Option<()> {
        assert!(key.len() <= MAX_ENTITY_PATH);
        None
    });
    let address = target.accept_address("wss://relay.example", &[("sb-hc-id", text)]);
    let rendezvous = Rendezvous::parse(&address).expect("our own address");
    let accept = RequestTarget::parse(rendezvous.path_and_query()).expect("our own target");
    assert_eq!((accept.action(), accept.id(), accept.refusal()), (Action::Accept, Some(text), None));
    assert_eq!((accept.raw_path(), accept.user_query()), (target.raw_path(), target.user_query()));
});
