//! Any bytes as an agent's report: no panic, and what is read is read again as it is written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_mux::{MAX_REPORT, Report};

fuzz_target!(|bytes: &[u8]| {
    if let Some(mut report) = Report::decode(bytes) {
        let mut written = [0; MAX_REPORT];
        let again = Report::decode(report.encode(&mut written)).expect("what was written can be read");
        // resets of unknown reasons are not written
        report.resets = again.resets;
        assert_eq!(again, report);
    }
});
