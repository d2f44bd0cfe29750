//! The device side of Umbilical: one connection out, every configured port reachable.

pub mod backoff;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod keepalive;
pub mod log;
pub mod sys;
