//! One HTTP request and its response, by way of a listener.
//!
//! ```text
//!                 fits 64 KiB, and all there           too long, of unknown length, or slow
//! there           control channel: head, body          control channel: address; rendezvous: head, body
//! and back        control channel: head, body          the same rendezvous
//!                 or a rendezvous, as the listener likes
//! ```
//!
//! A body that goes over a rendezvous is passed on as it comes, in both directions at once; the relay holds a piece of each.
//! What fits the control channel is held whole, because such a channel cannot wait for one sender in the middle of a body.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::debug;
use smol::future::{or, poll_once};
use umbilical_link::upgrade::Upgraded;
use umbilical_relay_protocol::{
    Close, ControlError, ListenerMessage, Rejection, RelayMessage, RemoteEndpoint, Request, RequestHead, Response,
    request_address,
};

use super::Shared;
use super::accept::SECRET_PARAMETER;
use super::http_body::{BodyError, Inbound};
use super::http_head::Framing;
use super::http_response::Outbound;
use super::http_sender::Admitted;
use super::invite::{Uninvited, invite};
use super::metrics::{Held, count};
use super::namespace::{Listener, Notice, Unpicked};
use super::request_socket::{Heard, Hearing, HearingError, RequestSocket, Saying};
use super::requests::{Answer, Question};
use crate::deadline;

/// Most bytes of a request, head and body, that go over a control channel.
const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// How long a body that would fit the control channel may take to arrive before it goes over a rendezvous instead.
const BODY_GRACE: Duration = Duration::from_secs(1);

/// Relays one request. Returns whether the sender's connection may carry another one.
///
/// # Errors
/// What to answer instead of a response, or that the connection is of no more use.
pub(crate) async fn relay(
    shared: &Arc<Shared>,
    request: &Admitted,
    inbound: &mut Inbound<'_>,
    outbound: &mut Outbound<'_>,
) -> Result<bool, Failure> {
    let held = Held::of(&shared.metrics.waiting);
    shared.namespace.listener_on_its_way(&request.entity, shared.deadlines().absence).await;
    let prefix = gather(shared, request, inbound, outbound).await?;
    let (question, listener, whole) = ask(shared, request, &prefix, inbound.is_complete())?;
    debug!("request {} of {}: listener {} of {} told", question.id, request.peer, listener.id, request.entity.path);
    let prefix = (!whole).then_some(prefix);
    let answer = or(answer(shared, request, &question, &listener, whole), gone(inbound)).await?;
    drop(held);
    match answer {
        Answer::Told(response, body) => {
            check(&response)?;
            let keep_alive = request.shape.keep_alive && !shared.stopping.is_raised();
            let length = if response.body { body.len() } else { 0 };
            outbound.begin(&response, &request.shape, Some(length), keep_alive).await?;
            outbound.piece(&body).await?;
            outbound.end().await?;
            Ok(keep_alive)
        }
        Answer::Met(upgraded) => over_rendezvous(shared, request, &question, upgraded, prefix, inbound, outbound).await,
    }
}

/// Takes in the body if it may fit the control channel, as much of it as comes soon. Nobody is asked for a body that no
/// listener waits for.
async fn gather(
    shared: &Shared,
    request: &Admitted,
    inbound: &mut Inbound<'_>,
    outbound: &mut Outbound<'_>,
) -> Result<Vec<u8>, Failure> {
    match shared.namespace.pick(&request.entity, &request.affinity, &[], 0) {
        Ok(_) => {}
        Err(Unpicked::Excluded) => return Err(Failure::Refused(Rejection::listeners_excluded())),
        Err(Unpicked::Nobody | Unpicked::PassedOver) => return Err(nobody(request)),
    }
    let mut prefix = Vec::new();
    let fits = match request.shape.framing {
        Framing::None | Framing::Chunked => false,
        Framing::Length(length) => length <= MAX_CONTROL_BYTES as u64,
    };
    if fits {
        invite_body(request, inbound, outbound).await?;
        if let Some(gathered) = deadline::within(BODY_GRACE, inbound.gather(&mut prefix)).await {
            gathered?;
        }
    }
    Ok(prefix)
}

