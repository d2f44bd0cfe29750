//! The receive pool: bytes that a port did not take at once, as one queue per stream, in memory lent by the caller.
//!
//! The memory is cut into blocks of [`BLOCK`] bytes, each with the number of the next one in front:
//!
//! ```text
//! | next: u16 | 254 bytes |
//! ```
//!
//! A queue wastes less than a block at its front and less than one at its end, so memory for `credit` bytes spread
//! over `streams` queues is at most `credit / 254 + 2 x streams` blocks; [`memory_for`] says so in bytes, and with that
//! [`store`](Pool::store) cannot fail as long as senders keep to their credit.

use heapless::Vec;

/// Bytes of a block with its link.
pub(crate) const BLOCK: usize = 256;
const LINK: usize = 2;
const PAYLOAD: usize = BLOCK - LINK;
const NONE: u16 = u16::MAX;

/// Pieces that [`Pool::front`] gives at once.
pub(crate) const PIECES: usize = 32;

/// Bytes of memory that a pool needs to back `credit` bytes granted in all to at most `streams` streams.
#[must_use]
pub const fn memory_for(credit: usize, streams: usize) -> usize {
    (credit.div_ceil(PAYLOAD) + 2 * streams) * BLOCK
}

/// Bytes of credit that `memory` bytes can back for `streams` streams.
pub(crate) const fn credit_for(memory: usize, streams: usize) -> usize {
    let blocks = memory / BLOCK;
    let blocks = if blocks > NONE as usize { NONE as usize } else { blocks };
    blocks.saturating_sub(2 * streams) * PAYLOAD
}

/// One stream's queue of bytes in the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    first: u16,
    last: u16,
    /// Offset of the first byte in the first block, of the end in the last one; without the link.
    start: u8,
    end: u8,
    bytes: u32,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self { first: NONE, last: NONE, start: 0, end: 0, bytes: 0 };

    pub(crate) const fn len(&self) -> u32 {
        self.bytes
    }
}

