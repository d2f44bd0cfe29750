//! Numbers with consequences.

/// The protocol version spoken here. A peer with another one is refused.
pub const VERSION: u16 = 1;

/// Bytes of a record that every peer takes: with prefix and WebSocket header it fits one TLS record of 16 KiB.
pub const MIN_RECORD: usize = 16 * 1024 - 64;

/// Bytes of a record at most, if its receiver takes that many: four TLS records. Where a millisecond of the link is worth
/// so much, one system call and one wake-up of the peer for 64 KiB is what makes it cheap.
pub const MAX_RECORD: usize = 64 * 1024 - 64;

/// Bytes a prefix (`Ack`, `Solicit`) takes at most; it counts towards the message, not towards the stored record.
pub const MAX_PREFIX: usize = 24;

/// Bytes of a whole message at most: prefix and record. A receiver that takes shorter records takes shorter messages.
pub const MAX_MESSAGE: usize = MAX_RECORD + MAX_PREFIX;

/// Bytes of a service name at most. A longer one in `Open` is a protocol error.
pub const MAX_SERVICE: usize = 64;

/// Streams a table can hold; the session id space and the intrusive lists are 16 bits wide.
pub const MAX_STREAMS: usize = 32_768;

/// Replay ring that a session needs at least: for one record with the longest datagram.
pub const MIN_REPLAY: usize = MIN_RECORD + 16;

/// Credit every stream may count on, whatever the others do: a quarter of the receive pool, shared out equally,
/// kept within these bounds.
pub(crate) const MIN_INITIAL_CREDIT: u32 = 256;
pub(crate) const MAX_INITIAL_CREDIT: u32 = 4_096;

/// How long an acknowledgement may be held back for a sender that has nothing more to say, in milliseconds:
/// long enough to travel with most answers, short enough to free the replay ring soon.
pub(crate) const LAZY_ACK_MS: u16 = 20;

/// A stream that sent nothing for this long gives its unused credit back.
pub(crate) const IDLE_CREDIT_MS: u64 = 1_000;

/// Credit at the opening of a stream that a peer may announce at most; more is nonsense.
pub(crate) const MAX_CREDIT_AT_OPEN: u32 = 16 * 1024 * 1024;

/// Payload bytes of a datagram at most: a record that every peer takes, less the frame's head.
pub const MAX_DATAGRAM: usize = MIN_RECORD - 8;
