//! Listeners that are no agent of ours: one rendezvous for each client, as classic senders do it.
//!
//! ```text
//! client ── socket ──► bridge ── WebSocket ──► relay ──► listener, and what it joins it with
//! ```
//!
//! Nothing is kept between clients: no session, no link, and a client that comes is one dial. Owns: what is said before
//! payload (azbridge's preamble), the end when the gateway stops. Leaves to others: dialling (`sender`), the bytes
//! (`umbilical_link::bridge`).

use std::future::pending;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use log::debug;
use smol::Timer;
use smol::future::or;
use umbilical_link::bridge::{Bridge, Bridged};
use umbilical_link::byte_stream::{ByteStream, StreamError};
use umbilical_link::{Ended, Io};
use umbilical_mux::{End, Mode, ResetReason};
use umbilical_relay_protocol::{PortMode, PreambleHead, PreambleReply};

use super::device::{Client, ClientEnd, Common, reset};
use super::sender::SenderError;
use crate::config::ListenerKind;
use crate::deadline;

/// How long a listener may take to answer the preamble.
const PREAMBLE_WITHIN: Duration = Duration::from_secs(10);

/// The way to a device whose listener is a foreign one.
#[derive(Clone)]
pub(crate) struct Foreign {
    name: Arc<str>,
    kind: ListenerKind,
    common: Common,
}

impl Foreign {
    pub(crate) fn new(name: Arc<str>, kind: ListenerKind, common: Common) -> Self {
        Self { name, kind, common }
    }

    /// Joins a client with a rendezvous of its own.
    pub(crate) fn open(&self, client: Client) {
        self.common.spawn(self.clone().join(client));
    }

    async fn join(self, client: Client) {
        let Client { service, io, on_end } = client;
        let stream = match Box::pin(self.dial(io.mode())).await {
            Ok(stream) => stream,
            Err(error) => {
                reset(io);
                return on_end(ClientEnd::Unreached(&error));
            }
        };
        let bridged = async { Some(self.bridge(stream, io).run().await) };
        let cut_off = async {
            self.drained().await;
            None
        };
        match or(bridged, cut_off).await {
            Some(Bridged { ended, cause }) => {
                debug!("{service} of {}: bridge ended: {cause}", self.name);
                on_end(ClientEnd::Stream(&ended));
            }
            None => {
                let end = End::Local(ResetReason::GOING_AWAY);
                on_end(ClientEnd::Stream(&Ended { end, sent: 0, received: 0, lasted: Duration::ZERO }));
            }
        }
    }

    fn bridge(&self, stream: ByteStream, io: Io) -> Bridge {
        let settings = self.common.settings.read().unwrap_or_else(PoisonError::into_inner);
        Bridge::new(stream, io, settings.keep_alive.ping_after)
    }

    async fn dial(&self, mode: Mode) -> Result<ByteStream, SenderError> {
        let sender = Arc::clone(&self.common.settings.read().unwrap_or_else(PoisonError::into_inner).sender);
        let mut stream = ByteStream::new(sender.dial_plain(&self.name).await?);
        if let ListenerKind::Azbridge(port) = &self.kind {
            let mode = match mode {
                Mode::Stream => PortMode::Stream,
                Mode::Datagram => PortMode::Datagram,
            };
            let refused = |reason| SenderError::NoPort { port: port.to_string(), reason };
            match deadline::within(PREAMBLE_WITHIN, ask_for(&mut stream, port, mode)).await {
                Some(Ok(())) => {}
                Some(Err(reason)) => return Err(refused(reason)),
                None => return Err(refused(format!("no answer came within {} s", PREAMBLE_WITHIN.as_secs()))),
            }
        }
        Ok(stream)
    }

    /// Waits until the gateway was asked to stop and the time to finish is over.
    async fn drained(&self) {
        self.common.stopping.raised().await;
        let drain_for = self.common.settings.read().unwrap_or_else(PoisonError::into_inner).drain_for;
        match drain_for {
            Some(drain_for) => _ = Timer::after(drain_for).await,
            None => pending().await,
        }
    }
}

/// Says azbridge's preamble and hears the answer.
async fn ask_for(stream: &mut ByteStream, port: &str, mode: PortMode) -> Result<(), String> {
    let head = PreambleHead::new(mode, port).ok_or("its name is longer than 255 bytes")?;
    let mut reply = [0; PreambleReply::BYTES];
    let asked = async {
        stream.write(&head.encode()).await?;
        if !port.is_empty() {
            stream.write(port.as_bytes()).await?;
        }
        stream.read_exact(&mut reply).await
    };
    match asked.await {
        Ok(()) => {}
        Err(StreamError::Ended) => {
            return Err("it closed without an answer, as it does if it has no port of that name".to_owned());
        }
        Err(error) => return Err(error.to_string()),
    }
    match PreambleReply::parse(reply) {
        Some(PreambleReply::Accepted(accepted)) if accepted == mode => Ok(()),
        Some(reply) => Err(reply.to_string()),
        None => Err("its answer is none of azbridge's; check who listens there".to_owned()),
    }
}
