//! HTTP headers as control messages carry them: a JSON object, where HTTP has a list.

use std::fmt;

use serde_json::{Map, Value};

/// A list of header lines, names as received, compared without regard to case. Names are HTTP tokens and values have
/// no line breaks in them: what is in here can be written into a message head as it is. `Debug` shows names only,
/// because values hold credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Appends a line. Line breaks in the value become spaces (RFC 9110, section 5.5).
    ///
    /// # Errors
    /// Gives `name` back if it is no HTTP token.
    pub fn push<'n>(&mut self, name: &'n str, value: &str) -> Result<(), &'n str> {
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(name);
        }
        let value = value.replace(['\r', '\n', '\0'], " ");
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

    /// Numbers and booleans are taken for the text they are, an array for several lines of one name. Fails with the
    /// name of the header that is none of these, or whose name is no token.
    pub(crate) fn from_members(members: &Map<String, Value>) -> Result<Self, &str> {
        let mut headers = Self::default();
        for (name, value) in members {
            let values = if let Value::Array(values) = value { values.as_slice() } else { std::slice::from_ref(value) };
            for value in values {
                match value {
                    Value::String(text) => headers.push(name, text)?,
                    Value::Number(_) | Value::Bool(_) => headers.push(name, &value.to_string())?,
                    Value::Null => {}
                    Value::Array(_) | Value::Object(_) => return Err(name),
                }
            }
        }
        Ok(headers)
    }

    /// As an object of strings, repeated names joined with `, `: every listener understands this.
    pub(crate) fn to_joined(&self) -> Value {
        self.to_object(|lines| Value::String(lines.join(", ")))
    }

    /// As an object of strings, repeated names as arrays: `Set-Cookie` lines cannot be told apart once joined.
    pub(crate) fn to_lists(&self) -> Value {
        self.to_object(|lines| match lines {
            [line] => Value::from(*line),
            lines => Value::from(lines.to_vec()),
        })
    }

    fn to_object(&self, value_of: impl Fn(&[&str]) -> Value) -> Value {
        let mut members = Map::new();
        for (at, (name, _)) in self.0.iter().enumerate() {
            let seen = self.0[..at].iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(name));
            if !seen {
                members.insert(name.clone(), value_of(&self.all(name).collect::<Vec<_>>()));
            }
        }
        Value::Object(members)
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
