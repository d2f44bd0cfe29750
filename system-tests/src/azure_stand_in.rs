//! A relay for tests that behaves as Azure Relay does, in what is known of it, where ours does not.
//!
//! | there | here |
//! | --- | --- |
//! | names under `servicebus.windows.net`, port 443 | the same, by way of an HTTP proxy, which this is |
//! | a rendezvous is on another host than the namespace | another name, with a certificate of its own; a host is no use for the other's requests |
//! | a Ping is reported to end a control channel | a Ping ends whatever it comes on, and is counted |
//! | pings and pongs of one end do not reach the other | nor do they here: pongs are swallowed |
//! | load balancers forget a connection after about four minutes of silence | after [`Terms::idle`]; nobody is told, and no packet is answered any more |
//! | a listener whose connection was forgotten is one still, for a while | for [`Terms::ghost`] |
//! | a token's end closes the control channel (1008), a new token keeps it open | the same |
//! | every control channel is cut about once a day (1011, `NameRenewalFailed`) | when [asked to](AzureStandIn::cut_channels) |
//! | a rendezvous address is good once | the same |
//! | it knows nothing of `Umbilical-...` response fields | [`Terms::says`] |
//!
//! Its words are those of Microsoft's protocol guide, and of messages that people have quoted. WebSockets only: HTTP
//! requests are answered with 501.
//!
//! | file | owns |
//! | --- | --- |
//! | `line.rs` | one connection as a load balancer has it: its silence, and being forgotten |
//! | `front.rs` | the way in: proxy, TLS, request heads, refusals |
//! | `channel.rs` | a listener's control channel |
//! | `rendezvous.rs` | a sender that waits, the listener that comes, frames between the two |

mod channel;
mod front;
mod line;
mod rendezvous;

use std::{
    any::Any,
    collections::HashMap,
    fs,
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smol::{Async, Executor, channel::Sender};
use umbilical_link::tls::{self, ServerConfig};
use umbilical_relay_protocol::{Key, Right, Rule};

use self::{channel::Listener, line::Line, rendezvous::Waiting};
use crate::{
    deployment::{AGENT_KEY, DEVICE, Deployment, OPERATOR_KEY},
    wait,
};

/// The namespace's host.
pub const NAMESPACE: &str = "contoso-devices.servicebus.windows.net";

/// The host where listeners and senders are joined.
pub const GATEWAY_HOST: &str = "g63-prod-by3-001-sb.servicebus.windows.net";

/// How the service is to behave.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Silence in both directions after which a connection is forgotten. Four minutes there.
    pub idle: Duration,
    /// How long a listener is invited whose connection was forgotten.
    pub ghost: Duration,
    /// From the invitation to the listener at the rendezvous. 30 s there.
    pub rendezvous: Duration,
    /// Response fields that it has no reason to send, each with its line end.
    pub says: &'static str,
}

impl Default for Terms {
    /// As the service, with a clock that runs 30 times as fast.
    fn default() -> Terms {
        Terms {
            idle: Duration::from_secs(8),
            ghost: Duration::from_secs(2),
            rendezvous: Duration::from_secs(1),
            says: "",
        }
    }
}

/// One end of a connection to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A listener's control channel.
    Channel,
    /// A listener at a rendezvous.
    Listener,
    /// A sender.
    Sender,
}

/// What the service has seen so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Control channels opened.
    pub channels: usize,
    /// Listeners joined with a sender.
    pub joins: usize,
    /// Pings, on whatever they came.
    pub pings: usize,
    /// Pongs on control channels, and at either end of a rendezvous.
    pub channel_pongs: usize,
    /// The latter.
    pub join_pongs: usize,
    /// Tokens that took the place of others.
    pub renewals: usize,
    /// Status lines of refusals.
    pub refusals: Vec<String>,
    /// Connections forgotten for their silence.
    pub forgotten: Vec<Kind>,
    /// The rendezvous address of the last invitation.
    pub address: Option<String>,
}

