//! The cloud side of Umbilical: a relay that speaks Azure Relay Hybrid Connections, and the gateway that owns the
//! public ports.
//!
//! In the order a byte meets them:
//!
//! - [`config`]: `cloud.toml`, checked
//! - [`supervisor`]: what runs, from the start to the last goodbye
//! - [`http`]: request heads, handshakes, answers
//! - [`relay`]: where listeners wait and senders are joined with them
//! - [`gateway`]: public ports that lead to services of devices
//! - [`admin`]: how it is all doing, over HTTP
//! - [`log`], [`signals`]: lines on stderr; requests of operator and service manager
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
mod deadline;
pub mod gateway;
pub mod http;
pub mod log;
pub mod relay;
pub mod signals;
pub mod supervisor;
