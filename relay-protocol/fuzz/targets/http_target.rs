#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{HttpTarget, MAX_ENTITY_PATH, Rendezvous, RequestTarget, find_entity, request_address};

fuzz_target!(|text: &str| {
    let Ok(target) = HttpTarget::parse(text) else { return };
    find_entity(target.path(), |key| -> Option<()> {
        assert!(key.len() <= MAX_ENTITY_PATH);
        None
    });
    let again = HttpTarget::parse(target.request_target()).expect("what was passed on");
    assert_eq!((again.path(), again.request_target()), (target.path(), target.request_target()));
    assert_eq!((again.token(), again.id()), (None, None));
    let address = request_address("wss://relay.example", target.path(), &[("sb-hc-id", text)]);
    let rendezvous = Rendezvous::parse(&address).expect("our own address");
    let fetching = RequestTarget::parse(rendezvous.path_and_query()).expect("our own target");
    assert_eq!((fetching.path(), fetching.id()), (target.path(), Some(text)));
});
