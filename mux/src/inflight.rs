//! How many bytes may be unacknowledged on the link: enough to keep it busy, too few to fill anybody's queue.
//!
//! In flight are about `rate x (base round trip + QUEUE)` bytes, so that what waits in the modem, the relay and the
//! sockets between the ends is worth about [`QUEUE_US`] of the link, whatever its rate. The rate is never measured by
//! itself: by Little's law a limit `L` that is used up and a round trip `R` say that it is `L / R`, so each round that
//! used its limit up sets
//!
//! ```text
//! L  <-  (L + L x (base + QUEUE) / R) / 2
//! ```
//!
//! (the update of FAST TCP, Wei, Jin, Low, Hegde, 2006). A round in which the sender had too little to say, or waited for credit,
//! tells nothing about the link and changes nothing. `base` is the smallest round trip of the last
//! [`BASE_WINDOW_US`]; to find it again under load, the limit is lowered for two rounds. After a pause the link may be
//! another one, so the limit starts small and doubles each round until a queue shows.

use crate::Instant;

/// The queue that is aimed at, in microseconds of the link's time: the price for using it fully.
const QUEUE_US: u32 = 2_500;

/// A round trip this much over the base ends the doubling at the start.
const STARTUP_QUEUE_US: u32 = 1_500;

/// How long the smallest round trip seen is believed.
const BASE_WINDOW_US: u64 = 10_000_000;

/// Rounds with a lowered limit: the first drains the queue, the second measures without it.
const PROBE_ROUNDS: u8 = 2;

/// A round is at least this long, so that one late wake-up is not a verdict.
const MIN_ROUND_US: u64 = 4_000;

/// Without anything in flight for this long the link is measured anew.
const PAUSE_US: u64 = 1_000_000;

/// The limit at the start of a link and after a pause: TCP's own initial window (RFC 6928).
const START: u32 = 14_000;

/// A record is worth this much of the link's time, so that nothing urgent waits long behind one.
const RECORD_US: u64 = 1_500;

/// Bytes that WebSocket, TLS and a prefix add to a record.
const OVERHEAD: u32 = 40;

/// Segment assumed until the host says otherwise: Ethernet less IPv6 and TCP with timestamps.
const SEGMENT: u32 = 1_420;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Doubling until a queue shows.
    Startup,
    /// Following the link.
    Cruise,
    /// Lowered for this many more rounds, to see the base round trip.
    Probe(u8),
}

#[derive(Debug)]
pub(crate) struct Inflight {
    phase: Phase,
    /// Bytes that may be in flight, and are.
    limit: u32,
    bytes: u32,
    /// The limit's bounds: the ring above, two segments below.
    most: u32,
    segment: u32,
    /// Smallest round trip in microseconds, when it was last seen, and the last sample.
    base: u32,
    base_at: Instant,
    smoothed: u32,
    round: Round,
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
    /// The limit kept something back in it.
    limited: bool,
}

impl Inflight {
    pub(crate) fn new(ring: usize) -> Self {
        let mut this = Self {
            phase: Phase::Startup,
            limit: START,
            bytes: 0,
            most: u32::MAX,
            segment: SEGMENT,
            base: u32::MAX,
            base_at: Instant::default(),
            smoothed: 0,
            round: Round { until_record: 0, not_before: Instant::default(), least: u32::MAX, limited: false },
            quiet_since: None,
        };
        this.set_ring(ring);
        this
    }

    /// A new link: nothing is in flight on it and nothing is known of it.
    pub(crate) fn restart(&mut self, now: Instant) {
        let (most, segment) = (self.most, self.segment);
        *self = Self { most, segment, limit: START.min(most), base_at: now, ..Self::new(0) };
    }

    pub(crate) fn set_ring(&mut self, ring: usize) {
        self.most = u32::try_from(ring).unwrap_or(u32::MAX).max(2 * self.segment);
        self.limit = self.limit.min(self.most);
    }

    /// The link's TCP payload per packet in bytes: records are made to fill whole ones.
    pub(crate) fn set_segment(&mut self, bytes: u16) {
        self.segment = u32::from(bytes).clamp(536, 16 * 1024);
    }

    /// Whether another record may go out. One that carries only urgent things may go a segment further.
    pub(crate) fn allows(&self, urgent: bool) -> bool {
        let limit = self.limit_now();
        let limit = if urgent { limit.saturating_add(self.segment) } else { limit };
        self.bytes < limit
    }

