//! Any bytes as a frame: a header that is read comes back the same, a mask applied twice is none, and a close payload
//! is read without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_link::frame::{ClosePayload, FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, apply_mask, copy_masked};

fuzz_target!(|bytes: &[u8]| {
    let parsed = FrameHeader::parse(bytes);
    for end in 0..bytes.len().min(MAX_HEADER_BYTES) {
        match FrameHeader::parse(&bytes[..end]) {
            Ok(None) => {}
            early => assert_eq!(early, parsed, "more bytes changed what {end} had settled"),
        }
    }
    let Ok(Some((header, taken))) = parsed else { return };
    let mut out = [0; MAX_HEADER_BYTES];
    let length = header.encode(&mut out);
    assert!(length <= taken, "the shortest form is not longer");
    assert_eq!(FrameHeader::parse(&out[..length]), Ok(Some((header, length))));

    let payload = &bytes[taken..];
    if let Some(mask) = header.mask {
        let mut copied = vec![0; payload.len()];
        copy_masked(&mut copied, payload, mask, header.length);
        apply_mask(&mut copied, mask, header.length);
        assert_eq!(copied, payload);
    }
    if let Ok(Some(close)) = ClosePayload::parse(&payload[..payload.len().min(MAX_CONTROL_BYTES)]) {
        let mut out = [0; MAX_CONTROL_BYTES];
        let length = close.encode(&mut out);
        assert_eq!(ClosePayload::parse(&out[..length]), Ok(Some(close)));
    }
});
