#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{PreambleHead, PreambleReply};

fuzz_target!(|input: ([u8; 4], [u8; 3])| {
    let (head, reply) = input;
    if let Some(parsed) = PreambleHead::parse(head) {
        assert_eq!(parsed.encode(), head);
    }
    if let Some(parsed) = PreambleReply::parse(reply) {
        assert_eq!(parsed.encode(), reply);
    }
});
