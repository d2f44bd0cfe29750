//! A sender, over the network or in this process, and its way to a listener.

use std::net::SocketAddr;

use async_tungstenite::tungstenite::handshake::client::generate_key;
use log::debug;
use smol::future::{or, pending};
use umbilical_link::SUBPROTOCOL;
use umbilical_link::upgrade::Upgraded;
use umbilical_relay_protocol::{
    AUTHORIZATION_HEADER, Accept, AddressError, Close, ControlError, Headers, Rejection, RelayMessage, RelayUrl,
    RemoteEndpoint, RequestTarget,
};

use super::accept::SECRET_PARAMETER;
use super::affinity::Affinity;
use super::handshake::{Handshake, Word};
use super::invite::{self, Uninvited};
use super::metrics::{Held, count};
use super::namespace::{Found, Listener, Notice};
use super::rendezvous::Answer;
use super::signal::Signal;
use super::splice::{Cause, Traffic, splice};
use super::{Shared, authorize, tracking};
use crate::deadline;

/// What a sender in this process asks for.
#[derive(Debug, Clone)]
pub struct SenderRequest {
    /// Path behind the hybrid connection's, decoded; empty for none.
    pub suffix: String,
    /// Query for the listener, without `?`, escaped; empty for none.
    pub query: String,
    /// Headers for the listener.
    pub headers: Headers,
    /// The one subprotocol to offer.
    pub subprotocol: Option<String>,
    /// Who is behind this, for the listener's log.
    pub remote: SocketAddr,
}

/// Serves a sender's handshake and, once it is joined, its connection to the end.
pub(crate) async fn connect(shared: &Shared, handshake: Handshake, target: RequestTarget) {
    let (id, peer) = (handshake.id.clone(), handshake.peer);
    // boxed and by value: neither headers nor query are kept for as long as the join lasts
    let Some(Joined { entity, sender, listener, superseded }) = Box::pin(join(shared, handshake, target)).await else {
        return;
    };
    count(&shared.metrics.joined);
    // the listener's socket comes on top of this one
    let _held = (Held::of(&shared.metrics.splices), Held::of(&shared.metrics.connections));
    debug!("sender {id} from {peer} joined with a listener of {}", entity.path);
    let traffic =
        Traffic { to_listeners: &shared.metrics.bytes_to_listeners, to_senders: &shared.metrics.bytes_to_senders };
    let end = or(
        async {
            shared.ending.raised().await;
            Close::going_away()
        },
        async {
            entity.removed.raised().await;
            Close::entity_deleted()
        },
    );
    let end = or(end, async {
        match superseded {
            Some(superseded) => superseded.raised().await,
            None => pending().await,
        }
        Close::superseded()
    });
    let cause = splice(sender, listener, traffic, end, shared.deadlines().close).await;
    if !matches!(cause, Cause::Closed) {
        count(&shared.metrics.aborted);
    }
    debug!("sender {id} from {peer} to {}: {cause}", entity.path);
}

struct Joined {
    entity: Found,
    sender: Upgraded,
    listener: Upgraded,
    /// Raised when the join is to end because the listener has connected anew. A session outlives its links, so it is better
    /// told of one that is probably dead; of other connections, one that is not would be lost.
    superseded: Option<Signal>,
}

