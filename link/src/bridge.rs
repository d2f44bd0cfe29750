//! One WebSocket joined with one socket: bytes in both directions until both have ended, or datagrams until one has.
//!
//! ```text
//! peer ── messages ──► ByteStream ── bytes ──► port      Close ──► the port sees the end
//!      ◄─ messages ──             ◄─ bytes ──            end   ──► Close 1000 "Shutdown"
//! ```
//!
//! - Each direction ends by itself and in order: what was said before an end is delivered before it. When both have, the
//!   connections are closed.
//! - Datagrams travel as `framed_datagrams` has it. Whoever ends has nobody to hear an answer, so its end is that of both:
//!   azbridge does not always answer one with its own.
//! - A side that breaks takes the other one with it: the port is reset, the WebSocket ends without a close frame, as a
//!   relay passes an abort on.
//! - Nothing is read from one side that the other has not taken: memory is [`BUFFER_BYTES`](crate::byte_stream::BUFFER_BYTES), whoever is slow.
//! - After a while of silence the peer gets an unasked Pong, which keeps load balancers from forgetting the connection. It
//!   is also what a dead connection is noticed by: the other end's kernel does not acknowledge it.
//!
//! Everything runs in the task that waits for [`Bridge::run`]. Owns: the order of ends. Leaves to others: dialling either
//! side, logs.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;
use umbilical_mux::{End, ResetReason};

use crate::byte_stream::{ByteStream, StreamError};
use crate::framed_datagrams::FramedDatagrams;
use crate::port::{Ended, Io, reset_reason};

/// The code and reason of this side's end, in the words of .NET's `Shutdown`.
const SHUTDOWN: (u16, &str) = (1000, "Shutdown");

/// The code for a peer that speaks no WebSocket (RFC 6455, section 7.4.1).
const PROTOCOL_ERROR: u16 = 1002;

/// How long the other end's kernel may acknowledge nothing of what was said: as long as the silence that a bridge breaks, within
/// these bounds. Less is how a kernel saves packets. More would be good for little, but there is no session that would go
/// on, so that a modem's pause should be waited out.
const UNACKNOWLEDGED: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Looks at it in that time.
const LOOKS: u32 = 4;

/// Pieces of bytes before the executor's other tasks run.
const TURNS: usize = 8;

/// A WebSocket and a socket that are joined. Dropped before its end, both are cut off.
#[derive(Debug)]
pub struct Bridge {
    peer: ByteStream,
    port: Port,
    keep_alive: Duration,
    timer: Timer,
    next_look: Timer,
    /// The peer has closed, and the port was told.
    peer_ended: bool,
    /// The end of this side is the end of it all.
    ends_at_once: bool,
    sent: u64,
    received: u64,
    since: Instant,
}

/// A socket that is reset when it is dropped, unless it may end in order.
#[derive(Debug)]
struct Port {
    io: Io,
    in_order: bool,
}

impl Drop for Port {
    fn drop(&mut self) {
        if !self.in_order {
            self.io.abort();
        }
    }
}

/// How a bridge came to its end.
#[derive(Debug)]
pub enum Cause {
    /// Both sides said all they had to say.
    Closed,
    /// The peer closed, and then left before the port had ended.
    Left,
    /// The peer, or the way to it, broke.
    Peer(StreamError),
    /// The port broke.
    Port(io::Error),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by both sides"),
            Self::Left => f.write_str("the peer closed and left before the service had ended"),
            Self::Peer(error) => error.fmt(f),
            Self::Port(error) => write!(f, "this side broke: {error}"),
        }
    }
}

/// A bridge that has ended.
#[derive(Debug)]
pub struct Bridged {
    /// As a stream's end: `Reset` is the peer's doing, `Local` the port's.
    pub ended: Ended,
    /// The same in more words.
    pub cause: Cause,
}

impl Bridge {
    /// Joins a WebSocket with a port that is connected. The peer hears something every `keep_alive` at least.
    #[must_use]
    pub fn new(peer: ByteStream, port: Io, keep_alive: Duration) -> Self {
        let (io, ends_at_once) = match port {
            Io::Datagrams(far) => (Io::Other(Box::new(FramedDatagrams::new(far))), true),
            io => (io, false),
        };
        let port = Port { io, in_order: false };
        let (timer, next_look) = (Timer::after(keep_alive), Timer::after(Duration::ZERO));
        let since = Instant::now();
        let (peer_ended, sent, received) = (false, 0, 0);
        Self { peer, port, keep_alive, timer, next_look, peer_ended, ends_at_once, sent, received, since }
    }

