//! Links of a driver: how one comes up, takes the place of another, and goes.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use log::{debug, info, warn};
use smol::Timer;
use smol::future::FutureExt;
use umbilical_mux::{Hello, Instant, MAX_HELLO, Resumption, Violation};

use super::{Driver, NEXT_LINK, close_code};
use crate::handle::{Event, LinkEnd, NewLink};
use crate::websocket::{Incoming, WebSocket, WebSocketError};

/// How long a closed link may take to say goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// A WebSocket in use by the session.
pub(super) struct Link {
    pub(super) socket: WebSocket,
    pub(super) number: u32,
    pub(super) up_at: Instant,
    pub(super) heard_at: Instant,
    /// When it was asked for a sign of life, if nothing was heard since.
    pub(super) pinged_at: Option<Instant>,
    /// The socket may have something to read; may take something.
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Link {
    pub(super) fn new(socket: WebSocket, number: u32, now: Instant) -> Self {
        Self { socket, number, up_at: now, heard_at: now, pinged_at: None, readable: true, writable: true }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        (self.heard_at, self.pinged_at) = (now, None);
    }
}

impl Driver {
    /// A link is offered: the gateway says `Hello` on it, the agent has read one.
    pub(super) fn offer_link(&mut self, now: Instant, link: NewLink) {
        let NewLink { socket, hello } = link;
        let Some(hello) = hello else {
            self.last_number = self.last_number.max(self.session.link_number()) + 1;
            let mut link = Link::new(socket, self.last_number, now);
            match self.say_hello(&mut link) {
                Ok(()) => self.next_link = Some(link),
                Err(error) => self.tell(Event::LinkFailed(LinkEnd::Broken(error))),
            }
            return self.ready.note(NEXT_LINK);
        };
        let mut link = Link::new(socket, hello.link, now);
        match self.session.handle_hello(now, &hello, &mut self.ports) {
            Err(violation) => self.refuse_link(link, violation),
            Ok(resumption) => match self.say_hello(&mut link) {
                Ok(()) => self.link_up(link, resumption),
                Err(error) => self.lose_link(now, LinkEnd::Broken(error)),
            },
        }
    }

    fn say_hello(&mut self, link: &mut Link) -> Result<(), WebSocketError> {
        let hello = self.session.hello(link.number);
        let mut bytes = [0; MAX_HELLO];
        let mut cx = Context::from_waker(&self.wakers.next_link);
        link.socket.send(&mut cx, hello.encode(&mut bytes), &[]).map_err(WebSocketError::Io)?;
        let _ = link.socket.poll_ready(&mut cx)?;
        Ok(())
    }

    /// Waits for the answer to this side's `Hello`.
    pub(super) fn poll_next_link(&mut self, now: Instant) {
        let Some(link) = &mut self.next_link else { return };
        let mut cx = Context::from_waker(&self.wakers.next_link);
        let answer = match link.socket.poll_ready(&mut cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => link.socket.poll_incoming(&mut cx),
        };
        let answer = match answer {
            Poll::Pending => return,
            Poll::Ready(Ok(Incoming::Pong)) => return self.ready.note(NEXT_LINK),
            Poll::Ready(Ok(Incoming::Message(message))) => Ok(Hello::decode(message)),
            Poll::Ready(Ok(Incoming::Closed(code, reason))) => Err(LinkEnd::Closed(code, reason)),
            Poll::Ready(Err(error)) => Err(LinkEnd::Broken(error)),
        };
        let Some(link) = self.next_link.take() else { return };
        let hello = match answer {
            Ok(hello) => hello,
            Err(end) => return self.tell(Event::LinkFailed(end)),
        };
        match hello.and_then(|hello| self.session.handle_hello(now, &hello, &mut self.ports)) {
            Ok(resumption) => self.link_up(link, resumption),
            Err(violation) => self.refuse_link(link, violation),
        }
    }

    fn refuse_link(&mut self, mut link: Link, violation: Violation) {
        warn!("{}: link refused: {violation}", self.config.name);
        self.farewell(&mut link, close_code::VIOLATION, &violation.to_string());
        self.tell(Event::LinkFailed(LinkEnd::Refused(violation)));
    }

    fn link_up(&mut self, link: Link, resumption: Resumption) {
        if let Some(segment) = link.socket.transport().segment_size() {
            self.session.set_segment(segment, link.socket.framing());
        }
        info!("{}: link {} up, {resumption}", self.config.name, link.number);
        self.tell(Event::LinkUp { number: link.number, resumption });
        if let Some(mut old) = self.link.replace(link) {
            self.farewell(&mut old, close_code::TAKEN_OVER, "a newer link has taken over");
        }
    }

    pub(super) fn lose_link(&mut self, now: Instant, end: LinkEnd) {
        if let Some(link) = self.link.take() {
            let lasted = now.micros_since(link.up_at) / 1_000_000;
            info!("{}: link {} lost after {lasted} s: {end}", self.config.name, link.number);
        }
        self.session.handle_link_lost(now);
        self.tell(Event::LinkLost(end));
    }

    /// Says why, as far as the socket takes it at once: the peer of such a link is rarely still there.
    fn farewell(&self, link: &mut Link, code: u16, reason: &str) {
        if let Err(error) = link.socket.close(code, reason) {
            debug!("{}: link {}: {error}", self.config.name, link.number);
        }
        let _ = link.socket.poll_ready(&mut Context::from_waker(Waker::noop()));
    }
}

/// Closes a link of a session that is over, and gives the peer a moment to read why.
pub(super) async fn goodbye(mut link: Link, code: u16, reason: &str) {
    if link.socket.close(code, reason).is_ok() {
        link.socket.shutdown().or(async { _ = Timer::after(GOODBYE_WITHIN).await }).await;
    }
}
