//! Keeps the control channel: opens it, renews its token, opens the next one when it is lost.
//!
//! Owns: when to try again, and what an operator reads about it. Leaves to others: the channel itself (`control`), tokens
//! (`credentials`), answering senders (`rendezvous`) and HTTP requests (`http`). Links are not touched by anything that happens here: they are
//! connections of their own.

use std::{fmt, future::Future, pin::pin, rc::Rc, sync::Arc, time::Duration};

use event_listener::Event;
use log::{debug, info, warn};
use smol::{
    Timer,
    channel::{Sender, bounded},
    future,
};
use umbilical_link::{dial::Dialer, upgrade::UpgradeError};
use umbilical_relay_protocol::{Accept, ListenerMessage, RelayMessage, Request, Response};

use crate::{
    backoff::{self, Backoff},
    clock::{Clock, Difference},
    config,
    control::{Arrived, ControlChannel, Lost, OpenError},
    credentials::{Credentials, CredentialsError, Token},
    health::{Place, Standing},
    presence::Presence,
    renewal::replacement,
    stop::Stop,
    sys::{News, boot_time, give_back_freed_memory},
};

/// Between attempts to renew a token, and between looks at a token file.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A token signed more than this many seconds off may have been refused for that alone.
const MISDATED: u64 = 30;

/// Who is told of senders.
pub trait Answer {
    /// A sender waits. Must not block.
    fn answer(&self, accept: Accept);

    /// Whether the next sender is waited for.
    fn is_waited_for(&self) -> impl Future<Output = bool>;
}

/// Who is told of HTTP requests.
pub trait Serve {
    /// A request waits. Must not block; the response goes to its replies, or to a rendezvous.
    fn serve(&self, asked: Asked);
}

/// An HTTP request that came over a control channel.
pub struct Asked {
    /// Its head, or where all of it is.
    pub request: Request,
    /// The body of a request whose head came; empty if it has none.
    pub body: Vec<u8>,
    /// Takes the response to the channel.
    pub replies: Sender<Reply>,
}

/// A response for a control channel.
pub struct Reply {
    /// Its head, which says whether there is a body.
    pub response: Response,
    /// At most 64 KiB.
    pub body: Vec<u8>,
}

/// One hybrid connection, listened at for as long as wanted.
pub struct Listener {
    /// Where, and how to keep it alive.
    pub relay: config::Relay,
    /// What to prove oneself with.
    pub credentials: Credentials,
    /// How to get there.
    pub dialer: Rc<Dialer>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Under which id the relay knows this listener.
    pub id: String,
    /// Evenly spread random numbers, for delays.
    pub random: fn() -> u32,
    /// Usually [`LOOK_AGAIN`].
    pub look_again: Duration,
    /// Who is to know when there is a control channel.
    pub presence: Option<Rc<Presence>>,
    /// Told when nobody knows what has become of the device's connections: it has slept, or a link fell silent.
    pub doubts: Rc<Event>,
    /// What an operator is told of it.
    pub standing: Rc<Standing>,
}

