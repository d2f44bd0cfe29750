//! The whole agent: starts its parts in order, changes them when the configuration changes, stops them in order.
//!
//! ```text
//! supervisor ── relays ── (accept) ── answers ─┬─ sessions ──────── services
//!    one         few                   few       ├─ foreign senders ─┘
//!                                                └─ refused            allow-list
//! ```
//!
//! Everything runs on the thread that calls [`Agent::run`].

use std::{fmt, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use log::{debug, error, info, warn};
use smol::{LocalExecutor, Task, channel::Receiver, future};
use umbilical_link::{
    dial::Dialer,
    proxy::{ProxySettings, ProxyUrlError},
    tls::{self, Roots, TlsError},
};

use crate::{
    clock::Clock,
    config::{self, Config, ConfigError, ProxyChoice, StatusSocket, Warning},
    foreign::ForeignSenders,
    health::Health,
    identity::listener_id,
    memory::{Budget, all_foreign_bytes},
    relays::{Device, Relays, Route},
    report, service_manager,
    services::ServiceTable,
    session::{Limits, Sessions},
    status::{Status, StatusServer},
    sys::{ClockNews, Jump, Request, raise_file_limit, resident_bytes},
};

/// How much longer than `drain-for` an end may take: goodbyes on the way.
const GOODBYES: Duration = Duration::from_secs(5);

/// A configured agent that has not begun.
pub struct Agent {
    file: PathBuf,
    config: Config,
    warnings: Vec<Warning>,
    clock: Arc<Clock>,
    dialers: Vec<Rc<Dialer>>,
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
        let dialers = make_dialers(&config.relays, &clock)?;
        let id = listener_id(&file.to_string_lossy()).map_err(StartError::Randomness)?;
        Ok(Agent { file, config, warnings, clock, dialers, id })
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
        executor.run(Supervisor::start(self, &executor).run(&requests)).await;
    }
}

/// The running agent.
struct Supervisor {
    file: PathBuf,
    config: Config,
    clock: Arc<Clock>,
    executor: Rc<LocalExecutor<'static>>,
    health: Rc<Health>,
    services: Arc<ServiceTable>,
    sessions: Rc<Sessions>,
    foreign: Rc<ForeignSenders>,
    relays: Relays,
    status: Option<Task<()>>,
}

impl Supervisor {
    fn start(agent: Agent, executor: &Rc<LocalExecutor<'static>>) -> Supervisor {
        let Agent { file, config, warnings, clock, dialers, id } = agent;
        info!("umbilical-agent {} with {}", env!("CARGO_PKG_VERSION"), file.display());
        report(&warnings);
        print_budget(&config);
        check_file_limit(&config);
        let services = Arc::new(ServiceTable::new(&config.services));
        let sessions = Rc::new(Sessions::new(Rc::clone(executor), Arc::clone(&services), limits(&config)));
        let (foreign, keep_alive) = (config.foreign.clone(), config.keep_alive());
        let foreign = Rc::new(ForeignSenders::new(Rc::clone(executor), Arc::clone(&services), foreign, keep_alive));
        let health = Rc::<Health>::default();
        let device = Device {
            executor: Rc::clone(executor),
            clock: Arc::clone(&clock),
            id,
            health: Rc::clone(&health),
            sessions: Rc::clone(&sessions),
            foreign: Rc::clone(&foreign),
        };
        let mut relays = Relays::new(device);
        relays.change(routes(&config, dialers), &config);
        executor.spawn(report::answer(sessions.questions(), Rc::clone(&health), Rc::clone(&sessions))).detach();
        executor.spawn(look_after_sleep(Rc::clone(&sessions))).detach();
        let (executor, status) = (Rc::clone(executor), None);
        let mut supervisor =
            Supervisor { file, config, clock, executor, health, services, sessions, foreign, relays, status };
        supervisor.offer_status();
        supervisor.answer_to_service_manager();
        supervisor
    }

    fn answer_to_service_manager(&self) {
        let Supervisor { executor, health, .. } = self;
        service_manager::ready(health);
        executor.spawn(service_manager::follow(Rc::clone(health))).detach();
        executor.spawn(service_manager::feed_watchdog()).detach();
    }

    /// Makes the status socket. A device that has no place for it is none the worse.
    fn offer_status(&mut self) {
        self.status = None;
        let Some(path) = self.config.status.path() else { return };
        match StatusServer::bind(&path) {
            Ok(server) => {
                let (file, health, sessions) = (self.file.clone(), Rc::clone(&self.health), Rc::clone(&self.sessions));
                let status = Status { file, health, sessions };
                self.status = Some(self.executor.spawn(async move { server.serve(&status).await }));
            }
            Err(error) if self.config.status == StatusSocket::Default => {
                debug!("no status socket at {}: {error}", path.display());
            }
            Err(error) => {
                warn!("no status socket at {}: {error}; see `[status] socket`", path.display());
            }
        }
    }

