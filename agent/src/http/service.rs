//! The device's own HTTP service: a request towards it, and its response, one connection for each.
//!
//! What goes there is plain HTTP/1.1 (RFC 9112) with `Connection: close`. Fields that are about one connection stay
//! behind in both directions (RFC 9110, section 7.6.1), and so do tokens for the relay. The service sees its own paths:
//! the name of the hybrid connection is taken off, told in `X-Forwarded-Prefix`, and put in front of a `Location` of the
//! service's own.

use std::{future::Future, io, rc::Rc, time::Duration};

use smol::{
    Timer, future,
    io::{AsyncReadExt, ReadHalf, split},
};
use umbilical_link::{
    Io,
    body::{BodyDecoder, Framing},
    port::Duplex,
    response::{ResponseError, ResponseHead, read_head},
};
use umbilical_relay_protocol::{Headers, RequestHead, Response, application_target};

use super::{
    failure::{Failure, INTERIM},
    fields::Hops,
    progress::Progress,
    upload::{RequestText, Upload},
};
use crate::{config::Target, services};

/// How long a connection may take: the service is on this device or near it.
const DIAL: Duration = Duration::from_secs(10);

/// Longest head of a response in bytes.
pub(super) const HEAD_BYTES: usize = 16 * 1024;

/// Bytes of a body read at once: a TLS record's worth.
pub(super) const PART_BYTES: usize = 16 * 1024;

/// A connection to the service.
pub(super) type Socket = Box<dyn Duplex>;

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
    /// Connects, for a request and its response.
    pub(super) async fn open<'r>(&'r self, head: &'r RequestHead) -> Result<(Upload<'r>, Download<'r>), Failure> {
        let (prefix, target) = application_target(&head.request_target, &self.entity);
        if !target.starts_with('/') && target != "*" {
            return Err(Failure::BadTarget);
        }
        let (reading, writing) = split(self.connect().await?);
        let progress = Rc::new(Progress::new(self.timeout));
        let text = RequestText { service: self, head, prefix, target };
        let upload = Upload { text, service: writing, progress: Rc::clone(&progress) };
        Ok((upload, Download { request: head, prefix, reading, progress }))
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
            Ok(Io::Datagrams(_) | Io::Dialing(_)) => Err(Failure::Absent(io::ErrorKind::NotConnected.into())),
            Err(error) => Err(Failure::Absent(error)),
        }
    }
}

/// A response that may come.
pub(super) struct Download<'r> {
    request: &'r RequestHead,
    prefix: &'r str,
    reading: ReadHalf<Socket>,
    progress: Rc<Progress>,
}

impl Download<'_> {
    /// Waits for the head of the final response.
    pub(super) async fn begin(mut self) -> Result<ServiceResponse, Failure> {
        let mut buffer = Vec::new();
        let progress = Rc::clone(&self.progress);
        let (head, framing) = future::or(self.head(&mut buffer), progress.late()).await?;
        let mut space = vec![0; PART_BYTES.max(buffer.len())].into_boxed_slice();
        space[..buffer.len()].copy_from_slice(&buffer);
        let (decoder, end) = (BodyDecoder::new(framing), buffer.len());
        Ok(ServiceResponse { head, reading: self.reading, decoder, space, start: 0, end, progress })
    }

    /// What came behind it is left in `buffer`.
    async fn head(&mut self, buffer: &mut Vec<u8>) -> Result<(Response, Framing), Failure> {
        for _ in 0..INTERIM {
            let length = read_head(&mut self.reading, buffer, HEAD_BYTES).await.map_err(Failure::Head)?;
            let head = ResponseHead::parse(&buffer[..length]).map_err(Failure::Head)?;
            match head.status {
                101 => return Err(Failure::Upgrade),
                100..=199 => {}
                200..=999 => {
                    let framing = Framing::of(&head, &self.request.method).map_err(Failure::Body)?;
                    let response = response(&head, self.request, self.prefix);
                    buffer.drain(..length);
                    return Ok((response, framing));
                }
                status => return Err(Failure::Status(status)),
            }
            buffer.drain(..length);
        }
        Err(Failure::Interim)
    }
}

fn response(head: &ResponseHead<'_>, request: &RequestHead, prefix: &str) -> Response {
    let hops = Hops::of(head.values("connection"));
    let mut headers = Headers::default();
    for (name, value) in head.fields() {
        if hops.keep(name) {
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
    progress: Rc<Progress>,
}

impl ServiceResponse {
    /// Longest silence.
    pub(super) fn timeout(&self) -> Duration {
        self.progress.timeout
    }

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
            // the relay may have taken its time for the piece before
            self.progress.made();
            let read = async {
                self.reading.read(&mut self.space).await.map_err(|error| Failure::Head(ResponseError::Io(error)))
            };
            match future::or(read, self.progress.late()).await? {
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
