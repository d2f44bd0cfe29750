//! How an open socket ends: code and reason of its close frame, on control channels and rendezvous.
//!
//! On a rendezvous each side's own close frame is passed on as it is; a relay makes one up only when it ends the socket
//! itself, or when the other side is gone without a word.

use std::fmt;

use crate::control::ControlError;
use crate::rejection::sentence;
use crate::token::TokenError;

/// Most bytes that a reason may have (RFC 6455, section 5.5: 125 for a control frame, 2 of them the code).
const MAX_REASON_BYTES: usize = 123;

/// Code and reason of a close frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    code: u16,
    reason: String,
}

impl Close {
    /// A close frame; a reason too long for one is cut.
    #[must_use]
    pub fn new(code: u16, reason: &str) -> Self {
        let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
        Self { code, reason: reason[..end.unwrap_or(0)].to_owned() }
    }

    /// 1000: what this socket was for is done.
    #[must_use]
    pub fn normal() -> Self {
        Self::new(1000, "Normal Closure")
    }

    /// 1001 on both kinds: the hybrid connection was deleted or switched off.
    #[must_use]
    pub fn entity_deleted() -> Self {
        Self::new(1001, "The endpoint was deleted or disabled")
    }

    /// 1001 on a rendezvous: the other side's socket broke without a close frame.
    #[must_use]
    pub fn other_side_gone() -> Self {
        Self::new(1001, "The other side went away")
    }

    /// 1001 on both kinds: this end stops.
    #[must_use]
    pub fn going_away() -> Self {
        Self::new(1001, "Shutting down")
    }

    /// 1001 on both kinds: the same listener has connected anew, so what is left of before is probably dead.
    #[must_use]
    pub fn superseded() -> Self {
        Self::new(1001, "Replaced by a newer connection of this listener")
    }

    /// 1002 on both kinds: the other end does not keep to the protocol, in these words.
    #[must_use]
    pub fn protocol_error(reason: &dyn fmt::Display) -> Self {
        Self::new(1002, &sentence(reason))
    }

    /// 1002 on a control channel: a message that is none of the protocol's; 1009: one that is too long to be.
    #[must_use]
    pub fn bad_message(error: &ControlError) -> Self {
        match error {
            ControlError::TooLong { .. } => Self::new(1009, &sentence(error)),
            _ => Self::protocol_error(error),
        }
    }

    /// 1008 on a control channel: its token ended and was not renewed.
    #[must_use]
    pub fn token_expired() -> Self {
        Self::new(1008, "The token has expired and was not renewed")
    }

    /// 1008 on a control channel: a renewal was refused.
    #[must_use]
    pub fn renewal_refused(error: &TokenError) -> Self {
        Self::new(1008, &sentence(error))
    }

    /// 1011 on both kinds: our fault.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(1011, "InternalServerError")
    }

    /// Status code of RFC 6455, section 7.4.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// At most 123 bytes.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What the code means on a control channel.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        match self.code {
            1000 => "closed",
            1001 => "the hybrid connection was deleted or disabled, or the relay shuts down",
            1002 => "protocol error",
            1008 => "the token expired or its renewal was refused",
            // Azure cuts every control channel about once a day like this
            1011 if self.reason.contains("NameRenewalFailed") => "the relay's daily reconnect",
            1011 => "internal error of the relay",
            _ => "unexpected close code",
        }
    }
}

/// `1008 (the token expired or its renewal was refused): ...`
impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code, self.meaning())?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {:?}", self.reason) }
    }
}
