//! What the agent asks of the kernel itself: the only place that uses `nix` and signals.

mod network;
mod resident;
mod signal;
mod uptime;

pub use self::{
    network::network_better,
    resident::resident_bytes,
    signal::{Request, Requests},
    uptime::boot_time,
};
