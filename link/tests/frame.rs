//! The frame codec against the one of tungstenite, against RFC 6455's own examples, and against everything that is
//! not a frame.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::io::Cursor;

use async_tungstenite::tungstenite::protocol::frame::FrameHeader as Reference;
use async_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use proptest::prelude::*;
use umbilical_link::frame::{
    ClosePayload, FrameError, FrameHeader, MAX_CONTROL_BYTES, MAX_HEADER_BYTES, MaskSource, Opcode, apply_mask,
    copy_masked,
};
use umbilical_link::upgrade::Role;

const MAX_LENGTH: u64 = u64::MAX >> 1;

fn reference(opcode: Opcode) -> OpCode {
    match opcode {
        Opcode::Continuation => OpCode::Data(Data::Continue),
        Opcode::Text => OpCode::Data(Data::Text),
        Opcode::Binary => OpCode::Data(Data::Binary),
        Opcode::Close => OpCode::Control(Control::Close),
        Opcode::Ping => OpCode::Control(Control::Ping),
        Opcode::Pong => OpCode::Control(Control::Pong),
    }
}

fn opcode() -> impl Strategy<Value = Opcode> {
    prop::sample::select(vec![
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
    ])
}

/// Lengths of every format, the borders often.
fn length() -> impl Strategy<Value = u64> {
    let borders = vec![0, 1, 125, 126, 127, 65_535, 65_536, MAX_LENGTH];
    prop_oneof![prop::sample::select(borders), 0..=MAX_LENGTH, 0..70_000_u64]
}

prop_compose! {
    fn header()(opcode in opcode(), fin: bool, mask: Option<[u8; 4]>, length in length()) -> FrameHeader {
        if opcode.is_control() {
            FrameHeader { fin: true, opcode, mask, length: length % 126 }
        } else {
            FrameHeader { fin, opcode, mask, length }
        }
    }
}

fn encoded(header: &FrameHeader) -> Vec<u8> {
    let mut out = [0xEE; MAX_HEADER_BYTES];
    let length = header.encode(&mut out);
    assert!(out[length..].iter().all(|&byte| byte == 0xEE), "wrote beyond its own length");
    out[..length].to_vec()
}

/// The slow and obvious way.
fn naive(bytes: &[u8], mask: [u8; 4], offset: u64) -> Vec<u8> {
    bytes.iter().enumerate().map(|(at, byte)| byte ^ mask[((offset % 4) as usize + at) % 4]).collect()
}

