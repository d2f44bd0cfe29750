//! The body of a response is found however it is cut, and ends where its head says.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use smol::io::Cursor;
use umbilical_link::body::{BodyDecoder, BodyError, Framing, ReadBodyError, read_body};
use umbilical_link::chunked::MAX_EXTRA_BYTES;
use umbilical_link::response::ResponseHead;

fn framing(head: &str, method: &str) -> Result<Framing, BodyError> {
    Framing::of(&ResponseHead::parse(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).unwrap(), method)
}

/// The body of `input` in pieces of `size`, what is left behind it, and whether it was complete.
fn decode(framing: Framing, input: &[u8], size: usize) -> Result<(Vec<u8>, usize, bool), BodyError> {
    let mut decoder = BodyDecoder::new(framing);
    let (mut body, mut left) = (Vec::new(), input.len());
    for mut piece in input.chunks(size) {
        while !piece.is_empty() && !decoder.is_complete() {
            let decoded = decoder.decode(piece)?;
            assert!(decoded.taken > 0, "no progress");
            body.extend_from_slice(&piece[decoded.payload]);
            piece = &piece[decoded.taken..];
            left -= decoded.taken;
        }
    }
    Ok((body, left, decoder.is_complete()))
}

#[test]
fn the_head_says_how_the_body_ends() {
    for (head, method, expected) in [
        ("200 OK\r\nContent-Length: 5", "GET", Ok(Framing::Length(5))),
        ("200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5", "GET", Ok(Framing::Length(5))),
        ("200 OK\r\nTransfer-Encoding: Chunked", "POST", Ok(Framing::Chunked)),
        // both: the length is the one that is wrong
        ("200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", "GET", Ok(Framing::Chunked)),
        ("200 OK", "GET", Ok(Framing::UntilClose)),
        ("200 OK\r\nContent-Length: 5", "HEAD", Ok(Framing::None)),
        ("204 No Content\r\nContent-Length: 5", "GET", Ok(Framing::None)),
        ("304 Not Modified\r\nTransfer-Encoding: chunked", "GET", Ok(Framing::None)),
        ("200 OK\r\nContent-Length: 5, 6", "GET", Err(BodyError::Length)),
        ("200 OK\r\nContent-Length: +5", "GET", Err(BodyError::Length)),
        ("200 OK\r\nContent-Length:", "GET", Err(BodyError::Length)),
        ("200 OK\r\nContent-Length: 18446744073709551616", "GET", Err(BodyError::Length)),
        ("200 OK\r\nTransfer-Encoding: gzip, chunked", "GET", Err(BodyError::Coding)),
        ("200 OK\r\nTransfer-Encoding: gzip", "GET", Err(BodyError::Coding)),
    ] {
        assert_eq!(framing(head, method), expected, "{head} to {method}");
    }
}

#[test]
fn chunks_are_taken_apart_wherever_they_are_cut() {
    let input = b"5\r\nhello\r\n1;name=value\r\n \r\n00005 \r\nworld\r\n0\r\nTrailer: x\r\n\r\nbehind";
    for size in 1..=input.len() {
        assert_eq!(decode(Framing::Chunked, input, size), Ok((b"hello world".to_vec(), 6, true)), "in {size}s");
    }
}

#[test]
fn chunks_that_are_none_are_refused() {
    let line = format!("1;{}\r\nx\r\n", "x".repeat(MAX_EXTRA_BYTES + 1));
    let trailer = format!("0\r\n{}\r\n\r\n", "x".repeat(MAX_EXTRA_BYTES + 1));
    for input in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        " 1\r\n",
        "0x1\r\n",
        "1\nx",
        "1\r\nxy\r\n",
        "10000000000000000\r\n",
        &line,
        &trailer,
    ] {
        assert!(matches!(decode(Framing::Chunked, input.as_bytes(), 7), Err(BodyError::Chunk(_))), "{input:.40}");
    }
}

#[test]
fn an_early_end_is_known_for_one() {
    for (framing, input, expected) in [
        (Framing::Length(3), "ab", Err(BodyError::Cut)),
        (Framing::Length(3), "abc", Ok(())),
        (Framing::Chunked, "3\r\nabc\r\n", Err(BodyError::Cut)),
        (Framing::Chunked, "3\r\nabc\r\n0\r\n", Err(BodyError::Cut)),
        (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\n", Ok(())),
        (Framing::UntilClose, "ab", Ok(())),
        (Framing::None, "", Ok(())),
    ] {
        let mut decoder = BodyDecoder::new(framing);
        let mut rest = input.as_bytes();
        while !rest.is_empty() {
            rest = &rest[decoder.decode(rest).unwrap().taken..];
        }
        assert_eq!(decoder.end(), expected, "{framing:?} {input:?}");
    }
}

/// What `read_body` makes of `input`, of which `cut` bytes came with the head.
fn read(framing: Framing, input: &[u8], cut: usize, limit: usize) -> Result<Vec<u8>, ReadBodyError> {
    let (first, second) = input.split_at(cut);
    smol::block_on(read_body(&mut Cursor::new(second), first, framing, limit))
}

#[test]
fn a_short_body_is_read_whole_wherever_its_head_was_cut_off() {
    for (framing, input) in [
        (Framing::Length(5), "hello behind"),
        (Framing::Chunked, "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nbehind"),
        (Framing::UntilClose, "hello"),
    ] {
        for cut in 0..=input.len() {
            assert_eq!(read(framing, input.as_bytes(), cut, 5).unwrap(), b"hello", "{framing:?} cut at {cut}");
        }
    }
    assert_eq!(read(Framing::None, b"behind", 3, 5).unwrap(), b"");
}

#[test]
fn a_body_over_the_limit_is_refused_and_one_that_was_cut_too() {
    let endless = "x".repeat(100_000);
    let chunk = format!("186A0\r\n{endless}\r\n0\r\n\r\n");
    for (framing, input) in [(Framing::Chunked, &chunk), (Framing::UntilClose, &endless)] {
        for cut in [0, 20, input.len()] {
            let refused = read(framing, input.as_bytes(), cut, 99_999);
            assert!(matches!(refused, Err(ReadBodyError::TooLong { limit: 99_999 })), "{framing:?} {refused:?}");
        }
    }
    // nothing is waited for that would be refused anyway
    let refused = read(Framing::Length(u64::MAX), b"", 0, 5);
    assert!(matches!(refused, Err(ReadBodyError::TooLong { limit: 5 })), "{refused:?}");
    for (framing, input) in [(Framing::Length(6), "hello"), (Framing::Chunked, "6\r\nhello")] {
        let cut = read(framing, input.as_bytes(), 2, 10);
        assert!(matches!(cut, Err(ReadBodyError::Body(BodyError::Cut))), "{cut:?}");
    }
}

proptest! {
    #[test]
    fn what_was_chunked_comes_out_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..8), size in 1_usize..300) {
        let mut input = Vec::new();
        for piece in &pieces {
            input.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
            input.extend_from_slice(piece);
            input.extend_from_slice(b"\r\n");
        }
        input.extend_from_slice(b"0\r\n\r\n");
        prop_assert_eq!(decode(Framing::Chunked, &input, size), Ok((pieces.concat(), 0, true)));
    }

    #[test]
    fn anything_has_the_same_outcome_however_it_is_cut(input in prop::collection::vec(prop::sample::select(b"01aF;\r\n x".to_vec()), 0..80), size in 1_usize..20) {
        prop_assert_eq!(decode(Framing::Chunked, &input, size), decode(Framing::Chunked, &input, 1000));
    }
}
