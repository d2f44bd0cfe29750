//! A client that has asked for a WebSocket and has no answer yet.
//!
//! Owns the connection until it is answered, one way or the other, and what answering takes: deadlines, counting,
//! logging, spacing out refusals.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use log::{debug, warn};
use smol::Timer;
use smol::io::AsyncReadExt;
use umbilical_link::transport::Transport;
use umbilical_link::upgrade::{ANSWERS_PINGS, Role, Upgraded, ZERO_MASK};
use umbilical_relay_protocol::Rejection;

use super::{Shared, authorize};
use crate::deadline;
use crate::http::{RequestHead, Response};

/// Bytes that a client may send before its handshake is answered. It should send none.
const MAX_EARLY_BYTES: usize = 4096;

/// A handshake that is well formed and not answered.
pub(crate) struct Handshake {
    pub(crate) head: RequestHead,
    pub(crate) peer: SocketAddr,
    /// A GUID that client and relay can both find it by.
    pub(crate) id: String,
    /// `Sec-WebSocket-Key`.
    pub(crate) key: String,
    pub(crate) transport: Transport,
    pub(crate) leftover: Vec<u8>,
}

/// Whose word a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The relay's, and the client is to blame: repeated ones are spaced out.
    Blame,
    /// The relay's, and nobody is to blame.
    Regret,
    /// The listener's, to be passed on as it is.
    Listener,
}

impl Handshake {
    /// Whether the client speaks TLS to this relay itself.
    pub(crate) fn tls(&self) -> bool {
        self.transport.is_tls()
    }

    /// The subprotocols the client offers, in its order.
    pub(crate) fn subprotocols(&self) -> Vec<String> {
        self.head.list("sec-websocket-protocol").map(str::to_owned).collect()
    }

    /// Waits until the client gives up. Early bytes are kept; after too many of them nobody listens any more.
    pub(crate) async fn abandoned(&mut self) -> io::Error {
        let mut buf = [0; 512];
        while self.leftover.len() < MAX_EARLY_BYTES {
            match self.transport.read(&mut buf).await {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => self.leftover.extend_from_slice(&buf[..n]),
                Err(error) => return error,
            }
        }
        smol::future::pending().await
    }

    /// Answers 101. `None` if the client is gone.
    pub(crate) async fn accept(mut self, shared: &Shared, subprotocol: Option<&str>) -> Option<Upgraded> {
        let response = Response::switching_protocols(&self.key, subprotocol).header(ANSWERS_PINGS.0, ANSWERS_PINGS.1);
        let response = if self.tls() { response.header(ZERO_MASK.0, ZERO_MASK.1) } else { response };
        match deadline::within(shared.deadlines().handshake, response.write(&mut self.transport)).await {
            Some(Ok(())) => Some(Upgraded {
                transport: self.transport,
                leftover: self.leftover,
                role: Role::Server,
                subprotocol: subprotocol.map(str::to_owned),
                date: None,
                zero_mask: false,
                answers_pings: false,
            }),
            Some(Err(error)) => {
                debug!("{} was gone before its handshake was answered: {error}", self.peer);
                None
            }
            None => {
                debug!("{} does not take the answer to its handshake", self.peer);
                None
            }
        }
    }

    /// Answers with a refusal and closes the connection.
    pub(crate) async fn refuse(mut self, shared: &Shared, rejection: Rejection, word: Word) {
        let path = self.head.shown_path();
        match word {
            Word::Blame => warn!("{} refused for {path}: {rejection} (id {})", self.peer, self.id),
            Word::Regret | Word::Listener => {
                debug!("{} turned away from {path}: {rejection} (id {})", self.peer, self.id);
            }
        }
        let rejection = match word {
            Word::Blame | Word::Regret => {
                let system = self.head.header("host").unwrap_or("relay");
                rejection.tracked(&self.id, system, authorize::now_unix())
            }
            Word::Listener => rejection,
        };
        let response = Response::new(rejection.status(), rejection.reason());
        refuse(shared, &mut self.transport, self.peer, response, word == Word::Blame).await;
    }
}

/// Answers a client with anything but a 101 and closes the connection. If the client is to `blame`, it may have to wait
/// for the answer.
pub(crate) async fn refuse(
    shared: &Shared,
    transport: &mut Transport,
    peer: SocketAddr,
    response: Response,
    blame: bool,
) {
    shared.metrics.rejected(response.status());
    if blame {
        let limits = shared.limits();
        let pause = shared.penalties.refused(peer.ip(), limits.refusals, limits.refusal_pause, Instant::now());
        if !pause.is_zero() {
            Timer::after(pause).await;
        }
    }
    if let Some(Err(error)) = deadline::within(shared.deadlines().close, response.finish(transport)).await {
        debug!("{peer} did not wait for its refusal: {error}");
    }
}
