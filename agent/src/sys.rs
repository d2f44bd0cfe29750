//! What the agent asks of the kernel itself: the only place that uses `nix` and signals.

mod clock;
mod files;
mod heap;
mod network;
mod news;
mod process;
mod resident;
mod resolver;
mod signal;
mod uptime;

pub use self::{
    clock::{ClockNews, Jump},
    files::raise_file_limit,
    heap::{give_back_freed_memory, give_back_large_blocks},
    news::News,
    process::GroupKiller,
    resident::resident_bytes,
    signal::{Request, Requests},
    uptime::boot_time,
};
