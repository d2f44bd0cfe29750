//! The whole agent: starts its parts in order, changes them when the configuration changes, stops them in order.
//!
//! ```text
//! supervisor ── listener ── (accept) ── answers ─┬─ sessions ──────── services
//!    one           one                   few       ├─ foreign senders ─┘
//!                                                  └─ refused            allow-list
//! ```
//!
//! Everything runs on the thread that calls [`Agent::run`].

use std::{fmt, path::PathBuf, rc::Rc, sync::Arc};

use log::{error, info, warn};
use smol::{LocalExecutor, Task, channel::Receiver, future};
use umbilical_link::{
    dial::Dialer,
    proxy::{ProxySettings, ProxyUrlError},
    tls::{self, Roots, TlsError},
};

use crate::{
    clock::Clock,
    config::{self, Config, ConfigError, ProxyChoice, Warning},
    credentials::Credentials,
    foreign::ForeignSenders,
    http::HttpRequests,
    identity::listener_id,
    listener::{LOOK_AGAIN, Listener},
    memory::{Budget, FOREIGN_BYTES},
    rendezvous::Answers,
    services::ServiceTable,
    session::{Limits, Sessions},
    stop::{Stopper, stop},
    sys::{Request, raise_file_limit, resident_bytes},
};

/// A configured agent that has not begun.
pub struct Agent {
    file: PathBuf,
    config: Config,
    warnings: Vec<Warning>,
    clock: Arc<Clock>,
    dialer: Rc<Dialer>,
    id: String,
}

impl Agent {
    /// Reads and checks everything that can be checked without a network.
    ///
    /// # Errors
    /// [`StartError`]: nothing was begun.
    pub fn new(file: PathBuf) -> Result<Agent, StartError> {
        let (config, warnings) = Config::load(&file).map_err(StartError::Config)?;
        let clock = Arc::new(Clock::new());
        let dialer = Rc::new(make_dialer(&config.relay, &clock)?);
        let id = listener_id(&file.to_string_lossy()).map_err(StartError::Randomness)?;
        Ok(Agent { file, config, warnings, clock, dialer, id })
    }

    /// What an operator should look at.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What it was told.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs until a [`Request::Stop`] comes, or nobody is left to request anything: then sessions drain. A second one
    /// while they do ends it at once.
    pub async fn run(self, requests: Receiver<Request>) {
        let executor = Rc::new(LocalExecutor::new());
        let tasks = Rc::clone(&executor);
        executor.run(Supervisor::start(self, tasks).run(&requests)).await;
    }
}

/// The running agent.
struct Supervisor {
    file: PathBuf,
    config: Config,
    clock: Arc<Clock>,
    id: String,
    executor: Rc<LocalExecutor<'static>>,
    services: Arc<ServiceTable>,
    sessions: Rc<Sessions>,
    foreign: Rc<ForeignSenders>,
    answers: Rc<Answers>,
    requests: Rc<HttpRequests>,
    listening: Option<(Stopper, Task<()>)>,
}

impl Supervisor {
    fn start(agent: Agent, executor: Rc<LocalExecutor<'static>>) -> Supervisor {
        let Agent { file, config, warnings, clock, dialer, id } = agent;
        info!("umbilical-agent {} with {}", env!("CARGO_PKG_VERSION"), file.display());
        report(&warnings);
        print_budget(&config);
        check_file_limit(&config);
        let services = Arc::new(ServiceTable::new(&config.services));
        let sessions = Rc::new(Sessions::new(Rc::clone(&executor), Arc::clone(&services), limits(&config)));
        let (foreign, keep_alive) = (config.foreign.clone(), config.relay.keep_alive);
        let foreign = Rc::new(ForeignSenders::new(Rc::clone(&executor), Arc::clone(&services), foreign, keep_alive));
        let doors = (Rc::clone(&sessions), Rc::clone(&foreign));
        let answers = Answers::new(Rc::clone(&executor), doors, Rc::clone(&dialer), config.relay.url.tls());
        let requests = HttpRequests::new(Rc::clone(&executor), Rc::clone(&dialer), &config.relay, config.http.as_ref());
        let listening = None;
        let mut supervisor =
            Supervisor { file, config, clock, id, executor, services, sessions, foreign, answers, requests, listening };
        supervisor.listen(dialer);
        supervisor
    }

