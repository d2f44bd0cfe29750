//! A listener's control channel, from its handshake to its end.
//!
//! One task per channel. What goes out is written by one loop, notice by notice: a request's body must follow its head
//! with nothing in between, because listeners take the next message for it, whatever that is. What comes in is read by another, so that a listener that does not read still gets heard.
//! HTTP responses go to the requests that wait for them (`requests`); a body that nobody waits for is dropped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_tungstenite::tungstenite::error::ProtocolError;
use async_tungstenite::tungstenite::protocol::frame::CloseFrame;
use async_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use async_tungstenite::tungstenite::{Error, Message};
use async_tungstenite::{WebSocketReceiver, WebSocketSender, WebSocketStream};
use log::{debug, info, warn};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::or;
use smol::io::AsyncWriteExt;
use smol::stream::StreamExt;
use umbilical_link::transport::Transport;
use umbilical_link::upgrade::Upgraded;
use umbilical_relay_protocol::{Close, ListenerMessage, Rejection, RequestTarget};

use super::handshake::{Handshake, Word};
use super::metrics::{Held, count};
use super::namespace::{Found, Notice, Registration};
use super::requests::Answers;
use super::{Shared, authorize, tracking};
use crate::{deadline, http};

/// The longest message taken from a listener: the body of an HTTP response.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A control channel is quiet most of its life; its buffer grows for the messages that need it.
const READ_BUFFER_BYTES: usize = 1024;

/// A token's end is looked at again at least this often, by the wall clock, which may be set meanwhile.
const EXPIRY_LOOK: Duration = Duration::from_secs(3600);

/// Serves a listener's handshake and then its control channel to the end.
pub(crate) async fn listen(shared: &Arc<Shared>, handshake: Handshake, target: RequestTarget) {
    let (channel, registration) = match admit(shared, &handshake, &target).await {
        Ok(admitted) => admitted,
        Err(rejection) => {
            let word = if rejection.status() == 503 { Word::Regret } else { Word::Blame };
            return handshake.refuse(shared, rejection, word).await;
        }
    };
    // it may hold a token, and this may take days
    drop(target);
    let peer = handshake.peer;
    // invitations queue up from here on, none is written before the answer
    let Some(upgraded) = handshake.accept(shared, None).await else { return };
    info!("listener {} of {} connected from {peer}, key {}", channel.id, channel.entity.path, channel.key_name);
    let (id, path) = (Arc::clone(&channel.id), Arc::clone(&channel.entity.path));
    match channel.serve(upgraded, registration).await {
        end @ (End::Broken(_) | End::Silent | End::Stalled) => warn!("listener {id} of {path} at {peer} lost: {end}"),
        end @ End::Closing(_) => info!("listener {id} of {path} at {peer} closed: {end}"),
        end @ End::Left => info!("listener {id} of {path} at {peer} left: {end}"),
    }
}

async fn admit(
    shared: &Arc<Shared>,
    handshake: &Handshake,
    target: &RequestTarget,
) -> Result<(Channel, Registration), Rejection> {
    let found = || shared.namespace.find(target.path()).filter(|(_, suffix)| suffix.is_empty());
    let (entity, _) = match found() {
        Some(found) => found,
        None => {
            // seldom: no part of what each connection keeps in memory
            Box::pin(shared.provisioning.on_demand(shared, &handshake.head, target)).await?;
            // another listener's, that could not be kept: worth another try
            found().ok_or_else(Rejection::busy)?
        }
    };
    let grant = authorize::listener(&entity, &handshake.head, target).await?;
    let id = tracking::listener_id(target.id()).map_err(|_| Rejection::internal())?;
    let origin = shared.origin(handshake)?;
    let registration = shared.namespace.register(&entity, &id, &origin, handshake.peer)?;
    // asked after registering: then either this sees the signal, or whoever gave it sees the registration
    if shared.stopping.is_raised() {
        return Err(Rejection::busy());
    }
    if registration.took_over {
        count(&shared.metrics.takeovers);
        info!("listener {id} of {}: {} takes over from its older connection", entity.path, handshake.peer);
    }
    let channel = Channel {
        shared: Arc::clone(shared),
        entity,
        id: id.into(),
        key_name: grant.key_name,
        expires: AtomicU64::new(grant.expires),
    };
    Ok((channel, registration))
}

