//! Which of a name's addresses answers first (RFC 8305).
//!
//! Owns: the order of attempts, their stagger, the race. Leaves to others: resolving, the deadline for all of it.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use smol::{Async, Timer, future};

/// How long an attempt runs alone before the next one starts beside it (RFC 8305, section 5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The most addresses that are tried: what a resolver answers must not decide how many sockets a device opens.
pub const MAX_ATTEMPTS: usize = 8;

/// One address that did not answer, and why.
pub type FailedAttempt = (SocketAddr, io::Error);

/// Connects to the first of `addresses` that answers. They are tried in the given order with the families taking turns
/// (see [`interleave`]); the next starts when one has failed, or has been silent for `delay`. The losers are cancelled.
///
/// # Errors
/// All failed attempts, in the order they failed; empty if there was no address.
pub async fn connect(addresses: &[SocketAddr], delay: Duration) -> Result<Async<TcpStream>, Vec<FailedAttempt>> {
    let mut waiting = interleave(addresses).into_iter().take(MAX_ATTEMPTS).peekable();
    let mut running: Vec<(SocketAddr, Attempt)> = Vec::new();
    let mut failed = Vec::new();
    loop {
        match waiting.next() {
            Some(address) => running.push((address, Box::pin(Async::<TcpStream>::connect(address)))),
            None if running.is_empty() => return Err(failed),
            None => {}
        }
        let more = waiting.peek().is_some();
        let turn = async {
            if more {
                Timer::after(delay).await;
                None
            } else {
                pending().await
            }
        };
        match future::or(async { Some(first_outcome(&mut running).await) }, turn).await {
            Some((_, Ok(socket))) => return Ok(socket),
            Some((address, Err(error))) => failed.push((address, error)),
            None => {}
        }
    }
}

/// The order of RFC 8305, section 4: the resolver's, but with the families taking turns, each address once.
pub fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (Vec<_>, Vec<_>) =
        addresses.iter().rev().copied().partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = Vec::with_capacity(addresses.len());
    while let Some(address) = preferred.pop().or_else(|| other.pop()) {
        if !order.contains(&address) {
            order.push(address);
            std::mem::swap(&mut preferred, &mut other);
        }
    }
    order
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<Async<TcpStream>>> + Send>>;

/// Removes and returns the first attempt that is done. Never ready while there is none.
async fn first_outcome(running: &mut Vec<(SocketAddr, Attempt)>) -> (SocketAddr, io::Result<Async<TcpStream>>) {
    poll_fn(|cx| {
        for at in 0..running.len() {
            if let Poll::Ready(outcome) = running[at].1.as_mut().poll(cx) {
                return Poll::Ready((running.remove(at).0, outcome));
            }
        }
        Poll::Pending
    })
    .await
}
