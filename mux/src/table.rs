//! The life of one stream, and the table that finds it by its number.
//!
//! Each direction goes `open -> fin -> done` by itself; a stream whose directions are both done, or that is reset,
//! leaves the table. The table is memory lent by the caller: one [`StreamState`] per stream, which carries its own hash
//! chain and list links, so that nothing else grows with the number of streams.

use crate::pool::Queue;
use crate::{Mode, ResetReason, Slot, StreamId};

/// No slot: the end of a list or chain.
pub(crate) const NONE: u16 = u16::MAX;

/// What is known of one stream. Opaque to hosts: they lend an array of these as the table.
#[derive(Clone, Debug)]
pub struct StreamState {
    /// 0 for a stream that is still to be opened, and for a free slot.
    pub(crate) id: StreamId,
    pub(crate) mode: Mode,
    pub(crate) phase: Phase,
    /// Hash table threaded through the slots: head of the chain of this bucket, next in the chain this slot is on.
    bucket: u16,
    chain: u16,
    /// Next in the list of free slots, or of streams with control frames to send.
    pub(crate) next_control: u16,
    /// Next in the list of streams to read from.
    pub(crate) next_ready: u16,
    pub(crate) ready: Ready,
    pub(crate) control: Control,
    pub(crate) reset: ResetReason,
    pub(crate) sending: Sending,
    pub(crate) receiving: Receiving,
}

/// Where a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No stream.
    Free,
    /// Opened here, `Open` not yet written.
    Opening,
    Open,
    /// Over for the host; only `Reset` is still to be written.
    Resetting,
}

/// Whether and how a stream stands in the scheduler's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// In no list: nothing to read, or no credit.
    No,
    /// Has said little lately: goes before the busy ones.
    Sparse,
    /// Takes turns.
    Busy,
}

/// Control frames that a stream has to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) listed: bool,
    pub(crate) credit: bool,
    pub(crate) give_back: bool,
    pub(crate) fin: bool,
}

/// The direction from this side's port to the peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sending {
    /// Bytes the peer is ready to take.
    pub(crate) credit: u32,
    /// Bytes left of the stream's share of a round, and the number of that round; 0 before the first.
    pub(crate) quantum_left: u32,
    pub(crate) round: u16,
    /// The port has, or may have, bytes to read.
    pub(crate) readable: bool,
    /// It had more bytes when the credit ran out: no newcomer when credit comes.
    pub(crate) backlogged: bool,
    /// The port ended; `Fin` is written or noted in `control`.
    pub(crate) ended: bool,
    /// The last record this stream was read into, so that a short read is not tried again in the same one.
    pub(crate) visited: u16,
    /// When bytes were last sent, as a stamp.
    pub(crate) sent_at: u32,
}

/// The direction from the peer to this side's port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiving {
    /// Bytes granted and not yet arrived.
    pub(crate) window: u32,
    /// Bytes arrived that the port did not take yet.
    pub(crate) queue: Queue,
    /// How often its window was doubled (`credit.rs`), and when it was last topped up.
    pub(crate) level: u8,
    pub(crate) granted_at: u32,
    /// The peer's `Fin` arrived; the port was told.
    pub(crate) ended: bool,
    pub(crate) finished: bool,
}

impl Receiving {
    /// Bytes of the pool that this stream may claim.
    pub(crate) const fn held(&self) -> u32 {
        self.window.saturating_add(self.queue.len())
    }
}

impl StreamState {
    /// A slot without a stream: what a table is made of.
    pub const EMPTY: Self = Self {
        id: StreamId(0),
        mode: Mode::Stream,
        phase: Phase::Free,
        bucket: NONE,
        chain: NONE,
        next_control: NONE,
        next_ready: NONE,
        ready: Ready::No,
        control: Control { listed: false, credit: false, give_back: false, fin: false },
        reset: ResetReason::ABORTED,
        sending: Sending {
            credit: 0,
            quantum_left: 0,
            round: 0,
            readable: false,
            backlogged: false,
            ended: false,
            visited: 0,
            sent_at: 0,
        },
        receiving: Receiving { window: 0, queue: Queue::EMPTY, level: 0, granted_at: 0, ended: false, finished: false },
    };

    /// The host still has a port for it.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Open)
    }

    /// Both directions are done and all was delivered.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Open && self.sending.ended && !self.control.fin && self.receiving.finished
    }
}

const _: () = assert!(size_of::<StreamState>() <= 88, "docs/protocol.md promises 88 bytes of table per stream");

#[derive(Debug)]
pub(crate) struct Table<S> {
    slots: S,
    /// Free slots that were used before, as a list through `next_control`; slots from `fresh` on never were.
    free: u16,
    fresh: u16,
    live: u16,
}

