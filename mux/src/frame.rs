//! The bytes of a frame: the only file that knows an offset.
//!
//! A frame is one postcard-encoded value of [`Frame`]; `Data` and `Datagram` are followed by their payload.
//!
//! ```text
//! | kind: varint | fields of the kind | payload of Data and Datagram |
//!        1             0 to 72               0 to MAX_RECORD - 8
//!
//! 0 Hello     version session link received resumes streams credit replay record features | later versions may add fields
//! 1 Ack       records: varint u64, held_us: varint u32
//! 2 Solicit   within_ms: varint u16
//! 3 Open      stream: varint u32, mode: varint (0 stream, 1 datagram), service: length + UTF-8
//! 4 Data      stream: varint u32, length: u16 little endian, payload
//! 5 Datagram  stream: varint u32, length: u16 little endian, payload
//! 6 Credit    stream: varint u32, bytes: varint u32
//! 7 Return    stream: varint u32, bytes: varint u32
//! 8 Fin       stream: varint u32
//! 9 Reset     stream: varint u32, reason: u8
//! 10 GoAway   drain_ms: varint u32
//! ```
//!
//! A message is `Hello` alone; or a *prefix* of `Ack` and `Solicit`, each at most once, followed by a *record*: the
//! frames 3 to 10. A message with a record is numbered, one with a prefix only is not.

use serde::{Deserialize, Serialize};

use crate::{MAX_SERVICE, Mode, ResetReason, SessionId, StreamId, VERSION, Violation};

/// Bytes of an encoded `Hello` at most.
pub const MAX_HELLO: usize = 80;

/// Bytes of a frame before its payload at most: `Open` with the longest service name.
pub(crate) const MAX_HEAD: usize = 8 + MAX_SERVICE;

/// Bytes of an encoded `Credit`, `Return`, `Fin` or `Reset` at most.
pub(crate) const MAX_CONTROL: usize = 11;

/// One frame, without the payload of `Data` and `Datagram`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame<'a> {
    /// Opens a link. Its fields are decoded by [`Hello::decode`], since later versions may add some.
    Hello,
    /// So many records of this session have arrived, the last one `held_us` microseconds ago.
    Ack {
        /// Records received since the session began.
        records: u64,
        /// Microseconds between the arrival of the last of them and this frame.
        held_us: u32,
    },
    /// The sender of this frame wants an `Ack` within so many milliseconds.
    Solicit {
        /// 0 means at once.
        within_ms: u16,
    },
    /// Opens a stream; its data may follow in the same record, up to the initial credit in `Hello`.
    Open {
        /// Odd from the gateway, even from the agent, higher than any before.
        stream: StreamId,
        /// Bytes or datagrams.
        mode: Mode,
        /// Name of the service, 1 to [`MAX_SERVICE`] bytes.
        service: &'a str,
    },
    /// Bytes of a stream; the payload follows.
    Data {
        /// The stream.
        stream: StreamId,
        /// Bytes of payload.
        #[serde(with = "postcard::fixint::le")]
        length: u16,
    },
    /// One datagram; the payload follows.
    Datagram {
        /// The stream.
        stream: StreamId,
        /// Bytes of payload.
        #[serde(with = "postcard::fixint::le")]
        length: u16,
    },
    /// The receiver of this frame may send so many bytes more on a stream.
    Credit {
        /// The stream.
        stream: StreamId,
        /// Bytes more.
        bytes: u32,
    },
    /// The sender of this frame gives so much of its unused credit back.
    Return {
        /// The stream.
        stream: StreamId,
        /// Bytes fewer.
        bytes: u32,
    },
    /// The sender of this frame sends no more on a stream.
    Fin {
        /// The stream.
        stream: StreamId,
    },
    /// A stream is over, in both directions, at once.
    Reset {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: ResetReason,
    },
    /// No new streams; open ones have so many milliseconds to finish.
    GoAway {
        /// Milliseconds.
        drain_ms: u32,
    },
}

