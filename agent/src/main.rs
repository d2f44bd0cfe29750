//! `umbilical-agent`: arguments, logger, exit codes.

use std::{ffi::OsString, fmt, io::Write, path::PathBuf, pin::Pin, process::ExitCode};

use smol::{LocalExecutor, channel, channel::Receiver, future};
use umbilical_agent::{
    config::{Config, StatusSocket},
    log,
    status::{AskError, ask},
    supervisor::Agent,
    sys::{Request, Requests, give_back_large_blocks},
};

const HELP: &str = "\
Makes the configured ports of this device reachable through a relay.

Usage: umbilical-agent --config FILE [--check]
       umbilical-agent status [--config FILE | --socket PATH]

  --config FILE  configuration, TOML
  --check        check the configuration and the files it names, and exit
  status         ask the running agent how it is doing
  --socket PATH  where it answers; by default as FILE says, else in $RUNTIME_DIRECTORY or /run/umbilical
  --version      print the version and exit
  --help         print this and exit

Signals: SIGTERM finishes (a second one: at once), SIGHUP reads the configuration again.
UMBILICAL_LOG sets what is logged: error, warn, info (default), debug or trace.
Exit codes: 0 stopped as asked, 1 failed while running, 2 not started: arguments or configuration are wrong.
Exit codes of status: 0 it listens at a relay, 1 it runs and listens at none, 2 it does not run, 3 not to be known.
";

/// Something failed while the agent was running.
const FAILED: u8 = 1;
/// Nothing was started; starting again will not help.
const REFUSED: u8 = 2;

/// Of `status`: it runs and cannot be reached.
const AWAY: u8 = 1;
/// Of `status`: it does not run.
const NOT_RUNNING: u8 = 2;
/// Of `status`: the question is wrong, not allowed, or not answered.
const NOT_KNOWN: u8 = 3;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "status").is_some() {
        return status(arguments);
    }
    let wish = match parse(arguments) {
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
    give_back_large_blocks();
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
    smol::block_on(executor.run(future::or(running(agent, requests), forward)))
}

/// On the heap, and made in a function of its own: many kilobytes, which would be on the stack several times, for good.
#[inline(never)]
fn running(agent: Agent, requests: Receiver<Request>) -> Pin<Box<dyn Future<Output = ExitCode>>> {
    Box::pin(async {
        agent.run(requests).await;
        ExitCode::SUCCESS
    })
}

/// `umbilical-agent status`, whose exit codes are its own.
fn status(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let unknown = |error: &dyn fmt::Display| {
        complain(&format_args!("umbilical-agent: {error}"));
        ExitCode::from(NOT_KNOWN)
    };
    let socket = match parse_status(arguments) {
        Ok(StatusWish::Help) => return say(HELP),
        Ok(StatusWish::Socket(path)) => StatusSocket::At(path),
        Ok(StatusWish::Config(file)) => match Config::status_socket(&file) {
            Ok(socket) => socket,
            Err(error) => return unknown(&error),
        },
        Ok(StatusWish::Default) => StatusSocket::Default,
        Err(error) => return unknown(&format_args!("{error}\nTry --help.")),
    };
    let Some(path) = socket.path() else { return unknown(&"`status.socket` is \"none\": nobody can ask this agent") };
    match ask(&path) {
        Ok(told) => {
            say(&told.screen);
            ExitCode::from(if told.good { 0 } else { AWAY })
        }
        Err(error @ AskError::NotRunning(_)) => {
            complain(&format_args!("umbilical-agent: {error}"));
            ExitCode::from(NOT_RUNNING)
        }
        Err(error) => unknown(&error),
    }
}

enum StatusWish {
    Default,
    Config(PathBuf),
    Socket(PathBuf),
    Help,
}

fn parse_status(arguments: impl Iterator<Item = OsString>) -> Result<StatusWish, lexopt::Error> {
    use lexopt::Arg::{Long, Short};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut wish = StatusWish::Default;
    while let Some(argument) = parser.next()? {
        wish = match (argument, wish) {
            (Long("help") | Short('h'), _) => return Ok(StatusWish::Help),
            (Long("config") | Short('c'), StatusWish::Default) => StatusWish::Config(parser.value()?.into()),
            (Long("socket"), StatusWish::Default) => StatusWish::Socket(parser.value()?.into()),
            (other, _) => return Err(other.unexpected()),
        };
    }
    Ok(wish)
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
