//! Joins the sockets of a sender and a listener, frame by frame (RFC 6455; half-close as Hybrid Connections clients
//! use it).
//!
//! - Data, pings and pongs are passed on in order, as they come, never put together: the relay holds at most one read
//!   (16 KiB) per direction, and only while the other side does not take it. Pings are answered by the far end, so that
//!   a pong says something about the whole way.
//! - A close frame is passed on in order and ends its own direction only. The other one goes on until its own comes.
//! - A side that vanishes without a close frame takes the other one with it, also without one: to a reader, a close
//!   frame of whatever code would look like a proper end. What it sent before is delivered first.
//! - Bytes that break the protocol are answered with 1002 and are such an abrupt end for the other side.
//! - Empty messages are passed on and never made up: some clients take them for the end.
//!
//! Both directions run in one task and take turns. An idle join holds no buffer.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smol::future::{or, poll_fn, zip};
use smol::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use umbilical_link::frame::{FrameError, FrameHeader, MAX_HEADER_BYTES, Opcode};
use umbilical_link::transport::Transport;
use umbilical_link::upgrade::Upgraded;
use umbilical_relay_protocol::Close;

use super::translate::{End, HEADROOM, Translator};
use crate::deadline;
use crate::http;

/// Bytes read at a time: the payload of one TLS record, so that one record in is one record out.
const READ_BYTES: usize = 16 * 1024;

/// Reads of one direction before the other, and then other tasks, have their turn.
const TURNS: usize = 8;

thread_local! {
    // what a read brings is translated and written before the next task runs; only what a socket does not take
    // at once is copied out of here
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; HEADROOM + READ_BYTES].into());
}

/// Counters that a join adds to: bytes in the direction of the name.
pub(crate) struct Traffic<'m> {
    pub(crate) to_listeners: &'m AtomicU64,
    pub(crate) to_senders: &'m AtomicU64,
}

/// How a join ended.
#[derive(Debug)]
pub(crate) enum Cause {
    /// Close frames in both directions.
    Closed,
    /// One side said goodbye, the other had not by the time the first was gone.
    Left(Party),
    /// One side was gone without a close frame.
    Vanished(Party, io::Error),
    /// One side broke the protocol.
    Invalid(Party, FrameError),
    /// The relay ended it.
    Ended(Close),
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    Sender,
    Listener,
}

/// Passes frames between the two until both have closed or one is gone, or `end` says why to stop. Closing takes at
/// most `patience`.
pub(crate) async fn splice(
    sender: Upgraded,
    listener: Upgraded,
    traffic: Traffic<'_>,
    end: impl Future<Output = Close>,
    patience: Duration,
) -> Cause {
    let mut join = Join { sender: Side::new(sender), listener: Side::new(listener), traffic };
    let ended = async { Cause::Ended(end.await) };
    let cause = or(poll_fn(|cx| BUFFER.with_borrow_mut(|buf| join.poll(cx, buf))), ended).await;
    deadline::within(patience, join.finish(&cause)).await;
    cause
}

struct Join<'m> {
    sender: Side,
    listener: Side,
    traffic: Traffic<'m>,
}

/// One socket: what it says is read and translated, what the other says is written to it.
struct Side {
    transport: Transport,
    /// Came with the handshake and is still to be translated.
    leftover: Vec<u8>,
    /// Of what this side says.
    translator: Translator,
    /// Translated, and not taken by this socket yet.
    unsent: Vec<u8>,
    sent: usize,
    /// Its close frame has been delivered to the other side.
    closed: bool,
    /// It has closed the connection after its close frame.
    left: bool,
}

enum Fault {
    /// Reading failed or ended.
    From(io::Error),
    /// Writing failed.
    To(io::Error),
    /// Not WebSocket.
    Invalid(FrameError),
}

impl Join<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Cause> {
        let (sender, listener) = (&mut self.sender, &mut self.listener);
        if let Poll::Ready(fault) = sender.poll_forward(listener, cx, buf, self.traffic.to_listeners) {
            return Poll::Ready(fault.cause(Party::Sender, Party::Listener));
        }
        if let Poll::Ready(fault) = listener.poll_forward(sender, cx, buf, self.traffic.to_senders) {
            return Poll::Ready(fault.cause(Party::Listener, Party::Sender));
        }
        if sender.closed && listener.closed {
            return Poll::Ready(Cause::Closed);
        }
        if sender.poll_left(cx, buf) {
            return Poll::Ready(Cause::Left(Party::Sender));
        }
        if listener.poll_left(cx, buf) {
            return Poll::Ready(Cause::Left(Party::Listener));
        }
        Poll::Pending
    }

    /// Ends both connections the way the join ended. A side that is dropped without a word sees an abrupt end.
    async fn finish(self, cause: &Cause) {
        let Self { mut sender, mut listener, .. } = self;
        match cause {
            Cause::Vanished(..) => return,
            Cause::Invalid(party, error) => {
                let (mut offender, other) = match party {
                    Party::Sender => (sender, listener),
                    Party::Listener => (listener, sender),
                };
                offender.append_close(&Close::protocol_error(error), &other);
                drop(other);
                let _ = offender.say_goodbye().await;
                return;
            }
            Cause::Closed | Cause::Left(_) => {}
            Cause::Ended(close) => {
                sender.append_close(close, &listener);
                listener.append_close(close, &sender);
            }
        }
        let _ = zip(sender.say_goodbye(), listener.say_goodbye()).await;
    }
}

