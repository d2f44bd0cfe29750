//! A sender's plain HTTP request, from its head to the end of its answer.
//!
//! Owns: who may send what to whom, and the relay's own answers. A relay's own answer has no `Via` and ends the connection;
//! a listener's has one, and the connection goes on if the sender lets it. Leaves to others: the way to the listener and
//! back (`http_exchange`), heads (`http_head`), the sender's next request (`server`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use log::{debug, warn};
use smol::future::or;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use umbilical_link::transport::Transport;
use umbilical_relay_protocol::{Headers, HttpTarget, Rejection};

use super::affinity::Affinity;
use super::halves::Shareable;
use super::http_body::Inbound;
use super::http_exchange::{Broken, Failure, relay};
use super::http_head::{Framing, Shape, for_listener};
use super::http_response::Outbound;
use super::metrics::{Held, count};
use super::namespace::Found;
use super::{Shared, authorize, handshake, tracking};
use crate::deadline;
use crate::http::{RequestHead, Response};

/// A request that may be relayed.
pub(crate) struct Admitted {
    pub(crate) entity: Found,
    pub(crate) affinity: Affinity,
    pub(crate) target: HttpTarget,
    pub(crate) method: String,
    /// As the listener gets them.
    pub(crate) headers: Headers,
    pub(crate) shape: Shape,
    /// A GUID that sender and relay can both find it by.
    pub(crate) id: String,
    pub(crate) peer: SocketAddr,
}

impl Admitted {
    pub(crate) fn has_body(&self) -> bool {
        self.shape.framing != Framing::None
    }
}

/// Serves one request. Returns the connection, and what came behind the request, if another one may follow.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    mut transport: Transport,
    peer: SocketAddr,
    head: RequestHead,
    leftover: Vec<u8>,
) -> Option<(Transport, Vec<u8>)> {
    let path = head.shown_path();
    let (request, id) = match admit(shared, peer, &head).await {
        Ok(request) => {
            let id = request.id.clone();
            (request, id)
        }
        Err(refused) => {
            let Refused { rejection, id } = refused;
            warn!("{peer} refused for {} {path}: {rejection} (id {id})", head.method);
            refuse(shared, &mut transport, peer, rejection, &id, &head, true).await;
            return None;
        }
    };
    count(&shared.metrics.requests);
    let _held = Held::of(&shared.metrics.exchanges);
    let connection = Shareable::new(transport);
    let begun = AtomicBool::new(false);
    let mut inbound = Inbound::new(connection.half(), leftover, request.shape.framing);
    let outcome = {
        let mut outbound = Outbound::new(connection.half(), shared.deadlines().response, &begun);
        let ended = async {
            let removed = async {
                request.entity.removed.raised().await;
                Rejection::endpoint_not_found(&request.entity.path)
            };
            let ending = async {
                shared.ending.raised().await;
                Rejection::busy()
            };
            Err(Failure::Refused(or(removed, ending).await))
        };
        or(relay(shared, &request, &mut inbound, &mut outbound), ended).await
    };
    let leftover = inbound.into_leftover();
    let mut transport = connection.into_inner();
    let failure = match outcome {
        Ok(true) => return Some((transport, leftover)),
        Ok(false) => {
            finish(shared, &mut transport, peer).await;
            return None;
        }
        Err(failure) => failure,
    };
    let broken = match failure {
        Failure::Refused(rejection) if !begun.load(Relaxed) => {
            debug!("{peer} turned away from {} {path}: {rejection} (id {id})", head.method);
            refuse(shared, &mut transport, peer, rejection, &id, &head, false).await;
            return None;
        }
        Failure::Refused(_) => Broken::Relay,
        Failure::Broken(broken) => broken,
    };
    count(&shared.metrics.broken_requests);
    debug!("{} {path} of {peer} not answered to the end: {broken} (id {id})", head.method);
    None
}

/// Why a request is not relayed at all: its sender is to blame.
struct Refused {
    rejection: Rejection,
    id: String,
}

async fn admit(shared: &Shared, peer: SocketAddr, head: &RequestHead) -> Result<Admitted, Refused> {
    let target = HttpTarget::parse(&head.target);
    let given = target.as_ref().ok().and_then(HttpTarget::id);
    let Ok(id) = tracking::guid(given) else {
        return Err(Refused { rejection: Rejection::internal(), id: String::new() });
    };
    let judged = async {
        let target = target.map_err(|error| Rejection::bad_address(&error))?;
        let shape = Shape::of(head)?;
        let found = shared.namespace.find(target.path());
        let (entity, _suffix) = found.ok_or_else(|| Rejection::endpoint_not_found(target.path()))?;
        let authorization = authorize::http_sender(&entity, head, &target).await?;
        Ok(Admitted {
            entity,
            affinity: Affinity::of(head),
            method: head.method.clone(),
            headers: for_listener(head, &shape.host, authorization),
            target,
            shape,
            id: id.clone(),
            peer,
        })
    };
    judged.await.map_err(|rejection| Refused { rejection, id })
}

async fn refuse(
    shared: &Shared,
    transport: &mut Transport,
    peer: SocketAddr,
    rejection: Rejection,
    id: &str,
    head: &RequestHead,
    blame: bool,
) {
    let system = head.header("host").unwrap_or("relay");
    let rejection = rejection.tracked(id, system, authorize::now_unix());
    let response = Response::new(rejection.status(), rejection.reason());
    let response = if head.method == "HEAD" { response.without_body() } else { response };
    handshake::refuse(shared, transport, peer, response, blame).await;
}

/// Ends a connection whose last answer has been written. What the sender has not sent yet is read and dropped for a while:
/// a connection that is closed under it is reset, and the answer with it.
async fn finish(shared: &Shared, transport: &mut Transport, peer: SocketAddr) {
    let closing = async {
        transport.close().await?;
        let mut buf = [0; 4096];
        while transport.read(&mut buf).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    if let Some(Err(error)) = deadline::within(shared.deadlines().close, closing).await {
        debug!("{peer} did not wait for the end of its connection: {error}");
    }
}
