//! All ports of a session, by slot: the [`Ports`] that the session reads and writes.

use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use umbilical_mux::{End, Mode, Ports, Read, ResetReason, Slot, Write};

use crate::datagrams::Datagrams;
use crate::port::{Ended, Io, OnEnd, reset_reason};
use crate::ready::ReadySet;

/// Pieces of one write at most: what the receive pool gives at once.
const PIECES: usize = 32;

/// The services that a peer may open streams to.
pub trait Services: Send {
    /// Begins to dial `service`, for a stream that carries `mode`, and says what to do when the stream is over. Datagrams
    /// come right behind, so that a far end of datagrams is there at once.
    ///
    /// # Errors
    /// The reason to reset the stream with.
    fn dial(&mut self, service: &str, mode: Mode) -> Result<(Io, OnEnd), ResetReason>;
}

/// For a side whose peer may open nothing.
#[derive(Debug)]
pub struct NoServices;

impl Services for NoServices {
    fn dial(&mut self, _: &str, _: Mode) -> Result<(Io, OnEnd), ResetReason> {
        Err(ResetReason::NOT_ALLOWED)
    }
}

pub(crate) struct PortTable {
    entries: Vec<Entry>,
    services: Box<dyn Services>,
    ready: Arc<ReadySet>,
    /// Number of the first slot's first waker in the set; each slot has two, for reading and writing.
    first: usize,
}

#[derive(Default)]
struct Entry {
    wakers: Option<(Waker, Waker)>,
    port: Option<Port>,
}

struct Port {
    io: Io,
    service: Arc<str>,
    on_end: OnEnd,
    /// The peer's half is closed: to be passed on once the service is dialled. Of datagrams: the next read is the end.
    finished: bool,
    /// The last read was given less than it had room for: the kernel has no more, until it says so.
    drained: bool,
    sent: u64,
    received: u64,
    since: Instant,
}

impl PortTable {
    pub(crate) fn new(services: Box<dyn Services>, ready: Arc<ReadySet>, first: usize) -> Self {
        Self { entries: Vec::new(), services, ready, first }
    }

    /// Puts the port of a stream that this side opened at its slot.
    pub(crate) fn put(&mut self, slot: Slot, service: Arc<str>, io: Io, on_end: OnEnd) {
        if self.entries.len() <= slot.index() {
            self.entries.resize_with(slot.index() + 1, Entry::default);
        }
        let first = self.first + 2 * slot.index();
        let entry = &mut self.entries[slot.index()];
        if entry.wakers.is_none() {
            entry.wakers = Some((self.ready.waker(first), self.ready.waker(first + 1)));
        }
        entry.port = Some(Port {
            io,
            service,
            on_end,
            finished: false,
            drained: false,
            sent: 0,
            received: 0,
            since: Instant::now(),
        });
    }

