//! Errors, sorted by who must act.

use crate::StreamId;

/// The peer broke the protocol. The link must be closed and the session given up; the text goes into both logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The message is longer than [`MAX_MESSAGE`](crate::MAX_MESSAGE).
    RecordTooLong(usize),
    /// A frame's kind or fields could not be decoded; the byte offset within the message.
    Malformed(usize),
    /// The payload of a frame ends after the message does; the byte offset of the frame.
    Truncated(usize),
    /// A frame that must be first, or alone, or never repeated, came elsewhere: its name.
    Misplaced(&'static str),
    /// The peer speaks this version, not ours.
    UnknownVersion(u16),
    /// The first message of the link was not `Hello`.
    NoHello,
    /// `Hello` names another session.
    WrongSession,
    /// `Hello` has a link number not above the current one.
    StaleLink(u32),
    /// The agent's `Hello` has another link number than the gateway's that it answers.
    WrongLink(u32),
    /// `Hello` announces a limit outside its range: the field.
    BadLimit(&'static str),
    /// `Ack` or `Hello` counts records that were never sent, or fewer than before.
    BadAck(u64),
    /// `Open` uses an id of the wrong parity, or one used before.
    BadStreamId(StreamId),
    /// `Open` has an empty or too long service name.
    BadService,
    /// `Open` upon `Open`, between ids left out, for which there was no room: the last one.
    TooManyRefused(StreamId),
    /// A frame names a stream that was never opened.
    UnknownStream(StreamId),
    /// Data beyond the credit granted, by so many bytes.
    CreditExceeded(StreamId, u32),
    /// Credit granted or given back beyond what can be.
    BadCredit(StreamId),
    /// Data after `Fin`, or `Fin` twice.
    AfterFin(StreamId),
    /// Data on a datagram stream, or a datagram on a byte stream.
    WrongMode(StreamId),
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::RecordTooLong(bytes) => write!(f, "message of {bytes} bytes is too long"),
            Self::Malformed(at) => write!(f, "malformed frame at byte {at}"),
            Self::Truncated(at) => write!(f, "frame at byte {at} is longer than its message"),
            Self::Misplaced(name) => write!(f, "{name} frame in the wrong place"),
            Self::UnknownVersion(version) => {
                write!(f, "protocol version {version} is not spoken here, only {}", crate::VERSION)
            }
            Self::NoHello => f.write_str("first message is not hello"),
            Self::WrongSession => f.write_str("hello: session is another one"),
            Self::StaleLink(link) => write!(f, "hello: link {link} is older than the current one"),
            Self::WrongLink(link) => write!(f, "hello: link {link} is not the one that was dialled"),
            Self::BadLimit(field) => write!(f, "hello: {field} is out of range"),
            Self::BadAck(records) => write!(f, "count of received records {records} is impossible"),
            Self::BadStreamId(id) => write!(f, "open: stream {} cannot be opened", id.0),
            Self::BadService => f.write_str("open: service name is empty or too long"),
            Self::TooManyRefused(id) => write!(f, "open: stream {} is one too many for a full table", id.0),
            Self::UnknownStream(id) => write!(f, "stream {} was never opened", id.0),
            Self::CreditExceeded(id, by) => write!(f, "data: stream {} exceeds its credit by {by} bytes", id.0),
            Self::BadCredit(id) => write!(f, "credit: stream {} has an impossible amount", id.0),
            Self::AfterFin(id) => write!(f, "stream {} goes on after fin", id.0),
            Self::WrongMode(id) => write!(f, "stream {} is of the other mode", id.0),
        }
    }
}

impl core::error::Error for Violation {}

/// A stream could not be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The stream table of this side or of the peer is full; wait until a stream ends.
    Full,
    /// One side is shutting down; use another session.
    GoingAway,
    /// All stream ids of this session are used up; start a new session.
    Exhausted,
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full => "the stream table is full",
            Self::GoingAway => "the session is shutting down",
            Self::Exhausted => "the session has used all its stream ids",
        })
    }
}

impl core::error::Error for OpenError {}
