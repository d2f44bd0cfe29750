//! Promise: frames become bytes, however they are cut, whatever is between them; what is no WebSocket is an error.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use umbilical_link::frame::{FrameError, FrameHeader, MAX_HEADER_BYTES, Opcode, apply_mask};
use umbilical_link::unframe::{Piece, UnframeError, Unframer};
use umbilical_link::upgrade::Role;

fn frame(header: FrameHeader, payload: &[u8]) -> Vec<u8> {
    let mut out = [0; MAX_HEADER_BYTES];
    let head = header.encode(&mut out);
    let mut bytes = out[..head].to_vec();
    let from = bytes.len();
    bytes.extend_from_slice(payload);
    if let Some(mask) = header.mask {
        apply_mask(&mut bytes[from..], mask, 0);
    }
    bytes
}

fn whole(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    frame(FrameHeader::whole(opcode, None, payload.len() as u64), payload)
}

/// What was heard, payload put together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    bytes: Vec<u8>,
    pings: Vec<Vec<u8>>,
    pongs: usize,
    close: Option<(u16, String)>,
}

/// Shows `wire` in pieces of these lengths, over and over, as a reader with a buffer does.
fn hear(receiver: Role, wire: &[u8], cuts: &[usize]) -> Result<Heard, UnframeError> {
    let mut unframer = Unframer::new(receiver);
    let (mut heard, mut buffer, mut rest) = (Heard::default(), Vec::new(), wire);
    for cut in cuts.iter().cycle() {
        if rest.is_empty() || heard.close.is_some() {
            break;
        }
        let (now, later) = rest.split_at((*cut).min(rest.len()));
        buffer.extend_from_slice(now);
        rest = later;
        while let Some((piece, taken)) = unframer.next(&mut buffer)? {
            match piece {
                Piece::Payload(range) => heard.bytes.extend_from_slice(&buffer[range]),
                Piece::Ping(range) => heard.pings.push(buffer[range].to_vec()),
                Piece::Pong => heard.pongs += 1,
                Piece::Close(code, reason) => heard.close = Some((code, reason)),
            }
            buffer.drain(..taken);
        }
        assert!(buffer.len() < MAX_HEADER_BYTES + 125, "{} bytes are waited for", buffer.len());
    }
    Ok(heard)
}

#[derive(Debug, Clone)]
enum Said {
    /// A message in these fragments, a ping before each.
    Message {
        text: bool,
        fragments: Vec<Vec<u8>>,
        ping: Option<Vec<u8>>,
    },
    Pong,
}

fn said() -> impl Strategy<Value = Said> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let fragment = prop_oneof![bytes(4), bytes(300), bytes(70_000)];
    let message = (any::<bool>(), prop::collection::vec(fragment, 1..4), prop::option::of(bytes(125)))
        .prop_map(|(text, fragments, ping)| Said::Message { text, fragments, ping });
    prop_oneof![9 => message, 1 => Just(Said::Pong)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_comes_out_once_and_in_order(
        script in prop::collection::vec(said(), 0..6),
        mask: Option<[u8; 4]>,
        cuts in prop::collection::vec(prop_oneof![1..4_usize, 1..5000_usize], 1..5),
    ) {
        let (mut wire, mut expected) = (Vec::new(), Heard::default());
        let mut put = |header: FrameHeader, payload: &[u8]| wire.extend(frame(FrameHeader { mask, ..header }, payload));
        for said in &script {
            let Said::Message { text, fragments, ping } = said else {
                put(FrameHeader::whole(Opcode::Pong, None, 0), &[]);
                expected.pongs += 1;
                continue;
            };
            for (at, fragment) in fragments.iter().enumerate() {
                if let Some(ping) = ping {
                    put(FrameHeader::whole(Opcode::Ping, None, ping.len() as u64), ping);
                    expected.pings.push(ping.clone());
                }
                let opcode = match (at, text) {
                    (0, true) => Opcode::Text,
                    (0, false) => Opcode::Binary,
                    _ => Opcode::Continuation,
                };
                let fin = at + 1 == fragments.len();
                put(FrameHeader { fin, ..FrameHeader::whole(opcode, None, fragment.len() as u64) }, fragment);
                expected.bytes.extend_from_slice(fragment);
            }
        }
        put(FrameHeader::whole(Opcode::Close, None, 5), b"\x03\xe8end");
        expected.close = Some((1000, "end".into()));
        let receiver = if mask.is_some() { Role::Server } else { Role::Client };
        let heard = hear(receiver, &wire, &cuts).unwrap();
        prop_assert!(heard == expected, "something else was heard");
    }

    #[test]
    fn nothing_makes_it_panic_or_take_more_than_there_is(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for receiver in [Role::Client, Role::Server] {
            let (mut unframer, mut rest) = (Unframer::new(receiver), bytes.clone());
            while let Ok(Some((_, taken))) = unframer.next(&mut rest) {
                prop_assert!(taken > 0 && taken <= rest.len());
                rest.drain(..taken);
            }
        }
    }
}

#[test]
fn a_frame_may_be_longer_than_any_memory() {
    let mut unframer = Unframer::new(Role::Client);
    let mut start = frame(FrameHeader::whole(Opcode::Binary, None, u64::MAX >> 1), b"the first of many");
    let (piece, taken) = unframer.next(&mut start).unwrap().unwrap();
    assert_eq!((piece, taken), (Piece::Payload(10..27), 27));
    assert_eq!(unframer.next(&mut []), Ok(None));
    assert_eq!(unframer.next(&mut [7, 8]), Ok(Some((Piece::Payload(0..2), 2))));
}

#[test]
fn a_close_without_a_code_is_1005() {
    assert_eq!(hear(Role::Client, &whole(Opcode::Close, b""), &[1]).unwrap().close, Some((1005, String::new())));
}

#[test]
fn what_is_no_websocket_is_named() {
    let begun = FrameHeader { fin: false, ..FrameHeader::whole(Opcode::Text, None, 1) };
    let twice = [frame(begun, b"x"), whole(Opcode::Binary, b"y")].concat();
    for (wire, error, words) in [
        (whole(Opcode::Continuation, b"x"), UnframeError::OutOfPlace(Opcode::Continuation), "was not begun"),
        (twice, UnframeError::OutOfPlace(Opcode::Binary), "Binary frame begins a message within another one"),
        (
            frame(FrameHeader::whole(Opcode::Binary, Some([1; 4]), 1), b"x"),
            UnframeError::Frame(FrameError::UnexpectedMask),
            "mask",
        ),
        (vec![0xF2, 0x00], UnframeError::Frame(FrameError::ReservedBits(0x70)), "reserved bits"),
        (whole(Opcode::Close, b"\x03\xed"), UnframeError::Frame(FrameError::CloseCode(1005)), "1005"),
    ] {
        let found = hear(Role::Client, &wire, &[1]).unwrap_err();
        assert_eq!(found, error);
        assert!(found.to_string().contains(words), "{found}");
    }
}