#[derive(Debug)]
pub(crate) struct Pool<B> {
    bytes: B,
    /// First block of the list of free ones; blocks from `fresh` on were never used.
    free: u16,
    fresh: u16,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Pool<B> {
    pub(crate) fn new(bytes: B) -> Self {
        Self { bytes, free: NONE, fresh: 0 }
    }

    /// Exchanges the memory; no queue may hold a byte.
    pub(crate) fn replace(&mut self, bytes: B) -> B {
        core::mem::replace(self, Self::new(bytes)).bytes
    }

    pub(crate) fn memory(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// Appends `data` to `queue`; gives the bytes that found room, all of them if credit was kept.
    pub(crate) fn store(&mut self, queue: &mut Queue, mut data: &[u8]) -> usize {
        let offered = data.len();
        while !data.is_empty() {
            if queue.last == NONE || usize::from(queue.end) == PAYLOAD {
                let Some(block) = self.take_block() else { break };
                if queue.last == NONE {
                    (queue.first, queue.start) = (block, 0);
                } else {
                    self.set_next(queue.last, block);
                }
                (queue.last, queue.end) = (block, 0);
            }
            let at = usize::from(queue.last) * BLOCK + LINK + usize::from(queue.end);
            let count = data.len().min(PAYLOAD - usize::from(queue.end));
            let (now, later) = data.split_at(count);
            if let Some(room) = self.bytes.as_mut().get_mut(at..at + count) {
                room.copy_from_slice(now);
            }
            queue.end += u8::try_from(count).unwrap_or(u8::MAX);
            data = later;
        }
        let stored = offered - data.len();
        queue.bytes += u32::try_from(stored).unwrap_or(u32::MAX);
        stored
    }

    /// The front of `queue`, in at most [`PIECES`] pieces.
    pub(crate) fn front(&self, queue: &Queue) -> Vec<&[u8], PIECES> {
        let mut pieces = Vec::new();
        let (mut block, mut start) = (queue.first, usize::from(queue.start));
        while block != NONE {
            let end = if block == queue.last { usize::from(queue.end) } else { PAYLOAD };
            let at = usize::from(block) * BLOCK + LINK;
            let piece = self.bytes.as_ref().get(at + start..at + end).unwrap_or_default();
            if pieces.push(piece).is_err() || block == queue.last {
                break;
            }
            (block, start) = (self.next(block), 0);
        }
        pieces
    }

    /// Drops `count` bytes, at most all, from the front of `queue`.
    pub(crate) fn consume(&mut self, queue: &mut Queue, count: usize) {
        let mut left = count.min(queue.bytes as usize);
        queue.bytes -= u32::try_from(left).unwrap_or(0);
        while queue.first != NONE {
            let end = if queue.first == queue.last { usize::from(queue.end) } else { PAYLOAD };
            let here = end - usize::from(queue.start);
            if left < here {
                queue.start += u8::try_from(left).unwrap_or(0);
                return;
            }
            left -= here;
            let block = queue.first;
            if block == queue.last {
                *queue = Queue { bytes: queue.bytes, ..Queue::EMPTY };
            } else {
                (queue.first, queue.start) = (self.next(block), 0);
            }
            self.set_next(block, self.free);
            self.free = block;
        }
    }

    /// Drops all of `queue`.
    pub(crate) fn clear(&mut self, queue: &mut Queue) {
        self.consume(queue, usize::MAX);
    }

    fn take_block(&mut self) -> Option<u16> {
        if self.free != NONE {
            let block = self.free;
            self.free = self.next(block);
            return Some(block);
        }
        let block = self.fresh;
        if block == NONE || (usize::from(block) + 1) * BLOCK > self.memory() {
            return None;
        }
        self.fresh += 1;
        Some(block)
    }

    fn next(&self, block: u16) -> u16 {
        let at = usize::from(block) * BLOCK;
        match self.bytes.as_ref().get(at..at + LINK) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => NONE,
        }
    }

    fn set_next(&mut self, block: u16, next: u16) {
        let at = usize::from(block) * BLOCK;
        if let Some(link) = self.bytes.as_mut().get_mut(at..at + LINK) {
            link.copy_from_slice(&next.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Queues keep their bytes apart and in order, and memory for the credit is always enough.
        #[test]
        fn queues_keep_their_bytes_within_the_memory_for_their_credit(
            steps in proptest::collection::vec((0usize..4, any::<bool>(), 0usize..900), 1..400),
        ) {
            const CREDIT: usize = 2_000;
            let mut pool = Pool::new(vec![0u8; memory_for(CREDIT, 4)]);
            let mut queues = [Queue::EMPTY; 4];
            let mut models: [VecDeque<u8>; 4] = Default::default();
            let mut seed = 0u8;
            for (which, add, count) in steps {
                if add {
                    let used: usize = models.iter().map(VecDeque::len).sum();
                    let data: Vec<u8, 900> = (0..count.min(CREDIT - used)).map(|_| { seed = seed.wrapping_add(1); seed }).collect();
                    prop_assert_eq!(pool.store(&mut queues[which], &data), data.len());
                    models[which].extend(&data);
                } else {
                    let front: std::vec::Vec<u8> = pool.front(&queues[which]).concat();
                    prop_assert!(front.iter().eq(models[which].iter().take(front.len())));
                    prop_assert!(front.len() == models[which].len() || front.len() >= (PIECES - 1) * PAYLOAD);
                    pool.consume(&mut queues[which], count);
                    models[which].drain(..count.min(models[which].len()));
                }
                prop_assert_eq!(queues[which].len() as usize, models[which].len());
            }
        }
    }

    #[test]
    fn a_full_pool_takes_what_fits_and_no_more() {
        let mut pool = Pool::new([0u8; 2 * BLOCK]);
        let mut queue = Queue::EMPTY;
        assert_eq!(pool.store(&mut queue, &[1; 600]), 2 * PAYLOAD);
        pool.consume(&mut queue, PAYLOAD);
        assert_eq!(pool.store(&mut queue, &[2; 600]), PAYLOAD);
    }
}
