//! The words that azbridge's two ends exchange inside a rendezvous before any payload (Azure/azure-relay-bridge).
//!
//! ```text
//! sender   -> listener   01 00 MM LL <LL bytes UTF-8 port name>    MM: 00 stream, 01 datagrams
//! listener -> sender     01 00 MM                                  accepted; the target is dialled after this
//!                        00 00 00                                  version not understood
//!                        00 00 01                                  the target takes datagrams, a stream was asked for
//!                        00 00 FF                                  the target takes a stream, datagrams were asked for
//!                        nothing, and the end                      no such port
//! ```
//!
//! Both directions are streams of bytes; borders of messages mean nothing. The sender of old writes two messages, four
//! bytes and the name. Datagrams then travel as two bytes of length, big-endian, and that many bytes.

use std::fmt;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// Bytes.
    Stream,
    /// Datagrams, each behind its length.
    Datagram,
}

impl PortMode {
    const fn code(self) -> u8 {
        match self {
            Self::Stream => 0,
            Self::Datagram => 1,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Stream),
            1 => Some(Self::Datagram),
            _ => None,
        }
    }
}

/// What stands before the port's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreambleHead {
    /// What is asked for.
    pub mode: PortMode,
    /// Bytes of the port's name, which follow.
    pub name_length: u8,
}

impl PreambleHead {
    /// Its length on the wire.
    pub const BYTES: usize = 4;

    /// For a port of that name; `None` if the name is longer than 255 bytes.
    #[must_use]
    pub fn new(mode: PortMode, name: &str) -> Option<Self> {
        Some(Self { mode, name_length: u8::try_from(name.len()).ok()? })
    }

    /// Reads it; `None` for a version, or a mode, that this is not.
    #[must_use]
    pub fn parse(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [major, minor, mode, name_length] = bytes;
        if [major, minor] != VERSION {
            return None;
        }
        Some(Self { mode: PortMode::from_code(mode)?, name_length })
    }

    /// As it is on the wire.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::BYTES] {
        [VERSION[0], VERSION[1], self.mode.code(), self.name_length]
    }
}

/// A listener's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreambleReply {
    /// Payload may follow.
    Accepted(PortMode),
    /// It speaks another version.
    VersionNotUnderstood,
    /// A stream was asked for, and the target takes datagrams.
    TakesDatagrams,
    /// Datagrams were asked for, and the target takes a stream.
    TakesStream,
}

impl PreambleReply {
    /// Its length on the wire.
    pub const BYTES: usize = 3;

    /// Reads it; `None` for anything that no listener says.
    #[must_use]
    pub fn parse(bytes: [u8; Self::BYTES]) -> Option<Self> {
        match bytes {
            [major, minor, mode] if [major, minor] == VERSION => PortMode::from_code(mode).map(Self::Accepted),
            [0, 0, 0] => Some(Self::VersionNotUnderstood),
            [0, 0, 1] => Some(Self::TakesDatagrams),
            [0, 0, 0xFF] => Some(Self::TakesStream),
            _ => None,
        }
    }

    /// As it is on the wire.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::BYTES] {
        match self {
            Self::Accepted(mode) => [VERSION[0], VERSION[1], mode.code()],
            Self::VersionNotUnderstood => [0, 0, 0],
            Self::TakesDatagrams => [0, 0, 1],
            Self::TakesStream => [0, 0, 0xFF],
        }
    }
}

impl fmt::Display for PreambleReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted(PortMode::Stream) => "a stream is accepted",
            Self::Accepted(PortMode::Datagram) => "datagrams are accepted",
            Self::VersionNotUnderstood => "another version of the preamble is spoken there",
            Self::TakesDatagrams => "the port takes datagrams, no stream",
            Self::TakesStream => "the port takes a stream, no datagrams",
        })
    }
}

const VERSION: [u8; 2] = [1, 0];
