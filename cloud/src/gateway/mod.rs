//! The gateway: public ports of the cloud that lead to services of devices.
//!
//! In the order a client meets them:
//!
//! | file | owns |
//! | --- | --- |
//! | `exposures` | public ports: who may connect, where they lead |
//! | `udp`, `udp_socket` | the clients of a public UDP port; its socket |
//! | `device` | a device as exposures see it; how it is doing |
//! | `keeper` | a device's task: its session, its links, the clients that wait for one |
//! | `link_record` | what is counted of a device's links |
//! | `agent_report` | what agents tell of themselves |
//! | `foreign` | listeners that are no agent: a rendezvous for each client |
//! | `sender` | dialling a device at its relay |
//! | `backoff` | when to dial again |

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use log::{info, warn};
use smol::Executor;
use umbilical_link::KeepAlive;

use crate::config::{GatewayConfig, Listen, ListenerKind, RelayChoice};
use crate::deadline;
use crate::handed;
use crate::relay::Relay;
use crate::relay::signal::Signal;

mod agent_report;
mod backoff;
pub(crate) mod device;
mod exposures;
pub(crate) mod foreign;
mod keeper;
mod link_record;
mod sender;
mod udp;
mod udp_socket;

use device::{Common, Device, Settings, State};
use exposures::{BoundExposure, ExposureFigures, OpenExposure, Way};
use foreign::Foreign;

pub use agent_report::AgentReport;
pub use device::DeviceStatus;
pub(crate) use exposures::Advice;
pub use exposures::{ExposureError, ExposureStatus};
pub use link_record::LinkFigures;
pub use sender::{Sender, SenderError};

/// How much longer than `drain-for` a drain may take: goodbyes on the way.
const GOODBYES: Duration = Duration::from_secs(3);

/// How long clients whose connections were held during a restart wait for a device that is not back yet.
const RETURNING: Duration = Duration::from_secs(10);

/// Agents that are asked how they are doing at once.
const ASKED_AT_ONCE: usize = 256;

/// A running gateway.
pub struct Gateway {
    common: Common,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    exposures: Vec<OpenExposure>,
    devices: HashMap<Arc<str>, Arc<Device>>,
    /// Devices without exposures, until their streams have ended.
    retired: Vec<Weak<State>>,
    /// What was open when the gateway began to stop, for those who ask how it is doing.
    leaving: Leaving,
}

#[derive(Default)]
struct Leaving {
    exposures: Vec<ExposureFigures>,
    devices: Vec<Arc<State>>,
}

impl Gateway {
    /// Opens the exposures and begins to keep links to their devices. `embedded` is the relay of this process.
    ///
    /// # Errors
    /// The first exposure whose port cannot be had; then none is open.
    ///
    /// # Panics
    /// The configuration wants an embedded relay and there is none.
    pub fn start(
        executor: &Arc<Executor<'static>>,
        config: &GatewayConfig,
        embedded: Option<&Relay>,
    ) -> Result<Self, ExposureError> {
        Ok(Self::start_with(executor, config, embedded, BoundExposures::bind(config, None)?))
    }

    /// The same with ports that were had before.
    pub(crate) fn start_with(
        executor: &Arc<Executor<'static>>,
        config: &GatewayConfig,
        embedded: Option<&Relay>,
        bound: BoundExposures,
    ) -> Self {
        let settings = Settings {
            sender: sender(config, embedded),
            shape: config.shape,
            resume_for: config.resume_for,
            keep_alive: keep_alive(config.keep_alive),
            ask_agents: config.ask_agents,
            drain_for: None,
            // without held sockets, who came during a restart was refused already
            returning_until: handed::addresses().next().map(|_| Instant::now() + RETURNING),
        };
        let (executor, settings) = (Arc::clone(executor), Arc::new(RwLock::new(settings)));
        let common = Common { executor, settings, alive: Arc::default(), stopping: Signal::new() };
        let gateway = Self { common, open: Mutex::default() };
        gateway.configure(config, bound);
        gateway
    }

