//! A TCP socket for smol whose `close` is the half-close of TCP (that of `Async` only flushes), without Nagle's delay.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};

pub(crate) struct Socket(Async<TcpStream>);

impl Socket {
    pub(crate) async fn connect(to: SocketAddr) -> io::Result<Socket> {
        Socket::over(Async::<TcpStream>::connect(to).await?)
    }

    pub(crate) fn over(connected: Async<TcpStream>) -> io::Result<Socket> {
        connected.get_ref().set_nodelay(true)?;
        Ok(Socket(connected))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().shutdown(Shutdown::Write))
    }
}
