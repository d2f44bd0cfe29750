//! The size of a session's memory, and the memory.

use crate::credit::Budget;
use crate::table::StreamState;
use crate::{MAX_STREAMS, MIN_REPLAY, memory_for};

/// The size of a session's memory. It is announced to the peer, and kept: [`Storage`] of another shape is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Streams open at once, both sides' together: 1 to [`MAX_STREAMS`].
    pub streams: u16,
    /// Bytes of the replay ring: [`MIN_REPLAY`] at least; a link of rate `r` and round trip `t` wants `r x t` and more.
    pub replay: usize,
    /// Bytes of received data that may wait for ports, all streams together.
    pub receive: usize,
}

impl Shape {
    /// Bytes of memory for the receive pool: what backs [`receive`](Self::receive) bytes on that many streams.
    #[must_use]
    pub const fn receive_memory(&self) -> usize {
        memory_for(self.receive, self.streams as usize)
    }

    pub(crate) fn budget(&self) -> Budget {
        Budget::new(self.receive_memory(), usize::from(self.streams))
    }

    /// Bytes of memory for the stream table.
    #[must_use]
    pub const fn table_memory(&self) -> usize {
        self.streams as usize * size_of::<StreamState>()
    }

    /// What is wrong with it, if anything: a field and the least or most it can be.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn check(&self) -> Result<(), ShapeError> {
        let streams = usize::from(self.streams);
        if streams == 0 || streams > MAX_STREAMS {
            return Err(ShapeError::Streams { most: MAX_STREAMS });
        }
        if self.replay < MIN_REPLAY {
            return Err(ShapeError::Replay { least: MIN_REPLAY });
        }
        // Blocks of the pool are numbered with 16 bits.
        let least = streams * 2 * crate::limits::MIN_INITIAL_CREDIT as usize;
        let most = 16 * 1024 * 1024 - 1024 * 1024;
        if self.receive < least || self.receive > most || self.receive_memory() > 16 * 1024 * 1024 - 256 {
            return Err(ShapeError::Receive { least, most });
        }
        Ok(())
    }
}

/// A [`Shape`] that cannot work, with the bound it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants name the shape's fields")]
pub enum ShapeError {
    Streams { most: usize },
    Replay { least: usize },
    Receive { least: usize, most: usize },
}

impl core::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Streams { most } => write!(f, "streams must be between 1 and {most}"),
            Self::Replay { least } => write!(f, "replay must be at least {least} bytes"),
            Self::Receive { least, most } => {
                write!(f, "receive must be between {least} bytes (512 for each stream) and {most}")
            }
        }
    }
}

impl core::error::Error for ShapeError {}

/// Memory that a session works in, lent by its host.
#[derive(Debug)]
pub struct Storage<B, S> {
    /// [`Shape::replay`] bytes.
    pub replay: B,
    /// [`Shape::receive_memory`] bytes.
    pub receive: B,
    /// [`Shape::streams`] times [`StreamState::EMPTY`].
    pub streams: S,
}
