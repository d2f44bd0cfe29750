//! What drives an Umbilical session on smol: sockets, TLS, WebSocket, clock.
//!
//! The map, from the outside to the session:
//!
//! | file | owns |
//! | --- | --- |
//! | [`dial`] | a name and a port become a connection: resolving, proxy, TLS, one deadline |
//! | [`happy_eyeballs`] | which of a name's addresses answers first (RFC 8305) |
//! | [`proxy`] | whether an HTTP proxy is in the way, and `CONNECT` through it |
//! | `no_proxy` | the hosts that go past the environment's proxy |
//! | [`tls`] | roots, certificates, versions; both handshakes |
//! | [`transport`] | the connection itself, bare or under TLS, and how its socket is tuned |
//! | [`read_ahead`] | fewer system calls for the bytes under TLS |
//! | [`upgrade`] | the client's side of the WebSocket opening handshake |
//! | [`response`] | the bounded head of an HTTP response, for `proxy` and `upgrade` |
//! | [`body`] | where the body behind such a head ends, chunks taken apart |
//! | [`frame`] | WebSocket frame headers, masks, close payloads |
//! | [`websocket`] | whole binary messages over an open WebSocket, in two bounded buffers |
//! | [`byte_stream`] | a WebSocket as a stream of bytes |
//! | [`bridge`] | such a stream joined with one port, to the end of both |
//! | `unacknowledged` | whether the other end's kernel still acknowledges |
//! | [`datagrams`] | the far ends of datagram streams |
//! | [`framed_datagrams`] | those as a stream of bytes, for peers without a session |
//! | [`pieces`] | WebSocket messages of any length, piece by piece |
//! | [`chunked`] | HTTP bodies in chunks |
//! | [`driver`] | the one loop: link, ports and clock of a session in one task |
//! | [`handle`] | what the owner of a driver says to it and hears from it |
//! | `keepalive` | whether a link is alive |
//! | `ports`, [`port`] | the far ends of streams: sockets, pipes, services being dialled |
//! | `ready` | which of many sources woke the task |
//! | [`paced`] | log lines that strangers can cause |
//! | `clock`, `memory` | time and memory as sessions want them |

pub mod body;
pub mod bridge;
pub mod byte_stream;
pub mod chunked;
mod clock;
pub mod datagrams;
pub mod dial;
pub mod driver;
pub mod frame;
pub mod framed_datagrams;
pub mod handle;
pub mod happy_eyeballs;
mod keepalive;
mod memory;
mod no_proxy;
pub mod paced;
pub mod pieces;
pub mod port;
mod ports;
pub mod proxy;
pub mod read_ahead;
mod ready;
pub mod response;
pub mod tls;
pub mod transport;
mod unacknowledged;
pub mod upgrade;
pub mod websocket;

pub use clock::Clock;
pub use driver::{Driver, DriverConfig, close_code};
pub use handle::{Event, Handle, LinkEnd, NewLink, NewStream, SessionEnd, Status};
pub use keepalive::KeepAlive;
pub use port::{Ended, Io};
pub use ports::{NoServices, Services};
pub use websocket::WebSocket;

/// The WebSocket subprotocol of a session.
pub const SUBPROTOCOL: &str = "umbilical.v1";
