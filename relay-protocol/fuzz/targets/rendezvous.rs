#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_relay_protocol::{Rendezvous, RequestTarget};

fuzz_target!(|text: &str| {
    let Ok(rendezvous) = Rendezvous::parse(text) else { return };
    let target = rendezvous.path_and_query();
    assert!(target.starts_with('/') && text.ends_with(&target[1..]) && !rendezvous.host().is_empty());
    if RequestTarget::parse(target).is_ok_and(|target| target.refusal().is_none()) {
        let refused = RequestTarget::parse(&rendezvous.rejection_target(503, text)).expect("still a target");
        assert!(refused.refusal().is_none_or(|refusal| refusal.status == 503));
    }
});
