//! What the agent asks of the kernel itself: the only place that uses `nix` and signals.

mod signal;
mod uptime;

pub use self::{
    signal::{Request, Requests},
    uptime::boot_time,
};
