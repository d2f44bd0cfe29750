//! How a relay says no: the status line of a refused handshake.
//!
//! ```text
//! HTTP/1.1 404 Endpoint does not exist: 'gateway-0042'. TrackingId:{guid}_G0, SystemTracker:{relay}, Timestamp:{utc}
//! ```
//!
//! The text stands in the reason phrase, because that is what clients show to their users. Sockets that are already
//! open are closed with a [`crate::Close`] instead.

use std::fmt;

use crate::address::{AddressError, MAX_LISTENERS};
use crate::token::TokenError;

/// Longest reason phrase in bytes; a longer one is cut.
const MAX_REASON_BYTES: usize = 512;

const TRACKING: &str = "TrackingId:";

/// A handshake that was refused: by us as a relay, or by the relay we called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    status: u16,
    reason: String,
}

impl Rejection {
    /// Any refusal. The reason is made fit for a status line: control characters become spaces, what is not ASCII `?`.
    #[must_use]
    pub fn new(status: u16, reason: &str) -> Self {
        Self { status, reason: reason_phrase(reason) }
    }

    /// 400: the request target makes no sense.
    #[must_use]
    pub fn bad_address(error: &AddressError) -> Self {
        Self::new(400, &sentence(error))
    }

    /// 401: no token where one is needed.
    #[must_use]
    pub fn token_missing() -> Self {
        Self::new(401, "MissingToken: send a token in the ServiceBusAuthorization header or the sb-hc-token parameter")
    }

    /// 401 or 403: a token that does not allow this.
    #[must_use]
    pub fn token_refused(error: &TokenError) -> Self {
        Self::new(error.status(), &sentence(error))
    }

    /// 404: no such hybrid connection. To official listeners the only answer that stops them for good.
    #[must_use]
    pub fn endpoint_not_found(path: &str) -> Self {
        Self::new(404, &format!("Endpoint does not exist: '{path}'"))
    }

    /// 404 to a sender: the hybrid connection exists, its device is not there.
    #[must_use]
    pub fn no_listener(path: &str) -> Self {
        Self::new(404, &format!("There are no listeners connected for the endpoint '{path}'"))
    }

    /// 502 to the sender of an HTTP request: the hybrid connection exists, its device is not there. The protocol guide
    /// says 502 in its prose and in the name of the error, and 503 in the number beside it.
    #[must_use]
    pub fn no_listener_for_request(path: &str) -> Self {
        Self { status: 502, ..Self::no_listener(path) }
    }

    /// 404 to a sender: there are listeners, and its `Microsoft-Relay-AllowedListeners` and `-DisallowedListeners`
    /// headers leave none of them. Official clients look for this text.
    #[must_use]
    pub fn listeners_excluded() -> Self {
        Self::new(404, "None of the connected listeners meet the AllowedListeners/DisallowedListeners criteria")
    }

    /// 403 to a listener: the hybrid connection has as many as it may. Not 404, which would stop official listeners
    /// for good.
    #[must_use]
    pub fn too_many_listeners(path: &str) -> Self {
        let text =
            format!("MaximumListenersPerEndpoint: '{path}' has {MAX_LISTENERS} listeners connected, which is all");
        Self::new(403, &text)
    }

    /// 403 to a listener: the rendezvous address is unknown, used, or too old.
    #[must_use]
    pub fn rendezvous_unknown() -> Self {
        Self::new(403, "The rendezvous address is unknown, has been used, or is too old")
    }

    /// 410 to a listener: its refusal was understood.
    #[must_use]
    pub fn refusal_taken() -> Self {
        Self::new(410, "Gone")
    }

    /// To a sender: the listener refused it, in these words. Official clients can name any status from 100 to 999; a
    /// sender gets one from 400 to 599.
    #[must_use]
    pub fn by_listener(status: u16, description: &str) -> Self {
        let description = if description.trim().is_empty() { "Rejected by user code" } else { description };
        Self::new(status.clamp(400, 599), description)
    }

    /// 431: the sender's headers do not fit into a control message.
    #[must_use]
    pub fn headers_too_large() -> Self {
        Self::new(431, "The request headers are too large to be relayed")
    }

    /// 500: our fault.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(500, "The relay failed to handle this request")
    }

    /// 503: later.
    #[must_use]
    pub fn busy() -> Self {
        Self::new(503, "The relay is busy, try again later")
    }

    /// 504 to a sender: the listener did not come to the rendezvous in time.
    #[must_use]
    pub fn listener_timeout(path: &str) -> Self {
        Self::new(504, &format!("The listener of '{path}' did not answer in time"))
    }

    /// Appends what relates a user's error message to a line in the relay's log: a GUID for this handshake, who
    /// refused it, and when, in Unix seconds. The reason is cut to make room.
    #[must_use]
    pub fn tracked(self, guid: &str, system: &str, now_unix: u64) -> Self {
        let tail = format!("{TRACKING}{guid}_G0, SystemTracker:{system}, Timestamp:{}", Utc(now_unix));
        let room = MAX_REASON_BYTES.saturating_sub(tail.len() + 2);
        let reason: String = self.reason.trim_end_matches('.').chars().take(room).collect();
        Self::new(self.status, &format!("{reason}. {tail}"))
    }

    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Reason phrase: printable ASCII.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The reason without the tracking tail.
    #[must_use]
    pub fn message(&self) -> &str {
        self.reason.split(TRACKING).next().unwrap_or_default().trim_end_matches([' ', '.'])
    }

    /// What to look for in the relay's log, if the relay said.
    #[must_use]
    pub fn tracking_id(&self) -> Option<&str> {
        let (_, tail) = self.reason.split_once(TRACKING)?;
        tail.split(',').next().map(str::trim).filter(|id| !id.is_empty())
    }
}

/// `404 Endpoint does not exist: 'gateway-0042'. TrackingId:..`
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

/// Text as it may stand in a status line, of whatever origin.
pub(crate) fn reason_phrase(text: &str) -> String {
    let clean = text.chars().map(|char| match char {
        ' '..='~' => char,
        _ if char.is_control() => ' ',
        _ => '?',
    });
    clean.take(MAX_REASON_BYTES).collect::<String>().trim().to_owned()
}

/// Our errors begin in lower case, official clients look for texts that do not.
pub(crate) fn sentence(error: &dyn fmt::Display) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

/// Unix seconds as `2024-10-01T12:34:56`.
pub(crate) struct Utc(pub(crate) u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Gregorian calendar from a day count, in years that begin in March: the leap day comes last
        let days = self.0 / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let second = self.0 % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}
