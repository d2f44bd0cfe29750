//! Any bytes as frames that come in two pieces: the stream of bytes is the same wherever they are cut, nothing is taken
//! that is not there, and nothing longer than a header with a control frame is waited for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use umbilical_link::frame::{MAX_CONTROL_BYTES, MAX_HEADER_BYTES};
use umbilical_link::unframe::{Piece, UnframeError, Unframer};
use umbilical_link::upgrade::Role;

fuzz_target!(|input: (bool, u16, &[u8])| {
    let (server, cut, bytes) = input;
    let receiver = if server { Role::Server } else { Role::Client };
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(hear(receiver, &[first, second]), hear(receiver, &[bytes]));
});

type Heard = (Vec<u8>, Vec<Vec<u8>>, Option<(u16, String)>, Option<UnframeError>);

fn hear(receiver: Role, pieces: &[&[u8]]) -> Heard {
    let (mut unframer, mut buffer, mut heard) = (Unframer::new(receiver), Vec::new(), Heard::default());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match unframer.next(&mut buffer) {
                Ok(None) => break assert!(buffer.len() < MAX_HEADER_BYTES + MAX_CONTROL_BYTES),
                Ok(Some((piece, taken))) => {
                    assert!(taken > 0 && taken <= buffer.len());
                    match piece {
                        Piece::Payload(range) => heard.0.extend_from_slice(&buffer[range]),
                        Piece::Ping(range) => heard.1.push(buffer[range].to_vec()),
                        Piece::Pong => {}
                        Piece::Close(code, reason) => {
                            heard.2 = Some((code, reason));
                            return heard;
                        }
                    }
                    buffer.drain(..taken);
                }
                Err(error) => {
                    heard.3 = Some(error);
                    return heard;
                }
            }
        }
    }
    heard
}
