//! Two sessions on virtual time: what the tests of this crate are written with.
//!
//! | file | owns |
//! | --- | --- |
//! | `pair` | two hosts, the links between them, and the clock |
//! | `host` | one end: a session with its ports |
//! | `link` | one simulated link: latency, rate, jitter, stall, cut |
//! | `ports` | ports in memory, each byte checked against a pattern |
//! | `audit` | a second opinion on credit and memory, from the frames on the wire alone |
//! | `invariant` | what must hold, by name |
//! | `hostile` | frames and messages that no session would say |
//! | `storage` | memory for sessions |
//! | `random` | numbers from a seed |
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of this")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of the tests are small")]

pub mod audit;
pub mod host;
pub mod hostile;
pub mod invariant;
pub mod link;
pub mod pair;
pub mod ports;
pub mod random;
pub mod storage;
