//! Turns the bytes one WebSocket client sends into the bytes another one may receive (RFC 6455, section 5).
//!
//! Sender and listener are both clients of the relay: what comes in is masked, what goes out must not be. Frames keep
//! their type, their FIN bit, their order and their payload; of the header only the mask goes, and the length takes its
//! shortest form. A header is held back until the first byte of its payload is there, so that both leave in one write.
//!
//! Works in place: payload that fills a read is unmasked where it lies and never moved. Holds no payload.
//! Leaves to others: sockets, who may say what when. Whether continuation frames make sense is for the far end to judge.

use std::ops::Range;

use umbilical_link::frame::{self, FrameError, FrameHeader, MAX_HEADER_BYTES, Opcode};
use umbilical_link::upgrade::Role;

/// Bytes at the start of every buffer that belong to the translator: an unfinished header is put there.
pub(crate) const HEADROOM: usize = MAX_HEADER_BYTES;

/// State of one direction between two reads.
pub(crate) struct Translator {
    /// Payload bytes of the current frame that have not come yet.
    left: u64,
    /// Payload bytes of the current frame that have.
    done: u64,
    mask: [u8; 4],
    opcode: Opcode,
    held: [u8; MAX_HEADER_BYTES],
    held_len: usize,
    end: Option<End>,
}

/// Why nothing more will come out of this direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The close frame has been passed on. What follows it is dropped.
    Closed,
    /// The peer broke the protocol.
    Invalid(FrameError),
}

impl Translator {
    pub(crate) const fn new() -> Self {
        Self {
            left: 0,
            done: 0,
            mask: [0; 4],
            opcode: Opcode::Continuation,
            held: [0; MAX_HEADER_BYTES],
            held_len: 0,
            end: None,
        }
    }

    /// Translates the `filled` bytes at `buf[HEADROOM..]`. Returns where in `buf` the bytes to send are: never more
    /// than came in, but for what an earlier call held back.
    pub(crate) fn translate(&mut self, buf: &mut [u8], filled: usize) -> Range<usize> {
        let end = HEADROOM + filled;
        let mut read = HEADROOM - self.held_len;
        buf[read..HEADROOM].copy_from_slice(&self.held[..self.held_len]);
        self.held_len = 0;

        let mut out: Option<Range<usize>> = None;
        while read < end && self.end.is_none() {
            if self.left == 0 {
                match FrameHeader::parse(&buf[read..end]).and_then(checked) {
                    Ok(Some((header, length))) if header.length == 0 || read + length < end => {
                        read += length;
                        let header_out = self.begin(header);
                        let out = out.get_or_insert(read - header_out.len()..read - header_out.len());
                        buf[out.end..out.end + header_out.len()].copy_from_slice(header_out.bytes());
                        out.end += header_out.len();
                    }
                    Ok(_) => {
                        self.hold(&buf[read..end]);
                        break;
                    }
                    Err(error) => {
                        self.end = Some(End::Invalid(error));
                        break;
                    }
                }
            }
            let n = usize::try_from(self.left).map_or(end - read, |left| left.min(end - read));
            let out = out.get_or_insert(read..read);
            if out.end != read {
                buf.copy_within(read..read + n, out.end);
            }
            frame::apply_mask(&mut buf[out.end..out.end + n], self.mask, self.done);
            out.end += n;
            read += n;
            self.done += n as u64;
            self.left -= n as u64;
            if self.left == 0 && self.opcode == Opcode::Close {
                self.end = Some(End::Closed);
            }
        }
        out.unwrap_or(0..0)
    }

    /// Whether this direction has ended, and how.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether a frame of the relay's own may follow what has been translated: nothing is half said.
    pub(crate) fn at_boundary(&self) -> bool {
        self.left == 0
    }

    fn begin(&mut self, header: FrameHeader) -> HeaderOut {
        self.left = header.length;
        self.done = 0;
        self.mask = header.mask.unwrap_or_default();
        self.opcode = header.opcode;
        let mut out = HeaderOut { bytes: [0; MAX_HEADER_BYTES], len: 0 };
        out.len = FrameHeader { mask: None, ..header }.encode(&mut out.bytes);
        out
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.held[..bytes.len()].copy_from_slice(bytes);
        self.held_len = bytes.len();
    }
}

