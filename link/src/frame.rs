//! WebSocket frames (RFC 6455, section 5): header, mask, close payload. Pure functions on bytes.
//!
//! ```text
//! | FIN 1 bit | RSV 3 | opcode 4 | MASK 1 | length 7 | length 0, 2 or 8 bytes | mask 0 or 4 bytes | payload
//! ```
//!
//! Owns every offset and bit of a frame. Leaves to others: who may mask, reading and writing, and how messages are put
//! together from fragments. No extension is ever negotiated, so reserved bits are always an error.

use std::array;
use std::error::Error;
use std::fmt;

use crate::upgrade::Role;

/// The longest header: two bytes, eight of length, four of mask.
pub const MAX_HEADER_BYTES: usize = 14;

/// The longest payload of a control frame (RFC 6455, section 5.5).
pub const MAX_CONTROL_BYTES: usize = 125;

/// The longest reason of a close frame: a control payload less the two bytes of the code.
pub const MAX_CLOSE_REASON_BYTES: usize = MAX_CONTROL_BYTES - 2;

/// What a frame is (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// One more fragment of the message before.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame of a side.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping, or says unasked that this side is alive.
    Pong = 0xA,
}

impl Opcode {
    /// Close, ping and pong: short, never fragmented, allowed between the fragments of a message.
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// Everything before a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// The key of a client's frame; a server's frame has none.
    pub mask: Option<[u8; 4]>,
    /// Payload bytes, below 2^63.
    pub length: u64,
}

impl FrameHeader {
    /// An unfragmented frame.
    pub const fn whole(opcode: Opcode, mask: Option<[u8; 4]>, length: u64) -> Self {
        Self { fin: true, opcode, mask, length }
    }

    /// Reads a header from the start of `bytes`: the header and how many bytes it took, or `None` if there are too few
    /// to tell. Never looks beyond the header.
    ///
    /// A length in more bytes than it needs is taken as it is: the RFC binds the writer to the shortest form, and
    /// refusing it here would only lose peers that patch their lengths in afterwards.
    ///
    /// # Errors
    /// [`FrameError`], as soon as the bytes present show it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & RESERVED_BITS != 0 {
            return Err(FrameError::ReservedBits(first & RESERVED_BITS));
        }
        let opcode = Opcode::from_bits(first & OPCODE_BITS).ok_or(FrameError::UnknownOpcode(first & OPCODE_BITS))?;
        let fin = first & FIN_BIT != 0;
        if opcode.is_control() && !fin {
            return Err(FrameError::FragmentedControl(opcode));
        }

        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let short = second & LENGTH_BITS;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL_BYTES {
            return Err(FrameError::LongControl(opcode));
        }
        let rest = &bytes[2..];
        let (length, rest) = match short {
            LENGTH_IN_2_BYTES => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            LENGTH_IN_8_BYTES => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        if length > MAX_LENGTH {
            return Err(FrameError::LengthTooLarge(length));
        }
        let (mask, rest) = if second & MASK_BIT == 0 {
            (None, rest)
        } else {
            match rest.split_first_chunk::<4>() {
                Some((mask, rest)) => (Some(*mask), rest),
                None => return Ok(None),
            }
        };
        Ok(Some((Self { fin, opcode, mask, length }, bytes.len() - rest.len())))
    }

    /// Writes the header in its shortest form and returns how many bytes it took.
    pub fn encode(&self, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        let mask_bit = if self.mask.is_some() { MASK_BIT } else { 0 };
        out[0] = self.opcode as u8 | if self.fin { FIN_BIT } else { 0 };
        let mut at = match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length), _) if length < LENGTH_IN_2_BYTES => {
                out[1] = mask_bit | length;
                2
            }
            (_, Ok(length)) => {
                out[1] = mask_bit | LENGTH_IN_2_BYTES;
                out[2..4].copy_from_slice(&length.to_be_bytes());
                4
            }
            _ => {
                out[1] = mask_bit | LENGTH_IN_8_BYTES;
                out[2..10].copy_from_slice(&self.length.to_be_bytes());
                10
            }
        };
        if let Some(mask) = self.mask {
            out[at..at + 4].copy_from_slice(&mask);
            at += 4;
        }
        at
    }

    /// Checks the mask against the rule that clients mask and servers do not (RFC 6455, section 5.1).
    ///
    /// # Errors
    /// [`FrameError::MissingMask`] or [`FrameError::UnexpectedMask`].
    pub const fn check_mask(&self, receiver: Role) -> Result<(), FrameError> {
        match (receiver, self.mask.is_some()) {
            (Role::Server, false) => Err(FrameError::MissingMask),
            (Role::Client, true) => Err(FrameError::UnexpectedMask),
            (Role::Server, true) | (Role::Client, false) => Ok(()),
        }
    }
}

/// Masks or unmasks `buf` in place; `offset` is how many payload bytes of the same frame came before it.
pub fn apply_mask(buf: &mut [u8], mask: [u8; 4], offset: u64) {
    let key = key_at(mask, offset);
    let (words, rest) = buf.as_chunks_mut();
    for word in words {
        *word = xor(*word, key);
    }
    for (byte, key) in rest.iter_mut().zip(&key) {
        *byte ^= key;
    }
}

/// Copies `src` to `dst`, masking or unmasking on the way; `offset` as for [`apply_mask`].
///
/// # Panics
/// If the lengths differ, like `copy_from_slice`.
pub fn copy_masked(dst: &mut [u8], src: &[u8], mask: [u8; 4], offset: u64) {
    assert_eq!(dst.len(), src.len(), "a masked copy needs equal lengths");
    let key = key_at(mask, offset);
    let (to_words, to_rest) = dst.as_chunks_mut();
    let (from_words, from_rest) = src.as_chunks();
    for (to, from) in to_words.iter_mut().zip(from_words) {
        *to = xor(*from, key);
    }
    for ((to, from), key) in to_rest.iter_mut().zip(from_rest).zip(&key) {
        *to = from ^ key;
    }
}