/// Lets a sender go on that waits for it, unless it has gone on already.
async fn invite_body(request: &Admitted, inbound: &Inbound<'_>, outbound: &mut Outbound<'_>) -> Result<(), Failure> {
    if request.shape.expects_continue && !inbound.has_more() && !inbound.is_complete() {
        outbound.proceed().await?;
    }
    Ok(())
}

/// Tells a listener, and whether that was the whole request.
fn ask(
    shared: &Shared,
    request: &Admitted,
    body: &[u8],
    complete: bool,
) -> Result<(Question, Listener, bool), Failure> {
    let question = shared.requests.open(&request.id).map_err(|_| Failure::Refused(Rejection::internal()))?;
    let mut whole = false;
    let told = invite(shared, &request.entity, &request.affinity, |listener| {
        question.put_to(listener.serial);
        let params = [("sb-hc-id", &*question.id), (SECRET_PARAMETER, &*question.secret)];
        let address = request_address(&listener.origin, &request.entity.path, &params);
        let head = RelayMessage::Request(Request::Head(head(request, &question, Some(address.clone()))));
        let text = head.to_json().map_err(|error| rejection_of(&error))?;
        whole = complete && text.len() + body.len() <= MAX_CONTROL_BYTES;
        if whole {
            Ok(Notice { text, body: request.has_body().then(|| body.to_vec()) })
        } else {
            let text =
                RelayMessage::Request(Request::Fetch { address }).to_json().map_err(|error| rejection_of(&error))?;
            Ok(Notice { text, body: None })
        }
    });
    match told {
        Ok(listener) => Ok((question, listener, whole)),
        Err(Uninvited::Nobody) => Err(nobody(request)),
        Err(Uninvited::Refused(rejection)) => Err(Failure::Refused(rejection)),
    }
}

fn head(request: &Admitted, question: &Question, address: Option<String>) -> RequestHead {
    RequestHead {
        address,
        id: question.id.to_string(),
        request_target: request.target.request_target().to_owned(),
        method: request.method.clone(),
        remote: Some(RemoteEndpoint {
            address: request.peer.ip().to_canonical().to_string(),
            port: request.peer.port(),
        }),
        headers: request.headers.clone(),
        body: request.has_body(),
    }
}

fn rejection_of(error: &ControlError) -> Rejection {
    match error {
        ControlError::TooLong { .. } => Rejection::headers_too_large(),
        _ => Rejection::internal(),
    }
}

/// Waits for the listener's first word.
async fn answer(
    shared: &Shared,
    request: &Admitted,
    question: &Question,
    listener: &Listener,
    whole: bool,
) -> Result<Answer, Failure> {
    let deadlines = shared.deadlines();
    let answered = async { question.answer().await.ok_or_else(left) };
    let lost = async {
        listener.gone.raised().await;
        Err(left())
    };
    let stopped = async {
        shared.stopping.raised().await;
        Err(Failure::Refused(Rejection::busy()))
    };
    let patience = if whole { deadlines.response } else { deadlines.rendezvous };
    let answer = deadline::within(patience, or(answered, or(stopped, lost))).await;
    answer.unwrap_or_else(|| Err(late(request)))
}

/// Ready when the sender has given up.
async fn gone<T>(inbound: &mut Inbound<'_>) -> Result<T, Failure> {
    Err(Failure::Broken(Broken::Sender(inbound.abandoned().await)))
}