proptest! {
    #[test]
    fn headers_are_written_as_tungstenite_writes_them(header in header()) {
        let theirs = Reference {
            is_final: header.fin, rsv1: false, rsv2: false, rsv3: false, opcode: reference(header.opcode), mask: header.mask,
        };
        let mut expected = Vec::new();
        theirs.format(header.length, &mut expected).unwrap();
        prop_assert_eq!(encoded(&header), expected);
    }

    #[test]
    fn headers_come_back_from_any_piece(header in header(), behind: Vec<u8>) {
        let bytes = encoded(&header);
        for end in 0..bytes.len() {
            prop_assert_eq!(FrameHeader::parse(&bytes[..end]), Ok(None));
        }
        let all = [bytes.as_slice(), &behind].concat();
        prop_assert_eq!(FrameHeader::parse(&all), Ok(Some((header, bytes.len()))));
    }

    #[test]
    fn any_bytes_are_read_as_tungstenite_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut cursor = Cursor::new(&bytes);
        let theirs = Reference::parse(&mut cursor);
        match (FrameHeader::parse(&bytes), theirs) {
            (Ok(Some((header, taken))), Ok(Some((reference_header, length)))) => {
                prop_assert_eq!(header.fin, reference_header.is_final);
                prop_assert_eq!(reference(header.opcode), reference_header.opcode);
                prop_assert_eq!(header.mask, reference_header.mask);
                prop_assert_eq!(header.length, length);
                prop_assert_eq!(taken as u64, cursor.position());
            }
            (Ok(None), Ok(None)) | (Err(FrameError::UnknownOpcode(_)), Err(_)) => {}
            // What they leave to a later stage, or notice only when the header is complete.
            (Err(FrameError::UnknownOpcode(_)), Ok(None)) => {}
            (Err(FrameError::ReservedBits(bits)), _) => prop_assert_eq!(bits, bytes[0] & 0x70),
            (Err(FrameError::FragmentedControl(_)), _) => prop_assert!(bytes[0] & 0x88 == 0x08),
            (Err(FrameError::LongControl(_)), _) => prop_assert!(bytes[0] & 0x08 != 0 && bytes[1] & 0x7F > 125),
            (Err(FrameError::LengthTooLarge(_)), _) => prop_assert!(bytes[1] & 0x7F == 127 && bytes[2] & 0x80 != 0),
            (ours, theirs) => prop_assert!(false, "{:?} is not {:?}", ours, theirs),
        }
    }

    #[test]
    fn masks_are_applied_as_the_slow_way_does(
        bytes in prop::collection::vec(any::<u8>(), 0..400), mask: [u8; 4], offset: u64,
    ) {
        let expected = naive(&bytes, mask, offset);
        let mut in_place = bytes.clone();
        apply_mask(&mut in_place, mask, offset);
        prop_assert_eq!(&in_place, &expected);
        let mut copied = vec![0; bytes.len()];
        copy_masked(&mut copied, &bytes, mask, offset);
        prop_assert_eq!(&copied, &expected);
    }

    #[test]
    fn a_mask_does_not_notice_where_the_payload_was_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..300), mask: [u8; 4], cut in 0..300_usize,
    ) {
        let cut = cut.min(bytes.len());
        let mut pieces = bytes.clone();
        let (first, second) = pieces.split_at_mut(cut);
        apply_mask(first, mask, 0);
        apply_mask(second, mask, cut as u64);
        prop_assert_eq!(pieces, naive(&bytes, mask, 0));
    }

    #[test]
    fn close_payloads_come_back(code in prop_oneof![1000..=1003_u16, 1007..=1014_u16, 3000..=4999_u16], reason: String) {
        let mut out = [0; MAX_CONTROL_BYTES];
        let length = ClosePayload { code, reason: &reason }.encode(&mut out);
        let parsed = ClosePayload::parse(&out[..length]).unwrap().unwrap();
        prop_assert_eq!(parsed.code, code);
        prop_assert!(reason.starts_with(parsed.reason));
        let lost = reason.len() - parsed.reason.len();
        prop_assert!(lost == 0 || parsed.reason.len() > 123 - 4, "{} bytes of the reason were lost", lost);
    }

    #[test]
    fn no_close_payload_makes_it_panic(payload in prop::collection::vec(any::<u8>(), 0..126)) {
        let _ = ClosePayload::parse(&payload);
    }
}

