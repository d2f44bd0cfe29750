//! `[foreign]`: what is done for senders that do not speak the session protocol.

use std::{collections::BTreeMap, ops::RangeInclusive};

use umbilical_mux::Mode;

use super::{
    ConfigError, Service,
    document::Table,
    value::{boolean, count, string},
};

/// `[foreign]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// What they get.
    pub welcome: Welcome,
    /// Connections of them at once.
    pub connections: usize,
}

/// What foreign senders get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Welcome {
    /// A refusal.
    #[default]
    Refused,
    /// Each connection is one to this service.
    Plain(String),
    /// Each connection names its service, in azbridge's preamble.
    Azbridge,
}

impl Default for Foreign {
    fn default() -> Foreign {
        Foreign { welcome: Welcome::default(), connections: 8 }
    }
}

impl Foreign {
    /// Connections that memory and files are wanted for.
    #[must_use]
    pub fn at_most(&self) -> usize {
        if self.welcome == Welcome::Refused { 0 } else { self.connections }
    }
}

const CONNECTIONS: RangeInclusive<usize> = 1..=1024;

pub(super) fn read(mut table: Table<'_>, services: &BTreeMap<String, Service>) -> Result<Foreign, ConfigError> {
    table.only(&["plain-service", "azbridge", "connections"])?;
    const PLAIN_SERVICE: &str = "the NAME of a [services.NAME] with a tcp: or unix: target";
    let plain = table.optional("plain-service", PLAIN_SERVICE, string)?;
    // nothing in plain bytes says where a datagram ends
    let takes_bytes = |name: &str| services.get(name).is_some_and(|service| service.target.mode() == Mode::Stream);
    if let Some(name) = plain.as_ref().filter(|name| !takes_bytes(&name.value)) {
        return Err(table.refuse_value(name, PLAIN_SERVICE));
    }
    let azbridge = table.optional("azbridge", "true or false", boolean)?.is_some_and(|at| at.value);
    let welcome = match plain {
        Some(_) if azbridge => return Err(table.refuse("plain-service or azbridge", "both of them")),
        Some(name) => Welcome::Plain(name.value),
        None if azbridge => Welcome::Azbridge,
        None => Welcome::Refused,
    };
    let connections = table.optional("connections", "a number from 1 to 1024", |value| count(value, &CONNECTIONS))?;
    Ok(Foreign { welcome, connections: connections.map_or(Foreign::default().connections, |at| at.value) })
}
