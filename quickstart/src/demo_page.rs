//! The page of the "device": host name, uptime, how often it was asked for.
//!
//! It listens on a loopback port that the system chooses. Nobody is told that port but the agent.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use smol::{
    Executor, Timer, future,
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::error::Error;

const MAX_REQUEST: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// A bound, not yet served page.
pub(crate) struct DemoPage {
    /// Where the device has it.
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

pub(crate) async fn bind() -> Result<DemoPage, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Error::Port)?;
    let address = listener.local_addr().map_err(Error::Port)?;
    Ok(DemoPage { address, listener })
}

impl DemoPage {
    /// Serves for ever.
    pub(crate) async fn serve(&self) -> Result<(), Error> {
        let executor = Executor::new();
        let accept = async {
            let mut requests = 0_u64;
            loop {
                let stream = self.listener.accept().await.map_err(Error::Port)?.0;
                requests += 1;
                executor.spawn(answer_in_time(stream, requests)).detach();
            }
        };
        executor.run(accept).await
    }
}

async fn answer_in_time(stream: TcpStream, requests: u64) -> io::Result<()> {
    future::or(answer(stream, requests), async {
        Timer::after(PATIENCE).await;
        Err(io::ErrorKind::TimedOut.into())
    })
    .await
}

async fn answer(mut stream: TcpStream, requests: u64) -> io::Result<()> {
    let mut request = [0; MAX_REQUEST];
    let mut length = 0;
    while !request[..length].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[length..]).await? {
            0 => return Ok(()),
            more => length += more,
        }
    }
    let (status, body) = if request.starts_with(b"GET / ") || request.starts_with(b"HEAD / ") {
        ("200 OK", page(requests))
    } else {
        ("404 Not Found", "There is only one page here: /\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if !request.starts_with(b"HEAD") {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.close().await
}

fn page(requests: u64) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // A host name can't hold markup, but nothing here depends on that.
    let host = host.trim().replace('&', "&amp;").replace('<', "&lt;");
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or_default();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    format!(
        "<!doctype html>
<meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">
<title>{host}</title>
<style>body {{ font: 1.1rem/1.6 system-ui, sans-serif; margin: 4rem auto; max-width: 34rem }} dt {{ color: #666 }}</style>
<h1>{host}</h1>
<p>This page is served by a device that nobody can dial. It came through Umbilical.</p>
<dl>
<dt>up for</dt><dd>{days} d {hours} h {minutes} min</dd>
<dt>requests so far</dt><dd>{requests}</dd>
</dl>
"
    )
}
