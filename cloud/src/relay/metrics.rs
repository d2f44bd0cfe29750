//! What the relay counts. Written with relaxed atomics by whoever does the deed, read by whoever exposes it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters and gauges of one relay since its start.
#[derive(Debug)]
pub struct RelayMetrics {
    /// Gauge: open TCP connections. One that was handed to a sender in this process is no longer the relay's.
    pub connections: AtomicU64,
    /// Gauge: connections that have not sent their request yet.
    pub handshakes: AtomicU64,
    /// Gauge: those of them that will be turned away.
    pub shedding: AtomicU64,
    /// Gauge: control channels.
    pub listeners: AtomicU64,
    /// Gauge: senders, of WebSockets and of HTTP requests, that wait for a listener.
    pub waiting: AtomicU64,
    /// Gauge: senders joined with a listener through this relay.
    pub splices: AtomicU64,
    /// Gauge: HTTP requests that have been let in and not answered to the end.
    pub exchanges: AtomicU64,
    /// Connections taken since the start.
    pub accepted: AtomicU64,
    /// TLS handshakes that failed.
    pub tls_failures: AtomicU64,
    /// Handshakes turned away with 503 because too much was going on.
    pub shed: AtomicU64,
    /// Senders joined with a listener over the network.
    pub joined: AtomicU64,
    /// Senders in this process that were handed a listener's socket.
    pub handed_over: AtomicU64,
    /// HTTP requests let in.
    pub requests: AtomicU64,
    /// HTTP requests or responses that went over a socket of their own.
    pub request_rendezvous: AtomicU64,
    /// HTTP requests that ended in the middle: one of both sides was gone.
    pub broken_requests: AtomicU64,
    /// Control channels replaced by a newer one of the same listener.
    pub takeovers: AtomicU64,
    /// Control channels ended because the listener was silent or did not read.
    pub silent_listeners: AtomicU64,
    /// Control channels ended because the token had run out, or its renewal was refused.
    pub expired_tokens: AtomicU64,
    /// Spliced joins that ended without a close frame from both sides.
    pub aborted: AtomicU64,
    /// Bytes passed from senders to listeners, WebSocket headers included, TLS not.
    pub bytes_to_listeners: AtomicU64,
    /// Bytes passed from listeners to senders, WebSocket headers included, TLS not.
    pub bytes_to_senders: AtomicU64,
    rejections: [AtomicU64; Self::STATUSES],
}

/// One of them, with its name for Prometheus.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelayFigure {
    /// Without prefix, unit and `_total`.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) in_bytes: bool,
    /// A counter; else it is a gauge.
    pub(crate) only_grows: bool,
    pub(crate) value: u64,
}

impl RelayMetrics {
    /// All but the rejections.
    pub(crate) fn figures(&self) -> [RelayFigure; 21] {
        let gauge = |name, help, value: &AtomicU64| {
            let value = value.load(Relaxed);
            RelayFigure { name, help, in_bytes: false, only_grows: false, value }
        };
        let counter = |name, help, value: &AtomicU64| RelayFigure { only_grows: true, ..gauge(name, help, value) };
        let bytes = |name, help, value: &AtomicU64| RelayFigure { in_bytes: true, ..counter(name, help, value) };
        [
            gauge("relay_connections", "TCP connections open", &self.connections),
            gauge("relay_handshakes", "Connections that have not sent their request yet", &self.handshakes),
            gauge("relay_shedding", "Of them, those that will be turned away", &self.shedding),
            gauge("relay_listeners", "Control channels open", &self.listeners),
            gauge("relay_waiting_senders", "Senders that wait for a listener", &self.waiting),
            gauge("relay_open_joins", "Senders joined with a listener over the network", &self.splices),
            gauge("relay_open_requests", "HTTP requests that are not answered to the end", &self.exchanges),
            counter("relay_accepted", "Connections taken", &self.accepted),
            counter("relay_tls_failures", "TLS handshakes that failed", &self.tls_failures),
            counter("relay_shed", "Handshakes turned away because too much was going on", &self.shed),
            counter("relay_joins", "Senders joined with a listener over the network", &self.joined),
            counter("relay_handovers", "Listeners handed to the gateway of this process", &self.handed_over),
            counter("relay_requests", "HTTP requests let in", &self.requests),
            counter(
                "relay_request_rendezvous",
                "HTTP requests or responses with a socket of their own",
                &self.request_rendezvous,
            ),
            counter("relay_broken_requests", "HTTP requests that ended in the middle", &self.broken_requests),
            counter(
                "relay_takeovers",
                "Control channels replaced by a newer one of the same listener",
                &self.takeovers,
            ),
            counter(
                "relay_silent_listeners",
                "Control channels ended because the listener was silent",
                &self.silent_listeners,
            ),
            counter(
                "relay_expired_tokens",
                "Control channels ended because their token had run out",
                &self.expired_tokens,
            ),
            counter("relay_aborted_joins", "Joins that ended without a goodbye from both sides", &self.aborted),
            bytes("relay_to_listeners", "From senders to listeners over the network", &self.bytes_to_listeners),
            bytes("relay_to_senders", "From listeners to senders over the network", &self.bytes_to_senders),
        ]
    }

    const FIRST_STATUS: u16 = 400;
    const STATUSES: usize = 200;

    /// Refused handshakes by HTTP status, those that occurred.
    pub fn rejections(&self) -> impl Iterator<Item = (u16, u64)> {
        let counts = self.rejections.iter().map(|count| count.load(Relaxed));
        (Self::FIRST_STATUS..).zip(counts).filter(|(_, count)| *count > 0)
    }

    pub(crate) fn rejected(&self, status: u16) {
        let at = status.checked_sub(Self::FIRST_STATUS).map(usize::from);
        if let Some(times) = at.and_then(|at| self.rejections.get(at)) {
            count(times);
        }
    }
}

impl Default for RelayMetrics {
    fn default() -> Self {
        Self {
            connections: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            shedding: AtomicU64::new(0),
            listeners: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            splices: AtomicU64::new(0),
            exchanges: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            tls_failures: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            request_rendezvous: AtomicU64::new(0),
            broken_requests: AtomicU64::new(0),
            takeovers: AtomicU64::new(0),
            silent_listeners: AtomicU64::new(0),
            expired_tokens: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            bytes_to_listeners: AtomicU64::new(0),
            bytes_to_senders: AtomicU64::new(0),
            rejections: [const { AtomicU64::new(0) }; Self::STATUSES],
        }
    }
}

/// Holds a gauge one higher for as long as it lives.
pub(crate) struct Held<'m>(&'m AtomicU64);

impl<'m> Held<'m> {
    pub(crate) fn of(gauge: &'m AtomicU64) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_counted_by_status() {
        let metrics = RelayMetrics::default();
        for status in [401, 599, 401, 410, 101, 600, 0] {
            metrics.rejected(status);
        }
        assert_eq!(metrics.rejections().collect::<Vec<_>>(), [(401, 2), (410, 1), (599, 1)]);
    }

    #[test]
    fn a_gauge_falls_when_its_holder_goes() {
        let gauge = AtomicU64::new(0);
        let (one, two) = (Held::of(&gauge), Held::of(&gauge));
        drop(one);
        assert_eq!(gauge.load(Relaxed), 1);
        drop(two);
        assert_eq!(gauge.load(Relaxed), 0);
    }
}
