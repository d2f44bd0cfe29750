//! How many bytes may be unacknowledged on the link: enough to keep it busy, too few to fill anybody's queue.
//!
//! What waits in the modem, the relay and the sockets between the ends shall be worth about [`QUEUE_US`] of the link and
//! a packet, whatever its rate. The rate is never measured by itself: by Little's law a limit `L` that is used up and a
//! round trip `R` say that it is `L / R`, so each round that used its limit up moves it half way towards
//!
//! ```text
//! L x (base + QUEUE) / R + packet
//! ```
//!
//! (the update of FAST TCP, Wei, Jin, Low, Hegde, 2006). `R` is the smallest round trip of the round, which noise of hosts
//! and radios touches least, and `L` the limit under which its records were sent. A round in which the sender had too
//! little to say, or waited for credit, tells nothing about the link and changes nothing.
//!
//! `base` is the smallest round trip of the last [`BASE_WINDOW_US`]; to find it again under load, the limit is lowered for
//! two rounds. A new link starts small and grows by half each round until a queue shows, and so it does when a link has
//! become faster. However far the limit rises, what is in flight follows only by two bytes for each one acknowledged: a
//! burst would be the very queue that is to be avoided.

use crate::Instant;

/// The queue that is aimed at, in microseconds of the link's time: the price for using it fully.
const QUEUE_US: u32 = 2_000;
const NOISE: u32 = 1;
const MAX_NOISE: u32 = 3_000;

/// Round trips this much over the base end the growth at the start; all within this much of it begin it again.
const STARTUP_QUEUE_US: u32 = 1_500;
const NO_QUEUE_US: u32 = 1_250;

const TRAIN_US: u64 = 4_000;

/// How long the smallest round trip seen is believed.
const BASE_WINDOW_US: u64 = 10_000_000;

/// Rounds with a lowered limit: the first drains the queue, the second measures without it.
const PROBE_ROUNDS: u8 = 2;

/// A round is at least this long, so that its smallest round trip is one of several and not the noise of one.
const MIN_ROUND_US: u64 = 10_000;

/// After this long without anything in flight, what may be starts small again.
const PAUSE_US: u64 = 1_000_000;

/// The limit at the start of a link and after a pause: TCP's own initial window (RFC 6928).
const START: u32 = 14_000;

/// A record is worth this much of the link's time, so that nothing urgent waits long behind one.
const RECORD_US: u64 = 1_500;

/// Bytes that WebSocket, TLS and a prefix add to a record.
const OVERHEAD: u32 = 40;

/// Segment assumed until the host says otherwise: Ethernet less IPv4 and TCP with timestamps.
const SEGMENT: u32 = 1_448;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Growing until a queue shows.
    Startup,
    /// Following the link.
    Cruise,
    /// Lowered for this many more rounds, to see the base round trip.
    Probe(u8),
}

#[derive(Debug)]
pub(crate) struct Inflight {
    phase: Phase,
    /// Bytes that the link is believed to want in flight, those that may be, those that are.
    limit: u32,
    window: u32,
    bytes: u32,
    /// The limit's bounds: the ring above, two segments below.
    most: u32,
    segment: u32,
    /// Smallest round trip in microseconds, and when it was last seen; a smoothed one.
    base: u32,
    base_at: Instant,
    smoothed: u32,
    noise: u32,
    round: Round,
    /// What the records that are acknowledged in this round were sent under.
    before: Terms,
    train: Train,
    /// Rounds in a row that used the limit up without any queue.
    hungry: u8,
    /// When the last acknowledgement left nothing in flight.
    quiet_since: Option<Instant>,
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

/// Acknowledgements that follow each other closely.
#[derive(Clone, Copy, Debug)]
struct Train {
    first: Instant,
    last: Instant,
    /// Without those of the first.
    bytes: u32,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// Bytes of the records in all, and of the last one.
    pub(crate) bytes: u32,
    pub(crate) last: u32,
    /// Microseconds since the last one was sent, less the time that the peer held the answer back.
    pub(crate) round_trip: u32,
}

/// The window in a round, and whether it kept something back.
#[derive(Clone, Copy, Debug, Default)]
struct Terms {
    window: u32,
    limited: bool,
}

impl Inflight {
    pub(crate) fn new(ring: usize) -> Self {
        let most = u32::try_from(ring).unwrap_or(u32::MAX).max(2 * SEGMENT);
        Self {
            phase: Phase::Startup,
            limit: START.min(most),
            window: START.min(most),
            bytes: 0,
            most,
            segment: SEGMENT,
            base: u32::MAX,
            base_at: Instant::default(),
            smoothed: 0,
            noise: 0,
            round: Round { until_record: 0, not_before: Instant::default(), least: u32::MAX, terms: Terms::default() },
            before: Terms::default(),
            train: Train { first: Instant::default(), last: Instant::default(), bytes: 0 },
            hungry: 0,
            quiet_since: None,
        }
    }