impl<'a> Frame<'a> {
    /// Writes the frame to the front of `out` and gives its length in bytes; `None` if it does not fit.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        postcard::to_slice(self, out).ok().map(|written| written.len())
    }

    /// Reads one frame from the front of `bytes`: the frame, its payload (empty but for `Data` and `Datagram`) and
    /// the bytes taken. `at` is the offset of `bytes` in the message, for the error.
    ///
    /// # Errors
    /// [`Violation::Malformed`] if no frame can be decoded, [`Violation::Truncated`] if its payload is not all there.
    pub fn decode(bytes: &'a [u8], at: usize) -> Result<(Self, &'a [u8], usize), Violation> {
        let (frame, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(|_| Violation::Malformed(at))?;
        let payload = match frame {
            Self::Data { length, .. } | Self::Datagram { length, .. } => usize::from(length),
            Self::Hello
            | Self::Ack { .. }
            | Self::Solicit { .. }
            | Self::Open { .. }
            | Self::Credit { .. }
            | Self::Return { .. }
            | Self::Fin { .. }
            | Self::Reset { .. }
            | Self::GoAway { .. } => 0,
        };
        let payload = rest.get(..payload).ok_or(Violation::Truncated(at))?;
        Ok((frame, payload, bytes.len() - rest.len() + payload.len()))
    }
}

/// Whether a message carries a record, and not just a prefix. What is no message may be either.
#[must_use]
pub fn carries_record(message: &[u8]) -> bool {
    let mut rest = message;
    while let Ok((frame, _, taken)) = Frame::decode(rest, 0) {
        if !matches!(frame, Frame::Ack { .. } | Frame::Solicit { .. }) {
            return true;
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    false
}

/// Bytes of a `Data` or `Datagram` frame before its payload.
pub(crate) const fn data_head(stream: StreamId) -> usize {
    let varint = match stream.0 {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    };
    1 + varint + 2
}

/// What each side says first on a link.
///
/// ```text
/// | 0: kind | version: varint u16 | session: 16 bytes | link: varint u32 | received: varint u64 |
/// | resumes: varint u32 | streams: varint u16 | credit: varint u32 | replay: varint u32 | record: varint u32 |
/// | features: varint u32 |
/// ```
///
/// The version comes first so that any version can read it. Bytes after the last field belong to later versions and
/// are ignored, as are features that the reader does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// Whose link this is.
    pub session: SessionId,
    /// Counts the links of the session from 1; the newest wins. The agent echoes the gateway's.
    pub link: u32,
    /// Records of this session that the sender of this frame has received.
    pub received: u64,
    /// The link with which the state began that the sender holds and would go on with; 0 if there is none. Unless both
    /// sides hold the same state, both begin anew: a side may have forgotten it more than once, unheard by the other.
    pub resumes: u32,
    /// Streams that the peer may have open at once.
    pub streams: u16,
    /// Bytes that the peer may send on each new stream before it gets more credit.
    pub credit: u32,
    /// Bytes of the sender's replay ring, for the peer's diagnostics.
    pub replay: u32,
    /// Bytes of a record that the sender of this frame takes, [`MIN_RECORD`](crate::MIN_RECORD) at least.
    pub record: u32,
    /// One bit per optional feature: [`FEATURE_REPORT`](crate::FEATURE_REPORT).
    pub features: u32,
}

impl Hello {
    /// Writes the frame to the front of `out`.
    pub fn encode<'o>(&self, out: &'o mut [u8; MAX_HELLO]) -> &'o [u8] {
        let head = Frame::Hello.encode(out).unwrap_or_default();
        let fields =
            postcard::to_slice(self, out.get_mut(head..).unwrap_or_default()).map_or(0, |written| written.len());
        out.get(..head + fields).unwrap_or_default()
    }

    /// Reads the first message of a link.
    ///
    /// # Errors
    /// [`Violation::NoHello`] for any other frame, [`Violation::UnknownVersion`], [`Violation::Malformed`].
    pub fn decode(message: &[u8]) -> Result<Self, Violation> {
        let (Frame::Hello, _, head) = Frame::decode(message, 0).map_err(|_| Violation::NoHello)? else {
            return Err(Violation::NoHello);
        };
        let fields = message.get(head..).unwrap_or_default();
        let (version, _) = postcard::take_from_bytes::<u16>(fields).map_err(|_| Violation::Malformed(head))?;
        if version != VERSION {
            return Err(Violation::UnknownVersion(version));
        }
        let (hello, _) = postcard::take_from_bytes::<Self>(fields).map_err(|_| Violation::Malformed(head))?;
        Ok(hello)
    }
}
