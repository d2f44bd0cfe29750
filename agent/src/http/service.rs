//! The device's own HTTP service: a request towards it, and its response, one connection for each.
//!
//! What goes there is plain HTTP/1.1 (RFC 9112) with `Connection: close`. Fields that are about one connection stay
//! behind in both directions (RFC 9110, section 7.6.1), and so do tokens for the relay. The service sees its own paths:
//! the name of the hybrid connection is taken off, told in `X-Forwarded-Prefix`, and put in front of a `Location` of the
//! service's own.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    io,
    time::{Duration, Instant},
};

use smol::{
    Timer, future,
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
};
use umbilical_link::{
    Io,
    body::{BodyDecoder, BodyError, Framing},
    port::Duplex,
    response::{ResponseError, ResponseHead, read_head},
};
use umbilical_relay_protocol::{Headers, RequestHead, Response, application_target};

use super::socket::{SocketError, SocketReader};
use crate::{config::Target, services};

/// How long a connection may take: the service is on this device or near it.
const DIAL: Duration = Duration::from_secs(10);

/// Longest head of a response in bytes.
pub(super) const HEAD_BYTES: usize = 16 * 1024;

/// Bytes of a body read at once: a TLS record's worth.
pub(super) const PART_BYTES: usize = 16 * 1024;

/// Interim responses in front of the one that counts.
const INTERIM: usize = 8;

/// Fields of requests and responses that are about one connection, or that are written anew.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Further ones of requests. `Expect` is answered by the relay.
const REWRITTEN: [&str; 8] = [
    "close",
    "expect",
    "host",
    "servicebusauthorization",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
];

type Socket = Box<dyn Duplex>;

/// The body of a request.
pub(super) enum RequestBody<'s> {
    /// All of it; empty if there is none.
    Whole(Vec<u8>),
    /// It comes over a rendezvous.
    Coming(&'s mut SocketReader),
}

/// Where requests go, and what they are told of the way they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) target: Target,
    /// Longest silence, of the service and of the relay.
    pub(super) timeout: Duration,
    /// Path of the hybrid connection.
    pub(super) entity: String,
    /// Host and port of the relay.
    pub(super) authority: String,
    /// `https`, or `http` without TLS.
    pub(super) scheme: &'static str,
}

impl Service {
    /// Asks, and waits for the head of the answer.
    pub(super) async fn ask(&self, head: &RequestHead, body: RequestBody<'_>) -> Result<ServiceResponse, Failure> {
        let (prefix, target) = application_target(&head.request_target, &self.entity);
        if !target.starts_with('/') && target != "*" {
            return Err(Failure::BadTarget);
        }
        let (mut reading, writing) = split(self.connect().await?);
        let progress = Progress::new(self.timeout);
        let request = RequestText { service: self, head, prefix, target: &target };
        let sending = async {
            // a service may well answer before it has heard all: what it says counts
            let sent = send(&request, writing, body, &progress).await;
            match sent {
                Err(Unsent::Relay(error)) => Err(Failure::Relay(error)),
                Ok(_) | Err(Unsent::Service) => future::pending().await,
            }
        };
        let mut buffer = Vec::new();
        let receiving = receive_head(&mut reading, &mut buffer, head, prefix);
        let late = progress.late(Failure::Silent { after: self.timeout });
        let (response, framing) = future::or(future::or(receiving, sending), late).await?;
        let mut space = vec![0; PART_BYTES.max(buffer.len())].into_boxed_slice();
        space[..buffer.len()].copy_from_slice(&buffer);
        Ok(ServiceResponse {
            head: response,
            reading,
            decoder: BodyDecoder::new(framing),
            space,
            start: 0,
            end: buffer.len(),
            timeout: self.timeout,
        })
    }

    async fn connect(&self) -> Result<Socket, Failure> {
        let late = async {
            Timer::after(DIAL.min(self.timeout)).await;
            Err(io::Error::from(io::ErrorKind::TimedOut))
        };
        match future::or(services::connect(&self.target), late).await {
            Ok(Io::Tcp(socket)) => Ok(Box::new(socket)),
            Ok(Io::Unix(socket)) => Ok(Box::new(socket)),
            Ok(Io::Other(other)) => Ok(other),
            Ok(Io::Dialing(_)) => Err(Failure::Absent(io::ErrorKind::NotConnected.into())),
            Err(error) => Err(Failure::Absent(error)),
        }
    }
}

/// When something last happened.
struct Progress {
    at: Cell<Instant>,
    timeout: Duration,
}

impl Progress {
    fn new(timeout: Duration) -> Progress {
        Progress { at: Cell::new(Instant::now()), timeout }
    }

    fn made(&self) {
        self.at.set(Instant::now());
    }

    /// Fails when nothing has happened for too long.
    async fn late<T, E>(&self, error: E) -> Result<T, E> {
        loop {
            let due = self.at.get() + self.timeout;
            if due <= Instant::now() {
                return Err(error);
            }
            Timer::at(due).await;
        }
    }
}

