//! The head of a response is found however it is cut, and never beyond its limit.

#![allow(clippy::unwrap_used)]

mod support;

use smol::io::{AsyncReadExt, Cursor};
use support::run;
use umbilical_link::response::{ResponseError, ResponseHead, read_head};

const HEAD: &[u8] = b"HTTP/1.1 503 Busy\r\nA: one, two\r\nB:\r\na: Three\r\n\r\n";

/// Reads the head of `bytes` when they come in two pieces.
fn read(bytes: &[u8], cut: usize, limit: usize) -> (Result<usize, ResponseError>, Vec<u8>) {
    let (first, second) = bytes.split_at(cut);
    let mut buffer = Vec::new();
    let length = run(read_head(&mut Cursor::new(first).chain(Cursor::new(second)), &mut buffer, limit));
    (length, buffer)
}

#[test]
fn a_head_is_found_wherever_it_is_cut() {
    let bare: Vec<_> = HEAD.iter().copied().filter(|&byte| byte != b'\r').collect();
    for head in [HEAD, &bare] {
        let all = [head, b"\n\nbehind it"].concat();
        for cut in 0..=all.len() {
            let (length, buffer) = read(&all, cut, 1000);
            assert_eq!(length.unwrap(), head.len(), "cut at {cut}");
            assert!(all.starts_with(&buffer), "cut at {cut}");
        }
        for end in 0..head.len() {
            let (length, _) = read(&head[..end], end / 2, 1000);
            assert!(matches!(length, Err(ResponseError::Closed { after }) if after == end), "{length:?}");
        }
    }
}

#[test]
fn the_limit_is_exact_wherever_it_is_cut() {
    for cut in 0..=HEAD.len() {
        assert_eq!(read(HEAD, cut, HEAD.len()).0.unwrap(), HEAD.len());
        let limit = HEAD.len() - 1;
        let (length, _) = read(HEAD, cut, limit);
        assert!(matches!(length, Err(ResponseError::TooLarge { limit: l }) if l == limit), "{length:?}");
    }
}

#[test]
fn fields_are_found_whatever_their_case() {
    let head = ResponseHead::parse(HEAD).unwrap();
    assert_eq!((head.status, head.reason.as_str()), (503, "Busy"));
    assert_eq!(head.values("a").collect::<Vec<_>>(), [&b"one, two"[..], b"Three"]);
    assert_eq!(head.only("a"), None, "there are two");
    assert_eq!(head.only("b"), Some(&b""[..]));
    assert_eq!(head.only("c"), None);
    assert!(head.has_token("A", "TWO") && head.has_token("A", "three"));
    assert!(!head.has_token("A", "one, two") && !head.has_token("b", "one") && !head.has_token("c", ""));
}

#[test]
fn all_three_forms_of_a_date_are_read() {
    for (date, expected) in [
        ("Tue, 14 Nov 2023 22:13:20 GMT", Some(1_700_000_000)),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", Some(1_700_000_000)),
        ("Tue Nov 14 22:13:20 2023", Some(1_700_000_000)),
        ("Tue, 14 Nov 1969 22:13:20 GMT", None),
        ("Tue, 14 Nov 2023 22:13:20", None),
        ("", None),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nDate: {date}\r\n\r\n");
        assert_eq!(ResponseHead::parse(head.as_bytes()).unwrap().date(), expected, "{date:?}");
        let twice = head.replace("\r\n\r\n", &format!("\r\nDate: {date}\r\n\r\n"));
        assert_eq!(ResponseHead::parse(twice.as_bytes()).unwrap().date(), None, "which of the two?");
    }
}
