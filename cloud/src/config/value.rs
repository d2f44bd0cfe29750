//! The small notations of the configuration: sizes, durations, addresses, networks. Each says what it expects when it
//! is given something else.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use umbilical_mux::Mode;

/// An address to listen on.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address(pub(super) SocketAddr);

impl TryFrom<String> for Address {
    type Error = Unexpected;

    fn try_from(text: String) -> Result<Self, Unexpected> {
        let unexpected =
            |_| Unexpected { expected: "ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443", found: text.clone() };
        text.parse().map(Self).map_err(unexpected)
    }
}

/// Where an exposure listens: an address, for TCP unless `udp:` stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen {
    /// The protocol.
    pub transport: Transport,
    /// Address and port.
    pub address: SocketAddr,
}

/// What a public port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Connections, each a stream of bytes.
    Tcp,
    /// Datagrams, each address a stream of them.
    Udp,
}

impl Transport {
    /// What its streams carry.
    #[must_use]
    pub fn mode(self) -> Mode {
        match self {
            Self::Tcp => Mode::Stream,
            Self::Udp => Mode::Datagram,
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = Unexpected;

    fn try_from(text: String) -> Result<Self, Unexpected> {
        let (transport, address) = match text.strip_prefix("udp:") {
            Some(address) => (Transport::Udp, address),
            None => (Transport::Tcp, text.as_str()),
        };
        let expected = "ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443, or udp:ADDRESS:PORT";
        match address.parse() {
            Ok(address) => Ok(Self { transport, address }),
            Err(_) => Err(Unexpected { expected, found: text }),
        }
    }
}

impl From<SocketAddr> for Listen {
    /// For TCP.
    fn from(address: SocketAddr) -> Self {
        Self { transport: Transport::Tcp, address }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => self.address.fmt(f),
            Transport::Udp => write!(f, "udp:{}", self.address),
        }
    }
}

/// Bytes: a number, or a string of a number and `K` (1024) or `M` (1024 K).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "BytesText")]
pub(super) struct Bytes(pub(super) usize);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of bytes, such as 1048576, \"1024K\" or \"1M\"")]
enum BytesText {
    Number(usize),
    Text(String),
}

impl TryFrom<BytesText> for Bytes {
    type Error = Unexpected;

    fn try_from(text: BytesText) -> Result<Self, Unexpected> {
        let text = match text {
            BytesText::Number(number) => return Ok(Self(number)),
            BytesText::Text(text) => text,
        };
        let (digits, factor) = match text.strip_suffix('K') {
            Some(digits) => (digits, 1024),
            None => text.strip_suffix('M').map_or((text.as_str(), 1), |digits| (digits, 1024 * 1024)),
        };
        let bytes = digits_of(digits).and_then(|number| usize::try_from(number).ok()?.checked_mul(factor));
        bytes.map(Self).ok_or(Unexpected { expected: "a size such as \"1024K\" or \"1M\"", found: text })
    }
}

/// A string of a number and `s`, `m` or `h`; a day at most.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Period(pub(super) Duration);

const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl TryFrom<String> for Period {
    type Error = Unexpected;

    fn try_from(text: String) -> Result<Self, Unexpected> {
        let period = seconds_of(&text).filter(|period| *period <= LONGEST);
        let expected = "a duration up to 24h, such as \"120s\", \"2m\" or \"1h\"";
        period.map(Self).ok_or(Unexpected { expected, found: text })
    }
}

/// A string of a number and `s`, `m`, `h` or `d`; ten years at most.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct LongPeriod(pub(super) Duration);

const TEN_YEARS: Duration = Duration::from_secs(3653 * 24 * 3600);

impl TryFrom<String> for LongPeriod {
    type Error = Unexpected;

    fn try_from(text: String) -> Result<Self, Unexpected> {
        let days = text.strip_suffix('d').and_then(digits_of).and_then(|days| days.checked_mul(24 * 3600));
        let period = match days {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => seconds_of(&text),
        };
        let expected = "a duration such as \"30d\" or \"12h\", up to 3653d";
        period.filter(|period| *period <= TEN_YEARS).map(Self).ok_or(Unexpected { expected, found: text })
    }
}

