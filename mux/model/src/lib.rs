//! How a session outlives its links, as a model small enough that a model checker sees every order of events: what
//! `docs/protocol.md` says of `Hello`, records, acknowledgements and the newest link, and nothing else.
//!
//! [stateright](https://www.stateright.rs) explores [`Resume`]: a few records each way, links that are cut and taken over at
//! any moment, sides that forget. `tests/explore.rs` looks at all of it, and plants each [`Bug`] once. The model is written in
//! Rust, and not in a language made for it, so that `tests/sessions.rs` can walk each of its paths with two real sessions
//! beside it: it says what the code does.
//!
//! | file | owns |
//! | --- | --- |
//! | `side` | one end: what it keeps, what it does with a `Hello` and a record |
//! | `link` | what is under way |
//! | `resume` | who may do what next, and what must hold |
#![forbid(unsafe_code)]

mod link;
mod resume;
mod side;

pub use link::{BACK, Link, Message, THERE};
pub use resume::{Action, Bounds, Bug, Resume, State};
pub use side::{AGENT, GATEWAY, Side};