    async fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv().await {
            match request {
                Request::Reload => {
                    service_manager::reloading();
                    let outcome = self.reload();
                    if let Err(refused) = &outcome {
                        error!("{refused}; the configuration of before stays in force");
                    }
                    self.health.reloaded(outcome.err());
                    service_manager::ready(&self.health);
                }
                Request::Stop => break,
            }
        }
        let drain_for = self.config.session.drain_for;
        self.health.stopping();
        service_manager::stopping(&self.health, drain_for + GOODBYES);
        info!("stopping: {} sessions have {} s to finish", self.sessions.count(), drain_for.as_secs());
        for (count, what) in [(self.foreign.count(), "foreign connections"), (self.relays.requests(), "HTTP requests")]
        {
            if count > 0 {
                info!("so have {count} {what}");
            }
        }
        let Supervisor { relays, sessions, foreign, status, .. } = self;
        let farewell = async {
            // nobody new is let in from now on
            let drained = future::zip(sessions.drain(drain_for), foreign.drain(drain_for));
            future::zip(drained, relays.leave(drain_for)).await;
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
        if let Some(status) = status {
            status.cancel().await;
        }
    }

    /// Takes up the configuration file as it is now; all of it, or nothing and says why.
    fn reload(&mut self) -> Result<(), String> {
        let file = self.file.display().to_string();
        let (mut config, warnings) = Config::load(&self.file).map_err(|error| error.to_string())?;
        let dialers = make_dialers(&config.relays, &self.clock).map_err(|error| format!("{file}: {error}"))?;
        report(&warnings);
        if config.memory != self.config.memory {
            warn!("{file}: a change of [memory] takes effect when the agent is restarted");
            config.memory = self.config.memory;
        }
        let budget_changed = config.http != self.config.http || config.relays.len() != self.config.relays.len();
        let (changed, gone) = self.services.replace(&config.services);
        let status_moved = config.status.path() != self.config.status.path();
        self.config = config;
        if status_moved {
            self.offer_status();
        }
        self.sessions.set_limits(limits(&self.config));
        if self.foreign.change(&self.config.foreign, self.config.keep_alive()) {
            let most = self.config.foreign.at_most();
            info!(
                "{most} foreign connections at most from now on, {} bytes of memory",
                all_foreign_bytes(&self.config.foreign)
            );
        }
        if budget_changed {
            print_budget(&self.config);
        }
        let relays = match self.relays.change(routes(&self.config, dialers), &self.config) {
            (0, 0) => "the same relays".to_owned(),
            (changed, gone) => format!("{changed} relays new or changed, {gone} gone"),
        };
        info!("{file} read again: {relays}; {changed} services new or changed, {gone} gone");
        Ok(())
    }
}

/// Connections may have ended while the device slept, and nothing would tell for a minute: they are asked when it wakes.
async fn look_after_sleep(sessions: Rc<Sessions>) {
    let unheard = |error| debug!("no news of the clock: {error}");
    let mut clock = match ClockNews::new() {
        Ok(clock) => clock,
        Err(error) => return unheard(error),
    };
    loop {
        match clock.jumped().await {
            Ok(Jump::Slept(time)) => {
                info!("the device has slept for {} s: all connections are asked whether they live", time.as_secs());
                sessions.doubt();
            }
            Ok(Jump::Set) => {}
            Err(error) => return unheard(error),
        }
    }
}

fn routes(config: &Config, dialers: Vec<Rc<Dialer>>) -> Vec<Route> {
    config.relays.iter().cloned().zip(dialers).collect()
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

/// A dialer for each. The authorities to trust are the largest part of one: relays that trust the same ones share them.
fn make_dialers(relays: &[config::Relay], clock: &Arc<Clock>) -> Result<Vec<Rc<Dialer>>, StartError> {
    let mut made: Vec<Rc<Dialer>> = Vec::new();
    for (number, relay) in relays.iter().enumerate() {
        let alike = relays[..number].iter().position(|other| other.ca_file == relay.ca_file);
        let tls = match alike {
            Some(alike) => made[alike].tls.clone(),
            None => {
                let roots = relay.ca_file.clone().map_or(Roots::System, Roots::File);
                let clock: Arc<dyn tls::DeviceClock> = Arc::<Clock>::clone(clock);
                tls::device_config(&roots, clock).map_err(StartError::Tls)?
            }
        };
        let proxy = match &relay.proxy {
            ProxyChoice::None => ProxySettings::direct(),
            ProxyChoice::Address(proxy) => ProxySettings::always(proxy.clone()),
            ProxyChoice::Environment => {
                ProxySettings::from_environment(|name| std::env::var(name).ok()).map_err(StartError::Proxy)?
            }
        };
        made.push(Rc::new(Dialer { tls, proxy }));
    }
    Ok(made)
}

fn print_budget(config: &Config) {
    for row in Budget::new(config, resident_bytes().unwrap_or_default()).rows() {
        info!("{row}");
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        sessions: config.memory.sessions,
        shape: config.memory.shape(),
        resume_for: config.session.resume_for,
        keep_alive: config.keep_alive(),
    }
}

/// Files besides those of streams: links, rendezvous, the control channel, and what any process has.
const OTHER_FILES: usize = 100;

fn check_file_limit(config: &Config) {
    let (memory, foreign) = (&config.memory, config.foreign.at_most());
    let requests = config.relays.len() * config.http.as_ref().map_or(0, |http| http.max_requests);
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
