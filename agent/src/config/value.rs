//! The small notations of the configuration: sizes, durations, targets, names. Each reader gives `None` for what it
//! does not understand; the caller knows the words for it.

use std::{fmt, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::de::{DeInteger, DeValue};
use umbilical_mux::Mode;

use super::serial::SerialLine;

/// Where a service lives, as seen from the device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// `tcp:HOST:PORT`; HOST is a name or an address, IPv6 in brackets.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// `udp:HOST:PORT`, as above.
    Udp {
        /// Name or address, without brackets.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// `unix:/PATH`, a stream socket.
    Unix(PathBuf),
    /// `serial:/PATH?baud=19200&parity=even`, a serial line.
    Serial(SerialLine),
}

/// Longest path of a Unix socket: `sun_path` holds 108 bytes, one of them the end.
const UNIX_PATH: usize = 107;

impl Target {
    /// What `parse` reads, for error texts.
    pub const EXPECTED: &'static str = "tcp:HOST:PORT, udp:HOST:PORT, unix:/PATH or serial:/PATH[?baud=9600&data=8&parity=none|even|odd&stop=1|2&flow=none|hardware|software]";

    /// What `parse_socket` reads.
    pub const SOCKET_EXPECTED: &'static str = "tcp:HOST:PORT or unix:/PATH";

    /// Reads a target; `None` if it is not as [`Target::EXPECTED`] says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Target> {
        match text.split_once(':')? {
            (kind @ ("tcp" | "udp"), rest) => {
                let (host, port) = rest.rsplit_once(':')?;
                let host = match host.strip_prefix('[') {
                    Some(host) => host.strip_suffix(']').filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())?,
                    None => Some(host).filter(|host| is_host(host))?,
                };
                let port = u16::try_from(digits_of(port)?).ok().filter(|port| *port != 0)?;
                let host = host.to_owned();
                Some(if kind == "tcp" { Target::Tcp { host, port } } else { Target::Udp { host, port } })
            }
            ("unix", path) => socket_path(path).map(Target::Unix),
            ("serial", line) => SerialLine::parse(line).map(Target::Serial),
            _ => None,
        }
    }

    /// Reads a target that takes any number of connections.
    #[must_use]
    pub fn parse_socket(text: &str) -> Option<Target> {
        Target::parse(text).filter(|target| matches!(target, Target::Tcp { .. } | Target::Unix(_)))
    }

    /// What it carries.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self {
            Target::Tcp { .. } | Target::Unix(_) | Target::Serial(_) => Mode::Stream,
            Target::Udp { .. } => Mode::Datagram,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Target::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Target::Udp { host, port } if host.contains(':') => write!(f, "udp:[{host}]:{port}"),
            Target::Udp { host, port } => write!(f, "udp:{host}:{port}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
            Target::Serial(line) => write!(f, "serial:{line}"),
        }
    }
}

/// `http://HOST[:PORT][/PATH]`: a service of this machine or its host, asked without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// Begins with `/`, and has no query.
    pub path: String,
}

impl HttpAddress {
    /// What `parse` reads, for error texts.
    pub const EXPECTED: &'static str = "http://HOST[:PORT][/PATH]";

    /// Reads an address; `None` if it is not as [`HttpAddress::EXPECTED`] says.
    #[must_use]
    pub fn parse(text: &str) -> Option<HttpAddress> {
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rfind(':') > authority.rfind(']');
        let Target::Tcp { host, port } =
            Target::parse(&format!("tcp:{authority}{}", if has_port { "" } else { ":80" }))?
        else {
            return None;
        };
        let is_path = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
        is_path.then(|| HttpAddress { host, port, path: if path.is_empty() { "/".into() } else { path.into() } })
    }

