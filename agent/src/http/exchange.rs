//! One HTTP request, from its arrival to the last byte of its response.
//!
//! ```text
//! asked over the control channel ─► service ─► up to 64 KiB in 2 s: answered there
//!                                           └► more, or later: dials `address`, and is answered there as it comes
//! to be fetched: dials `address`, reads it ─► service ─► answered on the same socket as it comes
//! ```
//!
//! A response does not wait for the end of its request: what is still to come of that goes to the service meanwhile.
//!
//! A rendezvous is closed after its response, as Microsoft's .NET listeners do: a relay that has a further request names
//! another one.

use std::{fmt, future::Future, pin::pin, rc::Rc, time::Duration};

use log::{debug, warn};
use smol::{Timer, channel::Sender, future};
use umbilical_link::{
    dial::{DialError, Dialer, Target},
    upgrade::{UpgradeError, UpgradeRequest, Upgraded, upgrade},
};
use umbilical_relay_protocol::{
    AddressError, ControlError, ListenerMessage, RENDEZVOUS_VALIDITY, RelayMessage, Rendezvous, Request, RequestHead,
    Response,
};

use super::{
    failure::Failure,
    service::{Download, Part, Service, ServiceResponse},
    socket::{SocketError, SocketReader, SocketWriter, halves},
    upload::{RequestBody, Upload},
};
use crate::listener::Reply;

/// Longest response on the control channel in bytes, head and body together.
pub(super) const CONTROL_BYTES: usize = 64 * 1024;

/// How long a response may take to become complete and still travel over the control channel; as Microsoft's .NET
/// listeners.
const CONTROL_PATIENCE: Duration = Duration::from_secs(2);

/// How long the relay may take to see that a response was complete.
const GOODBYE: Duration = Duration::from_secs(5);

/// Close codes of RFC 6455, section 7.4.1.
const NORMAL: u16 = 1000;
const INTERNAL: u16 = 1011;

/// What an exchange needs of its device.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) dialer: Rc<Dialer>,
    /// Refuse a rendezvous without TLS.
    pub(super) tls_only: bool,
    /// `None`: every request is refused.
    pub(super) service: Option<Service>,
}

impl Exchange {
    /// Answers what came over the control channel.
    pub(super) async fn answer(&self, head: RequestHead, body: Vec<u8>, replies: &Sender<Reply>) {
        let what = what(&head);
        match self.answer_there(&head, body, replies).await {
            Ok(status) => debug!("{what}: {status}"),
            Err(error) => warn!("{what}: no response was delivered: {error}"),
        }
    }

    async fn answer_there(
        &self,
        head: &RequestHead,
        body: Vec<u8>,
        replies: &Sender<Reply>,
    ) -> Result<u16, Undelivered> {
        let (upload, download) = match self.open(head).await {
            Ok(both) => both,
            Err(failure) => return refuse(head, &failure, replies).await,
        };
        let mut upload = pin!(upload.run(RequestBody::Whole(body)));
        let patience = async {
            Timer::after(CONTROL_PATIENCE).await;
        };
        let (mut answer, json) = match begin(download, CONTROL_BYTES, patience, upload.as_mut()).await {
            Ok(begun) => begun,
            Err(failure) => return refuse(head, &failure, replies).await,
        };
        let status = answer.response.head.status;
        if answer.response.is_complete() && json.len() + answer.begun.len() <= CONTROL_BYTES {
            reply(replies, answer.response.head, answer.begun).await?;
            return Ok(status);
        }
        let address = head.address.as_deref().ok_or(Undelivered::NoAddress)?;
        let (mut reader, mut writer) = halves(self.meet(address).await?);
        answer.deliver(json, &mut writer, future::or(reader.until_closed(), upload)).await?;
        leave(&mut reader, &mut writer).await?;
        Ok(status)
    }

    /// Fetches a request, and answers it.
    pub(super) async fn fetch(&self, address: &str) {
        if let Err(error) = self.fetch_there(address).await {
            warn!("can't answer an HTTP request that is to be fetched: {error}");
        }
    }

    async fn fetch_there(&self, address: &str) -> Result<(), Undelivered> {
        let (mut reader, mut writer) = halves(self.meet(address).await?);
        let late = async {
            Timer::after(RENDEZVOUS_VALIDITY).await;
            Err(Undelivered::NoRequest)
        };
        let text = future::or(async { reader.text().await.map_err(Undelivered::Socket) }, late).await?;
        let message = RelayMessage::parse(&text).map_err(Undelivered::Message)?;
        let RelayMessage::Request(Request::Head(head)) = message else { return Err(Undelivered::NoRequest) };
        drop(text);
        let status = self.answer_here(&head, &mut reader, &mut writer).await?;
        leave(&mut reader, &mut writer).await?;
        debug!("{}: {status}", what(&head));
        Ok(())
    }

