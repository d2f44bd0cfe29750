//! What the tests of the agent share: a relay that does what a script says, logs that can be looked at, files that go away.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

pub mod files;
pub mod logs;
pub mod program;
pub mod relay;
pub mod service;
pub mod world;

use std::{future::Future, time::Duration};

use smol::{Timer, future};

/// Longer than anything takes that works; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The result of `work`, which must not take forever.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("waited in vain for {what}; the log:\n{}", logs::all());
    };
    future::or(work, late).await
}