/// Unpredictable masks (RFC 6455, section 5.3), taken from the system's randomness a block at a time: one system call
/// for many frames.
pub struct MaskSource {
    block: [u8; Self::BLOCK_BYTES],
    used: usize,
}

impl MaskSource {
    const BLOCK_BYTES: usize = 256;

    /// A source that has not asked the system for anything yet.
    pub const fn new() -> Self {
        Self { block: [0; Self::BLOCK_BYTES], used: Self::BLOCK_BYTES }
    }

    /// The next mask.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn next_mask(&mut self) -> Result<[u8; 4], getrandom::Error> {
        if self.used == Self::BLOCK_BYTES {
            getrandom::fill(&mut self.block)?;
            self.used = 0;
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.block[self.used..self.used + 4]);
        self.used += 4;
        Ok(mask)
    }
}

impl Default for MaskSource {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MaskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The block holds masks that are still to come.
        f.debug_struct("MaskSource").finish_non_exhaustive()
    }
}

/// The payload of a close frame that says why (RFC 6455, sections 5.5.1 and 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosePayload<'a> {
    /// The status code.
    pub code: u16,
    /// The reason, for logs; written up to [`MAX_CLOSE_REASON_BYTES`].
    pub reason: &'a str,
}

impl<'a> ClosePayload<'a> {
    /// Reads an unmasked payload; `None` is an empty one, which is allowed and means no code.
    ///
    /// # Errors
    /// A single byte, a code that may not be sent, a reason that is not UTF-8.
    pub fn parse(payload: &'a [u8]) -> Result<Option<Self>, FrameError> {
        if payload.is_empty() {
            return Ok(None);
        }
        let Some((code, reason)) = payload.split_first_chunk::<2>() else {
            return Err(FrameError::ShortClose);
        };
        let code = u16::from_be_bytes(*code);
        if !may_be_sent(code) {
            return Err(FrameError::CloseCode(code));
        }
        let reason = str::from_utf8(reason).map_err(|_| FrameError::CloseReason)?;
        Ok(Some(Self { code, reason }))
    }

    /// Writes the payload, the reason cut at a character's border if it is too long, and returns how many bytes it took.
    pub fn encode(&self, out: &mut [u8; MAX_CONTROL_BYTES]) -> usize {
        let mut end = self.reason.len().min(MAX_CLOSE_REASON_BYTES);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = &self.reason[..end];
        out[..2].copy_from_slice(&self.code.to_be_bytes());
        out[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
        2 + reason.len()
    }
}

/// Bytes that break RFC 6455: the connection can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// Reserved bits are set (as in the first byte), though no extension was negotiated.
    ReservedBits(u8),
    /// The opcode is one nobody has defined.
    UnknownOpcode(u8),
    /// A control frame without FIN.
    FragmentedControl(Opcode),
    /// A control frame of more than [`MAX_CONTROL_BYTES`].
    LongControl(Opcode),
    /// A length of 2^63 or more.
    LengthTooLarge(u64),
    /// A client's frame without a mask.
    MissingMask,
    /// A server's frame with a mask.
    UnexpectedMask,
    /// A close payload of one byte.
    ShortClose,
    /// A close code that is reserved, or that may never be on the wire.
    CloseCode(u16),
    /// A close reason that is not UTF-8.
    CloseReason,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits(bits) => write!(f, "frame has reserved bits {bits:#04x} set without an extension"),
            Self::UnknownOpcode(opcode) => write!(f, "frame has the undefined opcode {opcode:#x}"),
            Self::FragmentedControl(opcode) => write!(f, "{opcode:?} frame is fragmented, control frames must not be"),
            Self::LongControl(opcode) => {
                write!(f, "{opcode:?} frame is longer than the {MAX_CONTROL_BYTES} bytes of a control frame")
            }
            Self::LengthTooLarge(length) => write!(f, "frame announces {length} bytes, the limit is 2^63 - 1"),
            Self::MissingMask => write!(f, "frame of a client has no mask"),
            Self::UnexpectedMask => write!(f, "frame of a server has a mask"),
            Self::ShortClose => write!(f, "close frame has a payload of one byte, a code has two"),
            Self::CloseCode(code) => write!(f, "close frame has the code {code}, which may not be sent"),
            Self::CloseReason => write!(f, "close frame has a reason that is not UTF-8"),
        }
    }
}

impl Error for FrameError {}

const FIN_BIT: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE_BITS: u8 = 0x0F;
const MASK_BIT: u8 = 0x80;
const LENGTH_BITS: u8 = 0x7F;
const LENGTH_IN_2_BYTES: u8 = 126;
const LENGTH_IN_8_BYTES: u8 = 127;
const MAX_LENGTH: u64 = u64::MAX >> 1;

/// The key is repeated to a word: a loop over bytes is fast only where the compiler turns it into vector instructions,
/// which it does not in a program built for size.
const KEY_BYTES: usize = 8;

fn key_at(mask: [u8; 4], offset: u64) -> [u8; KEY_BYTES] {
    let start = (offset % 4) as usize;
    array::from_fn(|at| mask[(start + at) % 4])
}

fn xor(word: [u8; KEY_BYTES], key: [u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    (u64::from_ne_bytes(word) ^ u64::from_ne_bytes(key)).to_ne_bytes()
}

/// RFC 6455, section 7.4, with the codes registered at IANA since.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
