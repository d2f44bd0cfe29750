//! Waiting, but not for ever.

use std::future::Future;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::or;

/// Runs `future` until `at`; `None` if it did not finish by then (it is dropped).
pub(crate) async fn until<F: Future>(at: Instant, future: F) -> Option<F::Output> {
    or(async { Some(future.await) }, async {
        Timer::at(at).await;
        None
    })
    .await
}

/// Runs `future` for at most `duration`; `None` if it did not finish by then (it is dropped).
pub(crate) async fn within<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    or(async { Some(future.await) }, async {
        Timer::after(duration).await;
        None
    })
    .await
}
