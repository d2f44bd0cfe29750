//! Why a stream or a session ended, as both sides' logs show it.

use serde::{Deserialize, Serialize};

/// Why a stream was reset. On the wire one byte; numbers this version does not know stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetReason(pub u8);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl ResetReason {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// All that this version knows; each stands at its own number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The reason in the words used in logs, metrics and documents.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown",
                }
            }
        }
    };
}

reasons! {
    /// The other end of the stream (a client, a service) broke its connection.
    ABORTED = 0, "aborted";
    /// The service does not exist or this peer may not use it.
    NOT_ALLOWED = 1, "not-allowed";
    /// The service refused the connection.
    REFUSED = 2, "refused";
    /// The service's host or network cannot be reached.
    UNREACHABLE = 3, "unreachable";
    /// The service did not answer in time.
    TIMED_OUT = 4, "timed-out";
    /// The stream table or a limit of the service is full.
    BUSY = 5, "busy";
    /// This side is shutting down.
    GOING_AWAY = 6, "going-away";
    /// There was no link for longer than `resume-for`.
    RESUME_EXPIRED = 7, "resume-expired";
    /// The peer does not know the session any more; it restarted.
    SESSION_LOST = 8, "session-lost";
    /// Reading from or writing to the service failed.
    FAILED = 9, "failed";
    /// The service does not carry this mode (a datagram stream to a TCP service, say).
    WRONG_MODE = 10, "wrong-mode";
}

impl core::fmt::Display for ResetReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_at_its_number_and_has_words() {
        for (number, reason) in (0..).zip(ResetReason::ALL) {
            assert_eq!(reason.0, number);
            assert_ne!(reason.text(), "unknown");
        }
        let next = ResetReason(u8::try_from(ResetReason::ALL.len()).unwrap_or(u8::MAX));
        assert_eq!(next.text(), "unknown");
    }
}
