//! How many bytes may be unacknowledged on the link: enough to keep it busy, too few to fill anybody's queue.
//!
//! What waits in the modem, the relay and the sockets between the ends shall be worth [`QUEUE_US`] of the link and most
//! of a packet, whatever its rate. The rate is never measured by itself: by Little's law a limit `L` that is used up and
//! a round trip `R` say that it is `L / R`, so each round that used its limit up moves it half way towards
//!
//! ```text
//! L x (base + queue) / R + packet
//! ```
//!
//! (the update of FAST TCP, Wei, Jin, Low, Hegde, 2006). `R` is the smallest round trip of the round, which the noise of
//! hosts and radios touches least; what noise is left is added to the queue. `L` is the limit that its records were sent
//! under. A round in which the sender had too little to say, or waited for credit, tells nothing and changes nothing.
//!
//! `base` is the smallest round trip of the last [`BASE_WINDOW_US`]; to find it again under load, and when the link has got
//! twice the room, the limit is lowered for two rounds, and again until what is found stays the same. A new link starts
//! small and grows by half each round until a queue shows, or until acknowledgements come in one unbroken train, whose pace
//! is the link's; so does a link that has become faster. However far the limit rises, what is in flight follows by half of
//! what is acknowledged: a burst would be the queue to be avoided.
//!
//! A queue on the way back counts like one on the way there. To count it for nothing, by the peer's clock in `Ack`, makes
//! two saturated ways hand whole windows to and fro: acknowledgements wait behind the data they travel with.

use crate::{Instant, MIN_RECORD};

/// The queue that is aimed at on a link without noise, in microseconds of its time: the price for using it fully.
const QUEUE_US: u32 = 1_750;

/// The most that noise adds to it.
const MAX_NOISE_US: u32 = 3_000;

/// Round trips this much over the base, or an eighth of it, end the growth at the start.
const STARTUP_QUEUE_US: u32 = 1_750;

/// A train of acknowledgements tells the link's rate once it is this long, and a quarter of a round trip.
const TRAIN_US: u64 = 10_000;

/// A limit that is used up for so many rounds without the queue it allows begins to grow again.
const HUNGRY_ROUNDS: u8 = 3;

/// How long the smallest round trip seen is believed.
const BASE_WINDOW_US: u64 = 10_000_000;

/// Rounds with a lowered limit: the first drains the queue, the second measures without it.
const PROBE_ROUNDS: u8 = 2;

/// The limit is lowered by an eighth of what the link holds, but no more than this much of the link's time: the gap is
/// filled again afterwards. A base that is wrong by more is found in several steps.
const PROBE_US: u64 = 8_000;

/// A round is at least this long, so that its smallest round trip is one of several and not the noise of one.
const MIN_ROUND_US: u64 = 10_000;

/// After this long without anything in flight, what may be starts small again.
const PAUSE_US: u64 = 1_000_000;

/// The limit at the start of a link and after a pause: TCP's own initial window (RFC 6928).
const START: u32 = 14_000;

/// A record is worth this much of the link's time, so that nothing urgent waits long behind one; acknowledgements are
/// asked for as often, so that what they set free is no burst.
const RECORD_US: u64 = 1_000;

/// It has two segments even so if the link carries them in this time: what WebSocket and TLS add is halved.
const PAIR_US: u64 = 3_000;

/// Segment assumed until the host says otherwise, Ethernet less IPv6 and TCP with timestamps, and what a masked WebSocket
/// message in a TLS 1.3 record adds to a message's bytes.
const SEGMENT: u32 = 1_420;
const FRAMING: u32 = 30;

/// The most that is believed, Ethernet's: a host that is near says nothing of the narrow link behind it.
const MAX_SEGMENT: u32 = 1_448;

/// The least that is believed, TCP's own (RFC 9293, section 3.7.1).
const MIN_SEGMENT: u32 = 536;

#[derive(Debug)]
pub(crate) struct Inflight {
    phase: Phase,
    /// Bytes that the link is believed to want in flight, those that may be, those that are.
    limit: u32,
    window: u32,
    bytes: u32,
    /// The limit's upper bound, the ring.
    most: u32,
    segment: u32,
    framing: u32,
    /// Smallest round trip in microseconds, and when it was last seen; a smoothed one, and how far off it samples are.
    base: u32,
    base_at: Instant,
    /// The smallest limit since the base was looked for: a link with twice as much room has another round trip too.
    least_limit: u32,
    smoothed: u32,
    noise: u32,
    round: Round,
    /// What the records that are acknowledged in this round were sent under.
    before: Terms,
    train: Train,
    /// Rounds in a row that used the limit up without its queue.
    hungry: u8,
    /// When the last acknowledgement left nothing in flight.
    quiet_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Growing until the link is full.
    Startup,
    /// Following the link.
    Cruise,
    /// Lowered for this many more rounds, to see the base round trip.
    Probe(u8),
}

#[derive(Clone, Copy, Debug)]
struct Round {
    /// Ends when the record with this number is acknowledged, but not before `not_before`.
    until_record: u64,
    not_before: Instant,
    /// Smallest round trip in it.
    least: u32,
    terms: Terms,
}