    /// Passes bytes until both sides have ended or one has broken.
    pub async fn run(mut self) -> Bridged {
        let ended = poll_fn(|cx| self.poll(cx).map_or_else(|cause| Poll::Ready(Err(cause)), |poll| poll.map(Ok)));
        let cause = ended.await.err().unwrap_or(Cause::Closed);
        let Self { peer, mut port, sent, received, since, .. } = self;
        port.in_order = matches!(cause, Cause::Closed);
        drop(port);
        match &cause {
            Cause::Closed => peer.shut_down().await,
            // what it was told last is the port's end, and that should not be lost
            Cause::Port(_) if peer.has_closed() => peer.shut_down().await,
            Cause::Peer(StreamError::Invalid(error)) => peer.close(PROTOCOL_ERROR, &error.to_string()).await,
            // dropped without a close frame: to a reader, one of whatever code would look like a proper end
            Cause::Left | Cause::Peer(_) | Cause::Port(_) => drop(peer),
        }
        let end = match &cause {
            Cause::Closed => End::Closed,
            Cause::Peer(StreamError::Invalid(_)) => End::Local(ResetReason::FAILED),
            Cause::Left | Cause::Peer(_) => End::Reset(ResetReason::ABORTED),
            Cause::Port(error) => End::Local(reset_reason(error)),
        };
        Bridged { ended: Ended { end, sent, received, lasted: since.elapsed() }, cause }
    }

    /// Ready when both directions have ended in order.
    fn poll(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Cause> {
        self.look(cx)?;
        for _ in 0..TURNS {
            // in this order: what is heard may be a ping, which is answered when something is said
            match (self.hear(cx)?, self.say(cx)?) {
                (Step::Done, Step::Done) => return Ok(Poll::Ready(())),
                (_, Step::Done) if self.ends_at_once => return Ok(Poll::Ready(())),
                (Step::Done, Step::Waiting) if self.peer.poll_left(cx).is_ready() => return Err(Cause::Left),
                (Step::Waiting | Step::Done, Step::Waiting | Step::Done) => return Ok(Poll::Pending),
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Notices, now and then, that the way to the peer is dead.
    fn look(&mut self, cx: &mut Context<'_>) -> Result<(), Cause> {
        let patience = self.keep_alive.clamp(*UNACKNOWLEDGED.start(), *UNACKNOWLEDGED.end());
        while Pin::new(&mut self.next_look).poll(cx).is_ready() {
            let silence = self.peer.unacknowledged().map_err(Cause::Peer)?;
            if silence >= patience {
                return Err(Cause::Peer(StreamError::Unacknowledged(silence)));
            }
            self.next_look.set_after(patience / LOOKS);
        }
        Ok(())
    }

    /// From the peer to the port.
    fn hear(&mut self, cx: &mut Context<'_>) -> Result<Step, Cause> {
        if self.peer_ended {
            return Ok(Step::Done);
        }
        match self.peer.poll_bytes(cx).map_err(Cause::Peer)? {
            Poll::Pending => return Ok(Step::Waiting),
            Poll::Ready(None) => {
                self.port.io.finish(cx);
                self.peer_ended = true;
            }
            Poll::Ready(Some(bytes)) => match self.port.io.poll_write(cx, &[IoSlice::new(bytes)]) {
                Poll::Pending => return Ok(Step::Waiting),
                Poll::Ready(Ok(0)) => return Err(Cause::Port(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.peer.consume(count);
                    self.received += count as u64;
                }
                Poll::Ready(Err(error)) => return Err(Cause::Port(error)),
            },
        }
        Ok(Step::Moved)
    }

    /// From the port to the peer.
    fn say(&mut self, cx: &mut Context<'_>) -> Result<Step, Cause> {
        if self.peer.poll_flush(cx).map_err(Cause::Peer)?.is_pending() {
            return Ok(Step::Waiting);
        }
        if self.peer.has_closed() {
            return Ok(Step::Done);
        }
        match self.port.io.poll_read(cx, self.peer.room()) {
            Poll::Ready(Ok(0)) => self.peer.send_close(SHUTDOWN.0, SHUTDOWN.1).map_err(Cause::Peer)?,
            Poll::Ready(Ok(count)) => {
                self.peer.send(count).map_err(Cause::Peer)?;
                self.sent += count as u64;
            }
            Poll::Ready(Err(error)) => return Err(Cause::Port(error)),
            Poll::Pending => {
                if Pin::new(&mut self.timer).poll(cx).is_pending() {
                    return Ok(Step::Waiting);
                }
                let due = self.peer.speak_after(self.keep_alive).map_err(Cause::Peer)?;
                self.timer.set_at(due);
            }
        }
        Ok(Step::Moved)
    }
}

/// What a direction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Moved,
    Waiting,
    /// Its end has been delivered.
    Done,
}
