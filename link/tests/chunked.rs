//! Promise: a body in chunks is read as RFC 9112 says however it is cut, and one that is none is told apart at once.

#![allow(clippy::unwrap_used)]

use umbilical_link::chunked::{ChunkedDecoder, ChunkedError, MAX_EXTRA_BYTES};

/// The payload and what lies behind the body, if `bytes` come in pieces of `size`.
fn read(bytes: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>, bool), ChunkedError> {
    let mut decoder = ChunkedDecoder::new();
    let (mut payload, mut behind) = (Vec::new(), Vec::new());
    for mut piece in bytes.chunks(size) {
        while !piece.is_empty() && !decoder.is_done() {
            let decoded = decoder.decode(piece)?;
            assert!(decoded.taken > 0, "a decoder that takes nothing never ends");
            payload.extend_from_slice(&piece[decoded.payload]);
            piece = &piece[decoded.taken..];
        }
        behind.extend_from_slice(piece);
    }
    Ok((payload, behind, decoder.is_done()))
}

#[test]
fn a_body_is_put_together_however_it_is_cut() {
    let body =
        b"5\r\nhello\r\n1a ;x=\"y\"\r\nabcdefghijklmnopqrstuvwxyz\r\n000\r\nTrailer: dropped\r\nT: u\r\n\r\nGET /";
    for size in 1..=body.len() {
        let (payload, behind, done) = read(body, size).unwrap();
        assert_eq!(
            (payload.as_slice(), behind.as_slice(), done),
            (&b"helloabcdefghijklmnopqrstuvwxyz"[..], &b"GET /"[..], true)
        );
    }
}

#[test]
fn an_empty_body_is_one_line_and_an_empty_one() {
    assert_eq!(read(b"0\r\n\r\n", 3).unwrap(), (Vec::new(), Vec::new(), true));
}

#[test]
fn a_body_that_stops_early_is_not_done() {
    let body = b"3\r\nabc\r\n0\r\n\r\n";
    for end in 0..body.len() {
        assert!(!read(&body[..end], 4).unwrap().2, "{end}");
    }
}

#[test]
fn what_is_no_body_in_chunks_is_refused() {
    for (body, error) in [
        (&b"\r\n"[..], ChunkedError::Size),
        (b"g\r\n", ChunkedError::Size),
        (b"-1\r\n", ChunkedError::Size),
        (b" 1\r\n", ChunkedError::Size),
        (b"1\nx\r\n", ChunkedError::Size),
        (b"10000000000000000\r\n", ChunkedError::Size),
        (b"1;\nx\r\n", ChunkedError::LineEnd),
        (b"1\rx", ChunkedError::LineEnd),
        (b"1\r\nxy", ChunkedError::Overrun),
        (b"1\r\nx\ry", ChunkedError::Overrun),
        (b"0\r\nA: b\n", ChunkedError::LineEnd),
        (b"0\r\n\n", ChunkedError::LineEnd),
        (b"0\r\n\rx", ChunkedError::LineEnd),
    ] {
        assert_eq!(read(body, 1), Err(error), "{:?}", String::from_utf8_lossy(body));
        assert_eq!(read(body, 100), Err(error), "{:?}", String::from_utf8_lossy(body));
    }
}

#[test]
fn the_longest_size_is_believed_and_costs_nothing() {
    let mut decoder = ChunkedDecoder::new();
    let decoded = decoder.decode(b"ffffffffffffffff\r\nx").unwrap();
    assert_eq!((decoded.taken, decoded.payload), (19, 18..19));
}

#[test]
fn extensions_and_trailers_have_an_end() {
    let extra = "x".repeat(MAX_EXTRA_BYTES + 1);
    for body in
        [format!("1;{extra}"), format!("0\r\n{extra}"), format!("0\r\n{}", "a: b\r\n".repeat(MAX_EXTRA_BYTES / 4 + 1))]
    {
        assert_eq!(read(body.as_bytes(), 1000), Err(ChunkedError::TooMuchExtra));
    }
    let many = "1;abc\r\nx\r\n".repeat(MAX_EXTRA_BYTES);
    assert_eq!(read(many.as_bytes(), 1000).unwrap().0.len(), MAX_EXTRA_BYTES);
}
