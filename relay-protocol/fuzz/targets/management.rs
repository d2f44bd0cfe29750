#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::management::{Description, MAX_METADATA_CHARS, MAX_TOP, Resource, Settings};

fuzz_target!(|text: &str| {
    if let Ok(Resource::All { top, .. }) = Resource::parse(text) {
        assert!(top <= MAX_TOP);
    }
    let Ok(settings) = Settings::parse(text) else { return };
    let metadata = settings.user_metadata.as_deref().unwrap_or_default();
    assert!(metadata.chars().count() <= MAX_METADATA_CHARS);
    let description = Description { created_at: 0, updated_at: 0, settings, listeners: 0 };
    // any text may be the path: what XML has no place for does not break the entry
    let again = Settings::parse(&description.entry("ns.example", text)).expect("our own entry");
    assert_eq!(again, description.settings);
});
