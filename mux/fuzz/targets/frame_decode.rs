#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_mux::{Frame, Violation};

fuzz_target!(|message: &[u8]| {
    let mut at = 0;
    while at < message.len() {
        match Frame::decode(&message[at..], at) {
            Ok((frame, payload, taken)) => {
                assert!(taken > 0 && at + taken <= message.len());
                let mut head = vec![0; taken + 16];
                let length = frame.encode(&mut head).expect("no longer than what was read");
                head.truncate(length);
                head.extend(payload);
                assert!(head.len() <= taken, "what is written is the shortest");
                assert_eq!(Frame::decode(&head, 0), Ok((frame, payload, head.len())));
                at += taken;
            }
            Err(Violation::Malformed(offset) | Violation::Truncated(offset)) => {
                assert_eq!(offset, at);
                return;
            }
            Err(other) => panic!("not about decoding: {other}"),
        }
    }
});
