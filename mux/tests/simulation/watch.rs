//! Whether everything that can move does: what deadlock and starvation look like from outside.
//!
//! A stream can move if one of its ports has bytes, an end or a failure to give and the other has room, if bytes are on
//! their way to a port with room, or if only one side knows it. While a link works it then has to, within [`PATIENCE_US`].

use std::collections::{BTreeMap, BTreeSet};

use umbilical_mux::{End, Mode};

use crate::support::invariant::Invariant;
use crate::support::pair::Pair;
use crate::support::ports::{Port, Then};

/// The slowest link needs 3 s for the longest ring, and a stream shares it with 39 others.
const PATIENCE_US: u64 = 20_000_000;

/// How often it looks, in microseconds of virtual time.
const EVERY_US: u64 = 20_000;

/// What of a stream changes when it moves, on both sides.
type Marks = [Option<(u64, u64, usize, bool)>; 2];

#[derive(Default)]
pub struct Watch {
    looked_at: u64,
    /// The link in use, and since when it works.
    link: Option<(u32, u64)>,
    streams: BTreeMap<u64, (Marks, u64)>,
    /// When anything moved.
    moved_at: u64,
}

impl Watch {
    /// Looks, unless it just has.
    pub fn look(&mut self, pair: &Pair) {
        if pair.now_us() >= self.looked_at + EVERY_US {
            self.look_now(pair);
        }
    }

    /// Looks: to be called before anything is changed from outside.
    pub fn look_now(&mut self, pair: &Pair) {
        let now = pair.now_us();
        self.looked_at = now;
        let working = pair.common_link().filter(|link| link.works(now) && pair.dialled().is_none());
        self.link = working.map(|link| match self.link {
            Some((number, since)) if number == link.number => (number, since),
            _ => (link.number, now),
        });
        let keys: BTreeSet<u64> = pair.near.ports.keys().into_iter().chain(pair.far.ports.keys()).collect();
        self.streams.retain(|key, _| keys.contains(key));
        for key in &keys {
            let marks = [&pair.near, &pair.far].map(|host| host.ports.find_open(*key).map(mark));
            let (before, since) = self.streams.entry(*key).or_insert((marks, now));
            if *before != marks {
                self.moved_at = now;
            }
            if *before != marks || !can_move(pair, *key) {
                (*before, *since) = (marks, now);
            }
        }
        let Some((_, working_since)) = self.link else { return };
        let stuck = self.streams.iter().find(|(_, (_, since))| now - working_since.max(*since) > PATIENCE_US);
        if let Some((key, (marks, _))) = stuck {
            let alone = now - self.moved_at < PATIENCE_US;
            let broken = if alone { Invariant::Fairness } else { Invariant::Progress };
            broken.require(false, || format!("stream {key} could move and did not for 20 s: {marks:?}"));
        }
    }
}

fn mark(port: &Port) -> (u64, u64, usize, bool) {
    (port.said, port.got, port.letters_out.len(), port.finished)
}

fn can_move(pair: &Pair, key: u64) -> bool {
    let [near, far] = [&pair.near.ports, &pair.far.ports];
    match (near.find_open(key), far.find_open(key)) {
        (Some(near), Some(far)) => gives(near, far) || gives(far, near),
        // An Open, an end or a reset is on its way. A stream that ended in order may still wait for the other's port.
        (Some(port), None) => port.room > 0 || far.end(key) != Some(End::Closed),
        (None, Some(port)) => port.room > 0 || near.end(key) != Some(End::Closed),
        (None, None) => false,
    }
}

fn gives(from: &Port, to: &Port) -> bool {
    let is_all_said = from.over || from.to_say == 0 && from.letters_out.is_empty();
    match from.mode {
        // A datagram that found no room is gone.
        Mode::Datagram => !is_all_said || from.then != Then::Wait && !to.finished,
        Mode::Stream if to.room == 0 => false,
        Mode::Stream => !is_all_said || from.said > to.got || from.then != Then::Wait && !to.finished,
    }
}