    /// A new link: nothing is in flight on it and nothing is known of it.
    pub(crate) fn restart(&mut self, now: Instant) {
        let ring = usize::try_from(self.most).unwrap_or(usize::MAX);
        *self = Self { segment: self.segment, base_at: now, ..Self::new(ring) };
    }

    /// The link's TCP payload per packet in bytes: records are made to fill whole ones. Packets larger than Ethernet's are
    /// those of a network so fast, or so near, that borders of packets do not matter, and say nothing of what comes behind.
    pub(crate) fn set_segment(&mut self, bytes: u16) {
        self.segment = u32::from(bytes).clamp(536, SEGMENT);
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

    /// Bytes a record should have: about [`RECORD_US`] of the link, in whole segments.
    pub(crate) fn record_size(&self) -> usize {
        let segments = (self.worth(RECORD_US) / self.segment).max(1);
        let bytes = segments.saturating_mul(self.segment) - OVERHEAD;
        usize::try_from(bytes).unwrap_or(crate::MAX_RECORD).min(crate::MAX_RECORD)
    }

    /// After how many bytes an acknowledgement should be asked for: often enough that what it sets free is no burst.
    pub(crate) fn solicit_every(&self) -> u32 {
        self.worth(RECORD_US).min(self.limit / 4)
    }

    /// Bytes that the link carries in `micros`, as far as the limit says; 0 while nothing is known.
    fn worth(&self, micros: u64) -> u32 {
        let bytes = u64::from(self.limit.saturating_sub(self.segment)) * micros;
        let bytes = bytes / self.aim();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    fn queue(&self) -> u32 {
        QUEUE_US + (NOISE * self.noise).min(MAX_NOISE)
    }
    fn aim(&self) -> u64 {
        u64::from(self.base) + u64::from(self.queue())
    }

    /// A record of `bytes` goes out; `record` is its number.
    pub(crate) fn on_sent(&mut self, now: Instant, record: u64, bytes: usize) {
        if let Some(quiet) = self.quiet_since.take().map(|since| now.micros_since(since)) {
            if quiet > PAUSE_US {
                self.window = self.limit.min(START);
            }
            if quiet > MIN_ROUND_US {
                self.begin_round(now, record);
            }
        }
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Records are acknowledged. `acked` is how many have been on this session, `sent` how many were sent.
    pub(crate) fn on_acked(&mut self, now: Instant, arrived: Arrived, acked: u64, sent: u64) {
        let bytes = arrived.bytes;
        self.bytes = self.bytes.saturating_sub(bytes);
        let round_trip = arrived.round_trip.max(1);
        if round_trip <= self.base {
            (self.base, self.base_at) = (round_trip, now);
        }
        let off = round_trip.abs_diff(self.smoothed);
        self.noise = self.noise - self.noise / 16 + off.min(10_000) / 16;
        self.smoothed =
            if self.smoothed == 0 { round_trip } else { self.smoothed - self.smoothed / 8 + round_trip / 8 };
        self.round.least = self.round.least.min(round_trip);
        if self.phase == Phase::Startup {
            self.grow(now, bytes);
        }
        if !matches!(self.phase, Phase::Probe(_)) {
            self.window = self.window.saturating_add(bytes).min(self.limit);
        }
        if acked >= self.round.until_record && now >= self.round.not_before {
            self.end_round(now);
            self.begin_round(now, sent);
        }
        if self.bytes == 0 {
            self.quiet_since = Some(now);
        }
    }

    /// Grows by half a byte for each one acknowledged, up to what acknowledgements in a row say of the rate.
    fn grow(&mut self, now: Instant, bytes: u32) {
        let gap = now.micros_since(self.train.last);
        self.train.last = now;
        if !self.before.limited || gap > u64::from(self.base / 4) {
            self.train = Train { first: now, last: now, bytes: 0 };
        } else {
            self.train.bytes += bytes;
        }
        let took = now.micros_since(self.train.first);
        if self.before.limited {
            self.limit = self.limit.saturating_add(bytes / 2).min(self.most);
        }
        if took > u64::from(self.base / 4).max(TRAIN_US) {
            let goal = u64::from(self.train.bytes) * self.aim() / took;
            let goal = u32::try_from(goal).unwrap_or(u32::MAX).saturating_add(self.segment);
            if self.limit >= goal {
                self.limit = goal.max(2 * self.segment).min(self.most);
                self.window = self.window.min(self.limit);
                self.phase = Phase::Cruise;
            }
        }
    }

    fn begin_round(&mut self, now: Instant, until_record: u64) {
        self.before = self.round.terms;
        let terms = Terms { window: self.window, limited: false };
        self.round = Round { until_record, not_before: now.after_micros(MIN_ROUND_US), least: u32::MAX, terms };
    }

    fn end_round(&mut self, now: Instant) {
        let least = self.round.least;
        let queue = least.saturating_sub(self.base);
        match self.phase {
            Phase::Probe(1) => {
                (self.base, self.base_at, self.phase) = (least, now, Phase::Cruise);
                return;
            }
            Phase::Probe(rounds) => {
                self.phase = Phase::Probe(rounds - 1);
                return;
            }
            Phase::Startup if self.before.limited && queue > STARTUP_QUEUE_US => {
                self.phase = Phase::Cruise;
                self.follow(least);
            }
            Phase::Cruise if self.before.limited => self.follow(least),
            Phase::Startup | Phase::Cruise => {}
        }
        if now.micros_since(self.base_at) > BASE_WINDOW_US && self.before.limited {
            self.phase = Phase::Probe(PROBE_ROUNDS);
            let base = self.worth(u64::from(self.base));
            let queue = self.worth(self.queue().into()) + self.segment;
            self.window = base.saturating_sub(queue.max(base / 8)).max(1);
        }
    }

    /// Moves the limit half way to what this round's smallest round trip says it should be.
    fn follow(&mut self, round_trip: u32) {
        let queue = round_trip.saturating_sub(self.base);
        if self.before.window < self.limit && queue <= self.queue() {
            return; // still on the way to the limit
        }
        let aim = self.aim();
        let goal = u64::from(self.before.window) * aim / u64::from(round_trip.max(1)) + u64::from(self.segment) * 3 / 4;
        let goal = u32::try_from(goal).unwrap_or(u32::MAX).clamp(self.limit / 3, self.limit.saturating_mul(2));
        self.limit = (self.limit / 2 + goal / 2).clamp((2 * self.segment).min(self.most), self.most);
        self.window = self.window.min(self.limit);
        self.hungry = if queue < NO_QUEUE_US && self.limit < self.most { self.hungry + 1 } else { 0 };
        if self.hungry > 2 {
            (self.hungry, self.phase) = (0, Phase::Startup);
        }
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
