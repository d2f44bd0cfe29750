//! The command line.

use std::path::PathBuf;

use crate::error::Error;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
cargo quickstart [OPTIONS]

Runs the cloud side and the device side of Umbilical on this machine, with throw-away keys.

  --dir FOLDER   where keys, certificates, agent.toml, cloud.toml and logs go (default: quickstart-data)
  --check        fetch the device's page through the tunnel once, print it and end
  --help         this text";

/// What the user wants.
pub(crate) enum Wish {
    /// To read about the options.
    Help,
    /// To see it run.
    Run(Arguments),
}

/// How it is to run.
pub(crate) struct Arguments {
    /// Where the files go.
    pub(crate) folder: PathBuf,
    /// Whether to end after the first page.
    pub(crate) check: bool,
}

impl Wish {
    pub(crate) fn from_command_line() -> Result<Wish, Error> {
        let mut arguments = Arguments { folder: PathBuf::from("quickstart-data"), check: false };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next().map_err(Error::Usage)? {
            match argument {
                lexopt::Arg::Long("dir") => arguments.folder = parser.value().map_err(Error::Usage)?.into(),
                lexopt::Arg::Long("check") => arguments.check = true,
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Wish::Help),
                other => return Err(Error::Usage(other.unexpected())),
            }
        }
        Ok(Wish::Run(arguments))
    }
}