/// Finds a listener and answers both. `None` if the sender was refused or is gone.
async fn join(shared: &Shared, mut handshake: Handshake, target: RequestTarget) -> Option<Joined> {
    let entity = match admit(shared, &handshake, &target).await {
        Ok(entity) => entity,
        Err(rejection) => {
            handshake.refuse(shared, rejection, Word::Blame).await;
            return None;
        }
    };
    let sender = Sender {
        id: handshake.id.clone(),
        headers: listener_headers(&handshake),
        offered: handshake.subprotocols(),
        affinity: Affinity::of(&handshake.head),
        remote: handshake.peer,
    };
    let met = async { Some(meet(shared, &entity, &target, &sender).await) };
    let abandoned = async {
        let error = handshake.abandoned().await;
        debug!("sender {} from {} gave up on {}: {error}", sender.id, sender.remote, entity.path);
        None
    };
    let (rejection, word) = match or(met, abandoned).await? {
        Ok((listener, superseded)) => {
            let sender = handshake.accept(shared, listener.subprotocol.as_deref()).await?;
            let superseded = (listener.subprotocol.as_deref() == Some(SUBPROTOCOL)).then_some(superseded);
            return Some(Joined { entity, sender, listener, superseded });
        }
        Err(Unmet::Refused(rejection)) => (rejection, Word::Listener),
        Err(Unmet::Failed(rejection)) => (rejection, Word::Regret),
    };
    handshake.refuse(shared, rejection, word).await;
    None
}

