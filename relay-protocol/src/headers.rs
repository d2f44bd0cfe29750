//! HTTP headers as control messages carry them: a JSON object, where HTTP has a list.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use serde_json::{Map, Value};

/// A list of header lines, names as received, compared without regard to case. Names are HTTP tokens and values have
/// no line breaks in them: what is in here can be written into a message head as it is. `Debug` shows names only,
/// because values hold credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Appends a line. Line breaks and other control characters in the value become spaces (RFC 9110, section 5.5).
    ///
    /// # Errors
    /// `name` is no HTTP token.
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        if !is_token(name) {
            return Err(InvalidHeader { name: name.to_owned() });
        }
        let value = value.replace(|char: char| char.is_ascii_control() && char != '\t', " ");
        self.0.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        Ok(())
    }

    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of `name`, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Every line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Takes every line of `name` out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// Numbers and booleans are taken for the text they are, an array for several lines of one name.
    pub(crate) fn from_members(members: &Map<String, Value>) -> Result<Self, InvalidHeader> {
        let mut headers = Self::default();
        for (name, value) in members {
            let values = if let Value::Array(values) = value { values.as_slice() } else { std::slice::from_ref(value) };
            for value in values {
                match value {
                    Value::String(text) => headers.push(name, text)?,
                    Value::Number(_) | Value::Bool(_) => headers.push(name, &value.to_string())?,
                    Value::Null => {}
                    Value::Array(_) | Value::Object(_) => return Err(InvalidHeader { name: name.clone() }),
                }
            }
        }
        Ok(headers)
    }

    /// As an object of strings, repeated names joined with `, `: every listener understands this. Empty lines add
    /// nothing to a list (RFC 9110, section 5.6.1).
    pub(crate) fn to_joined(&self) -> Value {
        self.to_object(|lines| {
            let lines = lines.iter().copied().filter(|line| !line.is_empty());
            Value::String(lines.collect::<Vec<_>>().join(", "))
        })
    }

    /// As an object of strings, repeated names as arrays: `Set-Cookie` lines cannot be told apart once joined.
    pub(crate) fn to_lists(&self) -> Value {
        self.to_object(|lines| match lines {
            [line] => Value::from(*line),
            lines => Value::from(lines.to_vec()),
        })
    }

    fn to_object(&self, value_of: impl Fn(&[&str]) -> Value) -> Value {
        let mut lines = BTreeMap::<String, (&str, Vec<&str>)>::new();
        for (name, value) in self.iter() {
            lines.entry(name.to_ascii_lowercase()).or_insert_with(|| (name, Vec::new())).1.push(value);
        }
        Value::Object(lines.values().map(|(name, values)| ((*name).to_owned(), value_of(values))).collect())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// A header whose name is no HTTP token, or whose value is no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidHeader {
    /// Name as received.
    pub name: String,
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the header {:?} has a name or value that HTTP does not allow", self.name)
    }
}

impl Error for InvalidHeader {}

/// `token` of RFC 9110, section 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(tchar)
}