/// The request, if it has not gone over the control channel (`prefix` is what has been read of its body), and the response.
async fn over_rendezvous(
    shared: &Arc<Shared>,
    request: &Admitted,
    question: &Question,
    upgraded: Upgraded,
    prefix: Option<Vec<u8>>,
    inbound: &mut Inbound<'_>,
    outbound: &mut Outbound<'_>,
) -> Result<bool, Failure> {
    // the listener's socket comes on top of the sender's
    let held = Held::of(&shared.metrics.connections);
    count(&shared.metrics.request_rendezvous);
    let mut socket = RequestSocket::new(upgraded);
    let patience = shared.deadlines().response;
    let progress = Progress::new(prefix.is_none());
    let (keep_alive, idle) = {
        let (mut hearing, saying) = socket.split();
        if prefix.is_some() {
            invite_body(request, inbound, outbound).await?;
        }
        let uploading = async {
            if let Some(prefix) = prefix {
                let upload = Upload { request, saying: &saying, progress: &progress, patience };
                let complete = upload.run(&head(request, question, None), &prefix, inbound).await?;
                progress.over(complete);
            }
            gone(inbound).await
        };
        let downloading = async {
            let response = response(request, &mut hearing, &progress, patience).await?;
            let keep_alive = request.shape.keep_alive && progress.is_complete() && !shared.stopping.is_raised();
            download(request, &response, &mut hearing, outbound, patience, keep_alive).await?;
            Ok(keep_alive)
        };
        let keep_alive = or(downloading, uploading).await?;
        (keep_alive, saying.try_lock().is_some_and(|saying| saying.is_idle()))
    };
    if idle && let Some(alive) = shared.alive.try_read_arc() {
        let patience = shared.deadlines().close;
        let closing = async move {
            deadline::within(patience, socket.close(&Close::normal())).await;
            drop(alive);
        };
        shared.executor.spawn(closing).detach();
    }
    drop(held);
    Ok(keep_alive)
}

/// The request's way to the rendezvous.
struct Upload<'u, 's> {
    request: &'u Admitted,
    saying: &'u smol::lock::Mutex<Saying<'s>>,
    progress: &'u Progress,
    patience: Duration,
}

