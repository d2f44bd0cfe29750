#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{RelayUrl, RequestTarget};

fuzz_target!(|text: &str| {
    let Ok(url) = RelayUrl::parse(text) else { return };
    assert_eq!(RelayUrl::parse(&url.to_string()).as_ref(), Ok(&url));
    let target = RequestTarget::parse(&url.listen_target(text)).expect("our own target");
    assert_eq!((target.path(), target.id()), (url.path(), Some(text)));
    assert!(url.resource().is_ascii() && !url.authority().contains('/'));
});