    /// Answers on the socket that the request comes over.
    async fn answer_here(
        &self,
        head: &RequestHead,
        reader: &mut SocketReader,
        writer: &mut SocketWriter,
    ) -> Result<u16, Undelivered> {
        let failure = match self.open(head).await {
            Ok((upload, download)) => {
                let mut upload = pin!(upload.run(RequestBody::Coming(reader)));
                match begin(download, 0, future::ready(()), upload.as_mut()).await {
                    Ok((mut answer, json)) => {
                        answer.deliver(json, writer, upload).await?;
                        return Ok(answer.response.head.status);
                    }
                    Err(failure) => failure,
                }
            }
            Err(failure) => failure,
        };
        let (response, mut body) = refusal(head, &failure);
        let status = response.status;
        writer.text(text_of(response)?).await.map_err(Undelivered::Socket)?;
        if !body.is_empty() {
            writer.part(true, true, &mut body).await.map_err(Undelivered::Socket)?;
        }
        Ok(status)
    }

    async fn open<'r>(&'r self, head: &'r RequestHead) -> Result<(Upload<'r>, Download<'r>), Failure> {
        self.service.as_ref().ok_or(Failure::NotServed)?.open(head).await
    }

    async fn meet(&self, address: &str) -> Result<Upgraded, Undelivered> {
        let rendezvous = Rendezvous::parse(address).map_err(Undelivered::Address)?;
        if self.tls_only && !rendezvous.tls() {
            return Err(Undelivered::WithoutTls);
        }
        let dialling = async {
            let place = Target { host: rendezvous.host().to_owned(), port: rendezvous.port(), tls: rendezvous.tls() };
            let transport = self.dialer.dial(&place).await.map_err(Undelivered::Dial)?;
            let authority = rendezvous.authority();
            let request = UpgradeRequest {
                authority: &authority,
                target: rendezvous.path_and_query(),
                headers: Vec::new(),
                subprotocol: None,
            };
            upgrade(transport, &request).await.map_err(Undelivered::Upgrade)
        };
        let late = async {
            Timer::after(RENDEZVOUS_VALIDITY).await;
            Err(Undelivered::Late)
        };
        future::or(dialling, late).await
    }
}

/// The service's answer, its body gathered up to `most` bytes for as long as `patience` lasts; and the head as text. The
/// `upload` goes on meanwhile.
async fn begin(
    download: Download<'_>,
    most: usize,
    patience: impl Future<Output = ()>,
    upload: impl Future<Output = SocketError>,
) -> Result<(Answer, String), Failure> {
    let answered = async {
        let mut response = download.begin().await?;
        let begun = response.gather(most, patience).await?;
        response.head.body = !begun.is_empty() || !response.is_complete();
        let json = text_of(response.head.clone()).map_err(|_| Failure::TooLarge)?;
        Ok((Answer { response, begun }, json))
    };
    let lost = async { Err(Failure::Relay(upload.await)) };
    future::or(answered, lost).await
}

/// A response that has begun.
struct Answer {
    response: ServiceResponse,
    /// The beginning of its body.
    begun: Vec<u8>,
}

enum Next<'p> {
    Part(Option<Part<'p>>),
    Ping(Vec<u8>),
}

impl Answer {
    /// Sends it to its end over a rendezvous, unless `lost` comes true first: that this is of no more use.
    async fn deliver(
        &mut self,
        json: String,
        writer: &mut SocketWriter,
        lost: impl Future<Output = SocketError>,
    ) -> Result<(), Undelivered> {
        let lost = async { Err(Undelivered::Socket(lost.await)) };
        future::or(self.send(json, writer), lost).await
    }

