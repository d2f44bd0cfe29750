//! What runs in an `umbilical-cloud run`: relay, gateway, admin port, from the start to the last goodbye.
//!
//! Owns: the executor's threads, starting and stopping order, reloading. Leaves to others: signals (`signals`), what
//! each part does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use smol::channel::Receiver;
use smol::future::{self, or};
use smol::{Executor, Timer};

use crate::admin::{Admin, AdminError};
use crate::config::{Config, ConfigError, Transport, Warning};
use crate::gateway::{BoundExposures, ExposureError, Gateway};
use crate::handed;
use crate::relay::{Relay, RelayError};
use crate::service_manager;
use crate::signals::Request;
use crate::watched::{Parts, Watched};

/// How long a relay's joined connections may go on if there is no gateway to say.
const DRAIN_FOR: Duration = Duration::from_secs(10);

/// How much longer an end may take: goodbyes on the way.
const GOODBYES: Duration = Duration::from_secs(5);

/// The parts that run.
pub struct Cloud {
    executor: Arc<Executor<'static>>,
    file: PathBuf,
    config: Config,
    relay: Option<Relay>,
    gateway: Option<Arc<Gateway>>,
    admin: Option<Admin>,
    watched: Arc<Watched>,
    /// Why the last reload changed nothing.
    refused: Option<String>,
}

impl Cloud {
    /// Starts what `file` configures on `executor`.
    ///
    /// # Errors
    /// What is wrong with the file, or which port cannot be had.
    pub fn start(executor: &Arc<Executor<'static>>, file: &Path) -> Result<Self, CloudError> {
        let (config, warnings) = Config::load(file).map_err(CloudError::Config)?;
        info!("umbilical-cloud {} with {}", env!("CARGO_PKG_VERSION"), file.display());
        tell(&warnings);
        raise_file_limit();
        let mut cloud = Self {
            executor: Arc::clone(executor),
            file: file.to_owned(),
            config: Config { relay: None, gateway: None, admin: None },
            relay: None,
            gateway: None,
            admin: None,
            watched: Arc::default(),
            refused: None,
        };
        cloud.apply(config)?;
        Ok(cloud)
    }

    /// Serves until it is asked to stop, and until that is done. A second request to stop ends the waiting.
    pub async fn run(mut self, requests: Receiver<Request>) {
        service_manager::ready(&self.line());
        while let Ok(Request::Reload) = requests.recv().await {
            service_manager::reloading();
            self.reload();
            service_manager::ready(&self.line());
        }
        info!("stopping, open streams may finish");
        service_manager::stopping(self.drain_after() + self.drain_for() + GOODBYES);
        let at_once = async {
            while let Ok(Request::Reload) = requests.recv().await {}
            warn!("stopped at once");
        };
        or(self.stop(), at_once).await;
    }

    /// Reads the file again and takes over what changed. A file that is wrong changes nothing.
    pub fn reload(&mut self) {
        let outcome = Config::load(&self.file).map_err(CloudError::Config).and_then(|(config, warnings)| {
            tell(&warnings);
            self.apply(config)
        });
        match &outcome {
            Ok(()) => info!("reloaded {}", self.file.display()),
            Err(error) => warn!("not reloaded, everything stays as it is: {error}"),
        }
        self.refused = outcome.err().map(|error| error.to_string());
    }

    /// What runs, in a few words.
    fn line(&self) -> String {
        let connections = self.config.relay.as_ref().map_or(0, |relay| relay.config.hybrid_connections.len());
        let exposures = self.gateway.as_ref().map_or(0, |gateway| gateway.addresses().len());
        let refused = self.refused.as_deref().map(|refused| format!("; the last reload changed nothing: {refused}"));
        format!("{connections} hybrid connections, {exposures} exposures{}", refused.unwrap_or_default())
    }

    /// Who connects to a socket of the service manager that nothing here listens on waits in vain.
    fn tell_of_idle_sockets(&self) {
        let exposures = self.config.gateway.iter().flat_map(|gateway| &gateway.exposures);
        let gateway = exposures
            .filter(|exposure| exposure.listen.transport == Transport::Tcp)
            .map(|exposure| exposure.listen.address);
        let relay = self.relay.iter().flat_map(Relay::addresses);
        let used: Vec<_> = gateway.chain(relay).collect();
        for address in handed::addresses().filter(|address| !used.contains(address)) {
            warn!(
                "the service manager holds {address} for us, and nothing of {} listens there: clients wait in vain; \
                 take it out of the socket unit, or add an exposure",
                self.file.display()
            );
        }
    }