impl Side {
    fn new(upgraded: Upgraded) -> Self {
        Self {
            transport: upgraded.transport,
            leftover: upgraded.leftover,
            translator: Translator::new(),
            unsent: Vec::new(),
            sent: 0,
            closed: false,
            left: false,
        }
    }

    /// Passes on what this side says for as long as both sockets let it. Ready only with a fault.
    fn poll_forward(&mut self, to: &mut Self, cx: &mut Context<'_>, buf: &mut [u8], bytes: &AtomicU64) -> Poll<Fault> {
        if self.closed {
            return Poll::Pending;
        }
        for _ in 0..TURNS {
            if let Err(error) = ready!(to.poll_send_rest(cx)) {
                return Poll::Ready(Fault::To(error));
            }
            match self.translator.end() {
                None => {}
                Some(End::Closed) => {
                    self.closed = true;
                    return Poll::Pending;
                }
                Some(End::Invalid(error)) => return Poll::Ready(Fault::Invalid(error)),
            }
            let filled = match ready!(self.poll_hear(cx, &mut buf[HEADROOM..])) {
                Ok(0) => return Poll::Ready(Fault::From(io::ErrorKind::UnexpectedEof.into())),
                Ok(filled) => filled,
                Err(error) => return Poll::Ready(Fault::From(error)),
            };
            let out = self.translator.translate(buf, filled);
            bytes.fetch_add(out.len() as u64, Relaxed);
            if let Err(error) = to.send(cx, &buf[out]) {
                return Poll::Ready(Fault::To(error));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.leftover.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buf);
        }
        let n = self.leftover.len().min(buf.len());
        buf[..n].copy_from_slice(&self.leftover[..n]);
        self.leftover.drain(..n);
        Poll::Ready(Ok(n))
    }

    /// Writes what the socket takes and keeps the rest. Only to be called when there is no rest.
    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let taken = match Pin::new(&mut self.transport).poll_write(cx, bytes) {
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        self.unsent.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Ready when the socket, and TLS before it, has taken everything.
    fn poll_send_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            match ready!(Pin::new(&mut self.transport).poll_write(cx, &self.unsent[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        if self.sent > 0 {
            self.unsent = Vec::new();
            self.sent = 0;
        }
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Whether this side has closed its connection after its close frame.
    fn poll_left(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> bool {
        for _ in 0..TURNS {
            if !self.closed || self.left {
                return self.left;
            }
            match Pin::new(&mut self.transport).poll_read(cx, buf) {
                Poll::Pending => return false,
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => self.left = true,
            }
        }
        cx.waker().wake_by_ref();
        false
    }

    /// Queues a close frame of the relay's own, unless it would land inside a frame of `other`, or behind its last.
    fn append_close(&mut self, close: &Close, other: &Self) {
        if !other.translator.at_boundary() || other.translator.end() == Some(End::Closed) {
            return;
        }
        let length = close.reason().len() + 2;
        let mut header = [0; MAX_HEADER_BYTES];
        let n = FrameHeader::whole(Opcode::Close, None, length as u64).encode(&mut header);
        self.unsent.extend_from_slice(&header[..n]);
        self.unsent.extend_from_slice(&close.code().to_be_bytes());
        self.unsent.extend_from_slice(close.reason().as_bytes());
    }

    /// Sends the rest, closes this end, and waits for the other end to do so, which keeps the kernel from throwing away
    /// what the peer has not read yet.
    async fn say_goodbye(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_send_rest(cx)).await?;
        self.transport.close().await?;
        http::discard(&mut self.transport).await
    }
}

impl Fault {
    fn cause(self, from: Party, to: Party) -> Cause {
        match self {
            Self::From(error) => Cause::Vanished(from, error),
            Self::To(error) => Cause::Vanished(to, error),
            Self::Invalid(error) => Cause::Invalid(from, error),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by both sides"),
            Self::Left(party) => write!(f, "closed by the {party}, which left before the other side had closed"),
            Self::Vanished(party, error) => write!(f, "the {party} was gone without a close frame: {error}"),
            Self::Invalid(party, error) => write!(f, "the {party} broke the protocol: {error}"),
            Self::Ended(close) => write!(f, "ended by the relay: {}", close.reason()),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sender => "sender",
            Self::Listener => "listener",
        })
    }
}
