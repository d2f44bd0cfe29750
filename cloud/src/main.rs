//! `umbilical-cloud`: arguments, logger, exit codes.

mod arguments;

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use smol::{Executor, channel, future};
use umbilical_cloud::config::{Auth, Config, ListenerKind};
use umbilical_cloud::connect::Route;
use umbilical_cloud::connection_file::{self, ConnectionFileError};
use umbilical_cloud::handed;
use umbilical_cloud::log;
use umbilical_cloud::service_manager;
use umbilical_cloud::signals::{Request, Requests};
use umbilical_cloud::stdio::Stdio;
use umbilical_cloud::supervisor::Cloud;
use umbilical_cloud::threads::on_all_cores;
use umbilical_link::Io;
use umbilical_relay_protocol::{Credential, Key, SasToken};

use arguments::{By, HELP, TokenSource, Wish};

/// Something failed while it was running.
const FAILED: u8 = 1;
/// Nothing was started; starting again will not help.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Wish::Help) => say(HELP),
        Ok(Wish::Version) => say(concat!("umbilical-cloud ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Wish::Run { config }) => run(&config),
        Ok(Wish::Check { config }) => check(&config),
        Ok(Wish::Connect { device, service, listener, by }) => connect(&device, &service, listener, by),
        Ok(Wish::Token(token)) => mint(&token),
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
    // before there are other threads: it takes what it has read out of the environment
    if let Err(error) = handed::take() {
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
    executor.spawn(service_manager::feed_watchdog()).detach();
    let (sender, requests) = channel::unbounded::<Request>();
    // A task of its own: it is looked at when a signal came, not with each byte.
    let forward = executor.spawn(async move {
        loop {
            match signals.next().await {
                // the cloud holds the receiver until it returns
                Ok(request) => _ = sender.send(request).await,
                Err(error) => return fail(&format_args!("cannot receive signals: {error}")),
            }
        }
    });
    let cloud = async {
        cloud.run(requests).await;
        ExitCode::SUCCESS
    };
    future::or(cloud, forward).await
}

fn connect(device: &str, service: &str, listener: ListenerKind, by: By) -> ExitCode {
    let route = match by {
        By::Config(file) => match Config::load(&file) {
            Ok((config, _)) => Route::by_config(&config, device, service),
            Err(error) => return refuse(&error),
        },
        By::Relay { relay, key_name, key_file, ca_file } => {
            let auth = Auth::SharedKey { name: key_name, file: key_file };
            Route::by_arguments(relay, ca_file, auth, device, service)
        }
        By::ConnectionString { file, ca_file } => {
            let relay =
                connection_file::read(&file).and_then(|string| connection_file::relay_for(&string, device, &file));
            match relay {
                Ok(relay) => Route::by_arguments(relay, ca_file, Auth::ConnectionString(file), device, service),
                Err(error) => return refuse(&error),
            }
        }
    };
    let route = match route {
        Ok(route) => route,
        Err(error) => return refuse(&error),
    };
    // what matters is told at the end; ssh shows every line to its user
    if let Err(error) = log::start_if_asked() {
        return refuse(&error);
    }
    let stdio = match Stdio::take() {
        Ok(stdio) => Io::Other(Box::new(stdio)),
        Err(error) => return fail(&format_args!("cannot use standard input and output: {error}")),
    };
    let executor = Arc::new(Executor::new());
    let outcome = smol::block_on(executor.run(route.to(listener).connect(&executor, stdio)));
    if let Some(message) = outcome.message {
        complain(&format_args!("umbilical-cloud: {message}"));
    }
    ExitCode::from(outcome.code)
}

fn mint(wish: &arguments::Token) -> ExitCode {
    let (name, key, resource) = match &wish.from {
        TokenSource::Key { name, file, resource } => match read_key(file) {
            Ok(key) => (name.clone(), key, resource.clone()),
            Err(error) => return refuse(&error),
        },
        TokenSource::ConnectionString { file, resource } => match connection_file::read(file) {
            Ok(string) => match string.credential() {
                Credential::SharedKey { name, key } => {
                    let resource = resource.clone().unwrap_or_else(|| string.url().resource());
                    (name.clone(), key.clone(), resource)
                }
                _ => return refuse(&ConnectionFileError::no_key(file)),
            },
            Err(error) => return refuse(&error),
        },
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let expires = now + u64::from(wish.hours) * 3600;
    say(&format!("{}\n", SasToken::sign(&resource, &name, key.as_bytes(), expires)))
}

fn read_key(file: &Path) -> Result<Key, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    Key::new(&text).ok_or_else(|| format!("{} holds no key, expected one line of text", file.display()))
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
