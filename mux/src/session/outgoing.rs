//! The next message: a record from the ring or a new one, the acknowledgement that travels with it, and when the peer's
//! is asked for.

use heapless::Vec;

use super::{Asked, Session};
use crate::frame::{Frame, MAX_HEAD};
use crate::limits::{LAZY_ACK_MS, MAX_PREFIX};
use crate::replay::Place;
use crate::send::{Room, Turn};
use crate::table::StreamState;
use crate::{Instant, MIN_RECORD, Ports};

/// A message for the link: prefix, then record, sent as one.
#[derive(Debug)]
pub struct Message<'a> {
    /// `Ack` and `Solicit`, made anew each time.
    pub prefix: Vec<u8, MAX_PREFIX>,
    /// Numbered frames as they lie in the replay ring; empty for a message that only acknowledges.
    pub record: &'a [u8],
}

/// What there is to send.
enum Next {
    Record(Place),
    /// Something, but it has to wait for acknowledgements.
    Held,
    Nothing,
}

impl<B, S> Session<B, S>
where
    B: AsRef<[u8]> + AsMut<[u8]>,
    S: AsRef<[StreamState]> + AsMut<[StreamState]>,
{
    /// The next message for the link, if there is one. Ask when the link can take it, and again until there is none;
    /// after that, once anything was handed in or the [next timeout](Self::next_timeout) has come.
    pub fn poll_message(&mut self, now: Instant, ports: &mut impl Ports) -> Option<Message<'_>> {
        if !self.link.up {
            return None;
        }
        let next = self.next_record(now, ports);
        let sends = matches!(next, Next::Record(_));
        let solicit = self.solicit(&next);
        let mut prefix = Vec::new();
        if self.ack.owed && (sends || self.ack.due.is_some_and(|at| at <= now)) {
            append(&mut prefix, self.acknowledgement(now));
            (self.ack.owed, self.ack.due) = (false, None);
        }
        if let Some(within_ms) = solicit {
            append(&mut prefix, Frame::Solicit { within_ms });
        }
        match next {
            Next::Record(place) => Some(Message { prefix, record: self.ring.record(place) }),
            Next::Held | Next::Nothing => (!prefix.is_empty()).then_some(Message { prefix, record: &[] }),
        }
    }

    /// The record to send now: the next one in the ring on this link, or a new one.
    fn next_record(&mut self, now: Instant, ports: &mut impl Ports) -> Next {
        if let Some(length) = self.ring.next_length() {
            // What is sent again waits for its turn; a little may go at once, as it may in `build`.
            if self.inflight.in_flight() > 0 && !self.inflight.allows(length < MAX_HEAD) {
                self.inflight.note_limited();
                return Next::Held;
            }
            self.streams.counters.bytes_resent += length as u64;
        } else if let Err(next) = self.build(now, ports) {
            return next;
        }
        let Some(place) = self.ring.send(now) else { return Next::Nothing };
        let length = place.length();
        self.inflight.on_sent(now, self.acked + self.ring.sent(), length);
        self.unsolicited = self.unsolicited.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
        self.streams.counters.records_sent += 1;
        Next::Record(place)
    }

    /// Builds a record in the ring, or says why there is none.
    fn build(&mut self, now: Instant, ports: &mut impl Ports) -> Result<(), Next> {
        let urgent = self.streams.has_urgent();
        if !urgent && !self.streams.has_ready() {
            return Err(Next::Nothing);
        }
        let bulk = self.inflight.allows(false);
        if !bulk {
            self.inflight.note_limited();
            if !urgent || !self.inflight.allows(true) {
                return Err(Next::Held);
            }
        }
        let size = self.inflight.record_size(self.prefix_length(now)).min(self.longest_record());
        // Ports that had nothing to say after all may leave one in front that needs another room.
        for _ in 0..2 {
            // A datagram needs room for the longest there is; where that is not to be had, control frames go without it.
            let whole = self.streams.next_is_datagram() && self.ring.reserve(MIN_RECORD, MIN_RECORD).is_some();
            let (least, most) =
                if whole { (MIN_RECORD, MIN_RECORD) } else { (size.min(2 * MAX_HEAD + size / 4), size) };
            let Some(room) = self.ring.reserve(least, most) else {
                self.inflight.note_limited();
                break;
            };
            let round_trip = self.inflight.round_trip().map_or(0, |(_, smoothed)| smoothed);
            let turn = Turn { now, round_trip, quantum: u32::try_from(size).unwrap_or(u32::MAX), bulk };
            let mut room = Room::new(room);
            self.streams.fill(turn, &mut room, ports);
            match room.used() {
                0 if !self.streams.has_ready() => return Err(Next::Nothing),
                0 => {}
                length => {
                    self.ring.commit(length);
                    return Ok(());
                }
            }
        }
        // What waits for nothing would wait for ever; without memory it waits for that.
        let waits = self.ring.stored() > 0 || self.ring.capacity() == 0;
        debug_assert!(waits, "something to send is held though nothing is unacknowledged");
        Err(Next::Held)
    }

    /// What the peer takes, but no more than a quarter of the ring: one record is filled while others are on their way.
    fn longest_record(&self) -> usize {
        self.streams.peer.record.min(self.ring.capacity() / 4)
    }

    fn acknowledgement(&self, now: Instant) -> Frame<'static> {
        let held_us = u32::try_from(now.micros_since(self.ack.arrived)).unwrap_or(u32::MAX);
        Frame::Ack { records: self.received, held_us }
    }

    /// Bytes of the prefix that a record would have now; it asks for an acknowledgement at once or lazily.
    fn prefix_length(&self, now: Instant) -> usize {
        let mut prefix = Vec::new();
        append(&mut prefix, Frame::Solicit { within_ms: LAZY_ACK_MS });
        if self.ack.owed {
            append(&mut prefix, self.acknowledgement(now));
        }
        prefix.len()
    }

    /// Whether, and how soon, an acknowledgement is wanted of what was sent: at once each quarter of what may be in
    /// flight and when something has to wait for it; lazily when nothing more is to be said. Every record is covered. At
    /// once also without a record, if the host doubts the link.
    fn solicit(&mut self, next: &Next) -> Option<u16> {
        let asked = match next {
            _ if core::mem::take(&mut self.probe) => Asked::AtOnce,
            Next::Record(_) if self.unsolicited >= self.inflight.solicit_every() => Asked::AtOnce,
            Next::Record(_) if !self.inflight.allows(false) => Asked::AtOnce,
            Next::Record(_) if self.ring.next_length().is_some() || self.streams.has_more() => Asked::Not,
            Next::Record(_) => Asked::Lazily,
            Next::Held if self.asked < Asked::AtOnce => Asked::AtOnce,
            Next::Nothing if self.asked < Asked::Lazily => Asked::Lazily,
            Next::Held | Next::Nothing => return None,
        };
        self.asked = asked;
        match asked {
            Asked::Not => None,
            Asked::Lazily => Some(LAZY_ACK_MS),
            Asked::AtOnce => {
                self.unsolicited = 0;
                Some(0)
            }
        }
    }
}

/// Adds a frame to a prefix, which has room for one of each kind that may be in it.
fn append(prefix: &mut Vec<u8, MAX_PREFIX>, frame: Frame<'_>) {
    let mut bytes = [0; MAX_PREFIX];
    let length = frame.encode(&mut bytes).unwrap_or(0);
    let fits = prefix.extend_from_slice(bytes.get(..length).unwrap_or_default());
    debug_assert!(fits.is_ok(), "a prefix of more than {MAX_PREFIX} bytes");
}
