//! The relays of the configuration: at each a listener, and those who answer what it hears.
//!
//! ```text
//! relays ─┬─ listener ─── (accept) ──── answers ────► sessions, foreign senders: one for all relays
//!         │           └── (request) ─── HTTP requests
//!         └─ listener    a reserve: only while the others have been without a connection for `standby-after`
//! ```
//!
//! A session's links may come by any of them.

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use log::{info, warn};
use smol::{LocalExecutor, Task, future};
use umbilical_link::dial::Dialer;

use crate::{
    clock::Clock,
    config::{self, Config},
    credentials::Credentials,
    foreign::ForeignSenders,
    health::{Health, Place, Standing},
    http::HttpRequests,
    listener::{LOOK_AGAIN, Listener},
    presence::Presence,
    rendezvous::Answers,
    session::Sessions,
    stop::{Stop, Stopper, stop},
};

/// What the relays of one device share.
pub struct Device {
    /// Runs everything.
    pub executor: Rc<LocalExecutor<'static>>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Under which id relays know it.
    pub id: String,
    /// Where it is kept how it stands with its relays.
    pub health: Rc<Health>,
    /// Where links go.
    pub sessions: Rc<Sessions>,
    /// Where senders go that are no gateway.
    pub foreign: Rc<ForeignSenders>,
}

/// All relays.
pub struct Relays {
    device: Device,
    presence: Rc<Presence>,
    posts: Vec<Post>,
}

/// One relay.
struct Post {
    relay: config::Relay,
    answers: Rc<Answers>,
    requests: Rc<HttpRequests>,
    standing: Rc<Standing>,
    listening: (Stopper, Task<()>),
}

/// A relay, and how to get there.
pub type Route = (config::Relay, Rc<Dialer>);

impl Relays {
    /// None yet.
    #[must_use]
    pub fn new(device: Device) -> Relays {
        Relays { device, presence: Rc::default(), posts: Vec::new() }
    }

    /// Listens at these from now on, as `config` says, and gives how many are new or different, and how many are gone.
    /// Listeners that the change does not touch stay.
    pub fn change(&mut self, routes: Vec<Route>, config: &Config) -> (usize, usize) {
        let mut before = std::mem::take(&mut self.posts);
        let mut changed = 0;
        for (relay, dialer) in routes {
            let place = before.iter().position(|post| post.relay.url == relay.url);
            let post = match place.map(|place| before.remove(place)) {
                Some(post) if post.relay == relay => {
                    post.answers.set_dialer(Rc::clone(&dialer), relay.url.tls());
                    post.requests.change(dialer, &relay, config.http.as_ref());
                    post
                }
                old => {
                    changed += 1;
                    let new = self.post(relay, dialer, config);
                    // the relay knows both by one id: the new connection takes the old one's place
                    old.into_iter().for_each(Post::retire);
                    new
                }
            };
            self.posts.push(post);
        }
        self.device.health.stand(self.posts.iter().map(|post| Rc::clone(&post.standing)).collect());
        let gone = before.len();
        before.into_iter().for_each(Post::retire);
        (changed, gone)
    }

    /// HTTP requests that are being answered.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.posts.iter().map(|post| post.requests.count()).sum()
    }

    /// Takes leave of all relays. The control channel is the way of responses: each goes when they are there, at the latest
    /// after `drain_for`, and nobody new is let in meanwhile.
    pub async fn leave(self, drain_for: Duration) {
        let leave = |post: Post| self.device.executor.spawn(post.leave(drain_for));
        let tasks = self.posts.into_iter().map(leave).collect::<Vec<_>>();
        for task in tasks {
            task.await;
        }
    }

    fn post(&self, relay: config::Relay, dialer: Rc<Dialer>, config: &Config) -> Post {
        let Device { executor, clock, id, health, sessions, foreign } = &self.device;
        let doors = (Rc::clone(sessions), Rc::clone(foreign));
        let answers = Answers::new(Rc::clone(executor), doors, Rc::clone(&dialer), relay.url.tls());
        let requests = HttpRequests::new(Rc::clone(executor), Rc::clone(&dialer), &relay, config.http.as_ref());
        let standing = health.standing(&relay.url);
        let (stopper, stop) = stop();
        let listener = Listener {
            credentials: Credentials::new(&relay.auth, &relay.url),
            presence: relay.standby_after.is_none().then(|| Rc::clone(&self.presence)),
            relay: relay.clone(),
            dialer,
            clock: Arc::clone(clock),
            id: id.clone(),
            random,
            look_again: LOOK_AGAIN,
            doubts: sessions.doubts(),
            standing: Rc::clone(&standing),
        };
        let (asked, told) = (Rc::clone(&answers), Rc::clone(&requests));
        let listen = async move |stop: &Stop| listener.run(&asked, &told, stop).await;
        let task = match relay.standby_after {
            None => executor.spawn(async move { listen(&stop).await }),
            Some(after) => {
                let (presence, url) = (Rc::clone(&self.presence), relay.url.to_string());
                let reserve = Reserve { url, after, presence, standing: Rc::clone(&standing) };
                executor.spawn(async move { reserve.listen(listen, &stop).await })
            }
        };
        Post { relay, answers, requests, standing, listening: (stopper, task) }
    }
}

impl Post {
    /// Stops to listen, and does not wait for it.
    fn retire(self) {
        let (stopper, task) = self.listening;
        drop(stopper);
        task.detach();
    }

    async fn leave(self, drain_for: Duration) {
        self.requests.drain(drain_for).await;
        let (stopper, task) = self.listening;
        drop(stopper);
        task.await;
    }
}

/// A relay that is listened at only while no other is connected: from `after` without one until `after` with one.
struct Reserve {
    url: String,
    after: Duration,
    presence: Rc<Presence>,
    standing: Rc<Standing>,
}

impl Reserve {
    async fn listen(&self, listen: impl AsyncFn(&Stop), stop: &Stop) {
        let Reserve { url, after, presence, standing } = self;
        standing.is(Place::InReserve);
        while until(stop, presence.is_missing_for(*after)).await {
            warn!("no other relay has been connected for {} s: listening at the reserve {url}", after.as_secs());
            standing.is(Place::Connecting);
            let (stopper, enough) = self::stop();
            let over = async {
                if until(stop, presence.is_back_for(*after)).await {
                    info!("another relay is connected again: leaving the reserve {url}");
                }
                drop(stopper);
                future::pending::<()>().await;
            };
            future::or(listen(&enough), over).await;
            standing.is(Place::InReserve);
        }
    }
}

/// Whether `event` came before the wish to stop.
async fn until(stop: &Stop, event: impl Future<Output = ()>) -> bool {
    let stopped = async {
        stop.wanted().await;
        false
    };
    let came = async {
        event.await;
        true
    };
    future::or(stopped, came).await
}

/// Delays need to be spread, not secret: a kernel without randomness yet must not keep a device from its relay.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
