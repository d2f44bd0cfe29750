//! A deployment whose processes run and have found each other.

use std::net::SocketAddrV4;

use nix::sys::signal::Signal;

use crate::{
    deployment::{DEVICE, Deployment, Setup},
    process::Process,
    wait,
};

/// The whole way from a public port to a device port.
pub struct Tunnel {
    /// The device side.
    pub agent: Process,
    /// The cloud side: one process, or relay and gateway in this order.
    pub cloud: Vec<Process>,
    /// Their files.
    pub deployment: Deployment,
}

impl Tunnel {
    /// Writes the files, starts the processes and waits until the device is listening and every exposure is open.
    ///
    /// # Panics
    /// A process ends, or is not ready within [`wait::SOON`].
    pub fn start(setup: Setup) -> Tunnel {
        Tunnel::start_deployment(setup.write())
    }

    /// As [`Tunnel::start`], from files that a test may have changed.
    ///
    /// # Panics
    /// As there.
    pub fn start_deployment(deployment: Deployment) -> Tunnel {
        let cloud = deployment.start_cloud();
        for address in deployment.addresses() {
            wait::for_listener(address, wait::SOON);
        }
        let agent = deployment.start_agent();
        agent.line_with(LISTENING, wait::SOON);
        Tunnel { agent, cloud, deployment }
    }

    /// Kills the agent without a word and waits until another one is listening.
    ///
    /// # Panics
    /// It is not within [`wait::SOON`].
    pub fn restart_agent(&mut self) {
        self.agent.signal(Signal::SIGKILL);
        self.agent.ended(wait::SOON);
        self.agent = self.deployment.start_agent();
        self.agent.line_with(LISTENING, wait::SOON);
    }

    /// Kills a relay that is a process of its own without a word, and waits until another one is there.
    ///
    /// # Panics
    /// It is not within [`wait::SOON`], or relay and gateway are one process.
    pub fn restart_relay(&mut self) {
        let [relay, _] = self.cloud.as_mut_slice() else { panic!("relay and gateway are one process") };
        relay.signal(Signal::SIGKILL);
        relay.ended(wait::SOON);
        *relay = self.deployment.start_relay();
        wait::for_listener(self.deployment.relay, wait::SOON);
    }

    /// Where the exposure of a service listens.
    pub fn exposure(&self, service: &str) -> SocketAddrV4 {
        self.deployment.exposure(service)
    }

    /// The memory that the agent says it will take at most, in bytes: the last row of the table it prints at start.
    ///
    /// # Panics
    /// It printed none.
    pub fn memory_budget_bytes(&self) -> u64 {
        let line = self.agent.line_with(MEMORY_TOTAL, wait::SOON);
        line.split_whitespace()
            .next_back()
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("no figure in {line:?}"))
    }

    /// The process that owns the public ports.
    ///
    /// # Panics
    /// Never: there is at least one.
    pub fn gateway(&self) -> &Process {
        self.cloud.last().expect("the cloud side is at least one process")
    }
}

/// What the agent says once the relay has taken it.
pub const LISTENING: &[&str] = &["listening at", DEVICE];

/// The row of the agent's table of memory that sums up the others.
const MEMORY_TOTAL: &[&str] = &["at most, in bytes"];
