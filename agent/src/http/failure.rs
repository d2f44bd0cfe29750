//! Why a request has no response of the service, for the sender and for the log.

use std::{fmt, io, time::Duration};

use umbilical_link::{body::BodyError, response::ResponseError};
use umbilical_relay_protocol::{Headers, RequestHead, Response};

use super::socket::SocketError;

/// Interim responses in front of the one that counts.
pub(super) const INTERIM: usize = 8;

/// Why a request has no response of the service.
#[derive(Debug)]
pub(super) enum Failure {
    NotServed,
    Busy { at_once: usize },
    Leaving,
    BadTarget,
    Absent(io::Error),
    Silent { after: Duration },
    Head(ResponseError),
    Body(BodyError),
    Upgrade,
    Status(u16),
    Interim,
    TooLarge,
    Relay(SocketError),
}

impl Failure {
    /// What the sender is told.
    pub(super) fn status(&self) -> u16 {
        match self {
            Failure::NotServed => 501,
            Failure::Busy { .. } | Failure::Leaving => 503,
            Failure::BadTarget | Failure::Relay(_) => 400,
            Failure::Silent { .. } => 504,
            _ => 502,
        }
    }

    /// The same in a sentence that tells strangers nothing of the device's insides.
    pub(super) fn reason(&self) -> String {
        match self {
            Failure::NotServed => "This device serves no HTTP: its configuration has no [http]".to_owned(),
            Failure::Busy { at_once } => {
                format!("This device answers {at_once} requests at once and no more wait: try again")
            }
            Failure::Leaving => "This device is shutting down: try again".to_owned(),
            Failure::BadTarget => "This device serves paths, and the request is for something else".to_owned(),
            Failure::Absent(error) => format!("The HTTP service of this device is not reached: {}", error.kind()),
            Failure::Silent { after } => {
                format!("The HTTP service of this device said nothing for {} s", after.as_secs())
            }
            Failure::TooLarge => "The HTTP service of this device answered with too many headers".to_owned(),
            Failure::Relay(_) => "The request did not arrive whole".to_owned(),
            _ => "The HTTP service of this device gave no response that can be passed on".to_owned(),
        }
    }

    /// The response that says so.
    pub(super) fn response(&self, request: &RequestHead) -> (Response, Vec<u8>) {
        let reason = self.reason();
        let mut headers = Headers::default();
        let mut fields = vec![("Content-Type", "text/plain; charset=utf-8")];
        if self.status() == 503 {
            fields.push(("Retry-After", "1"));
        }
        for (name, value) in fields {
            headers.push(name, value).expect("a constant that is a header's name");
        }
        let body = if request.method == "HEAD" { Vec::new() } else { format!("{reason}\n").into_bytes() };
        let head = Response {
            request_id: request.id.clone(),
            status: self.status(),
            reason: Some(reason),
            headers,
            body: !body.is_empty(),
        };
        (head, body)
    }
}

/// For the log of the device.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Absent(error) => {
                write!(f, "can't connect to the service: {error}; check that it runs, and [http]")
            }
            Failure::Head(error) => write!(f, "from the service: {error}"),
            Failure::Body(error) => error.fmt(f),
            Failure::Upgrade => f.write_str("the service wants another protocol (101), which a request can't have"),
            Failure::Status(status) => write!(f, "the service answered with the status {status}"),
            Failure::Interim => write!(f, "the service sent {INTERIM} interim responses and no final one"),
            Failure::Relay(error) => error.fmt(f),
            other => f.write_str(&other.reason()),
        }
    }
}
