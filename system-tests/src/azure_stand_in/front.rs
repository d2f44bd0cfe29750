//! The way in: an HTTP proxy that knows two names, TLS with the certificate of the one that was asked for, a request head, and
//! what is answered to a client that is not let in.

use std::{
    io,
    net::{TcpListener, TcpStream},
    sync::Arc,
};

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use smol::{
    Async,
    io::{AsyncReadExt, AsyncWriteExt},
};
use umbilical_link::{
    tls,
    transport::{Transport, prepare_socket},
};
use umbilical_relay_protocol::{
    AUTHORIZATION_HEADER, Action, Grant, Headers, RequestTarget, Right, TokenError, authorize,
};

use super::{GATEWAY_HOST, NAMESPACE, Shared, channel, now_unix, rendezvous};

const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A client that asked for a WebSocket and has no answer yet.
pub(super) struct Asking {
    pub(super) target: RequestTarget,
    pub(super) headers: Headers,
    transport: Transport,
}

/// Why a client is not let in: status and reason phrase, without what is put behind each.
pub(super) type Refusal = (u16, String);

/// Serves whoever comes.
pub(super) async fn serve(shared: Arc<Shared>, door: Async<TcpListener>) {
    while let Ok((socket, _)) = door.accept().await {
        let client = client(Arc::clone(&shared), socket);
        // one that breaks off is its own affair
        shared.executor.spawn(async move { _ = client.await }).detach();
    }
}

async fn client(shared: Arc<Shared>, mut socket: Async<TcpStream>) -> io::Result<()> {
    prepare_socket(&socket)?;
    let (request_line, _) = read_head(&mut socket).await?;
    let host = request_line.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(":443 HTTP/1.1"));
    let Some((&host, config)) = host.and_then(|host| shared.certificates.get_key_value(host)) else {
        return socket.write_all(b"HTTP/1.1 502 No such host\r\nContent-Length: 0\r\n\r\n").await;
    };
    socket.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let mut transport = tls::accept(config, socket).await.map_err(io::Error::other)?;
    let (request_line, headers) = read_head(&mut transport).await?;
    let target = request_line.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let Some(Ok(target)) = target.map(RequestTarget::parse) else {
        return refuse(&shared, transport, "", (501, "Not Implemented".to_owned())).await;
    };
    let asking = Asking { target, headers, transport };
    match (host, asking.target.action()) {
        (NAMESPACE, Action::Listen) => channel::listen(shared, asking).await,
        (NAMESPACE, Action::Connect) => rendezvous::connect(shared, asking).await,
        (GATEWAY_HOST, Action::Accept) => rendezvous::accept(shared, asking).await,
        _ => asking.refuse(&shared, (400, "The request is not for this host".to_owned())).await,
    }
}

impl Asking {
    /// Whether its token is good for the hybrid connection it asks for, and that there is one.
    pub(super) fn authorize(&self, shared: &Shared, right: Right) -> Result<Grant, Refusal> {
        let path = self.target.path();
        if !shared.has(path) {
            return Err((404, format!("Endpoint does not exist: '{path}'")));
        }
        let token = self.headers.get(AUTHORIZATION_HEADER).or(self.target.token());
        let token = token.ok_or_else(|| (401, "MissingToken: Relay security token is required".to_owned()))?;
        judge(shared, token, right, path)
    }

    /// Answers 101; the connection is a WebSocket then.
    pub(super) async fn upgrade(mut self, shared: &Shared, subprotocol: Option<&str>) -> io::Result<Transport> {
        let key = self.headers.get("Sec-WebSocket-Key").ok_or(io::ErrorKind::InvalidData)?;
        let mut response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nServer: Microsoft-HTTPAPI/2.0\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n{}",
            derive_accept_key(key.as_bytes()),
            shared.terms.says,
        );
        if let Some(name) = subprotocol {
            response.push_str(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
        }
        response.push_str("\r\n");
        self.transport.write_all(response.as_bytes()).await?;
        self.transport.flush().await?;
        Ok(self.transport)
    }

    /// Answers with a refusal.
    pub(super) async fn refuse(self, shared: &Shared, refusal: Refusal) -> io::Result<()> {
        refuse(shared, self.transport, self.target.path(), refusal).await
    }

    /// The same in a listener's words, which are passed on as they are.
    pub(super) async fn refuse_in_words(self, shared: &Shared, refusal: Refusal) -> io::Result<()> {
        answer(shared, self.transport, refusal).await
    }
}

/// Whether a token is good for this, in the service's words.
pub(super) fn judge(shared: &Shared, token: &str, right: Right, path: &str) -> Result<Grant, Refusal> {
    authorize(token, right, path, &shared.rules, &[], now_unix()).map_err(|error| {
        let words = match &error {
            TokenError::Expired { .. } => "ExpiredToken: The token is expired",
            TokenError::UnknownKeyName { .. } | TokenError::InvalidSignature { .. } => {
                "InvalidSignature: The token has an invalid signature"
            }
            TokenError::WrongPath { .. } | TokenError::MissingRight { .. } => {
                "AuthorizationFailed: The token does not allow this operation here"
            }
            _ => "MalformedToken: The token is malformed",
        };
        (error.status(), words.to_owned())
    })
}

async fn refuse(shared: &Shared, transport: Transport, path: &str, (status, words): Refusal) -> io::Result<()> {
    let reason = format!(
        "{words}. TrackingId:{}_G63, SystemTracker:{NAMESPACE}:{path}, Timestamp:2026-11-25T08:00:00",
        shared.guid()
    );
    answer(shared, transport, (status, reason)).await
}

async fn answer(shared: &Shared, mut transport: Transport, (status, reason): Refusal) -> io::Result<()> {
    shared.note(|seen| seen.refusals.push(format!("{status} {reason}")));
    let response = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nServer: Microsoft-HTTPAPI/2.0\r\nConnection: close\r\n\r\n"
    );
    transport.write_all(response.as_bytes()).await?;
    transport.close().await?;
    // whoever leaves with bytes unread tears down what was not read yet
    while transport.read(&mut [0; 512]).await? > 0 {}
    Ok(())
}

/// The request line, and the fields.
async fn read_head(socket: &mut (impl AsyncReadExt + Unpin)) -> io::Result<(String, Headers)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).await?;
        head.push(byte[0]);
        if head.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = head.trim_end().split("\r\n");
    let request_line = lines.next().unwrap_or_default().to_owned();
    let mut headers = Headers::default();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        headers.push(name, value.trim()).map_err(io::Error::other)?;
    }
    Ok((request_line, headers))
}