    async fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv().await {
            match request {
                Request::Reload => self.reload(),
                Request::Stop => break,
            }
        }
        let drain_for = self.config.session.drain_for;
        info!("stopping: {} sessions have {} s to finish", self.sessions.count(), drain_for.as_secs());
        for (count, what) in [(self.foreign.count(), "foreign connections"), (self.requests.count(), "HTTP requests")] {
            if count > 0 {
                info!("so have {count} {what}");
            }
        }
        let farewell = async {
            // the control channel is the way of responses: it goes when they are there, and nobody new is let in meanwhile
            let listening = self.listening.take();
            let leave = async {
                self.requests.drain(drain_for).await;
                if let Some((stopper, task)) = listening {
                    drop(stopper);
                    task.await;
                }
            };
            let drained = future::zip(self.sessions.drain(drain_for), self.foreign.drain(drain_for));
            future::zip(leave, drained).await;
            info!("stopped");
        };
        let at_once = async {
            loop {
                match requests.recv().await {
                    Ok(Request::Stop) => return warn!("stopped at once, as asked for a second time"),
                    Ok(Request::Reload) => {}
                    Err(_) => future::pending().await,
                }
            }
        };
        future::or(farewell, at_once).await;
    }

    fn listen(&mut self, dialer: Rc<Dialer>) {
        let relay = self.config.relay.clone();
        let (stopper, stop) = stop();
        let listener = Listener {
            credentials: Credentials::new(&relay.auth, &relay.url),
            relay,
            dialer,
            clock: Arc::clone(&self.clock),
            id: self.id.clone(),
            random,
            look_again: LOOK_AGAIN,
        };
        let (answers, requests) = (Rc::clone(&self.answers), Rc::clone(&self.requests));
        let task = self.executor.spawn(async move { listener.run(&answers, &requests, &stop).await });
        if let Some((stopper, task)) = self.listening.replace((stopper, task)) {
            drop(stopper);
            task.detach();
        }
    }

    /// Takes up the configuration file as it is now; all of it, or nothing.
    fn reload(&mut self) {
        let file = self.file.display().to_string();
        let (mut config, warnings) = match Config::load(&self.file) {
            Ok(loaded) => loaded,
            Err(error) => return error!("{error}; the configuration of before stays in force"),
        };
        let dialer = match make_dialer(&config.relay, &self.clock) {
            Ok(dialer) => Rc::new(dialer),
            Err(error) => return error!("{file}: {error}; the configuration of before stays in force"),
        };
        report(&warnings);
        if config.memory != self.config.memory {
            warn!("{file}: a change of [memory] takes effect when the agent is restarted");
            config.memory = self.config.memory;
        }
        let http_changed = config.http != self.config.http;
        let relay_changed = config.relay != self.config.relay;
        let (changed, gone) = self.services.replace(&config.services);
        self.config = config;
        self.sessions.set_limits(limits(&self.config));
        if self.foreign.change(&self.config.foreign, self.config.relay.keep_alive) {
            let most = self.config.foreign.at_most();
            info!("{most} foreign connections at most from now on, {} bytes of memory", most * FOREIGN_BYTES);
        }
        self.answers.set_dialer(Rc::clone(&dialer), self.config.relay.url.tls());
        self.requests.change(Rc::clone(&dialer), &self.config.relay, self.config.http.as_ref());
        if http_changed {
            print_budget(&self.config);
        }
        if relay_changed {
            self.listen(dialer);
        }
        let relay = if relay_changed { "another relay" } else { "the same relay" };
        info!("{file} read again: {relay}, {changed} services new or changed, {gone} gone");
    }
}

/// Why an agent did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not usable.
    Config(ConfigError),
    /// There are no certificate authorities to trust.
    Tls(TlsError),
    /// The environment names a proxy that can't be used.
    Proxy(ProxyUrlError),
    /// The system has no randomness.
    Randomness(getrandom::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(error) => error.fmt(f),
            StartError::Tls(error) => error.fmt(f),
            StartError::Proxy(error) => write!(f, "HTTPS_PROXY in the environment: {error}"),
            StartError::Randomness(error) => write!(f, "the system has no randomness: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

fn make_dialer(relay: &config::Relay, clock: &Arc<Clock>) -> Result<Dialer, StartError> {
    let roots = relay.ca_file.clone().map_or(Roots::System, Roots::File);
    let time: Arc<dyn tls::TimeProvider> = Arc::<Clock>::clone(clock);
    let proxy = match &relay.proxy {
        ProxyChoice::None => ProxySettings::direct(),
        ProxyChoice::Address(proxy) => ProxySettings::always(proxy.clone()),
        ProxyChoice::Environment => {
            ProxySettings::from_environment(|name| std::env::var(name).ok()).map_err(StartError::Proxy)?
        }
    };
    Ok(Dialer { tls: tls::client_config(&roots, time).map_err(StartError::Tls)?, proxy })
}

fn print_budget(config: &Config) {
    for row in
        Budget::new(&config.memory, &config.foreign, config.http.as_ref(), resident_bytes().unwrap_or_default()).rows()
    {
        info!("{row}");
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        sessions: config.memory.sessions,
        shape: config.memory.shape(),
        resume_for: config.session.resume_for,
        keep_alive: config.relay.keep_alive,
    }
}

/// Files besides those of streams: links, rendezvous, the control channel, and what any process has.
const OTHER_FILES: usize = 100;

fn check_file_limit(config: &Config) {
    let (memory, foreign) = (&config.memory, config.foreign.at_most());
    let requests = config.http.as_ref().map_or(0, |http| http.max_requests);
    // a foreign connection is two, its rendezvous and its service; so is a request
    let wanted = memory.sessions * memory.streams + 2 * (foreign + requests) + OTHER_FILES;
    match raise_file_limit() {
        Ok(limit) if limit < wanted => warn!(
            "only {limit} files may be open at once, {} sessions of {} streams and {foreign} foreign connections want {wanted}: \
             raise the limit (LimitNOFILE= of systemd), or lower [memory]",
            memory.sessions, memory.streams
        ),
        Ok(_) => {}
        Err(error) => warn!("can't raise the limit of open files: {error}"),
    }
}

fn report(warnings: &[Warning]) {
    for warning in warnings {
        warn!("{warning}");
    }
}

/// Delays need to be spread, not secret: a kernel without randomness yet must not keep a device from its relay.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
