//! Any bytes as a body in chunks: no panic, the same payload and the same end however they were cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_link::chunked::{ChunkedDecoder, ChunkedError};

/// The payload, how many bytes the body took, and whether it ended.
fn read(bytes: &[u8], size: usize) -> Result<(Vec<u8>, usize, bool), ChunkedError> {
    let mut decoder = ChunkedDecoder::new();
    let (mut payload, mut at) = (Vec::new(), 0);
    while at < bytes.len() && !decoder.is_done() {
        let piece = &bytes[at..bytes.len().min(at + size)];
        let decoded = decoder.decode(piece)?;
        assert!(decoded.taken > 0 && decoded.taken <= piece.len());
        payload.extend_from_slice(&piece[decoded.payload]);
        at += decoded.taken;
    }
    Ok((payload, at, decoder.is_done()))
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    assert_eq!(read(bytes, usize::from(size) + 1), read(bytes, usize::MAX / 2));
});