impl Upload<'_, '_> {
    /// Sends the head, the `prefix` of the body and the rest of it as it comes. Returns whether that was all: if the listener
    /// takes no more, it may have answered already, and if not, that will show where the answer is read.
    async fn run(&self, head: &RequestHead, prefix: &[u8], inbound: &mut Inbound<'_>) -> Result<bool, Failure> {
        let text = RelayMessage::Request(Request::Head(head.clone())).to_json();
        let text = text.map_err(|error| Failure::Refused(rejection_of(&error)))?;
        let said = deadline::within(self.patience, async { self.saying.lock().await.text(&text).await });
        if !self.taken(said.await)? {
            return Ok(false);
        }
        if !head.body {
            return Ok(true);
        }
        let mut more = inbound.left();
        if (more == Some(0) || !prefix.is_empty()) && !self.piece(prefix, more).await? {
            return Ok(false);
        }
        while more != Some(0) {
            let late = || Failure::Refused(Rejection::new(408, "The body of the request did not come in time"));
            let piece = deadline::within(self.patience, inbound.piece()).await;
            let (piece, still) = piece.ok_or_else(late)??.unwrap_or((&[], Some(0)));
            more = still;
            if !self.piece(piece, more).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn piece(&self, piece: &[u8], more: Option<u64>) -> Result<bool, Failure> {
        let said = deadline::within(self.patience, async { self.saying.lock().await.piece(piece, more).await });
        self.taken(said.await)
    }

    /// Whether the listener has taken what was said.
    fn taken(&self, said: Option<io::Result<()>>) -> Result<bool, Failure> {
        let said = said.ok_or_else(|| late(self.request))?;
        self.progress.made();
        Ok(said.is_ok())
    }
}

/// Waits for the head of the response: for as long as the request goes on, which has its own deadlines, and then for
/// `patience`.
async fn response(
    request: &Admitted,
    hearing: &mut Hearing<'_>,
    progress: &Progress,
    patience: Duration,
) -> Result<Response, Failure> {
    let mut text = Vec::new();
    loop {
        let due = progress.last() + patience;
        let due = if progress.is_over() { due } else { due.max(Instant::now() + patience) };
        match deadline::until(due, hearing.text(&mut text)).await {
            Some(heard) => heard.map_err(|error| {
                debug!("request of {} to {}: no response: {error}", request.peer, request.entity.path);
                left()
            })?,
            None if !progress.is_over() || progress.last() + patience > due => continue,
            None => return Err(late(request)),
        }
        let message = String::from_utf8(std::mem::take(&mut text)).map_err(|_| nonsense(&"text that is not UTF-8"))?;
        match ListenerMessage::parse(&message) {
            Ok(ListenerMessage::Response(response)) => {
                check(&response)?;
                return Ok(response);
            }
            Ok(_) => {}
            Err(error) => return Err(nonsense(&error)),
        }
    }
}

/// Passes the response on.
async fn download(
    request: &Admitted,
    response: &Response,
    hearing: &mut Hearing<'_>,
    outbound: &mut Outbound<'_>,
    patience: Duration,
    keep_alive: bool,
) -> Result<(), Failure> {
    if !response.body {
        outbound.begin(response, &request.shape, Some(0), keep_alive).await?;
        return Ok(outbound.end().await?);
    }
    // a short body has come with its head: then its length can be told
    let mut heard = poll_once(hearing.next()).await.transpose().map_err(broken)?;
    let length = match &heard {
        Some(Heard::Data(_, range, true)) => Some(range.len()),
        _ => None,
    };
    outbound.begin(response, &request.shape, length, keep_alive).await?;
    loop {
        let piece = match heard.take() {
            Some(piece) => piece,
            None => match deadline::within(patience, hearing.next()).await {
                Some(piece) => piece.map_err(broken)?,
                None => return Err(broken(HearingError::Io(io::ErrorKind::TimedOut.into()))),
            },
        };
        let Heard::Data(_, range, last) = piece else { return Err(broken(HearingError::Closed)) };
        outbound.piece(hearing.bytes(&range)).await?;
        if last {
            return Ok(outbound.end().await?);
        }
    }
}

/// How far the request has got, for those who wait for the response.
struct Progress {
    last: Mutex<Instant>,
    over: AtomicBool,
    complete: AtomicBool,
}

impl Progress {
    fn new(over: bool) -> Self {
        Self { last: Mutex::new(Instant::now()), over: AtomicBool::new(over), complete: AtomicBool::new(over) }
    }

    fn made(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more of the request will be passed on.
    fn over(&self, complete: bool) {
        self.made();
        self.over.store(true, Relaxed);
        self.complete.store(complete, Relaxed);
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }
}

/// A response that HTTP has no place for at the end of a request.
fn check(response: &Response) -> Result<(), Failure> {
    if response.status < 200 { Err(nonsense(&"an interim status")) } else { Ok(()) }
}

fn nobody(request: &Admitted) -> Failure {
    Failure::Refused(Rejection::no_listener_for_request(&request.entity.path))
}

fn late(request: &Admitted) -> Failure {
    Failure::Refused(Rejection::listener_timeout(&request.entity.path))
}

fn left() -> Failure {
    Failure::Refused(Rejection::new(502, "The listener left before it had answered"))
}

fn nonsense(what: &dyn fmt::Display) -> Failure {
    Failure::Refused(Rejection::new(502, &format!("The listener answered with {what}")))
}

fn broken(error: HearingError) -> Failure {
    Failure::Broken(Broken::Listener(error))
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be answered by the relay itself, if nothing has been answered yet.
    Refused(Rejection),
    /// There is nobody to answer, or no way to go on.
    Broken(Broken),
}

/// Who broke off.
#[derive(Debug)]
pub(crate) enum Broken {
    Sender(io::Error),
    /// In the middle of a response.
    Listener(HearingError),
    /// The relay ends, or the hybrid connection has been removed, in the middle of a response.
    Relay,
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Io(error) => Self::Broken(Broken::Sender(error)),
            BodyError::Chunked(error) => Self::Refused(Rejection::new(400, &format!("Malformed body: {error}"))),
        }
    }
}

/// Only what is written to the sender fails like this.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(Broken::Sender(error))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sender(error) => write!(f, "the sender is gone: {error}"),
            Self::Listener(error) => write!(f, "the listener broke off in the middle of its response: {error}"),
            Self::Relay => f.write_str("ended by the relay in the middle of the response"),
        }
    }
}
