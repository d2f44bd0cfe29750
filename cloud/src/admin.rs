//! How relay and gateway are doing, over HTTP on loopback: for people, scripts and health checks.
//!
//! ```text
//! GET /healthz    200 "ok" while the process serves
//! GET /readyz     200 "ready" while new connections are welcome, else 503 and why not
//! GET /status     200 {"devices": [..], "exposures": [..]}
//! GET /metrics    200 OpenMetrics text, for Prometheus and its likes (docs/operations.md)
//! ```
//!
//! Whoever can reach the port can read it, and change nothing: it belongs on loopback, or where only monitoring and load
//! balancers reach it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::{debug, info, warn};
use serde_json::{Value, json};
use smol::io::AsyncWriteExt;
use smol::lock::Semaphore;
use smol::{Async, Executor, Task, Timer};
use umbilical_link::transport::Transport;

use crate::deadline;
use crate::gateway::{DeviceStatus, ExposureStatus, Gateway};
use crate::http::{RequestHead, discard};
use crate::metrics;
use crate::watched::{Readiness, Watched};

/// How long a request may take, from the connection to the end of the answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Requests at once; more wait for their turn.
const AT_ONCE: usize = 64;

/// What is told to whoever asks for anything else.
const PATHS: &str = "there are /healthz, /readyz, /status and /metrics";

/// Pause after the system refused to hand out a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A running admin port. Dropped, it is closed.
pub struct Admin {
    configured: SocketAddr,
    address: SocketAddr,
    _serving: Task<()>,
}

impl Admin {
    /// Listens at `address` and answers on `executor`.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn start(
        executor: &Arc<Executor<'static>>,
        address: SocketAddr,
        watched: Arc<Watched>,
    ) -> Result<Self, AdminError> {
        let bound = Async::<TcpListener>::bind(address).and_then(|listener| {
            let address = listener.get_ref().local_addr()?;
            Ok((listener, address))
        });
        let (listener, bound) = bound.map_err(|source| AdminError { address, source })?;
        info!("status at http://{bound}/status");
        let task = serve(Arc::clone(executor), listener, watched);
        Ok(Self { configured: address, address: bound, _serving: executor.spawn(task) })
    }

    /// Where it was asked to listen.
    #[must_use]
    pub fn configured(&self) -> SocketAddr {
        self.configured
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(executor: Arc<Executor<'static>>, listener: Async<TcpListener>, watched: Arc<Watched>) {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let permit = at_once.acquire_arc().await;
        match listener.accept().await {
            Ok((socket, peer)) => {
                let watched = Arc::clone(&watched);
                let task = async move {
                    let _permit = permit;
                    if let Some(Err(error)) = deadline::within(WITHIN, answer(socket, &watched)).await {
                        debug!("{peer}: {error}");
                    }
                };
                executor.spawn(task).detach();
            }
            Err(error) => {
                warn!("the admin port cannot take connections: {error}");
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(socket: Async<TcpStream>, watched: &Watched) -> io::Result<()> {
    let mut socket = Transport::Plain(socket);
    let head = match RequestHead::read(&mut socket).await {
        Ok((head, _)) => head,
        Err(error) => {
            if let Some(response) = error.response() {
                response.finish(&mut socket).await?;
            }
            return Ok(());
        }
    };
    let path = head.target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (head.method.as_str(), path) {
        ("GET" | "HEAD", "/healthz") => ("200 OK", "text/plain", "ok\n".to_owned()),
        ("GET" | "HEAD", "/readyz") => {
            let readiness = watched.readiness();
            let status = if readiness == Readiness::Ready { "200 OK" } else { "503 Service Unavailable" };
            (status, "text/plain", format!("{readiness}\n"))
        }
        ("GET" | "HEAD", "/status") => {
            let gateway = watched.parts().gateway;
            ("200 OK", "application/json", format!("{}\n", status(gateway.as_deref()).await))
        }
        ("GET" | "HEAD", "/metrics") => ("200 OK", metrics::CONTENT_TYPE, metrics::page(watched).await),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", format!("{PATHS}\n")),
        _ => ("405 Method Not Allowed", "text/plain", "only GET and HEAD are answered\n".to_owned()),
    };
    let date = httpdate::fmt_http_date(SystemTime::now());
    let length = body.len();
    let head_only = head.method == "HEAD";
    let text = format!(
        "HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{}",
        if head_only { "" } else { &body }
    );
    socket.write_all(text.as_bytes()).await?;
    socket.close().await?;
    discard(&mut socket).await
}

async fn status(gateway: Option<&Gateway>) -> Value {
    let (devices, exposures) = match gateway {
        Some(gateway) => (gateway.devices().await, gateway.exposures()),
        None => (Vec::new(), Vec::new()),
    };
    json!({
        "devices": devices.iter().map(device).collect::<Vec<_>>(),
        "exposures": exposures.iter().map(exposure).collect::<Vec<_>>(),
    })
}

fn device(device: &DeviceStatus) -> Value {
    json!({
        "name": device.name,
        "link": if device.linked { "up" } else { "down" },
        "round_trip_ms": device.round_trip_us.map(|micros| f64::from(micros) / 1000.0),
        "streams": device.streams,
        "bytes_in": device.bytes_in,
        "bytes_out": device.bytes_out,
    })
}

fn exposure(exposure: &ExposureStatus) -> Value {
    json!({
        "listen": exposure.listen.to_string(),
        "device": exposure.device,
        "service": exposure.service,
        "open": exposure.open,
        "accepted": exposure.accepted,
        "turned_away": exposure.turned_away,
        "failed": exposure.failed,
        "dropped": exposure.dropped,
        "bytes_in": exposure.bytes_in,
        "bytes_out": exposure.bytes_out,
    })
}

/// An admin port that cannot be had.
#[derive(Debug)]
pub struct AdminError {
    address: SocketAddr,
    source: io::Error,
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the admin port cannot listen on {}: {}; choose another one", self.address, self.source)
    }
}

impl std::error::Error for AdminError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
