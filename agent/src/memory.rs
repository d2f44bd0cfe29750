//! The memory budget: what the agent takes at most, line by line, printed at start.
//!
//! Session memory is a matter of configuration and exact. What the TLS library holds for a connection is its own
//! affair; the figure here is what its buffers may grow to. The program's own share is read from the kernel.

use std::fmt;

use umbilical_link::{byte_stream, websocket::BUFFER_BYTES};
use umbilical_mux::StreamState;

use crate::{
    config::{Foreign, Http, Memory},
    http, rendezvous,
};

/// One TLS connection at its fullest: 64 KiB read ahead, a record of 16 KiB being read and one decrypted, 64 KiB waiting to
/// be sent, keys and state.
const TLS_BYTES: usize = 176 * 1024;

/// The control channel at its fullest: a message of 64 KiB as it is read, and parsed.
const CONTROL_BYTES: usize = 2 * 64 * 1024;

/// What the agent keeps of an open stream besides the table entry: socket, timers, the service's name.
const STREAM_BYTES: usize = 1024;

/// One connection of a foreign sender, TLS included.
pub const FOREIGN_BYTES: usize = TLS_BYTES + byte_stream::BUFFER_BYTES + STREAM_BYTES;

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
    /// For `memory`, the connections of `foreign` senders and `http`; `program` is what the process has in memory before its
    /// first connection, in bytes.
    #[must_use]
    pub fn new(memory: &Memory, foreign: &Foreign, http: Option<&Http>, program: usize) -> Budget {
        let shape = memory.shape();
        let line = |what, count, each| Line { what, count, each };
        let links = memory.sessions + rendezvous::AT_ONCE;
        let streams = memory.sessions * memory.streams;
        let foreign = foreign.at_most();
        let requests = http.map_or(0, |http| http.max_requests);
        let mut lines = vec![
            line("program and configuration", 1, program),
            line("control channel", 1, CONTROL_BYTES),
            line("TLS connections", links + foreign + 1 + requests, TLS_BYTES),
            line("link buffers", links, BUFFER_BYTES),
            line("replay rings", memory.sessions, shape.replay),
            line("receive pools", memory.sessions, shape.receive_memory()),
            line("stream tables", streams, size_of::<StreamState>()),
            line("open streams", streams, STREAM_BYTES),
            line("foreign connections", foreign, byte_stream::BUFFER_BYTES + STREAM_BYTES),
        ];
        if http.is_some() {
            lines.push(line("HTTP requests", requests, http::REQUEST_BYTES));
            lines.push(line("waiting HTTP requests", 1, http::WAITING_BYTES));
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
    use std::time::Duration;

    use super::*;
    use crate::config::{Target, Welcome};

    #[test]
    fn the_sum_is_that_of_the_lines_and_grows_with_each_setting() {
        let default = Memory::default();
        let none = Foreign::default();
        let total = |memory: Memory| Budget::new(&memory, &none, None, 1_000_000).total();
        let base = total(default);
        assert!(base > 1_000_000 + 4 * (default.replay + default.receive));
        assert_eq!(total(Memory { replay: default.replay + 1024, ..default }), base + 4 * 1024);
        assert!(total(Memory { receive: default.receive + 1024, ..default }) >= base + 4 * 1024);
        assert!(total(Memory { streams: default.streams + 1, ..default }) > base);
        assert!(total(Memory { sessions: default.sessions + 1, ..default }) > base + default.replay + default.receive);
        let some = Foreign { welcome: Welcome::Plain("ssh".into()), connections: 3 };
        assert_eq!(Budget::new(&default, &some, None, 1_000_000).total(), base + 3 * FOREIGN_BYTES);
        let http = |max_requests| Http { max_requests, target: Target::Unix("/x".into()), timeout: Duration::ZERO };
        let with = |max_requests| Budget::new(&default, &none, Some(&http(max_requests)), 1_000_000).total();
        assert_eq!(with(0), base + http::WAITING_BYTES);
        assert_eq!(with(3), with(0) + 3 * (TLS_BYTES + http::REQUEST_BYTES));
        let last = Budget::new(&default, &none, None, 1_000_000).rows().last().unwrap();
        assert!(last.ends_with(&format!(" {base}")), "{last}");
    }
}
