//! The namespace as resources over HTTPS: who may read and change which hybrid connections there are.
//!
//! ```text
//! GET    /{path}                             entry            any right at the path, so that listeners and senders can ask
//! GET    /{path}/Listeners                   feed             Manage, as all that follows
//! GET    /$Resources/HybridConnections       feed
//! PUT    /{path}                             201, entry       409 if there is one
//! PUT    /{path}, If-Match: *                200, entry       404 if there is none, 409 if the configuration has it
//! DELETE /{path}                             200              as for updates
//! ```
//!
//! Resource names, bodies and errors are the hosted service's (`umbilical_relay_protocol::management`). Such requests carry
//! `X-PROCESS-AT: ServiceBus`. One request per connection.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

use log::{debug, info, warn};
use umbilical_link::transport::Transport;
use umbilical_relay_protocol::Right::{Listen, Manage, Send};
use umbilical_relay_protocol::management::{self, PROCESS_AT, PROCESS_AT_HEADER, RESOURCES_PATH, Resource, Settings};
use umbilical_relay_protocol::{Grant, Rejection, Right, listeners_of};

use super::halves::Shareable;
use super::http_body::Inbound;
use super::http_head::{Framing, Shape};
use super::http_response::Outbound;
use super::{Shared, authorize, handshake, tracking};
use crate::deadline;
use crate::http::{RequestHead, Response};

/// The longest body taken.
const MAX_BODY_BYTES: usize = 64 * 1024;

const ENTRY: &str = "application/atom+xml;type=entry;charset=utf-8";
const FEED: &str = "application/atom+xml;type=feed;charset=utf-8";
const XML: &str = "application/xml; charset=utf-8";

/// Whether a request is for the namespace and not for a listener.
pub(crate) fn is_meant(head: &RequestHead) -> bool {
    head.header(PROCESS_AT_HEADER).is_some_and(|value| value.trim().eq_ignore_ascii_case(PROCESS_AT))
}

/// Answers the request and closes the connection.
pub(crate) async fn serve(
    shared: &Shared,
    transport: Transport,
    peer: SocketAddr,
    head: &RequestHead,
    leftover: Vec<u8>,
) {
    let Ok(id) = tracking::guid(None) else {
        warn!("the system has no randomness to give, {peer} is turned away");
        return;
    };
    let host = head.header("host").unwrap_or("localhost");
    let connection = Shareable::new(transport);
    let answer = Request { shared, head, peer, host, connection: &connection }.answer(leftover).await;
    let mut transport = connection.into_inner();
    match answer {
        Ok(response) => {
            debug!("{peer}: {} {} answered {}", head.method, head.shown_path(), response.status());
            let answering = response.finish(&mut transport);
            if let Some(Err(error)) = deadline::within(shared.deadlines().response, answering).await {
                debug!("{peer} did not wait for its answer: {error}");
            }
        }
        Err(Refused { rejection, allow }) => {
            warn!("{peer}: {} {} refused: {rejection} (id {id})", head.method, head.shown_path());
            let blame = matches!(rejection.status(), 400..=403);
            let rejection = rejection.tracked(&id, host, authorize::now_unix());
            let response = Response::new(rejection.status(), rejection.reason());
            let response = response.content(XML, management::error(&rejection));
            let response = if head.method == "HEAD" { response.without_body() } else { response };
            let response = allow.into_iter().fold(response, |response, allow| response.header("Allow", allow));
            handshake::refuse(shared, &mut transport, peer, response, blame).await;
        }
    }
}

/// Why a request is not answered with what it asked for.
struct Refused {
    rejection: Rejection,
    /// If it was the method: those that there are.
    allow: Option<&'static str>,
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, allow: None }
    }
}

struct Request<'r> {
    shared: &'r Shared,
    head: &'r RequestHead,
    peer: SocketAddr,
    host: &'r str,
    connection: &'r Shareable,
}