    /// Takes over another configuration. Clients that are connected stay, also those of exposures that are gone; those
    /// take no more. Links and sessions stay; new ones are made as configured.
    ///
    /// # Errors
    /// As for [`Gateway::start`]; then nothing has changed.
    pub fn reload(&self, config: &GatewayConfig, embedded: Option<&Relay>) -> Result<(), ExposureError> {
        let bound = BoundExposures::bind(config, Some(self))?;
        self.reload_with(config, embedded, bound);
        Ok(())
    }

    /// The same with ports that were had before.
    pub(crate) fn reload_with(&self, config: &GatewayConfig, embedded: Option<&Relay>, bound: BoundExposures) {
        {
            let mut settings = self.common.settings.write().unwrap_or_else(PoisonError::into_inner);
            settings.sender = sender(config, embedded);
            (settings.shape, settings.resume_for) = (config.shape, config.resume_for);
            settings.keep_alive = keep_alive(config.keep_alive);
            settings.ask_agents = config.ask_agents;
        }
        self.configure(config, bound);
    }

    /// Where the exposures listen, in the order of the configuration, ports as the system chose them.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open().exposures.iter().map(OpenExposure::address).collect()
    }

    /// Asks agents how they are doing that were not asked for a while, some of them if there are many, and waits for their
    /// answers, not for long. [`Gateway::devices`] has them then, or when they come.
    pub async fn ask_agents(&self) {
        let every = self.common.settings.read().unwrap_or_else(PoisonError::into_inner).ask_agents;
        let Some(every) = every else { return };
        let devices: Vec<_> = self.open().devices.values().map(|device| Arc::clone(device.state())).collect();
        let mut answers = Vec::new();
        for device in devices {
            answers.extend(device.ask(every).await);
            if answers.len() == ASKED_AT_ONCE {
                break;
            }
        }
        let all = async {
            for answer in answers {
                // nothing is sent: its end is what is waited for
                let _ = answer.recv().await;
            }
        };
        deadline::within(agent_report::ANSWER_WITHIN, all).await;
    }

    /// How many devices have no link, those not counted that are reached without one.
    #[must_use]
    pub fn awaited(&self) -> usize {
        self.open().devices.values().filter(|device| device.state().current().is_none()).count()
    }

    /// How the devices are doing, by name; once it is stopping, those that it had.
    pub async fn devices(&self) -> Vec<DeviceStatus> {
        let devices: Vec<_> = {
            let open = self.open();
            open.devices.values().map(|device| device.state()).chain(&open.leaving.devices).cloned().collect()
        };
        let mut all = Vec::with_capacity(devices.len());
        for device in devices {
            all.push(device.status().await);
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// How the exposures are doing, in the order of the configuration; once it is stopping, those that it had.
    #[must_use]
    pub fn exposures(&self) -> Vec<ExposureStatus> {
        let open = self.open();
        let figures = open.exposures.iter().map(OpenExposure::figures);
        figures.chain(open.leaving.exposures.iter().cloned()).map(|figures| figures.status()).collect()
    }

    /// Stops: no more clients; the connected ones have `drain` to finish, then they are reset. Returns when all sessions
    /// have ended.
    pub async fn shutdown(&self, drain: Duration) {
        self.common.settings.write().unwrap_or_else(PoisonError::into_inner).drain_for = Some(drain);
        self.common.stopping.raise();
        let (open, states) = {
            let mut open = self.open();
            let leaving = Leaving {
                exposures: open.exposures.iter().map(OpenExposure::figures).collect(),
                devices: open.devices.values().map(|device| Arc::clone(device.state())).collect(),
            };
            let states: Vec<_> =
                open.retired.iter().filter_map(Weak::upgrade).chain(leaving.devices.iter().cloned()).collect();
            (std::mem::replace(&mut *open, Open { leaving, ..Open::default() }), states)
        };
        // nothing leads to the devices any more
        drop(open);
        states.iter().for_each(|state| state.go_away(drain));
        if deadline::within(drain + GOODBYES, self.common.alive.write()).await.is_none() {
            warn!("gateway stops with sessions still open");
        }
    }

    fn configure(&self, config: &GatewayConfig, BoundExposures(mut fresh): BoundExposures) {
        let mut open = self.open();
        let mut before: HashMap<Place, OpenExposure> = places(open.exposures.iter().map(OpenExposure::configured))
            .into_iter()
            .zip(std::mem::take(&mut open.exposures))
            .collect();
        let mut devices = HashMap::new();
        let places = places(config.exposures.iter().map(|exposure| exposure.listen));
        for (exposure, place) in config.exposures.iter().zip(places) {
            let name = &exposure.device;
            let way = if exposure.listener == ListenerKind::Agent {
                let device = devices.entry(Arc::clone(name)).or_insert_with(|| {
                    let known = open.devices.remove(name);
                    known.unwrap_or_else(|| Arc::new(Device::keep(Arc::clone(name), &self.common)))
                });
                Way::Session(Arc::clone(device))
            } else {
                Way::Foreign(Foreign::new(Arc::clone(name), exposure.listener.clone(), self.common.clone()))
            };
            let exposure = exposure.clone();
            if let Some(running) = before.remove(&place) {
                running.change(exposure, way);
                open.exposures.push(running);
            } else if let Some(bound) = fresh.remove(&place) {
                open.exposures.push(bound.open(exposure, way, &self.common.executor));
            }
        }
        let gone = std::mem::replace(&mut open.devices, devices);
        open.retired.retain(|state| state.strong_count() > 0);
        open.retired.extend(gone.values().map(|device| Arc::downgrade(device.state())));
        let devices = config.exposures.iter().map(|exposure| &exposure.device).collect::<HashSet<_>>().len();
        info!("{} exposures of {devices} devices are open", open.exposures.len());
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ports of exposures that are had and not open yet.
pub(crate) struct BoundExposures(HashMap<Place, BoundExposure>);

impl BoundExposures {
    /// Takes the ports that are configured and not open in `running`.
    pub(crate) fn bind(config: &GatewayConfig, running: Option<&Gateway>) -> Result<Self, ExposureError> {
        let open = running
            .map_or_else(Vec::new, |running| places(running.open().exposures.iter().map(OpenExposure::configured)));
        let open = HashSet::<Place>::from_iter(open);
        let places = places(config.exposures.iter().map(|exposure| exposure.listen));
        let wanted = config.exposures.iter().zip(places).filter(|(_, place)| !open.contains(place));
        wanted.map(|(exposure, place)| Ok((place, BoundExposure::bind(exposure)?))).collect::<Result<_, _>>().map(Self)
    }
}

/// A configured address, and its number among its likes: several exposures may leave their port to the system.
type Place = (Listen, usize);

fn places(addresses: impl Iterator<Item = Listen>) -> Vec<Place> {
    let mut seen = HashMap::new();
    let number = |address| {
        let count: &mut usize = seen.entry(address).or_default();
        *count += 1;
        (address, *count)
    };
    addresses.map(number).collect()
}

/// How long an answer to a ping may take.
const ANSWER: Duration = Duration::from_secs(10);

/// After `silence` of an idle link it is asked for a sign of life.
pub(crate) fn keep_alive(silence: Duration) -> KeepAlive {
    KeepAlive { ping_after: silence, dead_after: silence + ANSWER, ..KeepAlive::default() }
}

fn sender(config: &GatewayConfig, embedded: Option<&Relay>) -> Arc<Sender> {
    Arc::new(match &config.relay {
        RelayChoice::Embedded => Sender::Embedded(embedded.expect("the configuration has a relay").clone()),
        RelayChoice::Remote(remote) => Sender::Remote(remote.clone()),
    })
}