    /// Goes on with dialling, if that is what the port at `slot` is doing: ready if it is connected, or failed.
    pub(crate) fn poll_dial(&mut self, slot: Slot) -> Poll<Result<(), ResetReason>> {
        let Some((port, reading, writing)) = self.port(slot) else { return Poll::Ready(Ok(())) };
        let Io::Dialing(dialing) = &mut port.io else { return Poll::Ready(Ok(())) };
        match dialing.as_mut().poll(&mut Context::from_waker(reading)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(reason)) => Poll::Ready(Err(reason)),
            Poll::Ready(Ok(io)) => {
                port.io = io;
                if port.finished {
                    port.io.finish(&mut Context::from_waker(writing));
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Ends all streams of datagrams, which have no end of their own that could be waited for.
    pub(crate) fn end_datagrams(&mut self) {
        for entry in &mut self.entries {
            if let (Some(port), Some((reading, _))) = (&mut entry.port, &entry.wakers)
                && port.io.mode() == Mode::Datagram
            {
                port.finished = true;
                reading.wake_by_ref();
            }
        }
    }

    fn port(&mut self, slot: Slot) -> Option<(&mut Port, &Waker, &Waker)> {
        let entry = self.entries.get_mut(slot.index())?;
        let (reading, writing) = entry.wakers.as_ref()?;
        Some((entry.port.as_mut()?, reading, writing))
    }
}

impl Ports for PortTable {
    fn service(&self, slot: Slot) -> &str {
        let entry = self.entries.get(slot.index());
        entry.and_then(|entry| entry.port.as_ref()).map_or("", |port| &port.service)
    }

    fn accept(&mut self, slot: Slot, service: &str, mode: Mode) -> Result<(), ResetReason> {
        let (io, on_end) = self.services.dial(service, mode)?;
        debug_assert_eq!(io.mode(), mode, "a far end for the other mode");
        self.put(slot, service.into(), io, on_end);
        // The dialling begins with its first poll, in the driver's next turn.
        self.ready.note(self.first + 2 * slot.index());
        Ok(())
    }

    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Read {
        let Some((port, reading, _)) = self.port(slot) else { return Read::End };
        let cx = &mut Context::from_waker(reading);
        if let Io::Datagrams(far) = &mut port.io {
            return if port.finished { Read::End } else { receive(far.as_mut(), cx, buffer, &mut port.sent) };
        }
        // A read that would find nothing is a system call saved.
        if port.drained && port.io.poll_readable(cx).is_pending() {
            return Read::Pending;
        }
        match port.io.poll_read(cx, buffer) {
            Poll::Pending => Read::Pending,
            Poll::Ready(Ok(0)) => Read::End,
            Poll::Ready(Ok(count)) => {
                port.drained = count < buffer.len();
                port.sent += count as u64;
                Read::Data(count)
            }
            Poll::Ready(Err(error)) => Read::Failed(reset_reason(&error)),
        }
    }

    fn write(&mut self, slot: Slot, chunks: &[&[u8]]) -> Write {
        let Some((port, _, writing)) = self.port(slot) else { return Write::Failed(ResetReason::ABORTED) };
        if let Io::Datagrams(far) = &mut port.io {
            return deliver(far.as_mut(), chunks, &mut port.received);
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = chunks.len().min(PIECES);
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
        }
        let mut slices = &mut slices[..count];
        let mut taken = 0;
        // Asked again until it has no more room, so that the kernel will tell when it has.
        while !slices.is_empty() {
            match port.io.poll_write(&mut Context::from_waker(writing), slices) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Write::Failed(ResetReason::ABORTED),
                Poll::Ready(Ok(count)) => {
                    taken += count;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Poll::Ready(Err(error)) => return Write::Failed(reset_reason(&error)),
            }
        }
        port.received += taken as u64;
        Write::Taken(taken)
    }

    fn finish(&mut self, slot: Slot) {
        let Some((port, reading, writing)) = self.port(slot) else { return };
        port.finished = true;
        port.io.finish(&mut Context::from_waker(writing));
        if port.io.mode() == Mode::Datagram {
            // nobody is there to hear an answer: the next read is the end
            reading.wake_by_ref();
        }
    }

    fn release(&mut self, slot: Slot, end: End) {
        let Some(port) = self.entries.get_mut(slot.index()).and_then(|entry| entry.port.take()) else { return };
        if end != End::Closed {
            port.io.abort();
        }
        drop(port.io);
        let lasted = port.since.elapsed();
        (port.on_end)(&Ended { end, sent: port.sent, received: port.received, lasted });
    }
}

fn receive(far: &mut dyn Datagrams, cx: &mut Context<'_>, buffer: &mut [u8], sent: &mut u64) -> Read {
    match far.poll_receive(cx, buffer) {
        Poll::Pending => Read::Pending,
        Poll::Ready(Ok(Some(count))) => {
            *sent += count as u64;
            Read::Data(count)
        }
        Poll::Ready(Ok(None)) => Read::End,
        Poll::Ready(Err(error)) => Read::Failed(reset_reason(&error)),
    }
}

/// A datagram comes as one chunk.
fn deliver(far: &mut dyn Datagrams, chunks: &[&[u8]], received: &mut u64) -> Write {
    let datagram = chunks.first().copied().unwrap_or_default();
    match far.send(datagram) {
        Ok(()) => {
            *received += datagram.len() as u64;
            Write::Taken(datagram.len())
        }
        Err(error) => Write::Failed(reset_reason(&error)),
    }
}
