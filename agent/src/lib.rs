//! The device side of Umbilical: one connection out, every configured port reachable.
//!
//! The map, in the order in which things happen:
//!
//! | file | owns |
//! | --- | --- |
//! | [`config`] | `agent.toml`, checked |
//! | [`supervisor`] | start, reload, stop; who is connected to whom |
//! | [`memory`] | the budget that is printed at start |
//! | [`relays`], [`presence`] | at which relays the device is listening, reserves among them |
//! | [`listener`] | keeping the control channel; trying again |
//! | [`control`] | one control channel |
//! | [`silence`], [`backoff`] | when a channel is dead, when to try again; pure |
//! | [`renewal`] | when its token is replaced |
//! | [`credentials`], [`identity`], [`clock`] | who this device is, and what time it is |
//! | [`rendezvous`] | answering a sender |
//! | [`foreign`] | senders that are no gateway: bridged to a service |
//! | [`azbridge`] | the words in which azbridge's senders name a service |
//! | [`http`] | answering an HTTP request from the device's own service |
//! | [`guests`] | who may finish when the agent stops |
//! | [`health`] | how it stands with its relays |
//! | [`service_manager`], [`status`], [`report`] | what systemd, whoever asks here, and the gateway are told |
//! | [`session`] | which link belongs to which session |
//! | [`serial`] | a serial line as the far end of a stream |
//! | [`services`] | the allow-list; dialling local ports |
//! | `udp` | a UDP service as the far end of a stream |
//! | [`log`], [`sys`], [`stop`] | one line per event; the kernel; the wish to end |
//!
//! What moves bytes is `umbilical_link`; what a session is, `umbilical_mux`. Everything runs on one thread; a second one
//! exists while a name is resolved or a token command runs.

pub mod azbridge;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod control;
pub mod credentials;
pub mod foreign;
pub mod guests;
pub mod health;
pub mod http;
pub mod identity;
pub mod listener;
pub mod log;
pub mod memory;
pub mod presence;
pub mod relays;
pub mod rendezvous;
pub mod renewal;
pub mod report;
pub mod serial;
pub mod service_manager;
pub mod services;
pub mod session;
pub mod silence;
pub mod status;
pub mod stop;
pub mod supervisor;
pub mod sys;
mod udp;