    fn drain_for(&self) -> Duration {
        self.config.gateway.as_ref().map_or(DRAIN_FOR, |gateway| gateway.drain_for)
    }

    /// How long new connections are taken once it is known that they soon are not.
    fn drain_after(&self) -> Duration {
        self.config.gateway.as_ref().map_or(Duration::ZERO, |gateway| gateway.drain_after)
    }

    /// The relay, if one runs.
    #[must_use]
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// The gateway, if one runs.
    #[must_use]
    pub fn gateway(&self) -> Option<&Gateway> {
        self.gateway.as_deref()
    }

    /// The admin port, if there is one.
    #[must_use]
    pub fn admin(&self) -> Option<&Admin> {
        self.admin.as_ref()
    }

    /// Stops everything: it is not ready from now on, takes clients for `drain-after` all the same, then no more; the
    /// connected ones have `drain-for` to finish.
    pub async fn stop(self) {
        let drain = self.drain_for();
        self.watched.stopping();
        Timer::after(self.drain_after()).await;
        let gateway = async {
            if let Some(gateway) = self.gateway {
                gateway.shutdown(drain).await;
            }
        };
        let relay = async {
            if let Some(relay) = self.relay {
                relay.shutdown(drain).await;
            }
        };
        future::zip(gateway, relay).await;
    }

    /// Everything that can fail is done before anything changes: ports first, the relay, which undoes its own, last.
    fn apply(&mut self, config: Config) -> Result<(), CloudError> {
        let bound = config.gateway.as_ref().map(|settings| BoundExposures::bind(settings, self.gateway.as_deref()));
        let bound = bound.transpose().map_err(CloudError::Exposure)?;
        let admin = match config.admin {
            Some(address) if self.admin.as_ref().map(Admin::configured) != Some(address) => {
                let admin = Admin::start(&self.executor, address, Arc::clone(&self.watched));
                Some(admin.map_err(CloudError::Admin)?)
            }
            _ => None,
        };
        let relay = match (&self.relay, config.relay_config()) {
            (Some(relay), Some(settings)) => relay.reload(settings).map(|()| Some(relay.clone())),
            (None, Some(settings)) => Relay::start(&self.executor, settings).map(Some),
            (_, None) => Ok(None),
        };
        let relay = relay.map_err(CloudError::Relay)?;

        let gateway = match (&self.gateway, &config.gateway, bound) {
            (Some(gateway), Some(settings), Some(bound)) => {
                gateway.reload_with(settings, relay.as_ref(), bound);
                Some(Arc::clone(gateway))
            }
            (None, Some(settings), Some(bound)) => {
                Some(Arc::new(Gateway::start_with(&self.executor, settings, relay.as_ref(), bound)))
            }
            _ => None,
        };
        if admin.is_some() || config.admin.is_none() {
            self.admin = admin;
        }
        let settle_for = config.gateway.as_ref().map_or(Duration::ZERO, |gateway| gateway.settle_for);
        self.watched.set(Parts { relay: relay.clone(), gateway: gateway.clone() }, Instant::now() + settle_for);
        let (old_gateway, old_relay) = (self.gateway.take(), self.relay.take());
        let drain = self.drain_for();
        if let (Some(old), None) = (old_gateway, &gateway) {
            self.executor.spawn(async move { old.shutdown(drain).await }).detach();
        }
        if let (Some(old), None) = (old_relay, &relay) {
            self.executor.spawn(async move { old.shutdown(drain).await }).detach();
        }
        (self.relay, self.gateway, self.config) = (relay, gateway, config);
        self.tell_of_idle_sockets();
        Ok(())
    }
}

/// Every connection is an open file, and the usual soft limit of 1024 is there for programs that use `select`.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((soft, hard)) => debug!("up to {hard} open files, not {soft}"),
        Err(error) => warn!("cannot raise the limit of open files: {error}"),
    }
}

fn tell(warnings: &[Warning]) {
    for warning in warnings {
        warn!("{warning}");
    }
}

/// Why the cloud side does not start, or does not take over a configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloudError {
    /// The configuration was refused.
    Config(ConfigError),
    /// The relay.
    Relay(RelayError),
    /// The gateway.
    Exposure(ExposureError),
    /// The admin port.
    Admin(AdminError),
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Relay(error) => error.fmt(f),
            Self::Exposure(error) => error.fmt(f),
            Self::Admin(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CloudError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Relay(error) => Some(error),
            Self::Exposure(error) => Some(error),
            Self::Admin(error) => Some(error),
        }
    }
}
