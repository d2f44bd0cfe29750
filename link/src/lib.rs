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
//! | [`upgrade`] | the client's side of the WebSocket opening handshake |
//! | [`response`] | the bounded head of an HTTP response, for `proxy` and `upgrade` |
//! | [`frame`] | WebSocket frame headers, masks, close payloads |

pub mod dial;
pub mod frame;
pub mod happy_eyeballs;
mod no_proxy;
pub mod proxy;
pub mod response;
pub mod tls;
pub mod transport;
pub mod upgrade;
