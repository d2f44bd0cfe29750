//! Answers senders: dials the rendezvous the relay names, and hands it on, or tells the sender why not.
//!
//! ```text
//! offers umbilical.v1          a link, for `session`
//! offers nothing of ours       a foreign sender, for `foreign`, if it is welcome there
//! ```
//!
//! The address is dialled as it is given: a relay's rendezvous may be on another host than its control channel. It is
//! good for half a minute and for one use, so answers are few at once and late ones are not tried.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use log::{debug, warn};
use smol::{
    LocalExecutor, Timer, future,
    lock::{Semaphore, SemaphoreGuard},
};
use umbilical_link::{
    SUBPROTOCOL,
    dial::{DialError, Dialer, Target},
    upgrade::{UpgradeError, UpgradeRequest, Upgraded, upgrade},
};
use umbilical_relay_protocol::{Accept, AddressError, RENDEZVOUS_VALIDITY, Rendezvous};

use crate::{
    foreign::{ForeignSenders, Guest, Unwelcome},
    listener::Answer,
    session::Sessions,
};

/// What the subprotocols of sessions begin with. Who offers one of another version is a gateway all the same.
const FAMILY: &str = "umbilical.";

/// Rendezvous dialled at once: each costs a TLS handshake and its buffers.
pub const AT_ONCE: usize = 4;

/// Senders that may wait for their turn. One more is not answered; its relay tells it so after half a minute.
const WAITING: usize = 16;

/// How the relay takes a refusal of a sender.
const REFUSAL_TAKEN: u16 = 410;

/// Answers the senders of one device.
pub struct Answers {
    executor: Rc<LocalExecutor<'static>>,
    sessions: Rc<Sessions>,
    foreign: Rc<ForeignSenders>,
    dialer: RefCell<Rc<Dialer>>,
    /// Refuse a rendezvous without TLS.
    tls_only: Cell<bool>,
    turns: Semaphore,
    unanswered: Cell<usize>,
}

impl Answers {
    /// Where links and foreign senders go; `tls_only` for a relay that is reached by TLS itself.
    #[must_use]
    pub fn new(
        executor: Rc<LocalExecutor<'static>>,
        (sessions, foreign): (Rc<Sessions>, Rc<ForeignSenders>),
        dialer: Rc<Dialer>,
        tls_only: bool,
    ) -> Rc<Answers> {
        let (dialer, tls_only) = (RefCell::new(dialer), Cell::new(tls_only));
        Rc::new(Answers {
            executor,
            sessions,
            foreign,
            dialer,
            tls_only,
            turns: Semaphore::new(AT_ONCE),
            unanswered: Cell::new(0),
        })
    }

    /// Dials like this from now on.
    pub fn set_dialer(&self, dialer: Rc<Dialer>, tls_only: bool) {
        *self.dialer.borrow_mut() = dialer;
        self.tls_only.set(tls_only);
    }

    async fn serve(&self, accept: &Accept) {
        let peer = Peer(accept).to_string();
        let late = async {
            Timer::after(RENDEZVOUS_VALIDITY).await;
            Err(NotMet::Late)
        };
        match future::or(self.meet(accept, &peer), late).await {
            // the turn lasts until the link is with its session: until then its buffers are one of ours
            Ok((Met::Link(upgraded), _turn)) => self.sessions.join(upgraded, &peer).await,
            Ok((Met::Foreign(upgraded, guest), _)) => self.foreign.serve(upgraded, guest, peer),
            Ok((Met::Refused(reason), _)) => warn!("refused {peer}: {reason}"),
            Err(error) => warn!("can't answer {peer}: {error}"),
        }
    }

    async fn meet(&self, accept: &Accept, peer: &str) -> Result<(Met, SemaphoreGuard<'_>), NotMet> {
        let rendezvous = Rendezvous::parse(&accept.address).map_err(NotMet::Address)?;
        if self.tls_only.get() && !rendezvous.tls() {
            return Err(NotMet::WithoutTls);
        }
        let met = if accept.subprotocols().any(|name| name == SUBPROTOCOL) {
            let turn = self.turns.acquire().await;
            debug!("meeting {peer} at {}", rendezvous.authority());
            (self.meet_gateway(&rendezvous).await?, turn)
        } else {
            // before the turn: a service may take its time, and a gateway should not wait for that
            let invited = self.invite(accept, peer).await;
            let turn = self.turns.acquire().await;
            (self.meet_foreign(accept, &rendezvous, invited).await?, turn)
        };
        Ok(met)
    }

    async fn meet_gateway(&self, rendezvous: &Rendezvous) -> Result<Met, NotMet> {
        let upgraded = self.dial(rendezvous, rendezvous.path_and_query(), Some(SUBPROTOCOL)).await?;
        match upgraded.subprotocol.as_deref() {
            Some(SUBPROTOCOL) => Ok(Met::Link(upgraded)),
            _ => Err(NotMet::NoSubprotocol),
        }
    }