    /// Something had to wait because of the limit.
    pub(crate) fn note_limited(&mut self) {
        self.round.limited = true;
    }

    /// Bytes a record should have: about [`RECORD_US`] of the link, in whole segments.
    pub(crate) fn record_size(&self) -> usize {
        let worth = if self.base == u32::MAX {
            u64::from(self.segment)
        } else {
            u64::from(self.limit) * RECORD_US / (u64::from(self.base) + u64::from(QUEUE_US))
        };
        let segments = (worth / u64::from(self.segment)).max(1);
        let bytes = segments.saturating_mul(u64::from(self.segment)) - u64::from(OVERHEAD);
        usize::try_from(bytes).unwrap_or(crate::MAX_RECORD).min(crate::MAX_RECORD)
    }

    /// After how many bytes an acknowledgement should be asked for.
    pub(crate) fn solicit_every(&self) -> u32 {
        self.limit / 4
    }

    /// A record of `bytes` goes out; `record` is its number.
    pub(crate) fn on_sent(&mut self, now: Instant, record: u64, bytes: usize) {
        if let Some(since) = self.quiet_since.take()
            && now.micros_since(since) > PAUSE_US
        {
            self.phase = Phase::Startup;
            self.limit = self.limit.min(START);
        }
        if self.bytes == 0 {
            self.begin_round(now, record);
        }
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Records of `bytes` in all are acknowledged. `acked` is how many have been on this session, `sent` how many were
    /// sent, `round_trip` the time since the last of them was sent less the time the peer held the answer back.
    pub(crate) fn on_acked(&mut self, now: Instant, bytes: usize, acked: u64, sent: u64, round_trip: u32) {
        self.bytes = self.bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        let round_trip = round_trip.max(1);
        if round_trip <= self.base {
            self.base = round_trip;
            self.base_at = now;
        }
        self.smoothed =
            if self.smoothed == 0 { round_trip } else { self.smoothed - self.smoothed / 8 + round_trip / 8 };
        self.round.least = self.round.least.min(round_trip);
        if acked >= self.round.until_record && now >= self.round.not_before {
            self.end_round(now);
            self.begin_round(now, sent);
        }
        if self.bytes == 0 {
            self.quiet_since = Some(now);
        }
    }

    fn begin_round(&mut self, now: Instant, until_record: u64) {
        self.round =
            Round { until_record, not_before: now.after_micros(MIN_ROUND_US), least: u32::MAX, limited: false };
    }

    fn end_round(&mut self, now: Instant) {
        let Round { least, limited, .. } = self.round;
        match self.phase {
            Phase::Probe(rounds) if rounds > 1 => {
                self.phase = Phase::Probe(rounds - 1);
                return;
            }
            Phase::Probe(_) => {
                (self.base, self.base_at, self.phase) = (least, now, Phase::Cruise);
                return;
            }
            Phase::Startup if least.saturating_sub(self.base) > STARTUP_QUEUE_US => {
                self.phase = Phase::Cruise;
                self.follow(least);
            }
            Phase::Startup if limited => self.limit = self.limit.saturating_mul(2).min(self.most),
            Phase::Cruise if limited => self.follow(least),
            Phase::Startup | Phase::Cruise => {}
        }
        if now.micros_since(self.base_at) > BASE_WINDOW_US && limited {
            self.phase = Phase::Probe(PROBE_ROUNDS);
        }
    }

    /// Moves the limit half way to what this round's smallest round trip says it should be.
    fn follow(&mut self, round_trip: u32) {
        let goal = u64::from(self.limit) * (u64::from(self.base) + u64::from(QUEUE_US)) / u64::from(round_trip.max(1));
        let goal = u32::try_from(goal).unwrap_or(u32::MAX).clamp(self.limit / 3, self.limit.saturating_mul(2));
        let limit = (self.limit / 2).saturating_add(goal / 2);
        self.limit = limit.clamp((2 * self.segment).min(self.most), self.most);
    }

    /// The limit in force, less what the probing of the base takes off.
    fn limit_now(&self) -> u32 {
        match self.phase {
            Phase::Probe(_) => {
                let base = u64::from(self.base);
                let bytes = u64::from(self.limit) * base / (base + u64::from(QUEUE_US)) * 3 / 4;
                u32::try_from(bytes).unwrap_or(self.limit).max(self.segment)
            }
            Phase::Startup | Phase::Cruise => self.limit,
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