/// Clients that may connect: a network in CIDR notation, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

impl Network {
    /// Whether `address` is in it. An IPv4 address that came mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl TryFrom<String> for Network {
    type Error = Unexpected;

    fn try_from(text: String) -> Result<Self, Unexpected> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let expected = "a network such as 203.0.113.0/24 or 2001:db8::/32, or an address";
        network.map(Self).map_err(|_| Unexpected { expected, found: text })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not what it should be.
pub struct Unexpected {
    expected: &'static str,
    found: String,
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {:?}", self.expected, self.found)
    }
}

fn seconds_of(text: &str) -> Option<Duration> {
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let seconds = units.iter().find_map(|(unit, factor)| digits_of(text.strip_suffix(*unit)?)?.checked_mul(*factor));
    seconds.map(Duration::from_secs)
}

/// Digits and nothing else: `parse` alone would take a sign.
fn digits_of(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(toml: &str) -> Option<usize> {
        #[derive(Deserialize)]
        struct Table {
            x: Bytes,
        }
        toml::from_str::<Table>(&format!("x = {toml}")).ok().map(|table| table.x.0)
    }

    #[test]
    fn sizes_are_in_bytes_k_and_m() {
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("\"4096\""), Some(4096));
        assert_eq!(bytes("\"256K\""), Some(256 * 1024));
        assert_eq!(bytes("\"2M\""), Some(2 * 1024 * 1024));
        for wrong in
            ["\"\"", "\"K\"", "\"-1\"", "\"+1\"", "\"1 K\"", "\"1k\"", "-1", "1.5", "true", "\"18446744073709551615M\""]
        {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_have_a_unit_and_an_end() {
        let read = |text: &str| Period::try_from(text.to_owned()).ok().map(|period| period.0.as_secs());
        assert_eq!(read("120s"), Some(120));
        assert_eq!(read("2m"), Some(120));
        assert_eq!(read("24h"), Some(86_400));
        for wrong in ["", "s", "5", "-5s", "5 s", "25h", "1d", "18446744073709551615h"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn where_to_listen_is_shown_as_it_is_written() {
        for text in ["0.0.0.0:22", "[::]:22", "udp:0.0.0.0:161", "udp:[2001:db8::1]:161"] {
            let listen = Listen::try_from(text.to_owned()).ok().unwrap();
            assert_eq!(
                (listen.to_string(), listen.transport == Transport::Udp),
                (text.to_owned(), text.starts_with("udp:"))
            );
        }
        for wrong in ["", "udp:", "udp:161", "tcp:0.0.0.0:22", "UDP:0.0.0.0:161", "udp:udp:0.0.0.0:161", "udp:host:161"]
        {
            assert!(Listen::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn long_durations_may_be_in_days() {
        let read = |text: &str| LongPeriod::try_from(text.to_owned()).ok().map(|period| period.0.as_secs());
        assert_eq!(read("30d"), Some(30 * 86_400));
        assert_eq!(read("36h"), Some(36 * 3600));
        assert_eq!(read("3653d"), Some(3653 * 86_400));
        for wrong in ["", "d", "30", "3654d", "-1d", "1w", "18446744073709551615d"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn networks_hold_their_addresses_however_they_come() {
        let network = |text: &str| Network::try_from(text.to_owned()).ok();
        let inside = |text: &str, address: &str| network(text).unwrap().contains(address.parse().unwrap());
        assert!(inside("203.0.113.0/24", "203.0.113.9"));
        assert!(inside("203.0.113.0/24", "::ffff:203.0.113.9"));
        assert!(!inside("203.0.113.0/24", "203.0.114.1"));
        assert!(inside("203.0.113.7", "203.0.113.7"));
        assert!(!inside("203.0.113.7", "203.0.113.8"));
        assert!(inside("::/0", "2001:db8::1"));
        assert!(!inside("::/0", "10.0.0.1"));
        assert!(["", "10.0.0.0/33", "example.net", "10.0.0/8"].iter().all(|text| network(text).is_none()));
    }
}