enum Unsent {
    Service,
    Relay(SocketError),
}

/// Gives the connection's writing half back, so that it stays open until the response is read.
async fn send(
    request: &RequestText<'_>,
    mut service: WriteHalf<Socket>,
    body: RequestBody<'_>,
    progress: &Progress,
) -> Result<WriteHalf<Socket>, Unsent> {
    let gone = |_: io::Error| Unsent::Service;
    match body {
        RequestBody::Whole(body) => {
            service.write_all(request.with_length(Some(body.len() as u64)).as_bytes()).await.map_err(gone)?;
            for part in body.chunks(PART_BYTES) {
                service.write_all(part).await.map_err(gone)?;
                progress.made();
            }
        }
        RequestBody::Coming(relay) => {
            let length = relay.begin_body().await.map_err(Unsent::Relay)?;
            service.write_all(request.with_length(length).as_bytes()).await.map_err(gone)?;
            while let Some(part) = relay.part().await.map_err(Unsent::Relay)? {
                if length.is_none() {
                    service.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await.map_err(gone)?;
                }
                service.write_all(part).await.map_err(gone)?;
                if length.is_none() {
                    service.write_all(b"\r\n").await.map_err(gone)?;
                }
                progress.made();
            }
            if length.is_none() {
                service.write_all(b"0\r\n\r\n").await.map_err(gone)?;
            }
        }
    }
    service.flush().await.map_err(gone)?;
    Ok(service)
}

/// The head of a request as the service gets it.
struct RequestText<'r> {
    service: &'r Service,
    head: &'r RequestHead,
    prefix: &'r str,
    target: &'r str,
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
        let named = named_by_connection(head.headers.all("connection").map(str::as_bytes));
        for (name, value) in head.headers.iter() {
            let is_dropped = |known: &&str| known.eq_ignore_ascii_case(name);
            if !HOP_BY_HOP.iter().any(is_dropped) && !REWRITTEN.iter().any(is_dropped) && !named.contains(name) {
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

/// The fields that `Connection` fields name.
struct Named(Vec<String>);

impl Named {
    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|named| named.eq_ignore_ascii_case(name))
    }
}

fn named_by_connection<'v>(values: impl Iterator<Item = &'v [u8]>) -> Named {
    let names = values.flat_map(|value| value.split(|&byte| byte == b','));
    Named(names.map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned()).collect())
}

/// Reads up to the head of the final response; what came behind it is left in `buffer`.
async fn receive_head(
    service: &mut ReadHalf<Socket>,
    buffer: &mut Vec<u8>,
    request: &RequestHead,
    prefix: &str,
) -> Result<(Response, Framing), Failure> {
    for _ in 0..INTERIM {
        let length = read_head(service, buffer, HEAD_BYTES).await.map_err(Failure::Head)?;
        let head = ResponseHead::parse(&buffer[..length]).map_err(Failure::Head)?;
        match head.status {
            101 => return Err(Failure::Upgrade),
            100..=199 => {}
            200..=999 => {
                let framing = Framing::of(&head, &request.method).map_err(Failure::Body)?;
                let response = response(&head, request, prefix);
                buffer.drain(..length);
                return Ok((response, framing));
            }
            status => return Err(Failure::Status(status)),
        }
        buffer.drain(..length);
    }
    Err(Failure::Interim)
}

fn response(head: &ResponseHead<'_>, request: &RequestHead, prefix: &str) -> Response {
    let named = named_by_connection(head.values("connection"));
    let mut headers = Headers::default();
    for (name, value) in head.fields() {
        if HOP_BY_HOP.iter().any(|known| known.eq_ignore_ascii_case(name)) || named.contains(name) {
            continue;
        }
        let value = String::from_utf8_lossy(value);
        let is_own_path = value.starts_with('/') && !value.starts_with("//");
        let value = if name.eq_ignore_ascii_case("location") && is_own_path {
            format!("{prefix}{value}")
        } else {
            value.into()
        };
        // a name the parser took and HTTP has no place for does not exist
        let _ = headers.push(name, &value);
    }
    let reason = Some(head.reason.clone()).filter(|reason| !reason.is_empty());
    Response { request_id: request.id.clone(), status: head.status, reason, headers, body: false }
}

/// A piece of a body.
pub(super) struct Part<'p> {
    pub(super) bytes: &'p mut [u8],
    /// Whether it is known to be the last one.
    pub(super) is_last: bool,
}

/// What is there when nothing is left: an end, and nothing in it.
impl Default for Part<'_> {
    fn default() -> Self {
        Part { bytes: &mut [], is_last: true }
    }
}

/// A response whose head is here, and whose body may still be coming.
pub(super) struct ServiceResponse {
    /// `body` is not set.
    pub(super) head: Response,
    reading: ReadHalf<Socket>,
    decoder: BodyDecoder,
    /// `[start..end]` bytes not looked at.
    space: Box<[u8]>,
    start: usize,
    end: usize,
    timeout: Duration,
}