struct Channel {
    shared: Arc<Shared>,
    entity: Found,
    id: Arc<str>,
    key_name: String,
    /// When the token ends, in Unix seconds.
    expires: AtomicU64,
}

enum Outbound {
    Notice(Notice),
    Ping,
}

/// Why a control channel ended.
#[derive(Debug)]
enum End {
    /// The listener said goodbye.
    Left,
    /// The connection broke, or what came was no WebSocket.
    Broken(Error),
    /// No answer to a ping.
    Silent,
    /// It does not read what it is sent.
    Stalled,
    /// The relay says goodbye.
    Closing(Close),
}

impl Channel {
    async fn serve(self, upgraded: Upgraded, registration: Registration) -> End {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(2 * MAX_MESSAGE_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let Upgraded { transport, leftover, .. } = upgraded;
        let socket = WebSocketStream::from_partially_read(transport, leftover, Role::Server, Some(config)).await;
        let (mut sender, mut receiver) = socket.split();
        let counted = Held::of(&self.shared.metrics.listeners);
        let (pings_in, pings) = bounded(1);
        let (doubts_in, doubts) = bounded(1);
        let end = {
            let closing = async {
                match registration.closing.recv().await {
                    Ok(close) => End::Closing(close),
                    Err(_) => End::Closing(Close::entity_deleted()),
                }
            };
            let writing = self.write(&mut sender, &registration.notices, &pings, doubts_in);
            let answers = Answers::new(&self.shared.requests, registration.serial);
            let reading = self.read(&mut receiver, pings_in, &doubts, answers);
            or(closing, or(writing, reading)).await
        };
        // nobody is to be invited here any more
        drop(counted);
        match &end {
            End::Broken(_) | End::Silent | End::Stalled => registration.lost(),
            End::Left | End::Closing(_) => drop(registration),
        }
        match &end {
            End::Silent | End::Stalled => count(&self.shared.metrics.silent_listeners),
            End::Closing(close) if close.code() == 1008 => count(&self.shared.metrics.expired_tokens),
            End::Left | End::Broken(_) | End::Closing(_) => {}
        }
        if matches!(end, End::Left | End::Closing(_)) {
            let farewell = farewell(sender, receiver, &end);
            let _ = deadline::within(self.shared.deadlines().close, farewell).await;
        }
        end
    }

    /// Writes what is queued; returns when that fails.
    async fn write(
        &self,
        sender: &mut WebSocketSender<Transport>,
        notices: &Receiver<Notice>,
        pings: &Receiver<Outbound>,
        doubts: Sender<()>,
    ) -> End {
        loop {
            let next = or(pings.recv(), async { notices.recv().await.map(Outbound::Notice) });
            let Ok(outbound) = next.await else { return End::Closing(Close::entity_deleted()) };
            let (message, body) = match outbound {
                Outbound::Notice(Notice { text, body }) => {
                    // somebody waits for this listener: a good time to find out that it is gone
                    let _ = doubts.try_send(());
                    (Message::text(text), body.map(Message::binary))
                }
                Outbound::Ping => (Message::Ping(Vec::new().into()), None),
            };
            for message in [Some(message), body].into_iter().flatten() {
                match deadline::within(self.shared.deadlines().pong, sender.send(message)).await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return End::Broken(error),
                    None => return End::Stalled,
                }
            }
        }
    }

