//! Promise: messages of any length come out piece by piece, the same however the bytes were cut, and nothing is held.

#![allow(clippy::unwrap_used)]

use umbilical_link::frame::{FrameError, FrameHeader, MAX_HEADER_BYTES, Opcode, apply_mask};
use umbilical_link::pieces::{Kind, MIN_ROOM, Piece, Pieces, PiecesError};
use umbilical_link::upgrade::Role;

#[derive(Debug, PartialEq)]
enum Said {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Vec<u8>),
}

fn frame(fin: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADER_BYTES];
    let length = FrameHeader { fin, opcode, mask, length: payload.len() as u64 }.encode(&mut header);
    let mut payload = payload.to_vec();
    if let Some(mask) = mask {
        apply_mask(&mut payload, mask, 0);
    }
    [&header[..length], &payload].concat()
}

/// What is heard if `bytes` come `size` at a time.
fn hear(role: Role, bytes: &[u8], size: usize) -> Result<Vec<Said>, PiecesError> {
    let mut pieces = Pieces::new(role);
    let (mut said, mut message, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in bytes.chunks(size) {
        buffer.extend_from_slice(chunk);
        loop {
            let (taken, piece) = pieces.next(&mut buffer)?;
            match piece {
                None => {}
                Some(Piece::Data(kind, payload, last)) => {
                    message.extend_from_slice(&buffer[payload]);
                    if last {
                        said.push(Said::Message(kind, std::mem::take(&mut message)));
                    }
                }
                Some(Piece::Ping(payload)) => said.push(Said::Ping(buffer[payload].to_vec())),
                Some(Piece::Pong) => said.push(Said::Pong),
                Some(Piece::Close(payload)) => said.push(Said::Close(buffer[payload].to_vec())),
            }
            buffer.drain(..taken);
            if taken == 0 {
                break;
            }
        }
        assert!(buffer.len() < MIN_ROOM, "{} bytes were left", buffer.len());
    }
    Ok(said)
}

#[test]
fn messages_come_out_the_same_however_they_are_cut() {
    let long = (0..70_000u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>();
    for (role, mask) in [(Role::Server, Some([1, 2, 3, 250])), (Role::Client, None)] {
        let bytes = [
            frame(true, Opcode::Text, mask, "grüezi".as_bytes()),
            frame(false, Opcode::Binary, mask, b"one "),
            frame(true, Opcode::Ping, mask, &[7; 125]),
            frame(false, Opcode::Continuation, mask, b""),
            frame(false, Opcode::Continuation, mask, b"two"),
            frame(true, Opcode::Pong, mask, b"x"),
            frame(true, Opcode::Continuation, mask, b""),
            frame(true, Opcode::Binary, mask, b""),
            frame(true, Opcode::Binary, mask, &long),
            frame(true, Opcode::Close, mask, b"\x03\xe8bye"),
        ]
        .concat();
        let expected = [
            Said::Message(Kind::Text, "grüezi".into()),
            Said::Ping(vec![7; 125]),
            Said::Pong,
            Said::Message(Kind::Binary, b"one two".to_vec()),
            Said::Message(Kind::Binary, Vec::new()),
            Said::Message(Kind::Binary, long.clone()),
            Said::Close(b"\x03\xe8bye".to_vec()),
        ];
        for size in [1, 2, 3, 7, 125, 126, 127, 1000, 16_384, bytes.len()] {
            assert!(hear(role, &bytes, size).unwrap() == expected, "cut into {size}");
        }
    }
}

#[test]
fn what_is_no_websocket_is_refused() {
    let mask = Some([9; 4]);
    for (bytes, error) in [
        (frame(true, Opcode::Continuation, mask, b"x"), PiecesError::Unexpected(Opcode::Continuation)),
        (
            [frame(false, Opcode::Text, mask, b"x"), frame(true, Opcode::Binary, mask, b"y")].concat(),
            PiecesError::Unexpected(Opcode::Binary),
        ),
        (frame(true, Opcode::Text, None, b"x"), PiecesError::Frame(FrameError::MissingMask)),
        (frame(false, Opcode::Ping, mask, b"x"), PiecesError::Frame(FrameError::FragmentedControl(Opcode::Ping))),
        (vec![0xF1, 0x80, 0, 0, 0, 0], PiecesError::Frame(FrameError::ReservedBits(0x70))),
    ] {
        assert_eq!(hear(Role::Server, &bytes, 1), Err(error));
        assert_eq!(hear(Role::Server, &bytes, bytes.len()), Err(error));
    }
    assert_eq!(
        hear(Role::Client, &frame(true, Opcode::Text, mask, b"x"), 1),
        Err(PiecesError::Frame(FrameError::UnexpectedMask))
    );
}

#[test]
fn an_announced_length_costs_nothing() {
    let mut header = [0; MAX_HEADER_BYTES];
    let length = FrameHeader::whole(Opcode::Binary, Some([0; 4]), u64::MAX >> 1).encode(&mut header);
    let mut bytes = [&header[..length], b"abc"].concat();
    let heard = Pieces::new(Role::Server).next(&mut bytes).unwrap();
    assert_eq!(heard, (length + 3, Some(Piece::Data(Kind::Binary, length..length + 3, false))));
}
