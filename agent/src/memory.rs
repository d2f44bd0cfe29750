//! The memory budget: what the agent takes at most, line by line, printed at start.
//!
//! Session memory is a matter of configuration and exact. What the TLS library holds for a connection is its own
//! affair; the figure here is what its buffers may grow to. The program's own share is read from the kernel.

use std::fmt;

use umbilical_link::{byte_stream, framed_datagrams, websocket::BUFFER_BYTES};
use umbilical_mux::StreamState;

use crate::{
    config::{Config, Foreign, Welcome},
    http, rendezvous,
};

/// One TLS connection at its fullest: 64 KiB read ahead, a record of 16 KiB being read and one decrypted, 64 KiB waiting to
/// be sent, keys and state.
const TLS_BYTES: usize = 176 * 1024;

/// The control channel at its fullest: a message of 64 KiB as it is read, and parsed.
const CONTROL_BYTES: usize = 2 * 64 * 1024;

/// What the agent keeps of an open stream besides the table entry: socket, timers, the service's name.
const STREAM_BYTES: usize = 1024;

/// One connection of a foreign sender, without TLS. Those of azbridge may carry datagrams.
fn foreign_bytes(welcome: &Welcome) -> usize {
    let datagrams = if *welcome == Welcome::Azbridge { framed_datagrams::BUFFER_BYTES } else { 0 };
    byte_stream::BUFFER_BYTES + datagrams + STREAM_BYTES
}

/// All connections of foreign senders, TLS included, in bytes.
#[must_use]
pub fn all_foreign_bytes(foreign: &Foreign) -> usize {
    foreign.at_most() * (TLS_BYTES + foreign_bytes(&foreign.welcome))
}

/// The budget of one configuration.
#[derive(Debug, Clone)]
pub struct Budget {
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    what: &'static str,
    count: usize,
    each: usize,
}

impl Budget {
    /// Of `config`; `program` is what the process has in memory before its first connection, in bytes.
    #[must_use]
    pub fn new(config: &Config, program: usize) -> Budget {
        let (relays, memory, http) = (config.relays.len(), &config.memory, config.http.as_ref());
        let shape = memory.shape();
        let line = |what, count, each| Line { what, count, each };
        let links = memory.sessions + relays * rendezvous::AT_ONCE;
        let streams = memory.sessions * memory.streams;
        let (foreign, foreign_bytes) = (config.foreign.at_most(), foreign_bytes(&config.foreign.welcome));
        let requests = relays * http.map_or(0, |http| http.max_requests);
        let mut lines = vec![
            line("program and configuration", 1, program),
            line("control channels", relays, CONTROL_BYTES),
            line("TLS connections", links + foreign + relays + requests, TLS_BYTES),
            line("link buffers", links, BUFFER_BYTES),
            line("replay rings", memory.sessions, shape.replay),
            line("receive pools", memory.sessions, shape.receive_memory()),
            line("stream tables", streams, size_of::<StreamState>()),
            line("open streams", streams, STREAM_BYTES),
            line("foreign connections", foreign, foreign_bytes),
        ];
        if http.is_some() {
            lines.push(line("HTTP requests", requests, http::REQUEST_BYTES));
            lines.push(line("waiting HTTP requests", relays, http::WAITING_BYTES));
        }
        Budget { lines }
    }

    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.lines.iter().map(Line::bytes).sum()
    }

    /// The table, a line at a time.
    pub fn rows(&self) -> impl Iterator<Item = String> {
        let rows = self
            .lines
            .iter()
            .map(|line| format!("{:<26} {:>5} x {:>9} = {:>10}", line.what, line.count, line.each, line.bytes()));
        rows.chain([format!("{:<26} {:>30}", "at most, in bytes", self.total())])
    }
}

impl Line {
    fn bytes(&self) -> usize {
        self.count * self.each
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows().try_for_each(|row| writeln!(f, "{row}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const RELAY: &str = "url = 'wss://r.example/a'\nauth.token-file = '/t'\n";
    const PROGRAM: usize = 1_000_000;

    fn total(relays: &str, lines: &str) -> usize {
        let config = Config::parse(Path::new("agent.toml"), &format!("{relays}{lines}")).unwrap();
        Budget::new(&config, PROGRAM).total()
    }

    #[test]
    fn the_sum_is_that_of_the_lines_and_grows_with_each_setting() {
        let one = format!("[relay]\n{RELAY}");
        let with = |lines: &str| total(&one, lines);
        let base = with("");
        assert_eq!(with("[memory]\nreplay = '513K'"), base + 4 * 1024);
        assert!(with("[memory]\nreceive = '513K'") >= base + 4 * 1024);
        assert!(with("[memory]\nstreams = 65") > base);
        assert!(with("[memory]\nsessions = 5") > base + 2 * 512 * 1024);
        assert!(base > PROGRAM + 8 * 512 * 1024);
        let foreign = with("[services.s]\ntarget = 'unix:/x'\n[foreign]\nplain-service = 's'\nconnections = 3");
        let connection = TLS_BYTES + byte_stream::BUFFER_BYTES + STREAM_BYTES;
        assert_eq!(foreign, base + 3 * connection);
        let azbridge = with("[foreign]\nazbridge = true\nconnections = 3");
        assert_eq!(azbridge, base + 3 * (connection + framed_datagrams::BUFFER_BYTES));
        let welcome = Foreign { welcome: Welcome::Azbridge, connections: 3 };
        assert_eq!(azbridge, base + all_foreign_bytes(&welcome));
        let http = |requests| with(&format!("[http]\ntarget = 'unix:/x'\nmax-requests = {requests}"));
        assert_eq!(http(3), base + http::WAITING_BYTES + 3 * (TLS_BYTES + http::REQUEST_BYTES));
        let two = format!("[[relays]]\n{RELAY}[[relays]]\n{}", RELAY.replace("/a", "/b"));
        let buffers = rendezvous::AT_ONCE * (TLS_BYTES + BUFFER_BYTES);
        assert_eq!(total(&two, ""), base + TLS_BYTES + CONTROL_BYTES + buffers);
        let config = Config::parse(Path::new("agent.toml"), &one).unwrap();
        let last = Budget::new(&config, PROGRAM).rows().last().unwrap();
        assert!(last.ends_with(&format!(" {base}")), "{last}");
    }
}
