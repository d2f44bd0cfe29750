//! What agents tell of themselves: asked over their session, by a stream to a service of its own
//! (docs/protocol.md, section 15), and kept for those who scrape.
//!
//! Asking costs traffic, perhaps a modem's, so that it is done when somebody wants to know, and not more often than
//! `ask-agents`. An agent that does not answer holds nobody up: its stream ends after [`ANSWER_WITHIN`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::io::{AsyncRead, AsyncWrite};
use umbilical_link::Io;
use umbilical_mux::{End, FEATURE_REPORT, MAX_REPORT, REPORT_SERVICE, Report};

use super::device::{Client, ClientEnd, Live, State};

/// How long an answer is waited for.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Longest report of any version that is read, in bytes.
const LONGEST: usize = 4 * MAX_REPORT;

/// What is known of an agent.
#[derive(Debug, Clone, Default)]
pub struct AgentReport {
    /// Whether it answered when it was asked last.
    pub answered: bool,
    /// What it said last, and when.
    pub last: Option<(Report, SystemTime)>,
}

/// The questions to one agent.
#[derive(Debug, Default)]
pub(super) struct Asked {
    report: AgentReport,
    /// When it was asked last, and whether that is still open.
    at: Option<Instant>,
    open: bool,
}

impl Asked {
    /// What is known; `None` if it never was asked.
    pub(super) fn report(&self) -> Option<AgentReport> {
        self.at.map(|_| self.report.clone())
    }
}

impl State {
    /// Asks the agent how it is doing, unless that was done less than `every` ago. What is given tells, by its end, that the
    /// answer is there, or will not be. `None` if nobody was asked: there is no link, or no agent that answers.
    pub(super) async fn ask(self: &Arc<Self>, every: Duration) -> Option<Receiver<()>> {
        let live = self.current().clone()?;
        let now = Instant::now();
        let due = |asked: &Asked| !asked.open && asked.at.is_none_or(|at| now.saturating_duration_since(at) >= every);
        if !due(&self.asked()) || live.handle.status().await?.peer_features & FEATURE_REPORT == 0 {
            return None;
        }
        {
            let mut asked = self.asked();
            if !due(&asked) {
                // another scrape was faster
                return None;
            }
            (asked.at, asked.open) = (Some(now), true);
        }
        let (done, end) = bounded(1);
        self.open_question(&live, done);
        Some(end)
    }

    fn open_question(self: &Arc<Self>, live: &Live, done: Sender<()>) {
        let (state, heard) = (Arc::clone(self), Arc::<Mutex<Vec<u8>>>::default());
        let io = Io::Other(Box::new(Hearing::new(Arc::clone(&heard))));
        let on_end = Box::new(move |end: ClientEnd<'_>| {
            let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            let report = match end {
                ClientEnd::Stream(ended) if ended.end == End::Closed => Report::decode(&heard),
                _ => None,
            };
            let mut asked = state.asked();
            (asked.open, asked.report.answered) = (false, report.is_some());
            if let Some(report) = report {
                asked.report.last = Some((report, SystemTime::now()));
            }
            drop(done);
        });
        live.open(Client { service: REPORT_SERVICE.into(), io, on_end });
    }
}

/// The end of a stream that only listens, and not for long.
struct Hearing {
    heard: Arc<Mutex<Vec<u8>>>,
    finished: bool,
    reader: Option<Waker>,
    late: Timer,
}

impl Hearing {
    fn new(heard: Arc<Mutex<Vec<u8>>>) -> Self {
        Self { heard, finished: false, reader: None, late: Timer::after(ANSWER_WITHIN) }
    }
}

impl AsyncRead for Hearing {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Ok(0));
        }
        self.reader = Some(cx.waker().clone());
        Pin::new(&mut self.late).poll(cx).map(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Hearing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() + bytes.len() > LONGEST {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        heard.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}