impl Request<'_> {
    async fn answer(&self, leftover: Vec<u8>) -> Result<Response, Refused> {
        let shape = Shape::of(self.head)?;
        let resource = Resource::parse(&self.head.target).map_err(|error| Rejection::new(400, &error.to_string()))?;
        match (self.head.method.as_str(), &resource) {
            ("GET", Resource::All { skip, top }) => Ok(self.list(*skip, *top).await?),
            ("GET", Resource::Entity(path)) => match self.listeners_of(path) {
                Some(entity) => Ok(self.listeners(entity).await?),
                None => Ok(self.read(path).await?),
            },
            ("PUT", Resource::Entity(path)) => Ok(self.put(path, &shape, leftover).await?),
            ("DELETE", Resource::Entity(path)) => Ok(self.delete(path).await?),
            (_, resource) => {
                let allow = match resource {
                    Resource::All { .. } => "GET",
                    Resource::Entity(_) => "GET, PUT, DELETE",
                };
                let rejection = Rejection::new(405, &format!("What can be done here is {allow}"));
                Err(Refused { rejection, allow: Some(allow) })
            }
        }
    }

    async fn read(&self, path: &str) -> Result<Response, Rejection> {
        // Manage includes the others
        if let Err(rejection) = self.allow(Listen, path).await {
            if rejection.status() != 403 {
                return Err(rejection);
            }
            self.allow(Send, path).await?;
        }
        Ok(match self.shared.namespace.describe(path) {
            Some((path, description)) => Response::new(200, "OK").content(ENTRY, description.entry(self.host, &path)),
            None => self.feed(path, &[]),
        })
    }

    async fn list(&self, skip: usize, top: usize) -> Result<Response, Rejection> {
        self.allow(Manage, RESOURCES_PATH).await?;
        let entries = self.shared.namespace.list(skip, top);
        let entries: Vec<_> = entries.iter().map(|(path, description)| description.entry(self.host, path)).collect();
        Ok(self.feed(RESOURCES_PATH, &entries))
    }

    /// The path of the hybrid connection whose listeners are asked for, unless the configuration has one of this name.
    fn listeners_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        listeners_of(path).filter(|_| self.shared.namespace.describe(path).is_none())
    }

    async fn listeners(&self, path: &str) -> Result<Response, Rejection> {
        self.allow(Manage, path).await?;
        let listeners = self.shared.namespace.describe_listeners(path);
        let listeners = listeners.ok_or_else(|| Rejection::endpoint_not_found(path))?;
        let entries: Vec<_> = listeners.iter().map(|listener| listener.entry(self.host, path)).collect();
        Ok(self.feed(&format!("{path}/Listeners"), &entries))
    }

    async fn put(&self, path: &str, shape: &Shape, leftover: Vec<u8>) -> Result<Response, Rejection> {
        let grant = self.allow(Manage, path).await?;
        let body = self.body(shape, leftover).await?;
        let settings = Settings::parse(&body).map_err(|error| Rejection::new(400, &error.to_string()))?;
        let Shared { namespace, provisioning, .. } = self.shared;
        let status = match self.head.header("if-match").map(str::trim) {
            Some("*") => {
                provisioning.update(namespace, path, settings).await?;
                200
            }
            Some(_) => return Err(Rejection::new(412, "Of If-Match, only * is taken")),
            None => {
                provisioning.create(namespace, path, settings).await?;
                201
            }
        };
        self.note(path, if status == 201 { "made" } else { "changed" }, &grant);
        let (path, description) = namespace.describe(path).ok_or_else(|| Rejection::endpoint_not_found(path))?;
        Ok(Response::new(status, "").content(ENTRY, description.entry(self.host, &path)))
    }

    async fn delete(&self, path: &str) -> Result<Response, Rejection> {
        let grant = self.allow(Manage, path).await?;
        self.shared.provisioning.delete(&self.shared.namespace, path).await?;
        self.note(path, "deleted", &grant);
        Ok(Response::new(200, "OK").content(XML, String::new()))
    }

    async fn allow(&self, right: Right, path: &str) -> Result<Grant, Rejection> {
        authorize::manager(&self.shared.namespace.prospect(path), self.head, right, path).await
    }

    fn note(&self, path: &str, what: &str, grant: &Grant) {
        info!("hybrid connection {path} {what} by {}, key {}", self.peer, grant.key_name);
    }

    fn feed(&self, path: &str, entries: &[String]) -> Response {
        let feed = management::feed(self.host, path, authorize::now_unix(), entries);
        Response::new(200, "OK").content(FEED, feed)
    }

    /// The request's body, which must be small.
    async fn body(&self, shape: &Shape, leftover: Vec<u8>) -> Result<String, Rejection> {
        let mut inbound = Inbound::new(self.connection.half(), leftover, shape.framing);
        let too_large = || Rejection::new(413, "The body is larger than 64 KiB");
        if matches!(shape.framing, Framing::Length(length) if length > MAX_BODY_BYTES as u64) {
            return Err(too_large());
        }
        let reading = async {
            let mut body = Vec::new();
            if shape.expects_continue && !inbound.has_more() {
                let begun = AtomicBool::new(false);
                let mut outbound = Outbound::new(self.connection.half(), self.shared.deadlines().response, &begun);
                outbound.proceed().await.map_err(|_| Rejection::new(400, "The body did not come"))?;
            }
            loop {
                match inbound.piece().await {
                    Ok(Some((piece, _))) if body.len() + piece.len() > MAX_BODY_BYTES => return Err(too_large()),
                    Ok(Some((piece, _))) => body.extend_from_slice(piece),
                    Ok(None) => {
                        return String::from_utf8(body).map_err(|_| Rejection::new(400, "The body is not UTF-8"));
                    }
                    Err(error) => return Err(Rejection::new(400, &format!("The body is broken off: {error}"))),
                }
            }
        };
        let late = || Err(Rejection::new(408, "The body did not come in time"));
        deadline::within(self.shared.deadlines().handshake, reading).await.unwrap_or_else(late)
    }
}
