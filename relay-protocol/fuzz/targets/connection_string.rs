#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{ConnectionString, Credential};

fuzz_target!(|text: &str| {
    let string = match ConnectionString::parse(text) {
        Ok(string) => string,
        Err(error) => return assert!(error.to_string().len() < 400),
    };
    // behind a `;` that ends the last part, the same is said once more
    let again = ConnectionString::parse(&format!(" {text};")).expect("white space and an empty part say nothing");
    assert_eq!(again.url(), string.url());
    if let Credential::SharedKey { name, key } = string.credential() {
        assert!(text.contains(name.as_str()) && !key.as_bytes().is_empty());
    }
});
