//! What the owner of a driver says to it and hears from it.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use smol::channel::{Receiver, Sender, TrySendError, bounded};
use umbilical_mux::{Counters, Hello, LinkEstimate, Resumption, Violation};

use crate::port::{Io, OnEnd};
use crate::websocket::{WebSocket, WebSocketError};

/// A link for a session.
pub struct NewLink {
    /// The open WebSocket; nothing was said on it, but for the gateway's `Hello` that the agent has read.
    pub socket: WebSocket,
    /// The peer's `Hello`, on the agent; the gateway speaks first and waits for it.
    pub hello: Option<Hello>,
}

/// A stream to open.
pub struct NewStream {
    /// The peer's service.
    pub service: Arc<str>,
    /// This side's far end.
    pub io: Io,
    /// Called when it is over, also if it could not be opened.
    pub on_end: OnEnd,
}

/// What a driver is told.
pub(crate) enum Command {
    Link(Box<NewLink>),
    Open(NewStream),
    GoAway(Duration),
    Doubt,
    Stop,
    Status(Sender<Status>),
}

/// What a driver tells.
#[derive(Debug)]
pub enum Event {
    /// A link is up.
    LinkUp {
        /// Its number.
        number: u32,
        /// Whether streams of before go on.
        resumption: Resumption,
    },
    /// There is no link any more; the session waits for another.
    LinkLost(LinkEnd),
    /// The link offered could not be used; the one that there is, if any, is not touched.
    LinkFailed(LinkEnd),
    /// The peer takes no new streams in this session.
    PeerGoingAway,
    /// The session is over.
    Ended(SessionEnd),
}

/// Why a link ended.
#[derive(Debug)]
pub enum LinkEnd {
    /// The peer closed the WebSocket: code and reason.
    Closed(u16, String),
    /// The connection or the WebSocket broke.
    Broken(WebSocketError),
    /// Nothing was heard for this long, though it was asked for.
    Silent(Duration),
    /// The `Hello` on it was not acceptable.
    Refused(Violation),
    /// The peer did not answer the `Hello` in time.
    NoHello,
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(code, reason) if reason.is_empty() => write!(f, "closed by the peer with code {code}"),
            Self::Closed(code, reason) => write!(f, "closed by the peer with code {code}: {reason}"),
            Self::Broken(error) => error.fmt(f),
            Self::Silent(time) => write!(f, "no sign of life for {} s", time.as_secs()),
            Self::Refused(violation) => violation.fmt(f),
            Self::NoHello => f.write_str("peer did not answer the hello in time"),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// Its owner said so, or all streams finished after it said to go away.
    Stopped,
    /// The peer broke the protocol.
    Violation(Violation),
    /// No link came for as long as streams wait for one.
    Expired,
}

/// How a session is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether there is a link, and its number or the last one's.
    pub linked: bool,
    /// See [`umbilical_mux::Session::link_number`].
    pub link_number: u32,
    /// Streams open.
    pub streams: u16,
    /// Counts since the session began.
    pub counters: Counters,
    /// What the link looks like.
    pub estimate: LinkEstimate,
    /// See [`umbilical_mux::Session::pool_used`] and [`umbilical_mux::Session::pool_shared`], in bytes.
    pub pool_used: u32,
    /// The most that can be in use.
    pub pool_shared: u32,
    /// See [`umbilical_mux::Session::peer_features`].
    pub peer_features: u32,
}

/// The way to a driver. Clones are equal; the driver ends when the last one is gone.
#[derive(Debug)]
pub struct Handle {
    commands: Sender<Command>,
    events: Receiver<Event>,
    totals: Arc<OnceLock<Counters>>,
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), events: self.events.clone(), totals: Arc::clone(&self.totals) }
    }
}

/// The session is over; what was to be given to it comes back.
pub struct Over<T>(pub T);

impl<T> fmt::Debug for Over<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Over")
    }
}

impl Handle {
    pub(crate) fn new(commands: Sender<Command>, events: Receiver<Event>, totals: Arc<OnceLock<Counters>>) -> Self {
        Self { commands, events, totals }
    }

    /// Whether both lead to the same session.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.totals, &other.totals)
    }

    /// What a session that is over has counted; known before [`Event::Ended`] is told. `None` while it goes on.
    #[must_use]
    pub fn totals(&self) -> Option<Counters> {
        self.totals.get().copied()
    }

    /// Gives the session a link; it takes the place of the one there is.
    ///
    /// # Errors
    /// The link, if the session is over.
    pub fn link(&self, link: NewLink) -> Result<(), Over<Box<NewLink>>> {
        match self.commands.try_send(Command::Link(Box::new(link))) {
            Err(TrySendError::Closed(Command::Link(link)) | TrySendError::Full(Command::Link(link))) => Err(Over(link)),
            _ => Ok(()),
        }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// The stream, if the session is over.
    pub fn open(&self, stream: NewStream) -> Result<(), Over<NewStream>> {
        match self.commands.try_send(Command::Open(stream)) {
            Err(TrySendError::Closed(Command::Open(stream)) | TrySendError::Full(Command::Open(stream))) => {
                Err(Over(stream))
            }
            _ => Ok(()),
        }
    }

    /// No new streams; open ones have this long to finish, then the session ends. Those of datagrams end at once.
    pub fn go_away(&self, drain_for: Duration) {
        let _ = self.commands.try_send(Command::GoAway(drain_for));
    }

    /// Something has happened after which nobody knows whether the link is still there, such as the machine's sleep: it is
    /// asked for a sign of life now, and lost if none comes.
    pub fn doubt(&self) {
        let _ = self.commands.try_send(Command::Doubt);
    }

    /// Ends the session now.
    pub fn stop(&self) {
        let _ = self.commands.try_send(Command::Stop);
    }

    /// How the session is doing; `None` if it is over.
    pub async fn status(&self) -> Option<Status> {
        let (answer, status) = bounded(1);
        self.commands.try_send(Command::Status(answer)).ok()?;
        status.recv().await.ok()
    }

    /// The next event; `None` after the last. Clones share them: one of them should listen.
    pub async fn event(&self) -> Option<Event> {
        self.events.recv().await.ok()
    }
}