    /// Value of the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// A path that a Unix socket can have.
pub(super) fn socket_path(path: &str) -> Option<PathBuf> {
    (path.starts_with('/') && path.len() <= UNIX_PATH && !path.contains('\0')).then(|| PathBuf::from(path))
}

pub(super) fn string(value: &DeValue<'_>) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

pub(super) fn boolean(value: &DeValue<'_>) -> Option<bool> {
    value.as_bool()
}

pub(super) fn path(value: &DeValue<'_>) -> Option<PathBuf> {
    string(value).map(PathBuf::from)
}

/// A program and its arguments.
pub(super) fn command(value: &DeValue<'_>) -> Option<(String, Vec<String>)> {
    let mut words = value.as_array()?.iter().map(|word| word.get_ref().as_str().map(str::to_owned));
    let program = words.next()?.filter(|program| !program.is_empty())?;
    Some((program, words.collect::<Option<_>>()?))
}

pub(super) fn count(value: &DeValue<'_>, range: &RangeInclusive<usize>) -> Option<usize> {
    let DeValue::Integer(number) = value else { return None };
    integer(number).filter(|number| range.contains(number))
}

/// Bytes: a number, or a string of a number and `K` (1024) or `M` (1024 K).
pub(super) fn size(value: &DeValue<'_>, range: &RangeInclusive<usize>) -> Option<usize> {
    let bytes = match value {
        DeValue::Integer(number) => integer(number)?,
        DeValue::String(text) => {
            let (digits, factor) = match text.as_bytes().last()? {
                b'K' => (&text[..text.len() - 1], 1024),
                b'M' => (&text[..text.len() - 1], 1024 * 1024),
                _ => (text.as_ref(), 1),
            };
            digits_of(digits)?.checked_mul(factor)?
        }
        _ => return None,
    };
    Some(bytes).filter(|bytes| range.contains(bytes))
}

/// A string of a number and `s`, `m` or `h`.
pub(super) fn duration(value: &DeValue<'_>, range: &RangeInclusive<Duration>) -> Option<Duration> {
    let text = value.as_str()?;
    let seconds = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3600,
        _ => return None,
    };
    let number = u64::try_from(digits_of(&text[..text.len() - 1])?).ok()?;
    Some(Duration::from_secs(number.checked_mul(seconds)?)).filter(|duration| range.contains(duration))
}

fn integer(number: &DeInteger<'_>) -> Option<usize> {
    usize::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Digits and nothing else: `parse` alone would take a sign.
fn digits_of(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_is_written() {
        for text in ["tcp:127.0.0.1:22", "tcp:[::1]:22", "tcp:plc.local:502", "unix:/run/docker.sock"] {
            assert_eq!(Target::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_target_is_refused() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH));
        for text in [
            "",
            "22",
            "tcp",
            "tcp:",
            "tcp:22",
            "tcp::22",
            "tcp:host:",
            "tcp:host:0",
            "tcp:host:65536",
            "tcp:host:+22",
            "tcp:::1:22",
            "tcp:[::1:22",
            "tcp:[host]:22",
            "tcp:ho st:22",
            "tcp:host/x:22",
            "unix:",
            "unix:run/docker.sock",
            "unix:/a\0b",
            &long,
            "udp:127.0.0.1",
            "udp:127.0.0.1:0",
            "udp:::1:161",
            "serial:ttyS1",
            "TCP:host:22",
        ] {
            assert_eq!(Target::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_http_address_is_shown_as_it_is_written() {
        for text in ["http://169.254.169.254/", "http://localhost:40342/a/b", "http://[::1]/", "http://[::1]:8080/x"] {
            assert_eq!(HttpAddress::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(HttpAddress::parse("http://h").unwrap().path, "/");
        for text in [
            "",
            "http://",
            "https://h",
            "http://h:0",
            "http://h:",
            "http://h/a?b",
            "http://h/\u{20}",
            "http://::1",
            "h",
        ] {
            assert_eq!(HttpAddress::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_in_bytes_k_and_m() {
        let read = |toml: &str| {
            let document = format!("x = {toml}");
            let table = toml::de::DeTable::parse(&document).unwrap();
            let value = table.get_ref().get("x").unwrap();
            size(value.get_ref(), &(1..=usize::MAX))
        };
        assert_eq!(read("4096"), Some(4096));
        assert_eq!(read("0x1000"), Some(4096));
        assert_eq!(read("\"4096\""), Some(4096));
        assert_eq!(read("\"256K\""), Some(256 * 1024));
        assert_eq!(read("\"2M\""), Some(2 * 1024 * 1024));
        for wrong in [
            "\"\"",
            "\"K\"",
            "\"-1\"",
            "\"+1\"",
            "\"1 K\"",
            "\"1k\"",
            "\"1KB\"",
            "\"0\"",
            "0",
            "-1",
            "1.5",
            "true",
            "\"18446744073709551615M\"",
            "\"256ß\"",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