/// The window in a round, and whether it kept something back.
#[derive(Clone, Copy, Debug, Default)]
struct Terms {
    window: u32,
    limited: bool,
}

/// Acknowledgements without a gap of a quarter of a round trip between them.
#[derive(Clone, Copy, Debug, Default)]
struct Train {
    first: Instant,
    last: Instant,
    /// Bytes acknowledged since the first one.
    bytes: u32,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// Bytes of the records that arrived.
    pub(crate) bytes: u32,
    /// Microseconds since the last of them was sent, less the time that the peer held the answer back.
    pub(crate) round_trip: u32,
}

impl Inflight {
    pub(crate) fn new(ring: usize) -> Self {
        let most = u32::try_from(ring).unwrap_or(u32::MAX);
        let start = START.min(most);
        Self {
            phase: Phase::Startup,
            limit: start,
            window: start,
            bytes: 0,
            most,
            segment: SEGMENT,
            framing: FRAMING,
            base: u32::MAX,
            base_at: Instant::default(),
            least_limit: u32::MAX,
            smoothed: 0,
            noise: 0,
            round: Round { until_record: 0, not_before: Instant::default(), least: u32::MAX, terms: Terms::default() },
            before: Terms::default(),
            train: Train::default(),
            hungry: 0,
            quiet_since: None,
        }
    }

    /// A new link: nothing is in flight on it and nothing is known of it.
    pub(crate) fn restart(&mut self, now: Instant) {
        let ring = usize::try_from(self.most).unwrap_or(usize::MAX);
        *self = Self { segment: self.segment, framing: self.framing, base_at: now, ..Self::new(ring) };
    }

    /// The link's TCP payload per packet, and what is added to each message, in bytes: messages are made to fill packets.
    pub(crate) fn set_segment(&mut self, payload: u16, framing: u16) {
        self.segment = u32::from(payload).clamp(MIN_SEGMENT, MAX_SEGMENT);
        self.framing = u32::from(framing).min(MIN_SEGMENT / 4);
    }

    /// Whether another record may go out. One that carries only urgent things may go a segment further.
    pub(crate) fn allows(&self, urgent: bool) -> bool {
        let window = if urgent { self.window.saturating_add(self.segment) } else { self.window };
        self.bytes < window
    }

    /// Something had to wait because of the limit.
    pub(crate) fn note_limited(&mut self) {
        self.round.terms.limited = true;
    }

    /// Bytes a record should have: with `prefix` bytes before it about [`RECORD_US`] of the link, in whole segments.
    pub(crate) fn record_size(&self, prefix: usize) -> usize {
        let least = if self.share(self.limit, PAIR_US) < 2 * self.segment { 1 } else { 2 };
        let segments = (self.worth(RECORD_US) / self.segment).max(least);
        let message = segments.saturating_mul(self.segment) - self.framing;
        // While little is known of the link, a long record would be all that may be in flight and more.
        let most = MIN_RECORD.max(usize::try_from(self.window / 8).unwrap_or(usize::MAX));
        usize::try_from(message).unwrap_or(usize::MAX).saturating_sub(prefix).min(most)
    }

    /// After how many bytes an acknowledgement should be asked for.
    pub(crate) fn solicit_every(&self) -> u32 {
        self.worth(RECORD_US).min(self.limit / 4)
    }

