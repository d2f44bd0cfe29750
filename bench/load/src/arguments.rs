//! The command line: `SUBCOMMAND --name value ...`; every option of every subcommand, with its default.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

/// Everything the subcommands take; each reads what concerns it.
pub(crate) struct Arguments {
    pub(crate) subcommand: String,
    /// Where to listen; port 0 takes a free one.
    pub(crate) listen: SocketAddr,
    /// Whom to connect to.
    pub(crate) to: Option<SocketAddr>,
    /// Unix socket on which the target tells its counts.
    pub(crate) control: Option<PathBuf>,
    pub(crate) direction: Direction,
    /// Bulk streams, or connections to hold.
    pub(crate) streams: usize,
    /// Runs before the measured window opens.
    pub(crate) warm: Duration,
    /// Length of the measured window, or of a run of pings.
    pub(crate) window: Duration,
    /// At most this many messages or connections.
    pub(crate) count: usize,
    /// Size of a ping, 1 to 65536 bytes.
    pub(crate) bytes: usize,
    /// From an answer to the next message.
    pub(crate) pause: Duration,
    /// How long to wait for a connection or an answer.
    pub(crate) patience: Duration,
    /// Held connections start a download that they never read.
    pub(crate) stalled: bool,
}

/// Which way the bulk flows: `DeviceToCloud` is an upload of the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    DeviceToCloud,
    CloudToDevice,
}

/// What was wrong with the command line.
#[derive(Debug)]
pub(crate) enum Misuse {
    NoSubcommand,
    Option(lexopt::Error),
    Value { option: &'static str, expected: &'static str, value: OsString },
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misuse::NoSubcommand => {
                f.write_str("no subcommand given: expected target, bulk, ping, connect, hold or forward")
            }
            Misuse::Option(error) => write!(f, "command line: {error}"),
            Misuse::Value { option, expected, value } => write!(f, "--{option} {value:?}: expected {expected}"),
        }
    }
}

impl std::error::Error for Misuse {}

impl From<Misuse> for io::Error {
    fn from(misuse: Misuse) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, misuse)
    }
}

impl From<lexopt::Error> for Misuse {
    fn from(error: lexopt::Error) -> Self {
        Misuse::Option(error)
    }
}

impl Arguments {
    pub(crate) fn from_command_line() -> Result<Arguments, Misuse> {
        Arguments::parse(lexopt::Parser::from_env())
    }

    fn parse(mut parser: lexopt::Parser) -> Result<Arguments, Misuse> {
        let mut parsed = Arguments {
            subcommand: String::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            to: None,
            control: None,
            direction: Direction::DeviceToCloud,
            streams: 1,
            warm: Duration::from_millis(500),
            window: Duration::from_secs(3),
            count: usize::MAX,
            bytes: 64,
            pause: Duration::ZERO,
            patience: Duration::from_secs(20),
            stalled: false,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Value(word) if parsed.subcommand.is_empty() => parsed.subcommand = word.string()?,
                Long("listen") => parsed.listen = value(&mut parser, "listen", "ADDRESS:PORT")?,
                Long("to") => parsed.to = Some(value(&mut parser, "to", "ADDRESS:PORT")?),
                Long("control") => parsed.control = Some(parser.value()?.into()),
                Long("direction") => {
                    let given = parser.value()?;
                    parsed.direction = match given.to_str() {
                        Some("device-to-cloud") => Direction::DeviceToCloud,
                        Some("cloud-to-device") => Direction::CloudToDevice,
                        _ => {
                            let expected = "device-to-cloud or cloud-to-device";
                            return Err(Misuse::Value { option: "direction", expected, value: given });
                        }
                    };
                }
                Long("streams") => parsed.streams = value(&mut parser, "streams", "a number")?,
                Long("warm") => parsed.warm = seconds(&mut parser, "warm")?,
                Long("seconds") => parsed.window = seconds(&mut parser, "seconds")?,
                Long("count") => parsed.count = value(&mut parser, "count", "a number")?,
                Long("bytes") => parsed.bytes = value::<usize>(&mut parser, "bytes", "a number")?.clamp(1, 1 << 16),
                Long("pause") => parsed.pause = seconds(&mut parser, "pause")?,
                Long("patience") => parsed.patience = seconds(&mut parser, "patience")?,
                Long("stalled") => parsed.stalled = true,
                other => return Err(other.unexpected().into()),
            }
        }
        if parsed.subcommand.is_empty() { Err(Misuse::NoSubcommand) } else { Ok(parsed) }
    }

    /// The address given with `--to`.
    pub(crate) fn to(&self) -> io::Result<SocketAddr> {
        self.to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "--to ADDRESS:PORT is needed"))
    }
}

fn value<T: std::str::FromStr>(
    parser: &mut lexopt::Parser,
    option: &'static str,
    expected: &'static str,
) -> Result<T, Misuse> {
    let given = parser.value()?;
    given.to_str().and_then(|text| text.parse().ok()).ok_or(Misuse::Value { option, expected, value: given })
}

/// Seconds with a fraction: `0.02` is 20 ms.
fn seconds(parser: &mut lexopt::Parser, option: &'static str) -> Result<Duration, Misuse> {
    let given = parser.value()?;
    given
        .to_str()
        .and_then(|text| text.parse().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or(Misuse::Value { option, expected: "seconds, such as 0.5", value: given })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Misuse> {
        Arguments::parse(lexopt::Parser::from_args(words))
    }

    #[test]
    fn options_are_taken_in_any_order() {
        let parsed = parse(&["--pause", "0.02", "ping", "--to", "127.0.0.1:9", "--count=7"]).unwrap();
        assert_eq!(parsed.subcommand, "ping");
        assert_eq!(parsed.pause, Duration::from_millis(20));
        assert_eq!(parsed.to().unwrap(), SocketAddr::from(([127, 0, 0, 1], 9)));
        assert_eq!(parsed.count, 7);
    }

    #[test]
    fn bad_values_name_the_option_and_what_is_expected() {
        for (words, message) in [
            (&["bulk", "--direction", "up"][..], "--direction \"up\": expected device-to-cloud or cloud-to-device"),
            (&["ping", "--seconds", "-1"], "--seconds \"-1\": expected seconds, such as 0.5"),
            (&["ping", "--to", "nowhere"], "--to \"nowhere\": expected ADDRESS:PORT"),
            (&[], "no subcommand given: expected target, bulk, ping, connect, hold or forward"),
        ] {
            assert_eq!(parse(words).map(|_| ()).unwrap_err().to_string(), message);
        }
    }
}
