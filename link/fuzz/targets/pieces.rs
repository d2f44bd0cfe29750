//! Any bytes as WebSocket messages: no panic, the same messages however they were cut, never more held than a control
//! frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_link::pieces::{MIN_ROOM, Piece, Pieces, PiecesError};
use umbilical_link::upgrade::Role;

/// Everything that was heard, runs of payload put together, up to the first error.
fn hear(bytes: &[u8], size: usize) -> (Vec<(u8, Vec<u8>)>, Option<PiecesError>) {
    let mut pieces = Pieces::new(Role::Server);
    let (mut heard, mut message, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in bytes.chunks(size) {
        buffer.extend_from_slice(chunk);
        loop {
            let (taken, piece) = match pieces.next(&mut buffer) {
                Ok(heard) => heard,
                Err(error) => return (heard, Some(error)),
            };
            assert!(taken <= buffer.len());
            match piece {
                None => {}
                Some(Piece::Data(_, payload, last)) => {
                    message.extend_from_slice(&buffer[payload]);
                    if last {
                        heard.push((0, std::mem::take(&mut message)));
                    }
                }
                Some(Piece::Ping(payload)) => heard.push((1, buffer[payload].to_vec())),
                Some(Piece::Pong) => heard.push((2, Vec::new())),
                Some(Piece::Close(payload)) => heard.push((3, buffer[payload].to_vec())),
            }
            buffer.drain(..taken);
            if taken == 0 {
                break;
            }
        }
        assert!(buffer.len() < MIN_ROOM);
    }
    heard.push((4, message));
    (heard, None)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    assert_eq!(hear(bytes, usize::from(size) + 1), hear(bytes, bytes.len().max(1)));
});
