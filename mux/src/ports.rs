//! What a session needs of its host: the far ends of its streams.

use crate::{ResetReason, Slot};

/// How the bytes of a stream are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    /// Bytes in order, with credit and half-close.
    Stream,
    /// Whole datagrams of up to [`MAX_DATAGRAM`](crate::MAX_DATAGRAM) bytes; delivered at once or dropped, no credit.
    Datagram,
}

/// What a port gave when asked for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This many bytes (at least one; for a datagram port zero is an empty datagram) are in the buffer.
    Data(usize),
    /// Nothing now. The host calls [`Session::handle_readable`](crate::Session::handle_readable) when there is.
    Pending,
    /// The far end will send no more; the stream is half-closed.
    End,
    /// The far end broke.
    Failed(ResetReason),
}

/// What a port did with bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It took this many bytes. If fewer than offered, the rest waits in the receive pool until the host calls
    /// [`Session::handle_writable`](crate::Session::handle_writable).
    Taken(usize),
    /// The far end broke.
    Failed(ResetReason),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions were closed in order.
    Closed,
    /// The peer, or this session for lack of a link, reset it.
    Reset(ResetReason),
    /// This side's port failed or this side reset it.
    Local(ResetReason),
}

/// The far ends of a session's streams: sockets, serial lines, pipes. Calls never block.
///
/// A port is a send queue of its own: the session reads from it only when the link can take a record, straight into
/// the replay ring.
pub trait Ports {
    /// The service that a stream opened from this side is for; asked once, when `Open` is written.
    /// At most [`MAX_SERVICE`](crate::MAX_SERVICE) bytes.
    fn service(&self, slot: Slot) -> &str;

    /// The peer opens a stream to `service`. Data may follow at once, before the service is connected.
    ///
    /// # Errors
    /// The reason to reset it with; `slot` is free again then.
    fn accept(&mut self, slot: Slot, service: &str, mode: Mode) -> Result<(), ResetReason>;

    /// Bytes from the far end into `buffer`, whose length is at least one.
    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Read;

    /// Bytes for the far end: `chunks` in order. A datagram port gets one datagram as one chunk and drops what it
    /// cannot take.
    fn write(&mut self, slot: Slot, chunks: &[&[u8]]) -> Write;

    /// The peer will send no more and all it sent was taken: half-close the far end.
    fn finish(&mut self, slot: Slot);

    /// The stream is over; the slot may be used again. Called exactly once for each stream that
    /// [`accept`](Self::accept) took or [`Session::open`](crate::Session::open) gave.
    fn release(&mut self, slot: Slot, end: End);
}
