//! The cloud side of Umbilical: a relay that speaks Azure Relay Hybrid Connections, and the gateway that owns the
//! public ports.
//!
//! In the order a byte meets them:
//!
//! - [`config`]: `cloud.toml`, checked
//! - [`connection_file`]: a connection string, which is a secret as well
//! - [`supervisor`]: what runs, from the start to the last goodbye
//! - [`http`]: request heads, handshakes, answers
//! - [`relay`]: where listeners wait and senders are joined with them
//! - [`gateway`]: public ports that lead to services of devices
//! - [`connect`], [`stdio`]: one stream for a program that has a pipe and no port
//! - [`admin`], [`watched`], `metrics`: how it is all doing, over HTTP; whether new connections are welcome; figures for
//!   Prometheus
//! - `listening`, [`handed`]: sockets that many connect to, made here or by the service manager
//! - [`log`], [`signals`], [`service_manager`]: lines on stderr; requests of operator and service manager; what the latter is told

pub mod admin;
pub mod config;
pub mod connect;
pub mod connection_file;
mod deadline;
pub mod gateway;
pub mod handed;
pub mod http;
mod listening;
pub mod log;
mod metrics;
mod pinned;
pub mod relay;
pub mod service_manager;
pub mod signals;
pub mod stdio;
pub mod supervisor;
pub mod threads;
pub mod watched;
