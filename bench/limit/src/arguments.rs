//! The command line: which side, and the options of that side.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use lexopt::prelude::*;

const OPTIONS: [&str; 6] = ["public", "link", "cert", "key", "ca", "target"];

pub(crate) struct Arguments {
    pub(crate) side: Side,
    options: BTreeMap<&'static str, OsString>,
}

#[derive(Clone, Copy)]
pub(crate) enum Side {
    Cloud,
    Device,
}

/// What was wrong with the command line.
#[derive(Debug)]
pub(crate) enum Misuse {
    Side,
    Option(lexopt::Error),
    Missing(&'static str),
    Address(&'static str),
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misuse::Side => f.write_str("expected one word, cloud or device"),
            Misuse::Option(error) => write!(f, "command line: {error}"),
            Misuse::Missing(option) => write!(f, "--{option} is needed on this side"),
            Misuse::Address(option) => write!(f, "--{option}: expected ADDRESS:PORT, such as 127.0.0.1:9000"),
        }
    }
}

impl std::error::Error for Misuse {}

impl Arguments {
    pub(crate) fn from_command_line() -> Result<Arguments, Misuse> {
        let (mut side, mut options) = (None, BTreeMap::new());
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next().map_err(Misuse::Option)? {
            match argument {
                Value(word) if word == "cloud" => side = Some(Side::Cloud),
                Value(word) if word == "device" => side = Some(Side::Device),
                Long(name) => match OPTIONS.into_iter().find(|option| *option == name) {
                    Some(option) => drop(options.insert(option, parser.value().map_err(Misuse::Option)?)),
                    None => return Err(Misuse::Option(argument.unexpected())),
                },
                other => return Err(Misuse::Option(other.unexpected())),
            }
        }
        Ok(Arguments { side: side.ok_or(Misuse::Side)?, options })
    }

    pub(crate) fn file(&self, option: &'static str) -> io::Result<&Path> {
        self.options.get(option).map(Path::new).ok_or_else(|| io::Error::other(Misuse::Missing(option)))
    }

    pub(crate) fn address(&self, option: &'static str) -> io::Result<SocketAddr> {
        let given = self.options.get(option).ok_or_else(|| io::Error::other(Misuse::Missing(option)))?;
        given.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other(Misuse::Address(option)))
    }
}