    /// A record of `bytes` goes out; `record` is its number.
    pub(crate) fn on_sent(&mut self, now: Instant, record: u64, bytes: usize) {
        if let Some(since) = self.quiet_since.take() {
            let quiet = now.micros_since(since);
            if quiet > PAUSE_US {
                self.window = self.limit.min(START);
            }
            if quiet > MIN_ROUND_US {
                self.begin_round(now, record);
            }
        }
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Records are acknowledged: `acked` is how many have been on this session, `sent` how many were sent.
    pub(crate) fn on_acked(&mut self, now: Instant, arrived: Arrived, acked: u64, sent: u64) {
        self.bytes = self.bytes.saturating_sub(arrived.bytes);
        self.measure(now, arrived.round_trip.max(1));
        if self.phase == Phase::Startup && self.before.limited {
            self.grow(now, arrived.bytes);
        }
        if !matches!(self.phase, Phase::Probe(_)) {
            let far = self.limit.saturating_sub(self.window) > 4 * self.segment;
            self.window =
                self.window.saturating_add(if far { arrived.bytes / 2 } else { arrived.bytes }).min(self.limit);
        }
        if acked >= self.round.until_record && now >= self.round.not_before {
            self.end_round(now);
            self.begin_round(now, sent);
        }
        if self.bytes == 0 {
            self.quiet_since = Some(now);
        }
    }

    fn measure(&mut self, now: Instant, round_trip: u32) {
        if round_trip <= self.base {
            (self.base, self.base_at) = (round_trip, now);
        }
        if self.smoothed == 0 {
            self.smoothed = round_trip;
        }
        self.noise = self.noise - self.noise / 16 + round_trip.abs_diff(self.smoothed).min(4 * MAX_NOISE_US) / 16;
        self.smoothed = self.smoothed - self.smoothed / 8 + round_trip / 8;
        self.round.least = self.round.least.min(round_trip);
    }

    /// Grows by half a byte for each one acknowledged, until acknowledgements without a gap show the link's rate.
    fn grow(&mut self, now: Instant, bytes: u32) {
        self.limit = self.limit.saturating_add(bytes / 2).min(self.most);
        let quarter = u64::from(self.base / 4);
        if now.micros_since(self.train.last) > quarter {
            self.train = Train { first: now, last: now, bytes: 0 };
            return;
        }
        self.train.last = now;
        self.train.bytes = self.train.bytes.saturating_add(bytes);
        let took = now.micros_since(self.train.first);
        if took <= quarter.max(TRAIN_US) {
            return;
        }
        let holds = u64::from(self.train.bytes) * self.aim() / took;
        let goal = u32::try_from(holds).unwrap_or(u32::MAX).saturating_add(self.segment);
        if self.limit >= goal {
            (self.limit, self.phase) = (goal, Phase::Cruise);
        }
    }

    fn begin_round(&mut self, now: Instant, until_record: u64) {
        self.before = self.round.terms;
        let terms = Terms { window: self.window, limited: false };
        self.round = Round { until_record, not_before: now.after_micros(MIN_ROUND_US), least: u32::MAX, terms };
    }

    fn end_round(&mut self, now: Instant) {
        let least = self.round.least;
        match self.phase {
            Phase::Probe(1) => {
                // A base that has moved may still have a queue in it: it is looked for again.
                self.least_limit = if least.abs_diff(self.base) > self.base / 8 { 0 } else { self.limit };
                (self.base, self.base_at, self.phase) = (least, now, Phase::Cruise);
            }
            Phase::Probe(rounds) => self.phase = Phase::Probe(rounds - 1),
            Phase::Startup | Phase::Cruise if !self.before.limited => {}
            Phase::Startup => {
                if least.saturating_sub(self.base) > STARTUP_QUEUE_US.max(self.base / 8) {
                    self.phase = Phase::Cruise;
                    self.follow(least);
                }
            }
            Phase::Cruise => {
                self.follow(least);
                self.least_limit = self.least_limit.min(self.limit);
                if now.micros_since(self.base_at) > BASE_WINDOW_US || self.limit / 2 > self.least_limit {
                    self.probe();
                }
            }
        }
    }

    /// Moves the limit half way to what this round's smallest round trip says it should be.
    fn follow(&mut self, round_trip: u32) {
        let queue = round_trip.saturating_sub(self.base);
        if self.before.window < self.limit && queue <= self.queue() {
            return; // still on the way to the limit
        }
        let goal = u64::from(self.before.window) * self.aim() / u64::from(round_trip) + u64::from(self.segment) * 3 / 4;
        let goal = u32::try_from(goal).unwrap_or(u32::MAX).clamp(self.limit / 3, self.limit.saturating_mul(2));
        self.limit = (self.limit / 2 + goal / 2).clamp(self.segment.min(self.most), self.most);
        self.window = self.window.min(self.limit);
        // With room for a queue but no more of one than a packet is itself, the link takes more than is believed.
        let packet = u64::from(self.segment) * self.aim() / u64::from(self.limit);
        let full = u64::from(queue) >= u64::from(self.queue() * 5 / 8).max(packet);
        self.hungry = if full || self.limit == self.most { 0 } else { self.hungry + 1 };
        if self.hungry == HUNGRY_ROUNDS {
            (self.hungry, self.phase, self.train) = (0, Phase::Startup, Train::default());
        }
    }

    /// Lowers what may be in flight, so that round trips show what they are without a queue.
    fn probe(&mut self) {
        let holds = self.worth(u64::from(self.base));
        let queue = self.worth(u64::from(self.queue())).saturating_add(self.segment);
        self.window = holds.saturating_sub(queue.max(self.worth(PROBE_US).min(holds / 8))).max(1);
        self.phase = Phase::Probe(PROBE_ROUNDS);
    }

    /// Bytes that the link carries in `micros`, as far as the limit says, less a packet's; 0 while nothing is known.
    fn worth(&self, micros: u64) -> u32 {
        self.share(self.limit.saturating_sub(self.segment), micros)
    }

    /// What of `bytes` a round trip moves in `micros`.
    fn share(&self, bytes: u32, micros: u64) -> u32 {
        let round_trip = self.aim().max(u64::from(self.smoothed));
        u32::try_from(u64::from(bytes) * micros / round_trip).unwrap_or(u32::MAX)
    }

    /// The round trip that is aimed at, and the queue in it, in microseconds.
    fn aim(&self) -> u64 {
        u64::from(self.base) + u64::from(self.queue())
    }

    fn queue(&self) -> u32 {
        QUEUE_US + self.noise.min(MAX_NOISE_US)
    }

    /// Smallest and smoothed round trip in microseconds, once one is known.
    pub(crate) fn round_trip(&self) -> Option<(u32, u32)> {
        (self.base != u32::MAX).then_some((self.base, self.smoothed))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.bytes
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }
}