/// The service, running until it is dropped.
pub struct AzureStandIn {
    shared: Arc<Shared>,
    _stop: Sender<()>,
}

/// What all of its connections share.
struct Shared {
    executor: Arc<Executor<'static>>,
    terms: Terms,
    certificates: HashMap<&'static str, Arc<ServerConfig>>,
    rules: Vec<Rule>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Seen,
    listeners: Vec<Listener>,
    waiting: HashMap<String, Waiting>,
    lines: Vec<Weak<Line>>,
    /// Connections that nobody closes: their ends are not to learn of it.
    forgotten: Vec<Box<dyn Any + Send>>,
    last_id: u64,
}

impl AzureStandIn {
    /// Starts at the address that a deployment of [`Topology::Azure`](crate::deployment::Topology::Azure) takes for its
    /// proxy, with its keys and certificates.
    ///
    /// # Panics
    /// The address is taken, or a file can't be read.
    pub fn start(deployment: &Deployment, terms: Terms) -> AzureStandIn {
        let certificates = [NAMESPACE, GATEWAY_HOST].map(|host| {
            let [certificate, key] = ["pem", "key"].map(|kind| deployment.path(&format!("{host}.{kind}")));
            let config = tls::server_config(Path::new(&certificate), Path::new(&key));
            (host, config.unwrap_or_else(|error| panic!("{host}: {error}")))
        });
        let rule = |name: &str, file: &str, right| Rule {
            name: name.to_owned(),
            primary: Key::new(&fs::read_to_string(deployment.path(file)).expect("a key")).expect("a key"),
            secondary: None,
            rights: [right].into_iter().collect(),
        };
        let (executor, state) = (Arc::new(Executor::new()), Mutex::default());
        let rules = vec![rule("listen", AGENT_KEY, Right::Listen), rule("operator", OPERATOR_KEY, Right::Send)];
        let certificates = HashMap::from(certificates);
        let shared = Arc::new(Shared { executor: Arc::clone(&executor), terms, certificates, rules, state });
        let door = TcpListener::bind(deployment.relay).and_then(Async::new);
        let door = door.unwrap_or_else(|error| panic!("{}: {error}", deployment.relay));
        executor.spawn(front::serve(Arc::clone(&shared), door)).detach();
        let (stop, stopped) = smol::channel::bounded(1);
        thread::spawn(move || _ = smol::block_on(executor.run(stopped.recv())));
        AzureStandIn { shared, _stop: stop }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.state().seen.clone()
    }

    /// Waits until it has seen what is awaited.
    ///
    /// # Panics
    /// It has not, `within` that time.
    pub fn until(&self, what: &str, within: Duration, awaited: impl Fn(&Seen) -> bool) -> Seen {
        let what = || format!("{what}; it has seen {:?}", self.seen());
        wait::for_some_of(what, within, || Some(self.seen()).filter(|seen| awaited(seen)))
    }

    /// Cuts every control channel, as it does once a day.
    pub fn cut_channels(&self) {
        self.shared.state().listeners.iter().for_each(Listener::cut);
    }

    /// Forgets every connection of that kind, as if it had been silent for too long. How many there were.
    pub fn forget(&self, kind: Kind) -> usize {
        let lines: Vec<_> = self.shared.state().lines.iter().filter_map(Weak::upgrade).collect();
        lines.iter().filter(|line| line.kind() == kind).filter(|line| line.forget()).count()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what was seen.
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.state().seen);
    }

    /// Whether there is such a hybrid connection.
    fn has(&self, path: &str) -> bool {
        path == DEVICE
    }

    /// A number that looks like the service's.
    fn guid(&self) -> String {
        let mut state = self.state();
        state.last_id += 1;
        format!("5b0fa5f1-0000-4000-8000-{:012x}", state.last_id)
    }
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
