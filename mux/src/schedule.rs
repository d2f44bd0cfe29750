//! Who is read next: streams with control frames first, then sparse streams, then the busy ones in turns.
//!
//! A stream that becomes readable while it was silent is *sparse* and goes first; one that uses its quantum up joins the
//! *busy* ones, which take turns by deficit round robin (Shreedhar and Varghese, 1995; the two lists are FQ-CoDel's,
//! RFC 8290, section 4.2). A *round* is one turn of each busy stream, and each stream, sparse or busy, gets one quantum
//! in it: so nobody starves behind streams that keep falling silent for a moment. The lists are threaded through the
//! stream table; each stream is in at most one of `sparse` and `busy`, and in `control` or not.

use crate::Slot;
use crate::table::{NONE, Ready, Sending, StreamState, Table};

#[derive(Clone, Copy, Debug)]
struct List {
    first: u16,
    last: u16,
}

const EMPTY: List = List { first: NONE, last: NONE };

/// Which of its two links a list is threaded through.
type Link = fn(&mut StreamState) -> &mut u16;

impl List {
    fn push_back<S>(&mut self, table: &mut Table<S>, slot: Slot, link: Link)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        if let Some(state) = table.get_mut(slot) {
            *link(state) = NONE;
        }
        match table.get_mut(Slot(self.last)) {
            Some(last) => *link(last) = slot.0,
            None => self.first = slot.0,
        }
        self.last = slot.0;
    }

    fn push_front<S>(&mut self, table: &mut Table<S>, slot: Slot, link: Link)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        if let Some(state) = table.get_mut(slot) {
            *link(state) = self.first;
        }
        self.first = slot.0;
        if self.last == NONE {
            self.last = slot.0;
        }
    }

    fn pop_front<S>(&mut self, table: &mut Table<S>, link: Link) -> Option<Slot>
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let slot = Slot(self.first);
        self.first = *link(table.get_mut(slot)?);
        if self.first == NONE {
            self.last = NONE;
        }
        Some(slot)
    }

    /// Takes `slot` out, wherever it is: a walk along the list, for streams that end while they are in it.
    fn remove<S>(&mut self, table: &mut Table<S>, slot: Slot, link: Link)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let Some(after) = table.get_mut(slot).map(|state| *link(state)) else { return };
        if self.first == slot.0 {
            self.first = after;
            if after == NONE {
                self.last = NONE;
            }
            return;
        }
        let mut at = self.first;
        while let Some(state) = table.get_mut(Slot(at)) {
            let next = link(state);
            if *next == slot.0 {
                *next = after;
                if self.last == slot.0 {
                    self.last = at;
                }
                return;
            }
            at = *next;
        }
    }
}

fn by_control(state: &mut StreamState) -> &mut u16 {
    &mut state.next_control
}

fn by_ready(state: &mut StreamState) -> &mut u16 {
    &mut state.next_ready
}

#[derive(Debug)]
pub(crate) struct Schedule {
    control: List,
    sparse: List,
    busy: List,
    /// Counts rounds from 1. Busy streams whose turn in this one is over wait with the number of the next.
    round: u16,
}

/// The round after `round`; never 0, which stands for none.
fn following(round: u16) -> u16 {
    round.checked_add(1).unwrap_or(1)
}

/// A quantum of which less than this is left, in bytes, is used up.
const SPENT: u32 = 64;

impl Schedule {
    pub(crate) const fn new() -> Self {
        Self { control: EMPTY, sparse: EMPTY, busy: EMPTY, round: 1 }
    }

    /// Whether a stream has had its quantum in this round.
    pub(crate) fn is_spent(&self, sending: &Sending) -> bool {
        sending.round == self.round && sending.quantum_left < SPENT
    }

    /// `slot` has a control frame to send.
    pub(crate) fn add_control<S>(&mut self, table: &mut Table<S>, slot: Slot)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        if let Some(state) = table.get_mut(slot)
            && !state.control.listed
        {
            state.control.listed = true;
            self.control.push_back(table, slot, by_control);
        }
    }

    pub(crate) fn has_control(&self) -> bool {
        self.control.first != NONE
    }

    /// The next stream with control frames; it is out of the list.
    pub(crate) fn next_control<S>(&mut self, table: &mut Table<S>) -> Option<Slot>
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let slot = self.control.pop_front(table, by_control)?;
        table.get_mut(slot)?.control.listed = false;
        Some(slot)
    }

    /// `slot` stays the next: its frames found no room.
    pub(crate) fn put_back_control<S>(&mut self, table: &mut Table<S>, slot: Slot)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        if let Some(state) = table.get_mut(slot) {
            state.control.listed = true;
            self.control.push_front(table, slot, by_control);
        }
    }

    /// `slot` can be read from: at the end of the sparse or the busy ones.
    pub(crate) fn add<S>(&mut self, table: &mut Table<S>, slot: Slot, ready: Ready)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let list = match ready {
            Ready::No => return,
            Ready::Sparse => &mut self.sparse,
            Ready::Busy => &mut self.busy,
        };
        if let Some(state) = table.get_mut(slot)
            && state.ready == Ready::No
        {
            state.ready = ready;
            if ready == Ready::Busy {
                (state.sending.round, state.sending.quantum_left) = (following(self.round), 0);
            }
            list.push_back(table, slot, by_ready);
        }
    }

    /// `slot` is the next one again: its turn is not over.
    pub(crate) fn put_back<S>(&mut self, table: &mut Table<S>, slot: Slot, ready: Ready)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let list = match ready {
            Ready::No => return,
            Ready::Sparse => &mut self.sparse,
            Ready::Busy => &mut self.busy,
        };
        if let Some(state) = table.get_mut(slot) {
            state.ready = ready;
            list.push_front(table, slot, by_ready);
        }
    }

    /// Whether a sparse stream waits; whether any does.
    pub(crate) fn has_sparse(&self) -> bool {
        self.sparse.first != NONE
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.has_sparse() || self.busy.first != NONE
    }

    /// The stream that [`next`](Self::next) would give.
    pub(crate) fn peek(&self) -> Option<Slot> {
        let first = if self.has_sparse() { self.sparse.first } else { self.busy.first };
        (first != NONE).then_some(Slot(first))
    }

    /// The next stream to read from, and which list it was in; it is out of it. A stream that had nothing in this round
    /// yet is given `quantum` bytes.
    pub(crate) fn next<S>(&mut self, table: &mut Table<S>, quantum: u32) -> Option<(Slot, Ready)>
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let slot = match self.sparse.pop_front(table, by_ready) {
            Some(slot) => slot,
            None => self.busy.pop_front(table, by_ready)?,
        };
        let state = table.get_mut(slot)?;
        let was = core::mem::replace(&mut state.ready, Ready::No);
        let sending = &mut state.sending;
        if was == Ready::Busy {
            self.round = sending.round;
        }
        if sending.round != self.round || sending.quantum_left == 0 {
            (sending.round, sending.quantum_left) = (self.round, quantum);
        }
        Some((slot, was))
    }

    /// Takes `slot` out of all lists.
    pub(crate) fn remove<S>(&mut self, table: &mut Table<S>, slot: Slot)
    where
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let Some(state) = table.get_mut(slot) else { return };
        let (listed, ready) = (core::mem::take(&mut state.control.listed), state.ready);
        state.ready = Ready::No;
        if listed {
            self.control.remove(table, slot, by_control);
        }
        match ready {
            Ready::No => {}
            Ready::Sparse => self.sparse.remove(table, slot, by_ready),
            Ready::Busy => self.busy.remove(table, slot, by_ready),
        }
    }
}
