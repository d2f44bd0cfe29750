//! `umbilical-cloud`: arguments, logger, exit codes.

mod arguments;

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use smol::{Executor, channel, future};
use umbilical_cloud::config::Config;
use umbilical_cloud::log;
use umbilical_cloud::signals::{Request, Requests};
use umbilical_cloud::supervisor::{Cloud, on_all_cores};

use arguments::{HELP, Wish};

/// Something failed while it was running.
const FAILED: u8 = 1;
/// Nothing was started; starting again will not help.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Wish::Help) => say(HELP),
        Ok(Wish::Version) => say(concat!("umbilical-cloud ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Wish::Check(file)) => check(&file),
        Ok(Wish::Run(file)) => run(&file),
        Err(error) => refuse(&format_args!("{error}\nTry --help.")),
    }
}

fn check(file: &Path) -> ExitCode {
    let (config, warnings) = match Config::load(file) {
        Ok(checked) => checked,
        Err(error) => return refuse(&error),
    };
    for warning in warnings {
        complain(&format_args!("warning: {warning}"));
    }
    let connections = config.relay.as_ref().map_or(0, |relay| relay.config.hybrid_connections.len());
    let exposures = config.gateway.as_ref().map_or(0, |gateway| gateway.exposures.len());
    say(&format!("the configuration is good: {connections} hybrid connections, {exposures} exposures\n"))
}

fn run(file: &Path) -> ExitCode {
    if let Err(error) = log::start() {
        return refuse(&error);
    }
    on_all_cores(async |executor| serve(executor, file).await)
}

async fn serve(executor: &Arc<Executor<'static>>, file: &Path) -> ExitCode {
    let mut signals = match Requests::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&format_args!("cannot receive signals: {error}")),
    };
    let cloud = match Cloud::start(executor, file) {
        Ok(cloud) => cloud,
        Err(error) => return refuse(&error),
    };
    let (sender, requests) = channel::unbounded::<Request>();
    let forward = async {
        loop {
            match signals.next().await {
                // the cloud holds the receiver until it returns
                Ok(request) => _ = sender.send(request).await,
                Err(error) => return fail(&format_args!("cannot receive signals: {error}")),
            }
        }
    };
    let cloud = async {
        cloud.run(requests).await;
        ExitCode::SUCCESS
    };
    future::or(cloud, forward).await
}

fn say(text: &str) -> ExitCode {
    // a reader that has gone away is no failure of ours
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(text: &dyn fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn refuse(error: &dyn fmt::Display) -> ExitCode {
    complain(&format_args!("umbilical-cloud: {error}"));
    ExitCode::from(REFUSED)
}

fn fail(error: &dyn fmt::Display) -> ExitCode {
    complain(&format_args!("umbilical-cloud: {error}"));
    ExitCode::from(FAILED)
}