    async fn send(&mut self, json: String, writer: &mut SocketWriter) -> Result<(), Undelivered> {
        // the relay has as long for a piece of it as the service
        let timeout = self.response.timeout();
        let response = &mut self.response;
        let pings = writer.pings();
        in_time(timeout, writer.text(json)).await?;
        let (mut is_first, mut is_ended) = (true, !response.head.body);
        if !self.begun.is_empty() {
            is_ended = response.is_complete();
            in_time(timeout, writer.part(true, is_ended, &mut self.begun)).await?;
            is_first = false;
        }
        // it is not needed for as long as the rest may take
        self.begun = Vec::new();
        while !is_ended {
            let part = async { response.part().await.map(Next::Part) };
            let ping = async {
                match pings.recv().await {
                    Ok(ping) => Ok(Next::Ping(ping)),
                    Err(_) => future::pending().await,
                }
            };
            match future::or(part, ping).await {
                Ok(Next::Ping(ping)) => in_time(timeout, writer.pong(ping)).await?,
                Ok(Next::Part(part)) => {
                    let Part { bytes, is_last } = part.unwrap_or_default();
                    in_time(timeout, writer.part(is_first, is_last, bytes)).await?;
                    (is_first, is_ended) = (false, is_last);
                }
                Err(failure) => {
                    // what was sent can't be taken back: its end is missing, and the relay is told so
                    in_time(timeout, writer.close(INTERNAL, &failure.reason())).await?;
                    return Err(Undelivered::Cut(failure));
                }
            }
        }
        Ok(())
    }
}

async fn reply(replies: &Sender<Reply>, response: Response, body: Vec<u8>) -> Result<(), Undelivered> {
    replies.send(Reply { response, body }).await.map_err(|_| Undelivered::ChannelLost)
}

async fn refuse(head: &RequestHead, failure: &Failure, replies: &Sender<Reply>) -> Result<u16, Undelivered> {
    let (response, body) = refusal(head, failure);
    let status = response.status;
    reply(replies, response, body).await.map(|()| status)
}

/// The response that tells of a failure; the log is told more.
fn refusal(head: &RequestHead, failure: &Failure) -> (Response, Vec<u8>) {
    warn!("{}: answered {}: {failure}", what(head), failure.status());
    failure.response(head)
}

/// Closes, and waits until the relay has read all: an early end of the connection could take it away again.
async fn leave(reader: &mut SocketReader, writer: &mut SocketWriter) -> Result<(), Undelivered> {
    writer.close(NORMAL, "").await.map_err(Undelivered::Socket)?;
    let late = async {
        Timer::after(GOODBYE).await;
    };
    let closed = async {
        reader.until_closed().await;
    };
    future::or(closed, late).await;
    Ok(())
}

async fn in_time(timeout: Duration, writing: impl Future<Output = Result<(), SocketError>>) -> Result<(), Undelivered> {
    let late = async {
        Timer::after(timeout).await;
        Err(Undelivered::Stuck { after: timeout })
    };
    future::or(async { writing.await.map_err(Undelivered::Socket) }, late).await
}

fn text_of(response: Response) -> Result<String, Undelivered> {
    ListenerMessage::Response(response).to_json().map_err(Undelivered::Message)
}

/// A request, as logs name it: queries hold secrets.
fn what(head: &RequestHead) -> String {
    let path = head.request_target.split('?').next().unwrap_or_default();
    format!("HTTP request {} {path}", head.method)
}

/// Why a response did not get to the relay.
#[derive(Debug)]
enum Undelivered {
    ChannelLost,
    NoAddress,
    Address(AddressError),
    WithoutTls,
    Dial(DialError),
    Upgrade(UpgradeError),
    Late,
    NoRequest,
    Message(ControlError),
    Socket(SocketError),
    Stuck { after: Duration },
    Cut(Failure),
}

impl fmt::Display for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undelivered::ChannelLost => f.write_str("the control channel that it belongs to is lost"),
            Undelivered::NoAddress => {
                f.write_str("it is too large or too slow for the control channel, and has no address")
            }
            Undelivered::Address(error) => write!(f, "the rendezvous has no usable address: {error}"),
            Undelivered::WithoutTls => f.write_str("the rendezvous is without TLS, the relay itself is not"),
            Undelivered::Dial(error) => error.fmt(f),
            Undelivered::Upgrade(error) => error.fmt(f),
            Undelivered::Late => {
                write!(f, "the rendezvous was not reached within {} s", RENDEZVOUS_VALIDITY.as_secs())
            }
            Undelivered::NoRequest => f.write_str("there is no request at the rendezvous"),
            Undelivered::Message(error) => error.fmt(f),
            Undelivered::Socket(error) => error.fmt(f),
            Undelivered::Stuck { after } => write!(f, "the relay took nothing for {} s", after.as_secs()),
            Undelivered::Cut(failure) => write!(f, "its end is missing: {failure}"),
        }
    }
}
