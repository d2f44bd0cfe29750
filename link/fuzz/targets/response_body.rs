//! Any bytes as a body in chunks, in pieces of any size: no panic, always progress, and the same outcome however they
//! were cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_link::body::{BodyDecoder, BodyError, Framing};

fn outcome(bytes: &[u8], size: usize) -> Result<(Vec<u8>, bool), BodyError> {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let mut body = Vec::new();
    for mut piece in bytes.chunks(size) {
        while !piece.is_empty() && !decoder.is_complete() {
            let decoded = decoder.decode(piece)?;
            assert!(decoded.used > 0 && decoded.body.end <= decoded.used);
            body.extend_from_slice(&piece[decoded.body]);
            piece = &piece[decoded.used..];
        }
    }
    Ok((body, decoder.is_complete()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    assert_eq!(outcome(bytes, usize::from(size).max(1)), outcome(bytes, bytes.len().max(1)));
});