    /// Hears what the listener says and notices when it says nothing; returns when the channel is to end.
    async fn read(
        &self,
        receiver: &mut WebSocketReceiver<Transport>,
        pings: Sender<Outbound>,
        doubts: &Receiver<()>,
        mut answers: Answers,
    ) -> End {
        let mut heard = Instant::now();
        let mut pinged: Option<Instant> = None;
        loop {
            let deadlines = self.shared.deadlines();
            let silence = match pinged {
                Some(at) => at + deadlines.pong,
                None => heard + deadlines.quiet,
            };
            let expiry = self.expires_in(deadlines.token_grace);
            let due = silence.min(Instant::now() + expiry.min(EXPIRY_LOOK));
            let message = async { Heard::Message(receiver.next().await) };
            let doubt = async {
                // the other loop cannot be gone while this one runs
                let _ = doubts.recv().await;
                Heard::Doubt
            };
            let doubtful = match deadline::until(due, or(message, doubt)).await {
                Some(Heard::Message(Some(Ok(message)))) => {
                    heard = Instant::now();
                    pinged = None;
                    if let Some(end) = self.handle(message, &mut answers).await {
                        return end;
                    }
                    continue;
                }
                Some(Heard::Message(Some(Err(error)))) => return error_end(error),
                Some(Heard::Message(None)) => return End::Left,
                Some(Heard::Doubt) => heard.elapsed() > deadlines.pong,
                None if self.expires_in(deadlines.token_grace).is_zero() => return End::Closing(Close::token_expired()),
                None if pinged.is_some_and(|at| at + deadlines.pong <= Instant::now()) => return End::Silent,
                None => heard + deadlines.quiet <= Instant::now(),
            };
            if doubtful && pinged.is_none() {
                let _ = pings.try_send(Outbound::Ping);
                pinged = Some(Instant::now());
            }
        }
    }

    async fn handle(&self, message: Message, answers: &mut Answers) -> Option<End> {
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => return Some(End::Left),
            Message::Binary(body) => {
                answers.body(body.into());
                return None;
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return None,
        };
        match ListenerMessage::parse(&text) {
            Ok(ListenerMessage::RenewToken { token }) => match authorize::renewal(&self.entity(), &token).await {
                Ok(grant) => {
                    self.expires.store(grant.expires, Relaxed);
                    debug!("listener {} of {}: token renewed, key {}", self.id, self.entity.path, grant.key_name);
                    None
                }
                Err(error) => {
                    warn!("listener {} of {}: renewal refused: {error}", self.id, self.entity.path);
                    Some(End::Closing(Close::renewal_refused(&error)))
                }
            },
            Ok(ListenerMessage::Response(response)) => {
                let id = response.request_id.clone();
                match answers.response(response) {
                    Ok(true) => None,
                    Ok(false) => {
                        debug!("listener {}: response to {id:?}, which nobody waits for", self.id);
                        None
                    }
                    Err(error) => Some(End::Closing(Close::protocol_error(&error))),
                }
            }
            Ok(ListenerMessage::Unknown(command)) => {
                debug!("listener {}: unknown command {command:?}", self.id);
                None
            }
            Ok(_) => None,
            Err(error) => Some(End::Closing(Close::bad_message(&error))),
        }
    }

    /// The entity with the rules of today.
    fn entity(&self) -> Found {
        self.shared.namespace.find(&self.entity.path).map_or_else(|| self.entity.clone(), |(entity, _)| entity)
    }

    /// How long the channel may go on without a new token.
    fn expires_in(&self, grace: Duration) -> Duration {
        let end = Duration::from_secs(self.expires.load(Relaxed)).saturating_add(grace);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        end.saturating_sub(now)
    }
}

/// Sends the relay's close frame, if it is the relay that ends, and waits for the other side's end.
async fn farewell(
    mut sender: WebSocketSender<Transport>,
    mut receiver: WebSocketReceiver<Transport>,
    end: &End,
) -> Result<(), Error> {
    if let End::Closing(close) = end {
        let frame = CloseFrame { code: close.code().into(), reason: close.reason().into() };
        sender.close(Some(frame)).await?;
    }
    while let Some(Ok(_)) = receiver.next().await {}
    if let Ok(socket) = WebSocketStream::reunite(sender, receiver) {
        let mut transport = socket.into_inner();
        transport.close().await?;
        http::discard(&mut transport).await?;
    }
    Ok(())
}

enum Heard {
    Message(Option<Result<Message, Error>>),
    Doubt,
}

fn error_end(error: Error) -> End {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => End::Left,
        Error::Capacity(error) => End::Closing(Close::new(1009, &error.to_string())),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Broken(error),
        Error::Protocol(error) => End::Closing(Close::protocol_error(&error)),
        Error::Utf8(error) => End::Closing(Close::new(1007, &error)),
        error => End::Broken(error),
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("it closed the control channel"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Silent => f.write_str("no answer to a ping"),
            Self::Stalled => f.write_str("it does not read its control channel"),
            Self::Closing(close) => write!(f, "{close}"),
        }
    }
}
