//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Gives the cloud a way to the ports of devices that nobody can dial.

Usage: umbilical-cloud run --config FILE      serve: relay, gateway, public ports
       umbilical-cloud check --config FILE    check the configuration and the files it names

  --config FILE  configuration, TOML
  --version      print the version and exit
  --help         print this and exit

Signals: SIGTERM finishes (a second one: at once), SIGHUP reads the configuration again.
UMBILICAL_LOG sets what is logged: error, warn, info (default), debug or trace.
Exit codes: 0 stopped as asked, 1 failed while running, 2 not started: arguments or configuration are wrong.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Run(PathBuf),
    Check(PathBuf),
    Version,
    Help,
}

pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Wish, ArgumentError> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut command, mut file) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") | Short('c') => file = Some(PathBuf::from(parser.value()?)),
            Long("version") | Short('V') => return Ok(Wish::Version),
            Long("help") | Short('h') => return Ok(Wish::Help),
            Value(word) if command.is_none() => command = Some(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let command = command.ok_or(ArgumentError::NoCommand)?;
    match command.to_str() {
        Some("run") => file.map(Wish::Run).ok_or(ArgumentError::Missing("--config FILE")),
        Some("check") => file.map(Wish::Check).ok_or(ArgumentError::Missing("--config FILE")),
        _ => Err(ArgumentError::UnknownCommand(command)),
    }
}

/// A command line that asks for nothing we do.
#[derive(Debug)]
pub(crate) enum ArgumentError {
    NoCommand,
    UnknownCommand(OsString),
    Missing(&'static str),
    Syntax(lexopt::Error),
}

impl From<lexopt::Error> for ArgumentError {
    fn from(error: lexopt::Error) -> Self {
        Self::Syntax(error)
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => f.write_str("a command is missing"),
            Self::UnknownCommand(word) => write!(f, "unknown command {word:?}"),
            Self::Missing(what) => write!(f, "{what} is missing"),
            Self::Syntax(error) => error.fmt(f),
        }
    }
}
