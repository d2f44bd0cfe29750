#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_mux::{Hello, MAX_HELLO, VERSION, Violation};

fuzz_target!(|message: &[u8]| match Hello::decode(message) {
    Ok(hello) => {
        assert_eq!(hello.version, VERSION);
        let again = hello.encode(&mut [0; MAX_HELLO]).to_vec();
        assert!(again.len() <= message.len());
        assert_eq!(Hello::decode(&again), Ok(hello));
        assert_eq!(Hello::decode(&[message, b"later"].concat()), Ok(hello));
    }
    Err(Violation::UnknownVersion(version)) => assert_ne!(version, VERSION),
    Err(Violation::NoHello | Violation::Malformed(_)) => {}
    Err(other) => panic!("not about decoding: {other}"),
});
