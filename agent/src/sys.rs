//! What the agent asks of the kernel itself: the only place that uses `nix` and signals.

mod files;
mod heap;
mod network;
mod process;
mod resident;
mod signal;
mod uptime;

pub use self::{
    files::raise_file_limit,
    heap::give_back_freed_memory,
    network::NetworkNews,
    process::GroupKiller,
    resident::resident_bytes,
    signal::{Request, Requests},
    uptime::boot_time,
};
