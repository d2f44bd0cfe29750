//! Hosts that are dialled without the environment's proxy: the list in `NO_PROXY`.
//!
//! There is no standard; these are the rules curl, Go and Python agree on. Entries are separated by commas or blanks:
//! `*` is everything; `example.com`, `.example.com` and `*.example.com` are that domain and all below it; an address is
//! itself, `10.0.0.0/8` a network; any of them may end in `:port`. Names are not resolved for this.

use std::net::IpAddr;

use ipnet::IpNet;

/// A parsed list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NoProxy {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Network(IpNet),
    /// In lower case, without dots at either end.
    Domain(String),
}

impl NoProxy {
    pub(crate) fn parse(list: &str) -> Self {
        let words = list.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        Self { entries: words.map(Entry::parse).collect() }
    }

    /// Whether `host` (a name, or an address without brackets) is to be dialled directly.
    pub(crate) fn matches(&self, host: &str, port: u16) -> bool {
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        self.entries.iter().filter(|entry| entry.port.is_none_or(|only| only == port)).any(|entry| match &entry.hosts {
            Hosts::All => true,
            Hosts::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Hosts::Domain(domain) => {
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        })
    }
}

impl Entry {
    fn parse(word: &str) -> Self {
        if let Some(hosts) = parse_network(word) {
            return Self { hosts, port: None };
        }
        let (host, port) = match word.rsplit_once(':') {
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => (word, None),
            },
            None => (word, None),
        };
        let hosts = parse_network(host).unwrap_or_else(|| match host {
            "*" => Hosts::All,
            _ => {
                let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.');
                Hosts::Domain(domain.to_ascii_lowercase())
            }
        });
        Self { hosts, port }
    }
}

/// An address, bare or in brackets, or a network.
fn parse_network(text: &str) -> Option<Hosts> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(Hosts::Network(address.to_canonical().into()));
    }
    text.parse().ok().map(Hosts::Network)
}
