//! Which of many sources woke the one task that serves them all.
//!
//! A driver serves a link and every port of a session in one task. Each source gets a waker of its own, which notes the
//! source's number and wakes the task; the task then touches only sources that have something to say. Without this,
//! every wake-up would cost a system call per open port.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use atomic_waker::AtomicWaker;

/// Numbers in a word: as many as every processor can change at once.
const BITS: usize = usize::BITS as usize;

/// The numbers that were woken since they were last taken.
#[derive(Debug)]
pub(crate) struct ReadySet {
    words: Box<[AtomicUsize]>,
    task: AtomicWaker,
}

struct Source {
    set: Arc<ReadySet>,
    number: usize,
}

impl ReadySet {
    /// A set for the numbers 0 to `numbers` - 1.
    pub(crate) fn new(numbers: usize) -> Arc<Self> {
        let words = (0..numbers.div_ceil(BITS)).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { words, task: AtomicWaker::new() })
    }

    /// A waker that notes `number`.
    pub(crate) fn waker(self: &Arc<Self>, number: usize) -> Waker {
        Waker::from(Arc::new(Source { set: Arc::clone(self), number }))
    }

    /// Who is to be woken from now on. Call before [`take`](Self::take), so that nothing is missed.
    pub(crate) fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Notes `number` without waking: the task that runs will see it.
    pub(crate) fn note(&self, number: usize) {
        if let Some(word) = self.words.get(number / BITS) {
            word.fetch_or(1 << (number % BITS), Ordering::AcqRel);
        }
    }

    /// Takes the numbers noted so far, a word at a time: `word` from 0 to [`words`](Self::words) - 1.
    pub(crate) fn take(&self, word: usize) -> impl Iterator<Item = usize> + use<> {
        let bits = match self.words.get(word) {
            // A plain look first: most words are empty most of the time, and a swap takes the cache line.
            Some(bits) if bits.load(Ordering::Acquire) != 0 => bits.swap(0, Ordering::AcqRel),
            _ => 0,
        };
        Bits(bits).map(move |bit| word * BITS + bit)
    }

    /// Number of words to take.
    pub(crate) fn words(&self) -> usize {
        self.words.len()
    }
}

impl Wake for Source {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.set.note(self.number);
        self.set.task.wake();
    }
}

/// The positions of the bits that are set, lowest first.
struct Bits(usize);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let bit = self.0.trailing_zeros() as usize;
        if bit == BITS {
            return None;
        }
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_notes_its_number_until_it_is_taken() {
        let set = ReadySet::new(200);
        for number in [0, 63, 64, 199] {
            set.waker(number).wake();
        }
        let taken: Vec<usize> = (0..set.words()).flat_map(|word| set.take(word)).collect();
        assert_eq!(taken, [0, 63, 64, 199]);
        assert_eq!((0..set.words()).flat_map(|word| set.take(word)).count(), 0);
    }
}
