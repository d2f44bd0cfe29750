//! What can be wrong with a configuration file, said in one line: `FILE:LINE: what, and what was expected`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use umbilical_relay_protocol::ConnectionStringError;

/// A configuration that was refused: where, and why.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    /// Counted from 1; `None` when the fault is the file as a whole.
    line: Option<usize>,
    problem: Box<Problem>,
}

/// Why a configuration was refused. `key` is dotted from the root: `services.ssh.target`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The configuration file itself can't be read.
    Unreadable(io::Error),
    /// Not TOML.
    Syntax(toml::de::Error),
    /// A key that nothing knows.
    UnknownKey {
        /// The table that holds it.
        table: String,
        /// The unknown key.
        key: String,
        /// Every key that this table may hold.
        expected: &'static [&'static str],
    },
    /// A key that has no default is not there.
    Missing {
        /// The absent key.
        key: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A value of the wrong type, form or range.
    Unexpected {
        /// The key of the value.
        key: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds, as the file has it; passwords in addresses are left out.
        found: String,
    },
    /// A file that the configuration names can't be used.
    File {
        /// The key that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What happened on reading it.
        error: io::Error,
    },
    /// A file that holds no usable connection string.
    ConnectionString {
        /// The key that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        error: ConnectionStringError,
    },
    /// A file that must hold something is empty.
    EmptyFile {
        /// The key that names it.
        key: String,
        /// The file.
        path: PathBuf,
    },
}

impl ConfigError {
    pub(super) fn new(file: &Path, line: Option<usize>, problem: Problem) -> ConfigError {
        ConfigError { file: file.to_owned(), line, problem: Box::new(problem) }
    }

    /// What was wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreadable(error) => write!(f, "can't read the configuration: {error}"),
            Problem::Syntax(error) => write!(f, "not valid TOML: {}", error.message()),
            Problem::UnknownKey { table, key, expected } => {
                write!(f, "unknown key `{}` ", key.escape_debug())?;
                if table.is_empty() {
                    f.write_str("at the top level")?;
                } else {
                    write!(f, "in [{table}]")?;
                }
                f.write_str(", expected ")?;
                write_choice(f, expected)
            }
            Problem::Missing { key, expected } => write!(f, "`{key}` is missing, expected {expected}"),
            Problem::Unexpected { key, expected, found } => write!(f, "`{key}`: expected {expected}, found {found}"),
            Problem::File { key, path, error } => write!(f, "`{key}`: can't read {}: {error}", path.display()),
            Problem::ConnectionString { key, path, error } => write!(f, "`{key}`: {}: {error}", path.display()),
            Problem::EmptyFile { key, path } => write!(f, "`{key}`: {} is empty", path.display()),
        }
    }
}

/// Something that works, but that an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Every user of the machine can read a secret.
    ReadableByAll {
        /// The key that names the file.
        key: String,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is nothing to reach on this device.
    NoServices,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::ReadableByAll { key, path, mode } => write!(
                f,
                "`{key}`: every user of this machine can read {} (mode {mode:04o}); run: chmod o-rwx {}",
                path.display(),
                path.display()
            ),
            Warning::NoServices => {
                f.write_str("no [services.NAME] is configured: nothing on this device can be reached")
            }
        }
    }
}

fn write_choice(f: &mut fmt::Formatter<'_>, words: &[&str]) -> fmt::Result {
    for (index, word) in words.iter().enumerate() {
        let before = match index {
            0 => "",
            _ if index + 1 == words.len() => " or ",
            _ => ", ",
        };
        write!(f, "{before}{word}")?;
    }
    Ok(())
}