/// RFC 6455, section 5.7.
#[test]
fn the_examples_of_the_rfc() {
    let parse = |bytes: &[u8]| FrameHeader::parse(bytes).unwrap().unwrap();
    assert_eq!(parse(b"\x81\x05Hello"), (FrameHeader::whole(Opcode::Text, None, 5), 2));

    let (header, taken) = parse(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    assert_eq!((header, taken), (FrameHeader::whole(Opcode::Text, Some(mask), 5), 6));
    let mut payload = *b"\x7f\x9f\x4d\x51\x58";
    apply_mask(&mut payload, mask, 0);
    assert_eq!(&payload, b"Hello");

    assert_eq!(parse(b"\x01\x03Hel"), (FrameHeader { fin: false, ..FrameHeader::whole(Opcode::Text, None, 3) }, 2));
    assert_eq!(parse(b"\x80\x02lo"), (FrameHeader::whole(Opcode::Continuation, None, 2), 2));
    assert_eq!(parse(b"\x89\x05Hello"), (FrameHeader::whole(Opcode::Ping, None, 5), 2));
    assert_eq!(parse(b"\x82\x7e\x01\x00"), (FrameHeader::whole(Opcode::Binary, None, 256), 4));
    assert_eq!(parse(b"\x82\x7f\0\0\0\0\0\x01\0\0"), (FrameHeader::whole(Opcode::Binary, None, 65_536), 10));
}

#[test]
fn what_is_no_frame_is_refused_at_its_first_wrong_byte() {
    for (bytes, expected) in [
        (&b"\xC1"[..], FrameError::ReservedBits(0x40)),
        (b"\xF0", FrameError::ReservedBits(0x70)),
        (b"\x83", FrameError::UnknownOpcode(3)),
        (b"\x8B", FrameError::UnknownOpcode(11)),
        (b"\x09", FrameError::FragmentedControl(Opcode::Ping)),
        (b"\x88\x7E", FrameError::LongControl(Opcode::Close)),
        (b"\x8A\xFF", FrameError::LongControl(Opcode::Pong)),
        (b"\x82\x7F\x80\0\0\0\0\0\0\0", FrameError::LengthTooLarge(1 << 63)),
    ] {
        assert_eq!(FrameHeader::parse(bytes), Err(expected), "{bytes:x?}");
        assert!(!expected.to_string().is_empty());
    }
    // Longer than need be, and taken all the same.
    assert_eq!(FrameHeader::parse(b"\x82\x7E\0\x05"), Ok(Some((FrameHeader::whole(Opcode::Binary, None, 5), 4))));
}

#[test]
fn clients_mask_and_servers_do_not() {
    let masked = FrameHeader::whole(Opcode::Binary, Some([1; 4]), 1);
    let bare = FrameHeader::whole(Opcode::Binary, None, 1);
    assert_eq!(masked.check_mask(Role::Server), Ok(()));
    assert_eq!(bare.check_mask(Role::Client), Ok(()));
    assert_eq!(masked.check_mask(Role::Client), Err(FrameError::UnexpectedMask));
    assert_eq!(bare.check_mask(Role::Server), Err(FrameError::MissingMask));
}

#[test]
fn close_codes_that_may_not_be_sent_are_refused() {
    assert_eq!(ClosePayload::parse(b""), Ok(None));
    assert_eq!(ClosePayload::parse(b"\x03"), Err(FrameError::ShortClose));
    assert_eq!(ClosePayload::parse(b"\x03\xE8\xFF"), Err(FrameError::CloseReason));
    for code in 0..=u16::MAX {
        // 1014, bad gateway, was registered at IANA after RFC 6455.
        let theirs = CloseCode::from(code).is_allowed() || code == 1014;
        let ours = ClosePayload::parse(&code.to_be_bytes()).is_ok();
        assert_eq!(ours, theirs, "{code}");
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut out = [0; MAX_CONTROL_BYTES];
    let reason = "ü".repeat(100);
    let length = ClosePayload { code: 1011, reason: &reason }.encode(&mut out);
    assert_eq!(length, 2 + 122);
    assert_eq!(ClosePayload::parse(&out[..length]).unwrap().unwrap().reason, &reason[..122]);
    let length = ClosePayload { code: 1011, reason: &"x".repeat(100_000) }.encode(&mut out);
    assert_eq!(length, MAX_CONTROL_BYTES);
}

#[test]
#[should_panic(expected = "a masked copy needs equal lengths")]
fn a_masked_copy_of_unequal_lengths_is_a_defect_of_the_caller() {
    copy_masked(&mut [0; 3], &[0; 4], [0; 4], 0);
}

#[test]
fn masks_do_not_repeat() {
    let mut source = MaskSource::new();
    let masks: HashSet<_> = (0..1000).map(|_| source.next_mask().unwrap()).collect();
    // Of 1000 random masks two are equal once in 8600 runs, three pairs practically never.
    assert!(masks.len() >= 998, "{} different masks", masks.len());
    assert_eq!(format!("{source:?}"), "MaskSource { .. }");
}
