//! The load of the benchmark, cheap enough not to be what is measured.
//!
//! One program, so that a run needs one build; each subcommand owns one file:
//!
//! | subcommand | file | is |
//! | --- | --- | --- |
//! | `target` | `target.rs` | the device's service: echo, endless source, counting sink |
//! | `bulk` | `bulk.rs` | as many saturating streams as asked, and what arrived of each |
//! | `ping` | `latency.rs` | small messages there and back on one open connection |
//! | `connect` | `latency.rs` | new connections, each with one byte there and back |
//! | `hold` | `bystander.rs` | connections that stay open: idle, or with a reader that never reads |
//! | `forward` | `forward.rs` | a TCP forwarder whose connections are reset on command |
//!
//! Results are one JSON object on standard output. A subcommand that runs until it is ended, ends with its standard input.

mod arguments;
mod bulk;
mod bystander;
mod flow;
mod forward;
mod latency;
mod target;

use std::io::{self, Write};
use std::process::ExitCode;

use arguments::Arguments;

fn main() -> ExitCode {
    let done = Arguments::from_command_line().map_err(io::Error::from).and_then(|arguments| {
        match arguments.subcommand.as_str() {
            "target" => target::run(&arguments),
            "bulk" => bulk::run(&arguments),
            "ping" => latency::ping(&arguments),
            "connect" => latency::connect(&arguments),
            "hold" => bystander::run(&arguments),
            "forward" => forward::run(&arguments),
            other => Err(io::Error::other(format!(
                "unknown subcommand {other:?}: expected target, bulk, ping, connect, hold or forward"
            ))),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "umbilical-bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes one line to standard output and flushes it: the harness waits for these.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