    async fn invite(&self, accept: &Accept, peer: &str) -> Result<Guest, Unwelcome> {
        if accept.subprotocols().any(|name| name.starts_with(FAMILY)) {
            return Err(Unwelcome::NotConfigured);
        }
        self.foreign.invite(peer).await
    }

    async fn meet_foreign(
        &self,
        accept: &Accept,
        rendezvous: &Rendezvous,
        invited: Result<Guest, Unwelcome>,
    ) -> Result<Met, NotMet> {
        match invited {
            Ok(guest) => {
                // browsers and others want one of what they offer to be chosen; all of it is bytes here
                let subprotocol = accept.subprotocols().next();
                let upgraded = self.dial(rendezvous, rendezvous.path_and_query(), subprotocol).await?;
                Ok(Met::Foreign(upgraded, guest))
            }
            Err(Unwelcome::NotConfigured) => {
                let offered = accept.subprotocols().collect::<Vec<_>>().join(", ");
                let offered = if offered.is_empty() { "none" } else { &offered };
                let reason =
                    format!("This device speaks the WebSocket subprotocol {SUBPROTOCOL} only, offered was {offered}");
                self.refuse(rendezvous, 400, reason).await
            }
            Err(Unwelcome::Now { status, reason }) => self.refuse(rendezvous, status, reason).await,
        }
    }

    async fn refuse(&self, rendezvous: &Rendezvous, status: u16, reason: String) -> Result<Met, NotMet> {
        match self.dial(rendezvous, &rendezvous.rejection_target(status, &reason), None).await {
            Err(NotMet::Upgrade(UpgradeError::Refused { status: REFUSAL_TAKEN, .. })) => Ok(Met::Refused(reason)),
            Err(error) => Err(error),
            Ok(_) => Err(NotMet::RefusalNotTaken),
        }
    }

    async fn dial(&self, rendezvous: &Rendezvous, target: &str, subprotocol: Option<&str>) -> Result<Upgraded, NotMet> {
        let dialer = Rc::clone(&self.dialer.borrow());
        let place = Target { host: rendezvous.host().to_owned(), port: rendezvous.port(), tls: rendezvous.tls() };
        let transport = dialer.dial(&place).await.map_err(NotMet::Dial)?;
        let authority = rendezvous.authority();
        let request = UpgradeRequest { authority: &authority, target, headers: Vec::new(), subprotocol };
        upgrade(transport, &request).await.map_err(NotMet::Upgrade)
    }
}

impl Answer for Rc<Answers> {
    fn answer(&self, accept: Accept) {
        if self.unanswered.get() >= AT_ONCE + WAITING {
            return warn!("did not answer {}: {} others are waiting", Peer(&accept), self.unanswered.get());
        }
        self.unanswered.set(self.unanswered.get() + 1);
        let answers = Rc::clone(self);
        let answer = async move {
            answers.serve(&accept).await;
            answers.unanswered.set(answers.unanswered.get() - 1);
        };
        self.executor.spawn(answer).detach();
    }

    async fn is_waited_for(&self) -> bool {
        self.sessions.wait_for_links().await
    }
}

enum Met {
    Link(Upgraded),
    Foreign(Upgraded, Guest),
    Refused(String),
}

/// Why a sender was not met.
#[derive(Debug)]
enum NotMet {
    Address(AddressError),
    WithoutTls,
    Dial(DialError),
    Upgrade(UpgradeError),
    NoSubprotocol,
    RefusalNotTaken,
    Late,
}

impl fmt::Display for NotMet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotMet::Address(error) => write!(f, "the rendezvous has no usable address: {error}"),
            NotMet::WithoutTls => f.write_str("the rendezvous is without TLS, the relay itself is not"),
            NotMet::Dial(error) => error.fmt(f),
            NotMet::Upgrade(error) => error.fmt(f),
            NotMet::NoSubprotocol => write!(f, "the relay did not pass on the subprotocol {SUBPROTOCOL}"),
            NotMet::RefusalNotTaken => f.write_str("the relay took a refusal for an answer"),
            NotMet::Late => write!(f, "the rendezvous was not reached within {} s", RENDEZVOUS_VALIDITY.as_secs()),
        }
    }
}

/// A sender, as logs name it.
struct Peer<'a>(&'a Accept);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.0.subprotocols().any(|name| name.starts_with(FAMILY)) { "gateway" } else { "sender" };
        match &self.0.remote {
            Some(remote) if remote.address.contains(':') => write!(f, "{who} [{}]:{}", remote.address, remote.port),
            Some(remote) => write!(f, "{who} {}:{}", remote.address, remote.port),
            None => write!(f, "{who} {}", self.0.id),
        }
    }
}
