//! Signals as requests to the cloud side.

use std::io;

use async_signal::{Signal, Signals};
use smol::stream::StreamExt;

/// What an operator or the service manager asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: finish; a second time: at once.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The requests of this process, in the order they come. Only one value may exist at a time.
#[derive(Debug)]
pub struct Requests {
    signals: Signals,
}

impl Requests {
    /// Takes the signals over; from here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// The kernel's, when it has no more file descriptors.
    pub fn new() -> io::Result<Requests> {
        Ok(Requests { signals: Signals::new([Signal::Term, Signal::Int, Signal::Hup])? })
    }

    /// Waits for the next request.
    ///
    /// # Errors
    /// The kernel's; signals can't be received any more.
    pub async fn next(&mut self) -> io::Result<Request> {
        match self.signals.next().await {
            Some(Ok(Signal::Hup)) => Ok(Request::Reload),
            Some(Ok(_)) => Ok(Request::Stop),
            Some(Err(error)) => Err(error),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