impl<S: AsRef<[StreamState]> + AsMut<[StreamState]>> Table<S> {
    pub(crate) fn new(slots: S) -> Self {
        Self { slots, free: NONE, fresh: 0, live: 0 }
    }

    /// Exchanges the memory; no slot may be in use.
    pub(crate) fn replace(&mut self, slots: S) -> S {
        core::mem::replace(self, Self::new(slots)).slots
    }

    pub(crate) fn capacity(&self) -> u16 {
        u16::try_from(self.slots.as_ref().len().min(crate::MAX_STREAMS)).unwrap_or(0)
    }

    /// Streams in the table, those whose `Reset` is still to be written included.
    pub(crate) fn live(&self) -> u16 {
        self.live
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&StreamState> {
        self.slots.as_ref().get(slot.index())
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut StreamState> {
        self.slots.as_mut().get_mut(slot.index())
    }

    /// Every slot that was ever used; some may be free.
    pub(crate) fn used(&self) -> impl Iterator<Item = Slot> + use<S> {
        (0..self.fresh).map(Slot)
    }

    /// A slot for a new stream, reset to [`StreamState::EMPTY`] but for its bucket, in phase `Opening`.
    pub(crate) fn claim(&mut self) -> Option<Slot> {
        let index = if self.free != NONE {
            let index = self.free;
            self.free = self.get(Slot(index))?.next_control;
            index
        } else if self.fresh < self.capacity() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        let slot = Slot(index);
        let state = self.get_mut(slot)?;
        *state = StreamState { bucket: state.bucket, phase: Phase::Opening, ..StreamState::EMPTY };
        self.live += 1;
        Some(slot)
    }

    /// Gives `slot` the number `id`, under which [`find`](Self::find) knows it.
    pub(crate) fn index(&mut self, slot: Slot, id: StreamId) {
        let Some(bucket) = self.bucket(id) else { return };
        let Some(first) = self.get_mut(bucket).map(|head| core::mem::replace(&mut head.bucket, slot.0)) else { return };
        if let Some(state) = self.get_mut(slot) {
            (state.id, state.chain) = (id, first);
        }
    }

    pub(crate) fn find(&self, id: StreamId) -> Option<Slot> {
        let mut next = self.get(self.bucket(id)?)?.bucket;
        while next != NONE {
            let state = self.get(Slot(next))?;
            if state.id == id {
                return Some(Slot(next));
            }
            next = state.chain;
        }
        None
    }

    /// Gives the slot back. It must be in no list any more and its queue empty.
    pub(crate) fn free(&mut self, slot: Slot) {
        self.unindex(slot);
        let free = self.free;
        if let Some(state) = self.get_mut(slot) {
            *state = StreamState { bucket: state.bucket, next_control: free, ..StreamState::EMPTY };
            self.free = slot.0;
            self.live -= 1;
        }
    }

    fn unindex(&mut self, slot: Slot) {
        let Some((id, after)) = self.get(slot).map(|state| (state.id, state.chain)) else { return };
        let Some(bucket) = self.bucket(id).filter(|_| id.0 != 0) else { return };
        let Some(head) = self.get_mut(bucket) else { return };
        if head.bucket == slot.0 {
            head.bucket = after;
            return;
        }
        let mut at = head.bucket;
        while at != NONE {
            let Some(state) = self.get_mut(Slot(at)) else { return };
            if state.chain == slot.0 {
                state.chain = after;
                return;
            }
            at = state.chain;
        }
    }

    /// The slot whose `bucket` heads the chain of `id`. Numbers are sequential, so their low bits spread perfectly.
    fn bucket(&self, id: StreamId) -> Option<Slot> {
        let index = (id.0 / 2).checked_rem(u32::from(self.capacity()))?;
        u16::try_from(index).ok().map(Slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn the_table_finds_what_was_put_in(steps in proptest::collection::vec((any::<bool>(), 0u32..40), 1..400)) {
            let mut table = Table::new(vec![StreamState::EMPTY; 7]);
            let mut model = BTreeMap::new();
            for (add, number) in steps {
                let id = StreamId(number + 1);
                if add {
                    if model.contains_key(&id.0) { continue }
                    match table.claim() {
                        Some(slot) => { table.index(slot, id); model.insert(id.0, slot); }
                        None => prop_assert_eq!(model.len(), 7),
                    }
                } else if let Some(slot) = model.remove(&id.0) {
                    table.free(slot);
                }
                for number in 1..42 {
                    prop_assert_eq!(table.find(StreamId(number)), model.get(&number).copied());
                }
                prop_assert_eq!(usize::from(table.live()), model.len());
            }
        }
    }
}
