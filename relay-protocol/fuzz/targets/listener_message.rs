#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::ListenerMessage;

fuzz_target!(|text: &str| {
    let Ok(message) = ListenerMessage::parse(text) else { return };
    // escapes can make what we write longer than what we read
    let Ok(written) = message.to_json() else { return };
    let again = ListenerMessage::parse(&written).expect("our own message");
    assert_eq!(again.to_json().expect("as long as before"), written);
});
