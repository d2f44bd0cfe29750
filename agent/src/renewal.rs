//! When the token of an open control channel is replaced: in good time before its end, and whenever its file changes.

use std::time::Duration;

use log::warn;
use smol::Timer;

use crate::{
    clock::Clock,
    credentials::{Credentials, Token},
    sys::boot_time,
};

/// Waits until `current` is to be replaced and there is another token, however long that takes; what stands in the way
/// is logged. `look_again` is the time between attempts, and between looks at a token file.
pub async fn replacement(credentials: &Credentials, clock: &Clock, current: &Token, look_again: Duration) -> Token {
    let mut seen = current.stamp().cloned();
    let mut due = credentials.replace_in(current, clock.token_time()).map(|left| boot_time() + left);
    loop {
        let look = seen.is_some().then(|| boot_time() + look_again);
        match look.into_iter().chain(due).min() {
            Some(at) => _ = Timer::after(at.saturating_sub(boot_time())).await,
            None => smol::future::pending().await,
        }
        let stamp = credentials.file_stamp();
        let (is_due, has_changed) = (due.is_some_and(|due| due <= boot_time()), stamp != seen);
        if !is_due && !has_changed {
            continue;
        }
        seen = stamp;
        match credentials.token(clock.token_time()).await {
            Ok(fresh) if fresh.text() != current.text() => return fresh,
            Ok(_) if is_due => warn!("the {} ends soon and there is no other yet", credentials.origin()),
            Ok(_) => {}
            Err(error) => warn!("can't renew the token: {error}"),
        }
        if is_due {
            due = Some(boot_time() + look_again);
        }
    }
}
