//! A request's way to the service, which goes on while the response is on its way already.

use std::{io, rc::Rc};

use smol::{
    future,
    io::{AsyncWriteExt, WriteHalf},
};
use umbilical_relay_protocol::RequestHead;

use super::{
    fields::{Hops, is_rewritten},
    progress::Progress,
    service::{PART_BYTES, Service, Socket},
    socket::{SocketError, SocketReader},
};

/// The body of a request.
pub(super) enum RequestBody<'s> {
    /// All of it; empty if there is none.
    Whole(Vec<u8>),
    /// It comes over a rendezvous, if there is one.
    Coming(&'s mut SocketReader),
}

/// A request that can be sent.
pub(super) struct Upload<'r> {
    pub(super) text: RequestText<'r>,
    pub(super) service: WriteHalf<Socket>,
    pub(super) progress: Rc<Progress>,
}

enum Unsent {
    Service,
    Relay(SocketError),
}

impl Upload<'_> {
    /// Sends it, and looks after the rendezvous from then on. Returns only when that is of no more use: a service may well
    /// answer before it has heard all, or close; what it says counts.
    pub(super) async fn run(mut self, mut body: RequestBody<'_>) -> SocketError {
        match (self.send(&mut body).await, body) {
            (Err(Unsent::Relay(error)), _) => error,
            (Ok(()) | Err(Unsent::Service), RequestBody::Coming(relay)) => relay.until_closed().await,
            (Ok(()) | Err(Unsent::Service), RequestBody::Whole(_)) => future::pending().await,
        }
    }

    async fn send(&mut self, body: &mut RequestBody<'_>) -> Result<(), Unsent> {
        match body {
            RequestBody::Whole(body) => {
                self.write(self.text.with_length(Some(body.len() as u64)).as_bytes()).await?;
                for part in body.chunks(PART_BYTES) {
                    self.write(part).await?;
                }
            }
            RequestBody::Coming(relay) => {
                let length = match self.text.head.body {
                    true => relay.begin_body().await.map_err(Unsent::Relay)?,
                    false => Some(0),
                };
                self.write(self.text.with_length(length).as_bytes()).await?;
                while let Some(part) = relay.part().await.map_err(Unsent::Relay)? {
                    if length.is_none() {
                        self.write(format!("{:x}\r\n", part.len()).as_bytes()).await?;
                    }
                    self.write(part).await?;
                    if length.is_none() {
                        self.write(b"\r\n").await?;
                    }
                }
                if length.is_none() {
                    self.write(b"0\r\n\r\n").await?;
                }
            }
        }
        self.service.flush().await.map_err(|_| Unsent::Service)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Unsent> {
        self.service.write_all(bytes).await.map_err(|_: io::Error| Unsent::Service)?;
        self.progress.made();
        Ok(())
    }
}

/// The head of a request as the service gets it.
pub(super) struct RequestText<'r> {
    pub(super) service: &'r Service,
    pub(super) head: &'r RequestHead,
    /// What was taken off its path.
    pub(super) prefix: &'r str,
    /// The rest of it.
    pub(super) target: String,
}

impl RequestText<'_> {
    /// `length` of the body; `None` for chunks.
    fn with_length(&self, length: Option<u64>) -> String {
        let RequestText { service, head, prefix, target } = self;
        let host = head.headers.get("Host").unwrap_or(&service.authority);
        let mut text = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", head.method);
        match length {
            None => text.push_str("Transfer-Encoding: chunked\r\n"),
            Some(0) if !matches!(head.method.as_str(), "POST" | "PUT" | "PATCH") => {}
            Some(length) => text.push_str(&format!("Content-Length: {length}\r\n")),
        }
        let hops = Hops::of(head.headers.all("connection").map(str::as_bytes));
        for (name, value) in head.headers.iter() {
            if !hops.keep(name) && !is_rewritten(name) {
                text.extend([name, ": ", value, "\r\n"]);
            }
        }
        if let Some(remote) = &head.remote {
            text.extend(["X-Forwarded-For: ", &remote.address.replace(char::is_control, ""), "\r\n"]);
        }
        let (authority, scheme) = (&service.authority, service.scheme);
        text.push_str(&format!("X-Forwarded-Host: {authority}\r\nX-Forwarded-Proto: {scheme}\r\n"));
        if !prefix.is_empty() {
            text.extend(["X-Forwarded-Prefix: ", prefix, "\r\n"]);
        }
        text.push_str("\r\n");
        text
    }
}
