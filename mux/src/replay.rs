//! The replay ring: every record that was built and is not yet acknowledged, in order, in memory lent by the caller.
//!
//! ```text
//! | length: u16 | sent_at: u32 | record | length | sent_at | record | ...        (little endian)
//! ```
//!
//! A record lies in one piece, so that a socket can be read straight into it and it can go out as it is; what is too
//! short for that at the end of the ring is skipped. An empty ring starts at its front again, so that a quiet session
//! touches little of its memory.

use crate::Instant;

/// Bytes before each record in the ring.
pub(crate) const HEADER: usize = 6;

/// A record's place in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    offset: usize,
    length: usize,
}

impl Place {
    pub(crate) fn length(self) -> usize {
        self.length
    }
}

#[derive(Debug)]
pub(crate) struct Ring<B> {
    bytes: B,
    /// Offset of the oldest record.
    head: usize,
    /// Offset where the next record goes.
    tail: usize,
    /// Once the tail has gone round: where the records of the upper part end.
    wrap: Option<usize>,
    /// Offset of the first record not yet sent on this link.
    next: usize,
    /// Records in the ring; of them, sent on this link.
    stored: u64,
    sent: u64,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ring<B> {
    pub(crate) fn new(bytes: B) -> Self {
        Self { bytes, head: 0, tail: 0, wrap: None, next: 0, stored: 0, sent: 0 }
    }

    /// Exchanges the memory; only an empty ring can change it.
    pub(crate) fn replace(&mut self, bytes: B) -> B {
        debug_assert_eq!(self.stored, 0, "memory of a ring that holds records");
        core::mem::replace(self, Self::new(bytes)).bytes
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.as_ref().len()
    }

    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn clear(&mut self) {
        (self.head, self.tail, self.wrap, self.next, self.stored, self.sent) = (0, 0, None, 0, 0, 0);
    }

    /// Room for one record of up to `most` bytes, if there is room for at least `least`.
    pub(crate) fn reserve(&mut self, least: usize, most: usize) -> Option<&mut [u8]> {
        debug_assert!(least <= most, "least {least} over most {most}");
        let capacity = self.capacity();
        if self.stored == 0 {
            (self.head, self.tail, self.wrap, self.next) = (0, 0, None, 0);
        }
        let mut room = match self.wrap {
            Some(_) => self.head.saturating_sub(self.tail),
            None => capacity - self.tail,
        };
        if self.wrap.is_none() && room < HEADER + least && self.head >= HEADER + least {
            if self.next == self.tail {
                self.next = 0;
            }
            self.wrap = Some(self.tail);
            self.tail = 0;
            room = self.head;
        }
        if room < HEADER + least {
            return None;
        }
        let start = self.tail + HEADER;
        let end = start + most.min(room - HEADER);
        self.bytes.as_mut().get_mut(start..end)
    }

    /// Keeps the first `length` bytes of the room that [`reserve`](Self::reserve) gave as the newest record.
    pub(crate) fn commit(&mut self, length: usize) {
        let at = self.tail;
        self.set_header(at, length, 0);
        self.tail = at + HEADER + length;
        self.stored += 1;
    }

    /// The oldest record not yet sent on this link, stamped as sent now.
    pub(crate) fn send(&mut self, now: Instant) -> Option<Place> {
        if self.sent == self.stored {
            return None;
        }
        let at = self.next;
        let (length, _) = self.header(at);
        self.set_header(at, length, now.stamp());
        self.next = self.following(at + HEADER + length);
        self.sent += 1;
        Some(Place { offset: at + HEADER, length })
    }

    /// The length of the record that [`send`](Self::send) would give.
    pub(crate) fn next_length(&self) -> Option<usize> {
        (self.sent < self.stored).then(|| self.header(self.next).0)
    }

    pub(crate) fn record(&self, place: Place) -> &[u8] {
        self.bytes.as_ref().get(place.offset..place.offset + place.length).unwrap_or_default()
    }

    /// Drops the oldest record: its length, and when it was sent if it was on this link.
    pub(crate) fn pop(&mut self) -> Option<(usize, Option<u32>)> {
        if self.stored == 0 {
            return None;
        }
        let (length, sent_at) = self.header(self.head);
        let end = self.head + HEADER + length;
        if self.wrap == Some(end) {
            self.wrap = None;
            self.head = 0;
        } else {
            self.head = end;
        }
        self.stored -= 1;
        if self.sent == 0 {
            self.next = self.head;
            return Some((length, None));
        }
        self.sent -= 1;
        Some((length, Some(sent_at)))
    }

    /// Begins anew with the oldest record: a new link has sent nothing yet.
    pub(crate) fn rewind(&mut self) {
        self.next = self.head;
        self.sent = 0;
    }

    /// Where the record after one that ends at `end` starts.
    fn following(&self, end: usize) -> usize {
        if self.wrap == Some(end) { 0 } else { end }
    }

    fn header(&self, at: usize) -> (usize, u32) {
        match self.bytes.as_ref().get(at..at + HEADER) {
            Some(&[l0, l1, s0, s1, s2, s3]) => {
                (usize::from(u16::from_le_bytes([l0, l1])), u32::from_le_bytes([s0, s1, s2, s3]))
            }
            _ => (0, 0),
        }
    }

    fn set_header(&mut self, at: usize, length: usize, sent_at: u32) {
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
        if let Some(header) = self.bytes.as_mut().get_mut(at..at + HEADER) {
            let (front, back) = header.split_at_mut(length.len());
            front.copy_from_slice(&length);
            back.copy_from_slice(&sent_at.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Whatever the order of building, sending, dropping and rewinding: records come out as they went in.
        #[test]
        fn records_come_out_as_they_went_in(
            capacity in 60usize..400,
            steps in proptest::collection::vec((0u8..4, 1usize..50, 1usize..50), 1..300),
        ) {
            let mut ring = Ring::new(vec![0u8; capacity]);
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let (mut sent, mut seed) = (0, 0u8);
            for (what, least, extra) in steps {
                match what {
                    0 => if let Some(room) = ring.reserve(least, least + extra) {
                        prop_assert!(room.len() >= least && room.len() <= least + extra);
                        seed = seed.wrapping_add(1);
                        room.fill(seed);
                        let length = room.len();
                        ring.commit(length);
                        model.push_back(vec![seed; length]);
                    } else {
                        prop_assert!(!model.is_empty() || capacity < HEADER + least, "an empty ring has room");
                    },
                    1 => {
                        let place = ring.send(Instant::from_micros(7));
                        prop_assert_eq!(place.map(|place| ring.record(place).to_vec()), model.get(sent).cloned());
                        sent += usize::from(place.is_some());
                    }
                    2 => {
                        let popped = ring.pop();
                        prop_assert_eq!(popped.map(|(length, _)| length), model.pop_front().map(|record| record.len()));
                        prop_assert_eq!(popped.and_then(|(_, at)| at), (sent > 0).then_some(7));
                        sent = sent.saturating_sub(1);
                    }
                    _ => { ring.rewind(); sent = 0; }
                }
                prop_assert_eq!(ring.stored(), model.len() as u64);
            }
            ring.rewind();
            for record in model {
                let place = ring.send(Instant::default()).expect("stored");
                prop_assert_eq!(ring.record(place), &record[..]);
            }
        }
    }
}
