//! `umbilical-agent`: arguments, logger, exit codes.

use std::{ffi::OsString, fmt, io::Write, path::PathBuf, process::ExitCode};

use smol::{LocalExecutor, channel, future};
use umbilical_agent::{
    log,
    supervisor::Agent,
    sys::{Request, Requests},
};

const HELP: &str = "\
Makes the configured ports of this device reachable through a relay.

Usage: umbilical-agent --config FILE [--check]

  --config FILE  configuration, TOML
  --check        check the configuration and the files it names, and exit
  --version      print the version and exit
  --help         print this and exit

Signals: SIGTERM finishes (a second one: at once), SIGHUP reads the configuration again.
UMBILICAL_LOG sets what is logged: error, warn, info (default), debug or trace.
Exit codes: 0 stopped as asked, 1 failed while running, 2 not started: arguments or configuration are wrong.
";

/// Something failed while the agent was running.
const FAILED: u8 = 1;
/// Nothing was started; starting again will not help.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let wish = match parse(std::env::args_os().skip(1)) {
        Ok(wish) => wish,
        Err(error) => return refuse(&format_args!("{error}\nTry --help.")),
    };
    match wish {
        Wish::Help => say(HELP),
        Wish::Version => say(concat!("umbilical-agent ", env!("CARGO_PKG_VERSION"), "\n")),
        Wish::Check(file) => match Agent::new(file) {
            Ok(agent) => check(&agent),
            Err(error) => refuse(&error),
        },
        Wish::Run(file) => match Agent::new(file) {
            Ok(agent) => run(agent),
            Err(error) => refuse(&error),
        },
    }
}

fn check(agent: &Agent) -> ExitCode {
    for warning in agent.warnings() {
        complain(&format_args!("warning: {warning}"));
    }
    let urls: Vec<_> = agent.config().relays.iter().map(|relay| relay.url.to_string()).collect();
    say(&format!("the configuration is good: {} services at {}\n", agent.config().services.len(), urls.join(", ")))
}

fn run(agent: Agent) -> ExitCode {
    if let Err(error) = log::start() {
        return refuse(&error);
    }
    let mut signals = match Requests::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&format_args!("can't receive signals: {error}")),
    };
    let (sender, requests) = channel::unbounded::<Request>();
    // A task of its own: it is looked at when a signal came, not with each byte.
    let executor = LocalExecutor::new();
    let forward = executor.spawn(async move {
        loop {
            match signals.next().await {
                // the agent holds the receiver until it returns
                Ok(request) => _ = sender.send(request).await,
                Err(error) => return fail(&format_args!("can't receive signals: {error}")),
            }
        }
    });
    let agent = async {
        agent.run(requests).await;
        ExitCode::SUCCESS
    };
    smol::block_on(executor.run(future::or(agent, forward)))
}

enum Wish {
    Run(PathBuf),
    Check(PathBuf),
    Version,
    Help,
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Wish, ArgumentError> {
    use lexopt::Arg::{Long, Short};
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut file, mut check) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") | Short('c') => file = Some(PathBuf::from(parser.value()?)),
            Long("check") => check = true,
            Long("version") | Short('V') => return Ok(Wish::Version),
            Long("help") | Short('h') => return Ok(Wish::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    match file {
        None => Err(ArgumentError::NoConfig),
        Some(file) if check => Ok(Wish::Check(file)),
        Some(file) => Ok(Wish::Run(file)),
    }
}

enum ArgumentError {
    NoConfig,
    Syntax(lexopt::Error),
}

impl From<lexopt::Error> for ArgumentError {
    fn from(error: lexopt::Error) -> ArgumentError {
        ArgumentError::Syntax(error)
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgumentError::NoConfig => f.write_str("--config FILE is missing"),
            ArgumentError::Syntax(error) => error.fmt(f),
        }
    }
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
    complain(&format_args!("umbilical-agent: {error}"));
    ExitCode::from(REFUSED)
}

fn fail(error: &dyn fmt::Display) -> ExitCode {
    complain(&format_args!("umbilical-agent: {error}"));
    ExitCode::from(FAILED)
}
