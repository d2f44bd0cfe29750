//! Any bytes as the answer to an upgrade, in pieces of any size: no panic, no more memory than the limit allows, and the
//! same outcome however they were cut.

#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libfuzzer_sys::fuzz_target;
use smol::io::AsyncRead;
use umbilical_link::response::{MAX_REASON_CHARS, ResponseHead, read_head};
use umbilical_link::upgrade::{Handshake, UpgradeError, UpgradeRequest};

const LIMIT: usize = 512;

struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = self.bytes.len().min(self.size).min(out.len());
        let (now, later) = self.bytes.split_at(count);
        out[..count].copy_from_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(count))
    }
}

fn outcome(bytes: &[u8], size: usize) -> String {
    let mut buffer = Vec::new();
    let read = smol::future::block_on(read_head(&mut Pieces { bytes, size }, &mut buffer, LIMIT));
    assert!(buffer.len() <= LIMIT + 1024, "{} bytes kept", buffer.len());
    let length = match read {
        Ok(length) => length,
        // How much had come when it was clear depends on the pieces.
        Err(_) => return "no head".into(),
    };
    let head = match ResponseHead::parse(&buffer[..length]) {
        Ok(head) => head,
        Err(error) => return error.to_string(),
    };
    assert!(head.reason.chars().count() <= MAX_REASON_CHARS && !head.reason.contains(char::is_control));

    let request = UpgradeRequest { authority: "a", target: "/", headers: vec![], subprotocol: Some("umbilical.v1") };
    let handshake = Handshake::new(&request, [0; 16]).expect("nothing in it needs refusing");
    match handshake.conclude(&head) {
        Ok(accepted) => format!("{accepted:?}"),
        Err(UpgradeError::Refused { status, reason, retry_after, date }) => {
            format!("{status} {reason} {retry_after:?} {date:?}")
        }
        Err(other) => other.to_string(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    assert_eq!(outcome(bytes, usize::from(size).max(1)), outcome(bytes, usize::MAX));
});