/// Serves a sender in this process: the listener's own socket, with this end as the server.
///
/// # Errors
/// What a sender over the network would be answered.
pub(crate) async fn connect_here(shared: &Shared, path: &str, request: SenderRequest) -> Result<Upgraded, Rejection> {
    let id = tracking::guid(None).map_err(|_| Rejection::internal())?;
    let target = request_target(path, &request, &id).map_err(|error| Rejection::bad_address(&error))?;
    let (entity, _) = shared.namespace.find(target.path()).ok_or_else(|| Rejection::endpoint_not_found(path))?;
    let mut headers = Headers::default();
    let offered = Vec::from_iter(request.subprotocol);
    let protocol = offered.first().map(|protocol| ("Sec-WebSocket-Protocol", protocol.as_str()));
    let handshake = [
        ("Host", "localhost"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", &generate_key()),
    ];
    for (name, value) in handshake.into_iter().chain(protocol).chain(request.headers.iter()) {
        headers.push(name, value).map_err(|name| Rejection::new(400, &format!("{name:?} is no header name")))?;
    }
    let sender = Sender { id, headers, offered, affinity: Affinity::default(), remote: request.remote };
    let listener = meet(shared, &entity, &target, &sender).await.map_err(|unmet| match unmet {
        Unmet::Refused(rejection) | Unmet::Failed(rejection) => rejection,
    });
    match &listener {
        Ok(_) => {
            count(&shared.metrics.handed_over);
            debug!("sender {} in this process was given a listener of {}", sender.id, entity.path);
        }
        Err(rejection) => shared.metrics.rejected(rejection.status()),
    }
    Ok(listener?.0)
}

/// A sender as the listener gets to know it.
struct Sender {
    id: String,
    headers: Headers,
    offered: Vec<String>,
    affinity: Affinity,
    remote: SocketAddr,
}

/// Why there is no listener's socket.
enum Unmet {
    /// A listener said so.
    Refused(Rejection),
    /// There was none, or none in time.
    Failed(Rejection),
}

async fn admit(shared: &Shared, handshake: &Handshake, target: &RequestTarget) -> Result<Found, Rejection> {
    let found = shared.namespace.find(target.path());
    let (entity, _suffix) = found.ok_or_else(|| Rejection::endpoint_not_found(target.path()))?;
    authorize::sender(&entity, &handshake.head, target).await?;
    Ok(entity)
}

/// Invites one of the listeners and waits for its socket; if its control channel is lost meanwhile, invites it once more when it
/// is back, or another one. Gives the socket, and what is raised when that listener is superseded.
async fn meet(
    shared: &Shared,
    entity: &Found,
    target: &RequestTarget,
    sender: &Sender,
) -> Result<(Upgraded, Signal), Unmet> {
    let _held = Held::of(&shared.metrics.waiting);
    let invitation = shared
        .rendezvous
        .open(sender.id.clone(), sender.offered.clone())
        .map_err(|_| Unmet::Failed(Rejection::internal()))?;
    shared.namespace.listener_on_its_way(entity, shared.deadlines().absence).await;
    let met = async {
        loop {
            let listener = invite(shared, entity, target, sender, &invitation.secret)?;
            let answer = async { Some(invitation.answer().await) };
            let lost = async {
                listener.lost.raised().await;
                // it may have heard of the invitation and come all the same
                shared.namespace.any_listener(entity).await;
                None
            };
            if let Some(answer) = or(answer, lost).await {
                let answer = answer.ok_or(Rejection::new(502, "The listener left the rendezvous"))?;
                return Ok((answer, listener.superseded));
            }
        }
    };
    let stopped = or(
        async {
            shared.stopping.raised().await;
            Err(Rejection::busy())
        },
        async {
            entity.removed.raised().await;
            Err(Rejection::endpoint_not_found(&entity.path))
        },
    );
    match deadline::within(shared.deadlines().rendezvous, or(met, stopped)).await {
        None => Err(Unmet::Failed(Rejection::listener_timeout(&entity.path))),
        Some(Err(rejection)) => Err(Unmet::Failed(rejection)),
        Some(Ok((Answer::Refused(rejection), _))) => Err(Unmet::Refused(rejection)),
        Some(Ok((Answer::Joined(upgraded), superseded))) => Ok((upgraded, superseded)),
    }
}

/// Puts the accept message into a listener's queue. Gives that listener.
fn invite(
    shared: &Shared,
    entity: &Found,
    target: &RequestTarget,
    sender: &Sender,
    secret: &str,
) -> Result<Listener, Rejection> {
    let id = format!("{}_G0", sender.id);
    let told = invite::invite(shared, entity, &sender.affinity, |listener| {
        let accept = Accept {
            address: target.accept_address(&listener.origin, &[("sb-hc-id", &id), (SECRET_PARAMETER, secret)]),
            id: id.clone(),
            connect_headers: sender.headers.clone(),
            remote: Some(RemoteEndpoint {
                address: sender.remote.ip().to_canonical().to_string(),
                port: sender.remote.port(),
            }),
        };
        let text = RelayMessage::Accept(accept).to_json().map_err(|error| match error {
            ControlError::TooLong { .. } => Rejection::headers_too_large(),
            _ => Rejection::internal(),
        })?;
        Ok(Notice { text, body: None })
    });
    let listener = told.map_err(|uninvited| match uninvited {
        Uninvited::Nobody => Rejection::no_listener(&entity.path),
        Uninvited::Refused(rejection) => rejection,
    })?;
    debug!("sender {}: listener {} of {} invited", sender.id, listener.id, entity.path);
    Ok(listener)
}

/// Of the handshake's headers, these are the relay's business alone: the sender's credential, and extensions, which nobody
/// gets. A hyco-ws listener dies of an offer that it does not understand.
const KEPT_FROM_LISTENERS: [&str; 2] = [AUTHORIZATION_HEADER, "Sec-WebSocket-Extensions"];

fn listener_headers(handshake: &Handshake) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in &handshake.head.headers {
        if !KEPT_FROM_LISTENERS.iter().any(|kept| kept.eq_ignore_ascii_case(name)) {
            // the parser has let none but tokens through
            let _ = headers.push(name, value);
        }
    }
    headers
}

/// What a sender over the network would write into its request line.
fn request_target(path: &str, request: &SenderRequest, id: &str) -> Result<RequestTarget, AddressError> {
    let path = format!("{}/{}", path.trim_matches('/'), request.suffix.trim_start_matches('/'));
    let relay = RelayUrl::parse("wss://localhost").expect("this is a relay's URL");
    let target = relay.with_path(&path).connect_target(id);
    let target = match (request.query.as_str(), target.split_once('?')) {
        (query, Some((path, own))) if !query.is_empty() => format!("{path}?{query}&{own}"),
        _ => target,
    };
    RequestTarget::parse(&target)
}
