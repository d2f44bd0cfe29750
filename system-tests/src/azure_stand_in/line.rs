//! One connection as a load balancer in front of the service has it: silent for too long, it is forgotten. Nobody is told;
//! what is sent to it later arrives nowhere, and is not answered.

use std::{
    io,
    net::TcpStream,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use smol::{
    Timer,
    channel::{Receiver, Sender, bounded},
    io::{AsyncRead, AsyncWrite},
};
use socket2::{SockFilter, SockRef};
use umbilical_link::transport::Transport;

use super::{Kind, Shared};

/// What is known of a connection.
pub(super) struct Line {
    kind: Kind,
    /// The same socket as the connection's.
    socket: TcpStream,
    heard: Mutex<Instant>,
    is_forgotten: AtomicBool,
    forget: Sender<()>,
}

/// A connection whose silence is watched.
pub(super) struct Observed {
    transport: Transport,
    line: Arc<Line>,
}

/// Returns when a connection was forgotten.
pub(super) type Forgotten = Receiver<()>;

impl Line {
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// From now on each packet for the service is thrown away before TCP sees it. `false` if it was so before.
    pub(super) fn forget(&self) -> bool {
        if self.is_forgotten.swap(true, Ordering::Relaxed) {
            return false;
        }
        // a packet filter of one instruction: of each packet, keep nothing (BPF_RET | BPF_K of linux/filter.h)
        let filter = [SockFilter::new(0x06, 0, 0, 0)];
        SockRef::from(&self.socket).attach_filter(&filter).expect("a filter of one instruction");
        let _ = self.forget.try_send(());
        true
    }

    /// Its end, when it is dropped, is a reset.
    pub(super) fn abort(&self) {
        let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
    }

    fn noted(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn watch(self: Arc<Line>, shared: Arc<Shared>) {
        let line = Arc::downgrade(&self);
        drop(self);
        while let Some(line) = line.upgrade() {
            let end = *line.heard.lock().unwrap_or_else(PoisonError::into_inner) + shared.terms.idle;
            if end <= Instant::now() {
                if line.forget() {
                    shared.note(|seen| seen.forgotten.push(line.kind));
                }
                return;
            }
            drop(line);
            Timer::at(end).await;
        }
    }
}

impl Observed {
    /// Watches a connection, which has just been used.
    pub(super) fn new(shared: &Arc<Shared>, kind: Kind, transport: Transport) -> io::Result<(Observed, Forgotten)> {
        let (forget, forgotten) = bounded(1);
        let line = Arc::new(Line {
            kind,
            socket: transport.socket().get_ref().try_clone()?,
            heard: Mutex::new(Instant::now()),
            is_forgotten: AtomicBool::new(false),
            forget,
        });
        let mut state = shared.state();
        state.lines.retain(|line| line.strong_count() > 0);
        state.lines.push(Arc::downgrade(&line));
        drop(state);
        shared.executor.spawn(Arc::clone(&line).watch(Arc::clone(shared))).detach();
        Ok((Observed { transport, line }, forgotten))
    }

    /// What is known of it.
    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.transport).poll_read(cx, buffer);
        if read.is_ready() {
            self.line.noted();
        }
        read
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, bytes);
        if written.is_ready() {
            self.line.noted();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_close(cx)
    }
}