impl Listener {
    /// Listens until `stop` is wanted, and then takes leave of the relay.
    pub async fn run(&self, answers: &impl Answer, requests: &impl Serve, stop: &Stop) {
        let mut backoff = Backoff::new();
        let mut said = String::new();
        while !stop.is_wanted() {
            let failure = match unless_stopped(stop, self.connect()).await {
                None => return,
                Some(Ok((mut channel, token))) => {
                    info!("listening at {}", self.relay.url);
                    self.standing.is(Place::Listening);
                    let here = self.presence.as_ref().map(Presence::enter);
                    give_back_freed_memory();
                    said.clear();
                    let since = boot_time();
                    let Err(lost) = self.serve(&mut channel, token, answers, requests, stop).await else {
                        return channel.close().await;
                    };
                    drop(here);
                    Failure::Lost { lost, held: boot_time().saturating_sub(since) }
                }
                Some(Err(failure)) => failure,
            };
            let (longest, random) = (backoff::longest(answers.is_waited_for().await), (self.random)());
            let delay = match failure.kind() {
                Kind::Misdated => Duration::ZERO,
                Kind::Refusal => backoff.after_refusal(failure.retry_after(), random),
                Kind::Failed => backoff.after_failure(longest, failure.retry_after(), random),
                Kind::Lost { held, closed } => backoff.after_connection(held, closed, longest, random),
            };
            let news = News::listen();
            self.report(&failure, delay, &mut said);
            if unless_stopped(stop, self.pause(delay, news)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for so long, or until another attempt is worthwhile.
    async fn pause(&self, delay: Duration, news: News) {
        let over = async {
            Timer::after(delay).await;
        };
        let better = async {
            // not within `debug!`: what is not logged is not evaluated
            let what = news.any().await;
            debug!("{what} has changed");
            Timer::after(Backoff::after_return((self.random)())).await;
        };
        future::or(over, better).await;
    }

    /// Opens a channel, and gives the token it was opened with.
    async fn connect(&self) -> Result<(ControlChannel, Token), Failure> {
        let dated = self.clock.token_time();
        let token = self.credentials.token(dated).await.map_err(Failure::NoToken)?;
        debug!("opening a control channel to {} with the {}", self.relay.url, self.credentials.origin());
        let keep_alive = (self.relay.keep_alive, self.relay.keep_alive_frame);
        match ControlChannel::open(&self.dialer, &self.relay.url, &self.id, &token, keep_alive).await {
            Ok((channel, date)) => {
                match date.map(|date| self.clock.learn(date)) {
                    Some(Difference::None) | None => {}
                    Some(difference) => info!("{difference}"),
                }
                Ok((channel, token))
            }
            Err(OpenError::Upgrade(UpgradeError::Refused { status, reason, retry_after, date })) => {
                let clock = date.map(|date| self.clock.learn(date).to_string());
                let misdated = self.clock.token_time().unix.abs_diff(dated.unix) > MISDATED;
                Err(Failure::Refused(Refusal { status, reason, retry_after, clock, misdated }))
            }
            Err(error) => Err(Failure::NotOpened(error)),
        }
    }

    /// Returns when `stop` is wanted; the channel is still open then.
    async fn serve(
        &self,
        channel: &mut ControlChannel,
        mut token: Token,
        answers: &impl Answer,
        requests: &impl Serve,
        stop: &Stop,
    ) -> Result<(), Lost> {
        let (replies_in, replies) = bounded(1);
        loop {
            // beside the messages, not between them: a program that prints a token may take its time
            let fresh = {
                let mut renewal = pin!(replacement(&self.credentials, &self.clock, &token, self.look_again));
                loop {
                    // each of these may be dropped half-way without a loss; what is written is written behind them
                    let stopped = async {
                        stop.wanted().await;
                        Ok(Served::Stopped)
                    };
                    let arrived = async { channel.next().await.map(Served::Arrived) };
                    let renewed = async { Ok(Served::Renewal(renewal.as_mut().await)) };
                    let doubted = async {
                        self.doubts.listen().await;
                        Ok(Served::Doubted)
                    };
                    let reply = async {
                        match replies.recv().await {
                            Ok(reply) => Ok(Served::Reply(reply)),
                            Err(_) => future::pending().await,
                        }
                    };
                    // a reply that is there is delivered, even if it was the last thing to do
                    match future::or(future::or(arrived, reply), future::or(future::or(stopped, doubted), renewed))
                        .await?
                    {
                        Served::Stopped => return Ok(()),
                        Served::Doubted => channel.doubt(),
                        Served::Renewal(fresh) => break fresh,
                        Served::Reply(Reply { response, body }) => channel.respond(response, body).await?,
                        Served::Arrived(Arrived::Message(message)) => handle(message, answers),
                        Served::Arrived(Arrived::Request(request, body)) => {
                            requests.serve(Asked { request, body, replies: replies_in.clone() });
                        }
                        Served::Arrived(Arrived::Unreadable(error)) => {
                            warn!("ignored a message of the relay: {error}");
                        }
                    }
                }
            };
            channel.send(&ListenerMessage::RenewToken { token: fresh.text().to_owned() }).await?;
            debug!("sent a fresh token for {}", self.relay.url);
            token = fresh;
        }
    }

    /// Says what happened; the same thing again only at `debug`, so that a day without a network is not a day of
    /// warnings.
    fn report(&self, failure: &Failure, delay: Duration, said: &mut String) {
        let url = &self.relay.url;
        let origin = self.credentials.origin();
        let text = match failure {
            Failure::NoToken(error) => format!("no token for {url}: {error}"),
            Failure::NotOpened(error) => format!("can't listen at {url}: {error}"),
            Failure::Lost { lost, .. } => format!("lost the control channel to {url}: {lost}"),
            Failure::Refused(refusal) => {
                let advice = refusal.advice(url.path(), &origin);
                format!("the relay refused to let us listen at {url}: {refusal}; {advice}")
            }
        };
        let seconds = delay.as_secs_f32();
        if *said == text {
            debug!("{text}; next try in {seconds:.1} s");
        } else {
            warn!("{text}; next try in {seconds:.1} s");
            said.clone_from(&text);
        }
        self.standing.is(Place::Away(text));
    }
}

enum Served {
    Stopped,
    Doubted,
    Renewal(Token),
    Reply(Reply),
    Arrived(Arrived),
}

fn handle(message: RelayMessage, answers: &impl Answer) {
    match message {
        RelayMessage::Accept(accept) => answers.answer(accept),
        RelayMessage::Unknown(command) => debug!("ignored the unknown command {command:?}"),
        other => debug!("ignored {other:?}"),
    }
}

/// Why there is no control channel at this moment.
#[derive(Debug)]
enum Failure {
    NoToken(CredentialsError),
    NotOpened(OpenError),
    Refused(Refusal),
    Lost { lost: Lost, held: Duration },
}

#[derive(Debug)]
struct Refusal {
    status: u16,
    reason: String,
    retry_after: Option<Duration>,
    /// How the clocks compare, if the relay told its own.
    clock: Option<String>,
    /// The token was dated by a clock that has been corrected since.
    misdated: bool,
}

enum Kind {
    /// Nothing was opened.
    Failed,
    /// What was open is lost: cut, or closed by the relay.
    Lost { held: Duration, closed: bool },
    /// Trying again soon changes nothing.
    Refusal,
    /// Trying again at once may well change everything, and can't happen twice in a row.
    Misdated,
}

impl Failure {
    fn kind(&self) -> Kind {
        match self {
            Failure::Refused(Refusal { status: 401, misdated: true, .. }) => Kind::Misdated,
            Failure::Refused(Refusal { status: 400..=499, .. }) => Kind::Refusal,
            Failure::Lost { lost, held } => {
                let cut = matches!(lost, Lost::Ended | Lost::Broken(_) | Lost::Silent(_) | Lost::Stuck);
                Kind::Lost { held: *held, closed: !cut }
            }
            _ => Kind::Failed,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

impl Refusal {
    fn advice(&self, path: &str, origin: &impl fmt::Display) -> String {
        match self.status {
            401 | 403 => {
                let clock = self.clock.as_deref().unwrap_or("the relay did not tell its time");
                let follow = if self.misdated { ", whose time is used for tokens from now on" } else { "" };
                format!("check the {origin} and its right to listen at {path:?}; {clock}{follow}")
            }
            404 => format!("check that the relay has a hybrid connection {path:?}, and `relay.url`"),
            _ => "the relay's log may say more".to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

/// `None` if `stop` was wanted first.
async fn unless_stopped<T>(stop: &Stop, work: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        stop.wanted().await;
        None
    };
    future::or(async { Some(work.await) }, stopped).await
}
