//! Percent coding as this protocol's clients really do it. Encoding is strict; decoding never fails: an escape that is
//! none stays as it is, and bytes that are not UTF-8 become U+FFFD.

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Encodes everything but RFC 3986 unreserved characters; what .NET's `EscapeDataString` and `encodeURIComponent` agree on.
pub(crate) fn encode(text: &str) -> String {
    encode_with(text, |_| None)
}

/// Like [`encode`], but leaves `/` alone: for paths.
pub(crate) fn encode_path(text: &str) -> String {
    encode_with(text, |byte| (byte == b'/').then_some('/'))
}

/// `application/x-www-form-urlencoded`: a space becomes `+`.
pub(crate) fn encode_form(text: &str) -> String {
    encode_with(text, |byte| (byte == b' ').then_some('+'))
}

/// Decodes escapes; `+` stays `+`.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    if text.contains('%') { Cow::Owned(decode_bytes(text, b'+')) } else { Cow::Borrowed(text) }
}

/// Decodes escapes and reads `+` as a space.
pub(crate) fn decode_form(text: &str) -> Cow<'_, str> {
    if text.contains(['%', '+']) { Cow::Owned(decode_bytes(text, b' ')) } else { Cow::Borrowed(text) }
}

fn encode_with(text: &str, as_is: impl Fn(u8) -> Option<char>) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else if let Some(char) = as_is(byte) {
            out.push(char);
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

fn decode_bytes(text: &str, plus: u8) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        out.push(match (byte, tail) {
            (b'+', _) => plus,
            (b'%', [high, low, after @ ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => byte,
        });
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%4"), "%4");
        assert_eq!(decode("%zz%41"), "%zzA");
        assert_eq!(decode("a+b%2b"), "a+b+");
        assert_eq!(decode_form("a+b%2b%20"), "a b+ ");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }

    #[test]
    fn encoded_text_decodes_to_itself() {
        let text = "a b+c/d%e&f=g?h#ü~";
        assert_eq!(decode(&encode(text)), text);
        assert_eq!(decode(&encode_path(text)), text);
        assert_eq!(decode_form(&encode_form(text)), text);
        assert_eq!(encode_path("a/b c"), "a/b%20c");
        assert_eq!(encode("a/b"), "a%2Fb");
    }
}
