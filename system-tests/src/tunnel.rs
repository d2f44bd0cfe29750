//! A deployment whose processes run and have found each other.

use std::net::SocketAddrV4;

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
