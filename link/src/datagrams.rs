//! The far ends of datagram streams, and what all of them have in common: whole datagrams or none, no queue, an end when
//! nothing is said any more.
//!
//! A datagram has no end of its own, and whoever sends them does not say that it has left. So each side ends a stream that
//! was silent in both directions for long enough, and what one side ends is over on both.
//!
//! Owns: what a session asks of such a far end, how silence is measured. Leaves to others: the sockets (the agent's
//! services, the gateway's public ports), their form on a byte stream (`framed_datagrams`).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use smol::Timer;

/// Something that datagrams of up to [`MAX_DATAGRAM`](umbilical_mux::MAX_DATAGRAM) bytes come from and go to.
pub trait Datagrams: Send {
    /// The next datagram for the peer, in the front of `buffer`, and its length, which may be 0; `None` once no more
    /// will come. Those that have no room in `buffer` are dropped.
    ///
    /// # Errors
    /// The far end broke, or is not there.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<usize>>>;

    /// A datagram from the peer. What cannot be taken at once is dropped.
    ///
    /// # Errors
    /// The far end broke, or is not there.
    fn send(&mut self, datagram: &[u8]) -> io::Result<()>;

    /// A datagram from the peer was dropped: so many bytes are more than any may have.
    fn refuse(&mut self, length: usize);
}

/// Notices that a stream is silent. It is set anew when it fires, not with each datagram.
#[derive(Debug)]
pub struct IdleTimer {
    after: Duration,
    timer: Timer,
}

impl IdleTimer {
    /// For silence of so long.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self { after, timer: Timer::after(after) }
    }

    /// Ready when nothing was said since `active_at` for so long.
    pub fn poll(&mut self, cx: &mut Context<'_>, active_at: Instant) -> Poll<()> {
        loop {
            ready!(Pin::new(&mut self.timer).poll(cx));
            let due = active_at + self.after;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.set_at(due);
        }
    }
}
