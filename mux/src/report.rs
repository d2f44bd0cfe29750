//! What an agent tells of itself when its gateway asks: the answer at the service [`REPORT_SERVICE`].
//!
//! ```text
//! | version: text | n: varint u16 | n figures, each varint u64 | m: varint u16 | m resets, each varint u64 |
//! ```
//!
//! Figures stand in the order of [`Report`]'s fields, resets at the number of their reason. A later version adds figures and
//! reasons at the end: what is not known is left alone, what is missing is 0, and bytes behind the end are ignored.

use heapless::String;
use serde::Serialize;
use serde::de::Deserialize;

use crate::{ResetReason, Resets};

/// The service of an agent that answers with a [`Report`]; no configured one has such a name.
pub const REPORT_SERVICE: &str = "$report";

/// The bit of [`Hello::features`](crate::Hello::features): on an agent's side it answers there, on a gateway's it may ask.
pub const FEATURE_REPORT: u32 = 1;

/// Bytes of a report at most.
pub const MAX_REPORT: usize = 512;

const FIGURES: usize = 12;

/// How an agent is doing. Sums are since its start and over all its sessions, those that are over included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The program's version, 32 bytes at most.
    pub version: String<32>,
    /// Seconds since its start, sleep included.
    pub uptime_s: u64,
    /// Memory in use, in bytes.
    pub resident_bytes: u64,
    /// Control channels that came up at its relays.
    pub control_channels: u64,
    /// Sessions there are.
    pub sessions: u64,
    /// Links that came up.
    pub links: u64,
    /// Of them, those on which the streams of before went on.
    pub resumes: u64,
    /// Streams open.
    pub streams: u64,
    /// Streams opened.
    pub streams_opened: u64,
    /// Payload to gateways, in bytes.
    pub bytes_sent: u64,
    /// Payload from gateways, in bytes.
    pub bytes_received: u64,
    /// Records sent again on a new link, in bytes.
    pub bytes_resent: u64,
    /// Times that a stream had used up its credit and waited.
    pub credit_stalls: u64,
    /// Streams that ended by a reset, from either side.
    pub resets: Resets,
}

impl Report {
    /// Writes the report to the front of `out`.
    pub fn encode<'o>(&self, out: &'o mut [u8; MAX_REPORT]) -> &'o [u8] {
        let mut at = 0;
        put(out, &mut at, self.version.as_str());
        let mut figures = self.clone();
        put(out, &mut at, &u16::try_from(FIGURES).unwrap_or(0));
        for figure in figures.figures() {
            put(out, &mut at, figure);
        }
        put(out, &mut at, &u16::try_from(ResetReason::ALL.len()).unwrap_or(0));
        for (_, count) in self.resets.iter().take(ResetReason::ALL.len()) {
            put(out, &mut at, &count);
        }
        out.get(..at).unwrap_or_default()
    }

    /// Reads a report; `None` if it is none, or its version is longer than 32 bytes.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut report = Self { version: String::try_from(take::<&str>(&mut bytes)?).ok()?, ..Self::default() };
        {
            let mut places = report.figures().into_iter();
            for _ in 0..take::<u16>(&mut bytes)? {
                let figure = take(&mut bytes)?;
                if let Some(place) = places.next() {
                    *place = figure;
                }
            }
        }
        for number in 0..take::<u16>(&mut bytes)? {
            let reason = ResetReason(u8::try_from(number).unwrap_or(u8::MAX));
            report.resets.note(reason, take(&mut bytes)?);
        }
        Some(report)
    }

    /// In the order in which they are written.
    fn figures(&mut self) -> [&mut u64; FIGURES] {
        [
            &mut self.uptime_s,
            &mut self.resident_bytes,
            &mut self.control_channels,
            &mut self.sessions,
            &mut self.links,
            &mut self.resumes,
            &mut self.streams,
            &mut self.streams_opened,
            &mut self.bytes_sent,
            &mut self.bytes_received,
            &mut self.bytes_resent,
            &mut self.credit_stalls,
        ]
    }
}

/// The longest report: a text of 32 bytes, all numbers as long as they can be.
const _: () =
    assert!(1 + 32 + 3 + FIGURES * 10 + 3 + ResetReason::ALL.len() * 10 <= MAX_REPORT, "no room for a report");

fn put<T: Serialize + ?Sized>(out: &mut [u8], at: &mut usize, value: &T) {
    let written = postcard::to_slice(value, out.get_mut(*at..).unwrap_or_default()).map(|written| written.len());
    debug_assert!(written.is_ok(), "a report of more than {MAX_REPORT} bytes");
    *at += written.unwrap_or(0);
}

fn take<'b, T: Deserialize<'b>>(bytes: &mut &'b [u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report { version: "1.2.3".try_into().unwrap(), ..Report::default() };
        for (number, figure) in (1..).zip(report.figures()) {
            *figure = number;
        }
        report.uptime_s = 300;
        report.resets.note(ResetReason::ABORTED, 7);
        report.resets.note(ResetReason::WRONG_MODE, 1);
        report
    }

    /// As docs/protocol.md shows it.
    const SHOWN: &[u8] =
        b"\x051.2.3\x0c\xac\x02\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0b\x07\0\0\0\0\0\0\0\0\0\x01";

    #[test]
    fn a_report_is_these_bytes() {
        assert_eq!(report().encode(&mut [0; MAX_REPORT]), SHOWN);
        assert_eq!(Report::decode(SHOWN), Some(report()));
    }

    #[test]
    fn the_longest_report_comes_back() {
        let mut longest = Report { version: "x".repeat(32).as_str().try_into().unwrap(), ..Report::default() };
        longest.figures().into_iter().for_each(|figure| *figure = u64::MAX);
        for reason in ResetReason::ALL {
            longest.resets.note(*reason, u64::MAX);
        }
        assert_eq!(Report::decode(longest.encode(&mut [0; MAX_REPORT])), Some(longest));
    }

    #[test]
    fn older_and_newer_reports_are_read() {
        // two figures and one reason, all that there were
        let older = Report::decode(b"\x03old\x02\x09\x08\x01\x05").unwrap();
        assert_eq!((older.uptime_s, older.resident_bytes, older.sessions, older.resets.total()), (9, 8, 0, 5));
        // two figures more, two reasons more, and something behind it
        let mut newer = SHOWN[..6].to_vec();
        newer.push(14);
        newer.extend(&SHOWN[7..20]);
        newer.extend([99, 98, 13]);
        newer.extend(&SHOWN[21..]);
        newer.extend([3, 4, 1, 2, 3]);
        let read = Report::decode(&newer).unwrap();
        assert_eq!((read.uptime_s, read.credit_stalls, read.resets.total()), (300, 12, 8 + 7));
        assert_eq!(read.resets.iter().last(), Some((ResetReason(u8::MAX), 7)), "unknown reasons are counted together");
    }

    #[test]
    fn what_is_cut_or_too_long_is_none() {
        for length in 0..SHOWN.len() {
            assert_eq!(Report::decode(&SHOWN[..length]), None, "{length} bytes");
        }
        let mut long = vec![33];
        long.extend([b'x'; 33]);
        long.extend([0, 0]);
        assert_eq!(Report::decode(&long), None);
        assert_eq!(Report::decode(b"\0\xff\xff\x03\x01"), None, "a length without so many figures");
    }
}
