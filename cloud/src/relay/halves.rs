//! One connection that is read and written by two futures of the same task.
//!
//! Both may borrow it at a time and neither blocks the other: the lock is held for one poll only. When both are done, the
//! connection is there again as a whole, which a split into owned halves would not give back.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use smol::io::{AsyncRead, AsyncWrite};
use umbilical_link::transport::Transport;

/// A connection to take halves of.
pub(crate) struct Shareable(Mutex<Transport>);

/// One that reads, or one that writes.
#[derive(Clone, Copy)]
pub(crate) struct Half<'t>(&'t Shareable);

impl Shareable {
    pub(crate) fn new(transport: Transport) -> Self {
        Self(Mutex::new(transport))
    }

    pub(crate) fn half(&self) -> Half<'_> {
        Half(self)
    }

    pub(crate) fn into_inner(self) -> Transport {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Transport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Half<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Half<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_close(cx)
    }
}
