//! HTTP requests to this device: how many are answered at once, how many wait, what they may take.
//!
//! Owns: turns and limits. Leaves to others: one request (`exchange`), the device's HTTP service (`service`), the WebSocket
//! that a request may have to itself (`socket`).

mod exchange;
mod failure;
mod fields;
mod progress;
mod service;
mod socket;
mod upload;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use log::warn;
use smol::{LocalExecutor, lock::Semaphore};
use umbilical_link::dial::Dialer;
use umbilical_relay_protocol::{Request, RequestHead};

use self::{
    exchange::{CONTROL_BYTES, Exchange},
    failure::Failure,
    service::{HEAD_BYTES, PART_BYTES, Service},
    socket::READ_BYTES,
};
use crate::{
    config::{Http, Relay},
    guests::Guests,
    listener::{Asked, Reply, Serve},
};

/// Requests that may wait for their turn.
const WAITING: usize = 32;

/// Bytes that those may hold meanwhile.
pub const WAITING_BYTES: usize = 256 * 1024;

/// Memory of one request at its fullest, in bytes: it and its response do not have a body in memory at the same time.
pub const REQUEST_BYTES: usize = 2 * CONTROL_BYTES + HEAD_BYTES + PART_BYTES + READ_BYTES;

/// What a request holds besides its texts.
const HEAD_OVERHEAD: usize = 1024;

/// Answers the HTTP requests of one device.
pub struct HttpRequests {
    executor: Rc<LocalExecutor<'static>>,
    settings: RefCell<Settings>,
    waiting: Cell<usize>,
    waiting_bytes: Cell<usize>,
    guests: Guests,
}

#[derive(Clone)]
struct Settings {
    exchange: Exchange,
    at_once: usize,
    turns: Arc<Semaphore>,
}

impl HttpRequests {
    /// Requests to `http` by way of `relay`; without it, each is refused.
    #[must_use]
    pub fn new(
        executor: Rc<LocalExecutor<'static>>,
        dialer: Rc<Dialer>,
        relay: &Relay,
        http: Option<&Http>,
    ) -> Rc<HttpRequests> {
        let settings = RefCell::new(Settings::new(dialer, relay, http));
        let (waiting, waiting_bytes, guests) = Default::default();
        Rc::new(HttpRequests { executor, settings, waiting, waiting_bytes, guests })
    }

    /// New requests are answered like this from now on; those that are being answered go on as they are.
    pub fn change(&self, dialer: Rc<Dialer>, relay: &Relay, http: Option<&Http>) {
        let mut settings = self.settings.borrow_mut();
        let fresh = Settings::new(dialer, relay, http);
        let turns = if fresh.at_once == settings.at_once { Arc::clone(&settings.turns) } else { fresh.turns };
        *settings = Settings { turns, ..fresh };
    }

    /// Requests that are here, those that wait for their turn included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.guests.count()
    }

    /// Serves no more; those that are here have `drain_for` to be answered.
    pub async fn drain(&self, drain_for: Duration) {
        let given_up = self.guests.drain(drain_for).await;
        if given_up > 0 {
            warn!("{given_up} HTTP requests are given up");
        }
    }

    async fn take_turn(&self, settings: Settings, asked: Asked) {
        let Settings { exchange, at_once, turns } = settings;
        let turn = match turns.try_acquire_arc() {
            Some(turn) => turn,
            None => {
                let bytes = weight(&asked);
                if self.waiting.get() >= WAITING || self.waiting_bytes.get() + bytes > WAITING_BYTES {
                    return refuse(asked, &Failure::Busy { at_once }).await;
                }
                self.waiting.set(self.waiting.get() + 1);
                self.waiting_bytes.set(self.waiting_bytes.get() + bytes);
                let turn = turns.acquire_arc().await;
                self.waiting.set(self.waiting.get() - 1);
                self.waiting_bytes.set(self.waiting_bytes.get() - bytes);
                turn
            }
        };
        match asked.request {
            Request::Head(head) => exchange.answer(head, asked.body, &asked.replies).await,
            Request::Fetch { address } => exchange.fetch(&address).await,
        }
        drop(turn);
    }
}

impl Serve for Rc<HttpRequests> {
    fn serve(&self, asked: Asked) {
        let (requests, settings) = (Rc::clone(self), self.settings.borrow().clone());
        let seat = self.guests.enter();
        let served = async move {
            match &seat {
                Some(_) => requests.take_turn(settings, asked).await,
                None => refuse(asked, &Failure::Leaving).await,
            }
        };
        self.executor.spawn(served).detach();
    }
}

impl Settings {
    fn new(dialer: Rc<Dialer>, relay: &Relay, http: Option<&Http>) -> Settings {
        let service = http.map(|http| Service {
            target: http.target.clone(),
            timeout: http.timeout,
            entity: relay.url.path().to_owned(),
            authority: relay.url.authority(),
            scheme: if relay.url.tls() { "https" } else { "http" },
        });
        let at_once = http.map_or(1, |http| http.max_requests);
        let turns = Arc::new(Semaphore::new(at_once));
        Settings { exchange: Exchange { dialer, tls_only: relay.url.tls(), service }, at_once, turns }
    }
}

/// Without a turn: only on the control channel, for a rendezvous costs as much as an answer.
async fn refuse(asked: Asked, failure: &Failure) {
    match asked.request {
        Request::Head(head) => {
            warn!("refused an HTTP request: {}", failure.reason());
            let (response, body) = failure.response(&head);
            // a channel that is gone needs no answer
            let _ = asked.replies.send(Reply { response, body }).await;
        }
        Request::Fetch { .. } => warn!("did not fetch an HTTP request: {}", failure.reason()),
    }
}

/// What a request that waits keeps in memory, in bytes.
fn weight(asked: &Asked) -> usize {
    let head = |head: &RequestHead| {
        let fields: usize =
            head.headers.iter().map(|(name, value)| name.len() + value.len() + HEAD_OVERHEAD / 16).sum();
        fields + head.request_target.len() + head.address.as_ref().map_or(0, String::len)
    };
    let request = match &asked.request {
        Request::Head(request) => head(request),
        Request::Fetch { address } => address.len(),
    };
    HEAD_OVERHEAD + request + asked.body.len()
}