struct HeaderOut {
    bytes: [u8; MAX_HEADER_BYTES],
    len: usize,
}

impl HeaderOut {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn len(&self) -> usize {
        self.len
    }
}

fn checked(parsed: Option<(FrameHeader, usize)>) -> Result<Option<(FrameHeader, usize)>, FrameError> {
    if let Some((header, _)) = &parsed {
        header.check_mask(Role::Server)?;
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(fin: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; MAX_HEADER_BYTES];
        let n = FrameHeader { fin, opcode, mask, length: payload.len() as u64 }.encode(&mut header);
        let mut bytes = [&header[..n], payload].concat();
        frame::apply_mask(&mut bytes[n..], mask.unwrap_or_default(), 0);
        bytes
    }

    fn run(translator: &mut Translator, bytes: &[u8]) -> Vec<u8> {
        let mut buf = [&[0; HEADROOM], bytes].concat();
        let out = translator.translate(&mut buf, bytes.len());
        buf[out].to_vec()
    }

    fn conversation(mask: Option<[u8; 4]>) -> Vec<u8> {
        let long = vec![7; 70_000];
        [
            frame(true, Opcode::Text, mask, b"hello"),
            frame(true, Opcode::Binary, mask, b""),
            frame(false, Opcode::Binary, mask, &long),
            frame(true, Opcode::Ping, mask, b"are you there"),
            frame(false, Opcode::Continuation, mask, b""),
            frame(true, Opcode::Continuation, mask, &long[..300]),
            frame(true, Opcode::Pong, mask, b""),
            frame(true, Opcode::Close, mask, b"\x03\xe8Shutdown"),
        ]
        .concat()
    }

    #[test]
    fn frames_come_out_unmasked_and_in_order_however_they_are_cut() {
        let (input, expected) = (conversation(Some(MASK)), conversation(None));
        for chunk in [1, 2, 3, 7, 13, 14, 15, 100, 1000, 16_384, 1 << 20] {
            let mut translator = Translator::new();
            let output: Vec<u8> = input.chunks(chunk).flat_map(|chunk| run(&mut translator, chunk)).collect();
            assert!(output == expected, "cut into {chunk}");
            assert_eq!(translator.end(), Some(End::Closed));
        }
    }

    #[test]
    fn a_header_waits_for_its_payload() {
        let mut translator = Translator::new();
        let bytes = frame(true, Opcode::Binary, Some(MASK), b"abc");
        assert_eq!(run(&mut translator, &bytes[..6]), b"");
        assert!(translator.at_boundary());
        assert_eq!(run(&mut translator, &bytes[6..7]), b"\x82\x03a");
        assert!(!translator.at_boundary());
        assert_eq!(run(&mut translator, &bytes[7..]), b"bc");
        assert!(translator.at_boundary());
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut translator = Translator::new();
        let close = frame(true, Opcode::Close, Some(MASK), b"");
        let after = frame(true, Opcode::Text, Some(MASK), b"late");
        assert_eq!(run(&mut translator, &[close, after.clone()].concat()), b"\x88\x00");
        assert_eq!(run(&mut translator, &after), b"");
    }

    #[test]
    fn what_came_before_a_violation_is_still_passed_on() {
        for (bad, error) in [
            (frame(true, Opcode::Text, None, b"x"), FrameError::MissingMask),
            (vec![0xC1, 0x80, 0, 0, 0, 0, 0], FrameError::ReservedBits(0x40)),
            (vec![0x83, 0x80, 0, 0, 0, 0, 0], FrameError::UnknownOpcode(3)),
        ] {
            let mut translator = Translator::new();
            let good = frame(true, Opcode::Text, Some(MASK), b"good");
            assert_eq!(run(&mut translator, &[good, bad].concat()), b"\x81\x04good");
            assert_eq!(translator.end(), Some(End::Invalid(error)));
        }
    }

    #[test]
    fn an_announced_length_costs_nothing() {
        let mut translator = Translator::new();
        let mut header = [0; MAX_HEADER_BYTES];
        let n = FrameHeader::whole(Opcode::Binary, Some([0; 4]), u64::MAX >> 1).encode(&mut header);
        assert_eq!(run(&mut translator, &[&header[..n], b"x"].concat()).len(), 11);
        assert_eq!(run(&mut translator, &[0; 100]).len(), 100);
    }
}
