//! The cloud's figures, and the line that shows them.

use std::{fmt, io, net::SocketAddr};

use serde::Deserialize;

use crate::{http, plan::DEVICE};

/// What is known of the device just now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Status {
    /// The cloud's figures.
    Known(Device),
    /// The cloud has heard of no such device yet.
    Absent,
    /// The cloud does not answer.
    Unknown(String),
}

/// The answer to `GET /status`.
#[derive(Deserialize)]
struct Answer {
    devices: Vec<Device>,
}

/// One device in it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Device {
    name: String,
    link: Link,
    round_trip_ms: Option<f64>,
    streams: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Whether there is a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Link {
    Up,
    Down,
}

impl Status {
    /// Asks the cloud.
    pub(crate) async fn ask(admin: SocketAddr) -> Status {
        match http::get(admin, "/status").await {
            Ok(body) => Status::read(&body),
            Err(error) => Status::Unknown(error.to_string()),
        }
    }

    fn read(body: &str) -> Status {
        match serde_json::from_str::<Answer>(body).map_err(io::Error::from) {
            Ok(answer) => {
                answer.devices.into_iter().find(|device| device.name == DEVICE).map_or(Status::Absent, Status::Known)
            }
            Err(error) => Status::Unknown(error.to_string()),
        }
    }

    /// The state of the link, without the figures that change all the time.
    pub(crate) fn link(&self) -> Option<Link> {
        match self {
            Status::Known(device) => Some(device.link),
            Status::Absent | Status::Unknown(_) => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Known(device) => device.fmt(f),
            Status::Absent => f.write_str("no link yet"),
            Status::Unknown(why) => write!(f, "no figures from the cloud: {why}"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.link {
            Link::Up => f.write_str("link up")?,
            Link::Down => f.write_str("link down")?,
        }
        if let Some(milliseconds) = self.round_trip_ms {
            write!(f, " | round trip {milliseconds:.2} ms")?;
        }
        let plural = if self.streams == 1 { "" } else { "s" };
        write!(f, " | {} stream{plural}", self.streams)?;
        write!(f, " | {} from the device, {} to it", Bytes(self.bytes_in), Bytes(self.bytes_out))
    }
}

/// A number of bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut whole, mut rest, mut unit) = (self.0, 0, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if whole < 1024 {
                break;
            }
            (whole, rest, unit) = (whole / 1024, whole % 1024, larger);
        }
        if unit == "B" { write!(f, "{whole} B") } else { write!(f, "{whole}.{} {unit}", rest * 10 / 1024) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Link, Status};

    #[test]
    fn the_device_of_this_run_is_found_and_shown() {
        let status = Status::read(
            r#"{"devices": [
                {"name": "other", "link": "down", "round_trip_ms": null, "streams": 0, "bytes_in": 0, "bytes_out": 0},
                {"name": "demo", "link": "up", "round_trip_ms": 0.42, "streams": 1, "bytes_in": 1536, "bytes_out": 7, "new": 1}
            ]}"#,
        );
        assert_eq!(status.link(), Some(Link::Up));
        assert_eq!(status.to_string(), "link up | round trip 0.42 ms | 1 stream | 1.5 KiB from the device, 7 B to it");
    }

    #[test]
    fn a_device_without_a_link_has_no_round_trip() {
        let status = Status::read(
            r#"{"devices": [{"name": "demo", "link": "down", "round_trip_ms": null, "streams": 2, "bytes_in": 0, "bytes_out": 0}]}"#,
        );
        assert_eq!(status.to_string(), "link down | 2 streams | 0 B from the device, 0 B to it");
        assert_eq!(Status::read(r#"{"devices": []}"#), Status::Absent);
        assert!(matches!(Status::read("<html>"), Status::Unknown(_)));
    }

    #[test]
    fn bytes_are_rounded_down_to_a_tenth() {
        let shown = [0, 1023, 1024, 1_048_575, 1_048_576, 5 << 40].map(|bytes| Bytes(bytes).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1023.9 KiB", "1.0 MiB", "5.0 TiB"]);
    }
}
