//! Reading the members of one command: tolerant where known peers differ, exact in naming what is wrong.

use serde_json::{Map, Value};

use super::{Accept, ControlError, RemoteEndpoint, Request, RequestHead, Response};
use crate::address::forbidden_character;
use crate::headers::{Headers, is_token};
use crate::rejection::reason_phrase;

/// The members of one command, which know how to name themselves in errors.
pub(super) struct Fields<'m> {
    command: &'static str,
    members: &'m Map<String, Value>,
}

impl<'m> Fields<'m> {
    pub(super) fn of(command: &'static str, value: &'m Value) -> Result<Self, ControlError> {
        match value {
            Value::Object(members) => Ok(Self { command, members }),
            _ => Err(ControlError::Field { command, field: "", expected: "an object" }),
        }
    }

    pub(super) fn accept(&self) -> Result<Accept, ControlError> {
        Ok(Accept {
            address: self.string("address")?,
            id: self.optional_string("id")?.unwrap_or_default(),
            connect_headers: self.headers("connectHeaders")?,
            remote: self.remote(),
        })
    }

    /// .NET's listeners tell the two shapes apart by `body`, Node's by `method`: one of them makes it the full one.
    pub(super) fn request(&self) -> Result<Request, ControlError> {
        if self.present("method").or(self.present("body")).is_none() {
            return Ok(Request::Fetch { address: self.string("address")? });
        }
        Ok(Request::Head(RequestHead {
            address: self.optional_string("address")?,
            id: self.string("id")?,
            request_target: self
                .checked("requestTarget", "a request target", |target| forbidden_character(target).is_none())?,
            method: self.checked("method", "an HTTP method", is_token)?,
            remote: self.remote(),
            headers: self.headers("requestHeaders")?,
            body: self.flag("body")?,
        }))
    }

    pub(super) fn response(&self) -> Result<Response, ControlError> {
        Ok(Response {
            request_id: self.string("requestId")?,
            status: self.status("statusCode")?,
            reason: self.optional_string("statusDescription")?.as_deref().map(reason_phrase),
            headers: self.headers("responseHeaders")?,
            body: self.flag("body")?,
        })
    }

    /// A member that is there and not null.
    fn present(&self, field: &str) -> Option<&'m Value> {
        self.members.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn string(&self, field: &'static str) -> Result<String, ControlError> {
        match self.optional_string(field)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(self.wrong(field, "a string that is not empty")),
        }
    }

    /// Text that ends up in the head of an HTTP message, where a line break would do harm.
    fn checked(
        &self,
        field: &'static str,
        expected: &'static str,
        check: impl Fn(&str) -> bool,
    ) -> Result<String, ControlError> {
        self.string(field).and_then(|text| if check(&text) { Ok(text) } else { Err(self.wrong(field, expected)) })
    }

    fn optional_string(&self, field: &'static str) -> Result<Option<String>, ControlError> {
        match self.present(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(field, "a string")),
        }
    }

    fn flag(&self, field: &'static str) -> Result<bool, ControlError> {
        match self.present(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    /// A number from every client seen, a string in the protocol guide's example.
    fn status(&self, field: &'static str) -> Result<u16, ControlError> {
        let status = match self.present(field) {
            Some(Value::Number(number)) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        status
            .filter(|status| (100..=999).contains(status))
            .ok_or_else(|| self.wrong(field, "a number from 100 to 999"))
    }

    fn headers(&self, field: &'static str) -> Result<Headers, ControlError> {
        match self.present(field) {
            None => Ok(Headers::default()),
            Some(Value::Object(members)) => Headers::from_members(members)
                .map_err(|invalid| ControlError::Header { command: self.command, name: invalid.name }),
            Some(_) => Err(self.wrong(field, "an object of strings")),
        }
    }

    /// Undocumented, so nothing depends on it: one that makes no sense counts as absent.
    fn remote(&self) -> Option<RemoteEndpoint> {
        let remote = self.present("remoteEndpoint")?;
        let address = remote.get("address")?.as_str()?.to_owned();
        Some(RemoteEndpoint { address, port: remote.get("port")?.as_u64()?.try_into().ok()? })
    }

    fn wrong(&self, field: &'static str, expected: &'static str) -> ControlError {
        ControlError::Field { command: self.command, field, expected }
    }
}
