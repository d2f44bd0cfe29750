//! What the machine can do at best with this TLS library and this runtime: two processes that copy bytes, TCP in, one TLS
//! connection, TCP out. No sessions, no frames, no credit: every tunnel that does something costs more than this.
//!
//!     umbilical-bench-limit cloud  --public ADDR:PORT --link ADDR:PORT --cert FILE --key FILE
//!     umbilical-bench-limit device --link ADDR:PORT --ca FILE --target ADDR:PORT
//!
//! The device dials one TLS connection in advance. A public connection takes it, its bytes and the half-close of either
//! side are copied as they come (`copy.rs`), and the device dials the next one for the next connection.

mod arguments;
mod copy;
mod socket;
mod tls;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use smol::{Async, LocalExecutor, Timer};

use arguments::{Arguments, Side};
use socket::Socket;

fn main() -> ExitCode {
    let done = Arguments::from_command_line().map_err(io::Error::other).and_then(|arguments| match arguments.side {
        Side::Cloud => cloud(&arguments),
        Side::Device => device(&arguments),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "umbilical-bench-limit: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes public connections one after the other and gives each a TLS connection of its own.
fn cloud(arguments: &Arguments) -> io::Result<()> {
    let acceptor = tls::acceptor(arguments.file("cert")?, arguments.file("key")?)?;
    let links = Async::<TcpListener>::bind(arguments.address("link")?)?;
    let public = Async::<TcpListener>::bind(arguments.address("public")?)?;
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        loop {
            let (socket, _) = links.accept().await?;
            // Whoever failed the handshake is gone; the device dials again.
            let Ok(link) = acceptor.accept(Socket::over(socket)?).await else { continue };
            let (user, _) = public.accept().await?;
            executor.spawn(copy::both_ways(Socket::over(user)?, link)).detach();
        }
    }))
}

/// Keeps one TLS connection ready, and dials the target when the first byte comes through it.
fn device(arguments: &Arguments) -> io::Result<()> {
    let connector = tls::connector(arguments.file("ca")?)?;
    let (link_to, target) = (arguments.address("link")?, arguments.address("target")?);
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        loop {
            match ready_link(&connector, link_to).await {
                Ok((link, first)) => executor.spawn(serve(target, link, first)).detach(),
                // The cloud side is not there yet, or closed an unused link.
                Err(_) => drop(Timer::after(Duration::from_millis(100)).await),
            }
        }
    }))
}

/// A link and the first bytes of the connection that took it.
async fn ready_link(connector: &tls::Connector, to: SocketAddr) -> io::Result<(tls::DeviceLink, Vec<u8>)> {
    let mut link = connector.connect(tls::server_name(to), Socket::connect(to).await?).await?;
    let mut first = vec![0; 1024];
    let length = smol::io::AsyncReadExt::read(&mut link, &mut first).await?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    first.truncate(length);
    Ok((link, first))
}

async fn serve(target: SocketAddr, link: tls::DeviceLink, first: Vec<u8>) -> io::Result<()> {
    let mut service = Socket::connect(target).await?;
    smol::io::AsyncWriteExt::write_all(&mut service, &first).await?;
    copy::both_ways(service, link).await
}
