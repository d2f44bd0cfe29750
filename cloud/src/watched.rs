//! The parts that run, as the admin port sees them, and whether new connections are welcome.
//!
//! ```text
//! starting ── ports open ──► settling ── each device has a link, or `settle-for` is over ──► ready ── SIGTERM ──► stopping
//! ```
//!
//! Ready is ready until the stop: a device that comes and goes later is no news about this process.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use crate::gateway::Gateway;
use crate::relay::Relay;

/// What the admin port reports on; the supervisor exchanges it.
#[derive(Default)]
pub struct Watched(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    parts: Parts,
    phase: Phase,
}

/// What runs.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub(crate) relay: Option<Relay>,
    pub(crate) gateway: Option<Arc<Gateway>>,
}

#[derive(Clone, Copy, Default)]
enum Phase {
    #[default]
    Starting,
    Settling {
        until: Instant,
    },
    Ready,
    Stopping,
}

/// Whether new connections are welcome. Its text is the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// They are.
    Ready,
    /// Not every port is open yet.
    Starting,
    /// Devices may be on their way back from before a restart, and these are not here yet.
    Settling {
        /// How many.
        awaited: usize,
    },
    /// It was asked to stop.
    Stopping,
}

impl Watched {
    /// These parts run from now on. The first time, devices have until `settle_until` to come back.
    pub(crate) fn set(&self, parts: Parts, settle_until: Instant) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.parts = parts;
        if let Phase::Starting = inner.phase {
            inner.phase = Phase::Settling { until: settle_until };
        }
    }

    /// It was asked to stop; what runs is seen to the end.
    pub(crate) fn stopping(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).phase = Phase::Stopping;
    }

    /// What runs now.
    pub(crate) fn parts(&self) -> Parts {
        self.0.read().unwrap_or_else(PoisonError::into_inner).parts.clone()
    }

    /// Whether new connections are welcome.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Phase::Settling { until } = inner.phase {
            let awaited = inner.parts.gateway.as_ref().map_or(0, |gateway| gateway.awaited());
            if awaited > 0 && Instant::now() < until {
                return Readiness::Settling { awaited };
            }
            inner.phase = Phase::Ready;
        }
        match inner.phase {
            Phase::Starting => Readiness::Starting,
            Phase::Settling { .. } | Phase::Ready => Readiness::Ready,
            Phase::Stopping => Readiness::Stopping,
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Starting => f.write_str("not ready: starting"),
            Self::Settling { awaited } => write!(f, "not ready: {awaited} devices have no link yet"),
            Self::Stopping => f.write_str("not ready: stopping"),
        }
    }
}
