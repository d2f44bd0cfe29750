//! A third party that would like to be one of the two: it replays what it overheard, guesses, and makes up.
//!
//! It comes to the agent with a link of its own, or answers instead of the agent when the gateway dials. It does not know
//! the session's id, which is what keeps it out; it has a session of its own with the agent, in which it says anything.

use umbilical_mux::{Hello, Instant, MAX_HELLO, ResetReason, SessionId, Shape, Side};

use crate::support::host::Host;
use crate::support::hostile::{AnyBytes, HELLO, random_frame};
use crate::support::invariant::Invariant;
use crate::support::pair::{BACK, Pair, THERE};
use crate::support::random::Random;
use crate::support::storage::{TestSession, session};

#[derive(Clone, Copy, Debug)]
pub enum Intrusion {
    /// A `Hello` that was said before, word for word: to the agent one of the gateway's, to the gateway any.
    Replay { to_agent: bool, pick: u64 },
    /// A `Hello` of another session with good numbers.
    Forge { to_agent: bool, id: u8 },
    /// An answer to the gateway that names another link than the one dialled, older or newer.
    Misnumber { link: u32 },
    /// Bytes that are none, or part of one.
    Garbage { to_agent: bool, seed: u64 },
    /// Frames in the intruder's own session with the agent.
    Babble { seed: u64 },
}

impl Intrusion {
    pub fn random(random: &mut Random) -> Self {
        let to_agent = random.one_in(2);
        match random.below(5) {
            0 => Self::Replay { to_agent, pick: random.next() % 1_000 },
            1 => Self::Forge { to_agent, id: 100 + random.below(100) as u8 },
            2 => Self::Misnumber { link: random.next() as u32 >> random.below(32) },
            3 => Self::Garbage { to_agent, seed: random.next() },
            _ => Self::Babble { seed: random.next() },
        }
    }

    /// The first message it says; `None` if there is nothing to replay yet, or it would be what is expected.
    fn first_message(self, pair: &Pair) -> Option<Vec<u8>> {
        let hello = match self {
            Self::Replay { to_agent, pick } => {
                let ways = if to_agent { THERE..=THERE } else { THERE..=BACK };
                let mut heard: Vec<Hello> = pair.heard[ways].concat();
                heard.retain(|hello| to_agent || Some(hello.link) != pair.dialled());
                *heard.get((pick as usize).checked_rem(heard.len())?)?
            }
            Self::Forge { to_agent, id } => {
                let host = if to_agent { &pair.far } else { &pair.near };
                Hello { session: SessionId([id; 16]), link: host.session.link_number() + 1, ..HELLO }
            }
            Self::Misnumber { link } if Some(link) == pair.dialled() => return None,
            Self::Misnumber { link } => Hello { link, ..HELLO },
            Self::Garbage { seed, .. } => {
                let mut random = Random::new(seed);
                let mut bytes = HELLO.encode(&mut [0; MAX_HELLO]).to_vec();
                if random.one_in(2) {
                    bytes.truncate(random.below(bytes.len() as u64) as usize);
                } else {
                    bytes = (0..random.below(80)).map(|_| random.next() as u8).collect();
                }
                return Some(bytes);
            }
            Self::Babble { .. } => return None,
        };
        Some(hello.encode(&mut [0; MAX_HELLO]).to_vec())
    }
}

/// What of a host a refused `Hello` must leave as it is.
fn state(host: &Host) -> impl PartialEq + use<> {
    let session = &host.session;
    (
        (session.link_number(), session.is_linked(), session.is_established(), session.is_quiet()),
        (session.streams_open(), session.pool_used(), session.counters(), host.ports.open()),
    )
}

/// The intruder's own session with the agent.
pub struct Intruder {
    victim: TestSession,
    ports: AnyBytes,
    links: u32,
}

const VICTIM: Shape = Shape { streams: 8, replay: 32_768, receive: 8_192 };

impl Intruder {
    pub fn new() -> Self {
        Self { victim: session(Side::Agent, VICTIM), ports: AnyBytes::default(), links: 0 }
    }

    pub fn intrude(&mut self, intrusion: Intrusion, pair: &mut Pair) {
        let to_agent = match intrusion {
            Intrusion::Babble { seed } => return self.babble(seed, pair.now()),
            Intrusion::Replay { to_agent, .. }
            | Intrusion::Forge { to_agent, .. }
            | Intrusion::Garbage { to_agent, .. } => to_agent,
            Intrusion::Misnumber { .. } => false,
        };
        if !to_agent && pair.dialled().is_none() {
            return;
        }
        let Some(message) = intrusion.first_message(pair) else { return };
        let now = pair.now();
        if !to_agent {
            pair.hijack_dial();
        }
        let host = if to_agent { &mut pair.far } else { &mut pair.near };
        let before = state(host);
        let taken = Hello::decode(&message).and_then(|hello| host.session.handle_hello(now, &hello, &mut host.ports));
        Invariant::Refusal.require(taken.is_err(), || format!("{intrusion:?} was taken: {taken:?}"));
        Invariant::Refusal.require(before == state(host), || format!("{intrusion:?} changed something"));
    }

    /// Says some frames, until it is thrown out; the next time it comes with a new link.
    fn babble(&mut self, seed: u64, now: Instant) {
        let mut random = Random::new(seed);
        self.links += 1;
        let hello = Hello { link: self.links, resumes: random.below(2) as u32, ..HELLO };
        let Self { victim, ports, .. } = self;
        if victim.handle_hello(now, &hello, ports).is_err() {
            return;
        }
        for _ in 0..random.below(30) {
            let message = random_frame(&mut random);
            if victim.handle_message(now, &message, ports).is_err() {
                victim.abandon(ports, ResetReason::FAILED);
                break;
            }
            std::mem::take(&mut ports.0.readable).into_iter().for_each(|slot| victim.handle_readable(slot));
            while victim.poll_message(now, ports).is_some() {}
            let bounded = victim.streams_open() <= VICTIM.streams && victim.pool_used() as usize <= VICTIM.receive;
            Invariant::Pool.require(bounded, || "a hostile peer's session grew".to_owned());
        }
        victim.handle_link_lost(now);
    }
}
