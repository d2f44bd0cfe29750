//! Tells a gateway how the agent is doing when it asks, as a service of its own (docs/protocol.md, section 15).
//!
//! ```text
//! gateway ── Open $report ──► session ── question ──► the one who knows ── report ──► stream, and its end
//! ```

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use smol::{
    channel::{self, Receiver, Sender},
    io::{AsyncRead, AsyncWrite, Cursor},
};
use umbilical_link::{Io, port::OnEnd};
use umbilical_mux::{MAX_REPORT, Report, ResetReason};

use crate::{
    health::Health,
    session::{Sessions, Totals},
    sys::{boot_time, resident_bytes},
};

/// A question: where the report goes.
pub type Question = Sender<Vec<u8>>;

/// Where sessions ask.
#[derive(Debug, Clone)]
pub struct Reporter(Sender<Question>);

impl Reporter {
    /// It, and the questions that come.
    #[must_use]
    pub fn new() -> (Reporter, Receiver<Question>) {
        let (ask, questions) = channel::unbounded();
        (Reporter(ask), questions)
    }

    /// The far end of a stream that says the report, and ends.
    #[must_use]
    pub fn dial(&self) -> (Io, OnEnd) {
        let ask = self.0.clone();
        let dialing = async move {
            let (answer, report) = channel::bounded(1);
            let asked = ask.try_send(answer).is_ok();
            match report.recv().await {
                Ok(report) if asked => Ok(Io::Other(Box::new(Saying(Cursor::new(report))))),
                _ => Err(ResetReason::GOING_AWAY),
            }
        };
        (Io::Dialing(Box::pin(dialing)), Box::new(|_| {}))
    }
}

/// Answers all questions, for ever.
pub async fn answer(questions: Receiver<Question>, health: Rc<Health>, sessions: Rc<Sessions>) {
    let started = boot_time();
    while let Ok(question) = questions.recv().await {
        let report = report(started, &health, sessions.totals().await);
        // who asked may be gone
        let _ = question.try_send(report.encode(&mut [0; MAX_REPORT]).to_vec());
    }
}

fn report(started: Duration, health: &Health, totals: Totals) -> Report {
    let Totals { sessions, streams, links, resumes, counters } = totals;
    Report {
        version: env!("CARGO_PKG_VERSION").try_into().unwrap_or_default(),
        uptime_s: boot_time().saturating_sub(started).as_secs(),
        resident_bytes: resident_bytes().unwrap_or_default() as u64,
        control_channels: health.control_channels(),
        sessions,
        links,
        resumes,
        streams,
        streams_opened: counters.streams_opened,
        bytes_sent: counters.bytes_sent,
        bytes_received: counters.bytes_received,
        bytes_resent: counters.bytes_resent,
        credit_stalls: counters.credit_stalls,
        resets: counters.streams_reset,
    }
}

/// What is said, to somebody who has nothing to say.
struct Saying(Cursor<Vec<u8>>);

impl AsyncRead for Saying {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Saying {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
