//! The session protocol of Umbilical: many streams over one replaceable link.
//!
//! Two [`Session`]s, one at each end, exchange messages over a *link* that keeps them whole and in order while it lives
//! (a WebSocket, say). Streams belong to the session and outlive its links: what the peer has not acknowledged is sent
//! again over the next one, each byte once and in order.
//!
//! The crate has no heap, no clock, no I/O and no randomness of its own. Memory is [lent](Storage) by the host in a
//! [`Shape`] that never changes; time is an [argument](Instant); the far ends of streams are the host's [`Ports`].
//!
//! # The way of the data through this crate
//!
//! | file | owns |
//! | --- | --- |
//! | [`ports`](Ports) | what a session needs of its host: ports to read and write |
//! | `schedule` | who is read next: control, sparse streams, busy streams in turns |
//! | `send` | filling a record by reading ports straight into it |
//! | `replay` | the ring of records not yet acknowledged |
//! | `inflight` | how many bytes may be unacknowledged, how large a record is |
//! | `session` | records, acknowledgements, links coming and going |
//! | `frame` | the bytes of a frame |
//! | `receive` | frames in: payload to ports, the rest to the pool |
//! | `pool` | received bytes that ports did not take yet |
//! | `credit` | who may send how much |
//! | `streams`, `table` | all streams, one stream |
//! | `report` | what an agent tells of itself |
//! | `io` | a session over a byte link, for hosts without an operating system (feature `embedded-io`) |
//!
//! # A host's loop
//!
//! ```
//! use umbilical_mux::{Instant, Ports, Session, StreamState};
//!
//! /// One turn of a host whose link has a message to give now and then, and can always take one.
//! fn turn(
//!     session: &mut Session<Vec<u8>, Vec<StreamState>>,
//!     ports: &mut impl Ports,
//!     now: Instant,
//!     arrived: Option<&[u8]>,
//!     send: &mut dyn FnMut(&[u8], &[u8]),
//! ) -> Result<Option<Instant>, umbilical_mux::Violation> {
//!     if let Some(message) = arrived {
//!         session.handle_message(now, message, ports)?;
//!     }
//!     session.handle_timeout(now, ports);
//!     while let Some(message) = session.poll_message(now, ports) {
//!         send(&message.prefix, message.record);
//!     }
//!     Ok(session.next_timeout()) // when to come again if nothing else happens
//! }
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(clippy::std_instead_of_core, clippy::indexing_slicing)]

mod credit;
mod error;
mod frame;
mod id;
mod inflight;
#[cfg(feature = "embedded-io")]
mod io;
mod limits;
mod pool;
mod ports;
mod reason;
mod receive;
mod replay;
mod report;
mod schedule;
mod send;
mod session;
mod shape;
mod streams;
mod table;
mod time;

pub use error::{OpenError, Violation};
pub use frame::{Frame, Hello, MAX_HELLO, carries_record};
pub use id::{SessionId, Side, Slot, StreamId};
#[cfg(feature = "embedded-io")]
pub use io::{ByteLink, ByteLinkError, Progress};
pub use limits::{
    MAX_DATAGRAM, MAX_MESSAGE, MAX_PREFIX, MAX_RECORD, MAX_SERVICE, MAX_STREAMS, MIN_RECORD, MIN_REPLAY, VERSION,
};
pub use pool::memory_for;
pub use ports::{End, Mode, Ports, Read, Write};
pub use reason::ResetReason;
pub use report::{FEATURE_REPORT, MAX_REPORT, REPORT_SERVICE, Report};
pub use session::{Config, Counters, LinkEstimate, Message, Resets, Resumption, Session};
pub use shape::{Shape, ShapeError, Storage};
pub use table::StreamState;
pub use time::Instant;