impl ServiceResponse {
    /// Whether all of the body was given.
    pub(super) fn is_complete(&self) -> bool {
        self.decoder.is_complete()
    }

    /// The next piece of the body; `None` at its end. Nothing is lost if the future is dropped.
    pub(super) async fn part(&mut self) -> Result<Option<Part<'_>>, Failure> {
        loop {
            while self.start < self.end && !self.decoder.is_complete() {
                let decoded = self.decoder.decode(&self.space[self.start..self.end]).map_err(Failure::Body)?;
                let (from, to) = (self.start + decoded.payload.start, self.start + decoded.payload.end);
                self.start += decoded.taken;
                if from < to {
                    return Ok(Some(Part { bytes: &mut self.space[from..to], is_last: self.decoder.is_complete() }));
                }
            }
            if self.decoder.is_complete() {
                return Ok(None);
            }
            (self.start, self.end) = (0, 0);
            let late = async {
                Timer::after(self.timeout).await;
                Err(Failure::Silent { after: self.timeout })
            };
            let read = async {
                self.reading.read(&mut self.space).await.map_err(|error| Failure::Head(ResponseError::Io(error)))
            };
            match future::or(read, late).await? {
                0 => {
                    self.decoder.end().map_err(Failure::Body)?;
                    self.decoder = BodyDecoder::new(Framing::None);
                }
                count => self.end = count,
            }
        }
    }

    /// Gathers the body until it is complete, or longer than `most` bytes, or late.
    pub(super) async fn gather(&mut self, most: usize, patience: impl Future<Output = ()>) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let gathering = async {
            while body.len() <= most
                && let Some(part) = self.part().await?
            {
                body.extend_from_slice(part.bytes);
            }
            Ok(())
        };
        let enough = async {
            patience.await;
            Ok(())
        };
        future::or(gathering, enough).await?;
        Ok(body)
    }
}

/// Why a request has no response of the service.
#[derive(Debug)]
pub(super) enum Failure {
    NotServed,
    Busy { at_once: usize },
    Leaving,
    BadTarget,
    Absent(io::Error),
    Silent { after: Duration },
    Head(ResponseError),
    Body(BodyError),
    Upgrade,
    Status(u16),
    Interim,
    TooLarge,
    Relay(SocketError),
}

impl Failure {
    /// What the sender is told.
    pub(super) fn status(&self) -> u16 {
        match self {
            Failure::NotServed => 501,
            Failure::Busy { .. } | Failure::Leaving => 503,
            Failure::BadTarget | Failure::Relay(_) => 400,
            Failure::Silent { .. } => 504,
            _ => 502,
        }
    }

    /// The same in a sentence that tells strangers nothing of the device's insides.
    pub(super) fn reason(&self) -> String {
        match self {
            Failure::NotServed => "This device serves no HTTP: its configuration has no [http]".to_owned(),
            Failure::Busy { at_once } => {
                format!("This device answers {at_once} requests at once and no more wait: try again")
            }
            Failure::Leaving => "This device is shutting down: try again".to_owned(),
            Failure::BadTarget => "This device serves paths, and the request is for something else".to_owned(),
            Failure::Absent(error) => format!("The HTTP service of this device is not reached: {}", error.kind()),
            Failure::Silent { after } => {
                format!("The HTTP service of this device said nothing for {} s", after.as_secs())
            }
            Failure::TooLarge => "The HTTP service of this device answered with too many headers".to_owned(),
            Failure::Relay(_) => "The request did not arrive whole".to_owned(),
            _ => "The HTTP service of this device gave no response that can be passed on".to_owned(),
        }
    }

    /// The response that says so.
    pub(super) fn response(&self, request: &RequestHead) -> (Response, Vec<u8>) {
        let reason = self.reason();
        let mut headers = Headers::default();
        let mut fields = vec![("Content-Type", "text/plain; charset=utf-8")];
        if self.status() == 503 {
            fields.push(("Retry-After", "1"));
        }
        for (name, value) in fields {
            headers.push(name, value).expect("a constant that is a header's name");
        }
        let body = if request.method == "HEAD" { Vec::new() } else { format!("{reason}\n").into_bytes() };
        let head = Response {
            request_id: request.id.clone(),
            status: self.status(),
            reason: Some(reason),
            headers,
            body: !body.is_empty(),
        };
        (head, body)
    }
}

/// For the log of the device.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Absent(error) => {
                write!(f, "can't connect to the service: {error}; check that it runs, and [http]")
            }
            Failure::Head(error) => write!(f, "from the service: {error}"),
            Failure::Body(error) => error.fmt(f),
            Failure::Upgrade => f.write_str("the service wants another protocol (101), which a request can't have"),
            Failure::Status(status) => write!(f, "the service answered with the status {status}"),
            Failure::Interim => write!(f, "the service sent {INTERIM} interim responses and no final one"),
            Failure::Relay(error) => error.fmt(f),
            other => f.write_str(&other.reason()),
        }
    }
}
