//! The cloud side of Umbilical: a relay that speaks Azure Relay Hybrid Connections, and the gateway that owns the
//! public ports.
//!
//! In the order a byte meets them:
//!
//! - [`http`]: request heads, handshakes, answers
//! - [`relay`]: where listeners wait and senders are joined with them
#![forbid(unsafe_code)]

mod deadline;
pub mod http;
pub mod relay;
