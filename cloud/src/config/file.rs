//! Files that the configuration names: read when it is loaded, so that what is wrong with them has a line.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use umbilical_link::proxy::ProxyUrlError;
use umbilical_relay_protocol::Key;

use super::error::{ConfigError, Problem, Warning, line_of};

/// Longest key or token in bytes: tokens travel in a header.
const LONGEST: u64 = 16 * 1024;

/// Longest file in bytes that anybody may read.
const LONGEST_TEXT: u64 = 1024 * 1024;

/// Where faults are, and what was odd so far.
pub(super) struct Files<'t> {
    file: &'t Path,
    text: &'t str,
    pub(super) warnings: Vec<Warning>,
}

impl<'t> Files<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        Self { file, text, warnings: Vec::new() }
    }

    /// A fault of the value at `place`.
    pub(super) fn fault<T>(&self, place: &Spanned<T>, problem: Problem) -> ConfigError {
        ConfigError::new(self.file, Some(line_of(self.text, place.span().start)), problem)
    }

    /// A value that is not as `expected`.
    pub(super) fn wrong<T>(
        &self,
        place: &Spanned<T>,
        key: impl Into<String>,
        expected: &'static str,
        found: &str,
    ) -> ConfigError {
        let found = if found.chars().count() > 60 { "something else" } else { found };
        self.fault(place, Problem::Unexpected { key: key.into(), expected, found: format!("{found:?}") })
    }

    /// A key that has no default is not there.
    pub(super) fn missing(&self, key: &str, expected: &'static str) -> ConfigError {
        let problem = Problem::Unexpected { key: key.to_owned(), expected, found: "nothing".into() };
        ConfigError::new(self.file, None, problem)
    }

    /// A variable of the environment that stands in for a key and can't be used.
    pub(super) fn environment(&self, variable: &'static str, error: &ProxyUrlError) -> ConfigError {
        let problem = Problem::Environment { variable, message: error.to_string() };
        ConfigError::new(self.file, None, problem)
    }

    /// A file that can be read now, and is read again when it is needed.
    pub(super) fn readable(&mut self, place: &Spanned<PathBuf>, key: &str) -> Result<(), ConfigError> {
        match self.secret(place, key)?.trim() {
            "" => Err(self.fault(place, Problem::NoKey { key: key.to_owned(), path: place.get_ref().clone() })),
            _ => Ok(()),
        }
    }

    /// The shared access key in a file.
    pub(super) fn key(&mut self, place: &Spanned<PathBuf>, key: &str) -> Result<Key, ConfigError> {
        let text = self.secret(place, key)?;
        let one_line = Some(text.trim()).filter(|text| !text.contains(char::is_control));
        one_line
            .and_then(Key::new)
            .ok_or_else(|| self.fault(place, Problem::NoKey { key: key.to_owned(), path: place.get_ref().clone() }))
    }

    /// The text of a file that others should not read.
    pub(super) fn secret(&mut self, place: &Spanned<PathBuf>, key: &str) -> Result<String, ConfigError> {
        let path = place.get_ref();
        let (text, mode) = read_secret(path)
            .map_err(|error| self.fault(place, Problem::File { key: key.to_owned(), path: path.clone(), error }))?;
        if mode & 0o004 != 0 {
            self.warnings.push(Warning::ReadableByAll { key: key.to_owned(), path: path.clone(), mode });
        }
        Ok(text)
    }

    /// The text of a file that anybody may read.
    pub(super) fn text(&self, place: &Spanned<PathBuf>, key: &str) -> Result<String, ConfigError> {
        let path = place.get_ref();
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST_TEXT).read_to_string(&mut text));
        match read {
            Ok(_) => Ok(text),
            Err(error) => Err(self.fault(place, Problem::File { key: key.to_owned(), path: path.clone(), error })),
        }
    }

    /// Warns if others can read a private key.
    pub(super) fn look_at_mode(&mut self, place: &Spanned<PathBuf>, key: &str) {
        let path = place.get_ref();
        let Ok(metadata) = fs::metadata(path) else { return };
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o004 != 0 {
            self.warnings.push(Warning::ReadableByAll { key: key.to_owned(), path: path.clone(), mode });
        }
    }
}

fn read_secret(path: &Path) -> io::Result<(String, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok((text, mode))
}
