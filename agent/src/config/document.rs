//! TOML text as tables whose keys are taken one by one. Every fault that is found here or by a caller's reading
//! of a value carries the file and the line.
//!
//! The parsed document is walked by hand: serde would name neither the dotted key nor the line of a value that has the
//! right type and the wrong content, and its generated code is larger than this file's.

use std::{collections::BTreeMap, path::Path};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::error::{ConfigError, Problem};

/// Longest piece of a wrong value that an error repeats, in characters.
const SHOWN: usize = 60;

/// A table of the document, or the document itself. Keys leave it as they are read.
pub(super) struct Table<'i> {
    source: Source<'i>,
    /// Dotted from the root; empty for the root.
    path: String,
    line: Option<usize>,
    entries: BTreeMap<DeString<'i>, Entry<'i>>,
}

/// A value that was read, with the place it was read from.
#[derive(Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) key: String,
    pub(super) line: usize,
}

#[derive(Clone, Copy)]
struct Source<'i> {
    file: &'i Path,
    text: &'i str,
}

struct Entry<'i> {
    line: usize,
    value: DeValue<'i>,
}

impl<'i> Table<'i> {
    /// Parses `text`; `file` is only named in errors.
    pub(super) fn parse(file: &'i Path, text: &'i str) -> Result<Table<'i>, ConfigError> {
        let source = Source { file, text };
        let document = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| source.line(span.start));
            ConfigError::new(file, line, Problem::Syntax(error))
        })?;
        Ok(Table::new(source, String::new(), None, document.into_inner()))
    }

    fn new(source: Source<'i>, path: String, line: Option<usize>, table: DeTable<'i>) -> Table<'i> {
        let entries = table.into_iter().map(|(key, value)| source.entry(key, value)).collect();
        Table { source, path, line, entries }
    }

    /// Refuses every key but these.
    pub(super) fn only(&self, expected: &'static [&'static str]) -> Result<(), ConfigError> {
        let unknown = self.entries.iter().filter(|(key, _)| !expected.contains(&key.as_ref()));
        match unknown.min_by_key(|(_, entry)| entry.line) {
            None => Ok(()),
            Some((key, entry)) => Err(self.error(
                Some(entry.line),
                Problem::UnknownKey { table: self.path.clone(), key: key.to_string(), expected },
            )),
        }
    }

    /// Takes the first key that is left, by name: for tables whose keys are names of the user's choice.
    pub(super) fn first_key(&self) -> Option<String> {
        self.entries.keys().next().map(ToString::to_string)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes a table out of this one.
    pub(super) fn table(&mut self, key: &str) -> Result<Option<Table<'i>>, ConfigError> {
        let Some(entry) = self.entries.remove(key) else { return Ok(None) };
        let path = self.key(key);
        match entry.value {
            DeValue::Table(table) => Ok(Some(Table::new(self.source, path, Some(entry.line), table))),
            other => Err(self.unexpected(path, entry.line, "a table", &other)),
        }
    }

    /// Takes an array of tables out of this one; `None` if it is not there.
    pub(super) fn tables(&mut self, key: &str) -> Result<Option<Vec<Table<'i>>>, ConfigError> {
        let Some(entry) = self.entries.remove(key) else { return Ok(None) };
        let path = self.key(key);
        let DeValue::Array(array) = entry.value else {
            return Err(self.unexpected(path, entry.line, "an array of tables", &entry.value));
        };
        let items = array.into_iter().enumerate().map(|(number, item)| {
            let (path, line) = (format!("{path}[{number}]"), self.source.line(item.span().start));
            match item.into_inner() {
                DeValue::Table(table) => Ok(Table::new(self.source, path, Some(line), table)),
                other => Err(self.unexpected(path, line, "a table", &other)),
            }
        });
        items.collect::<Result<_, _>>().map(Some)
    }

    /// Takes a value if it is there; `read` gives `None` for one that is not as `expected` says.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        read: fn(&DeValue<'_>) -> Option<T>,
    ) -> Result<Option<At<T>>, ConfigError> {
        let Some(entry) = self.entries.remove(key) else { return Ok(None) };
        let path = self.key(key);
        match read(&entry.value) {
            Some(value) => Ok(Some(At { value, key: path, line: entry.line })),
            None => Err(self.unexpected(path, entry.line, expected, &entry.value)),
        }
    }

    /// Takes a value that has no default.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        read: fn(&DeValue<'_>) -> Option<T>,
    ) -> Result<At<T>, ConfigError> {
        self.optional(key, expected, read)?.ok_or_else(|| self.missing(key, expected))
    }

    pub(super) fn missing(&self, key: &str, expected: &'static str) -> ConfigError {
        self.error(self.line, Problem::Missing { key: self.key(key), expected })
    }

    /// The table itself is not as `expected`; `found` says what it holds.
    pub(super) fn refuse(&self, expected: &'static str, found: &str) -> ConfigError {
        let problem = Problem::Unexpected { key: self.path.clone(), expected, found: found.to_owned() };
        self.error(self.line, problem)
    }

    /// A text that was read is not as `expected` after all.
    pub(super) fn refuse_value(&self, at: &At<String>, expected: &'static str) -> ConfigError {
        let found = shown(at.value.chars(), at.value.chars().count());
        self.error(Some(at.line), Problem::Unexpected { key: at.key.clone(), expected, found })
    }

    /// What a key of this table names is faulty.
    pub(super) fn fault(&self, line: usize, problem: Problem) -> ConfigError {
        self.error(Some(line), problem)
    }

    /// The name of a key of this table is not as `expected`.
    pub(super) fn refuse_key(&self, key: &str, expected: &'static str) -> ConfigError {
        let line = self.entries.get(key).map(|entry| entry.line);
        let problem =
            Problem::Unexpected { key: self.path.clone(), expected, found: shown(key.chars(), key.chars().count()) };
        self.error(line, problem)
    }

    fn unexpected(&self, key: String, line: usize, expected: &'static str, value: &DeValue<'_>) -> ConfigError {
        self.error(Some(line), Problem::Unexpected { key, expected, found: describe(value) })
    }

    fn error(&self, line: Option<usize>, problem: Problem) -> ConfigError {
        ConfigError::new(self.source.file, line, problem)
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'i> Source<'i> {
    fn entry(&self, key: Spanned<DeString<'i>>, value: Spanned<DeValue<'i>>) -> (DeString<'i>, Entry<'i>) {
        let line = self.line(key.span().start);
        (key.into_inner(), Entry { line, value: value.into_inner() })
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}

/// A wrong value in the words of an error; never the password of an address.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => match user_part(text) {
            Some((before, after)) => {
                let masked = before.chars().chain("***".chars()).chain(after.chars());
                shown(masked.clone(), masked.count())
            }
            None => shown(text.chars(), text.chars().count()),
        },
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Splits an address around what stands between its scheme and its `@`.
fn user_part(text: &str) -> Option<(&str, &str)> {
    let at = text.rfind('@')?;
    let start = text.find("://").map_or(0, |colon| colon + "://".len()).min(at);
    Some((&text[..start], &text[at..]))
}

fn shown(text: impl Iterator<Item = char>, length: usize) -> String {
    let mut quoted = String::from('"');
    quoted.extend(text.take(SHOWN).flat_map(char::escape_debug));
    quoted.push_str(if length > SHOWN { "...\"" } else { "\"" });
    quoted
}
