//! Names of things: sessions, streams, slots, and which end of a session this is.

use serde::{Deserialize, Serialize};

/// The 128 random bits that name a session. The gateway draws them; whoever knows them may take the session over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl core::fmt::Debug for SessionId {
    /// Shows the first four bytes only: the rest is what an attacker would have to guess.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}..")
    }
}

/// Which end of the session this is; it decides who uses odd and who uses even stream ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The cloud side, which dials links and draws the session id. Its streams have odd ids.
    Gateway,
    /// The device side, which answers links. Its streams have even ids.
    Agent,
}

impl Side {
    pub(crate) const fn first_stream(self) -> u32 {
        match self {
            Self::Gateway => 1,
            Self::Agent => 2,
        }
    }

    pub(crate) const fn peer(self) -> Self {
        match self {
            Self::Gateway => Self::Agent,
            Self::Agent => Self::Gateway,
        }
    }
}

/// The number of a stream on the wire: odd for the gateway's, even for the agent's, never used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamId(pub u32);

/// The place of a stream in the table of one side; it stays the same for the life of the stream and is used again
/// afterwards. Hosts keep what belongs to a stream (its socket) under this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(crate) u16);

impl Slot {
    /// The place in the table, from 0 to the table's size - 1.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The slot at `index`; the session ignores calls for slots without a stream.
    #[must_use]
    pub const fn at(index: u16) -> Self {
        Self(index)
    }
}
