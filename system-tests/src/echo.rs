//! Services and clients for many streams at once, all in this process.
//!
//! What a client sends is pseudo-random, from a seed of its own: what comes back is checked against the same generator,
//! so nobody keeps a copy, and a byte of another stream, another place or another run is noticed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use fastrand::Rng;
use smol::{
    Async, Executor,
    future::{self, try_zip},
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Socket, Type};

const CHUNK: usize = 16 * 1024;
const QUEUE: i32 = 2_048;

/// A service that sends back what it gets.
pub fn start() -> SocketAddrV4 {
    serve(|stream| async move {
        let copied = smol::io::copy(stream.clone(), stream.clone()).await;
        // As a polite server does: the end of the input is the end of the output.
        let closed = stream.shutdown(std::net::Shutdown::Write);
        copied.map(drop).and(closed)
    })
}

/// A service that takes connections and never reads a byte. Returns also how many it holds.
pub fn start_deaf() -> (SocketAddrV4, Arc<AtomicUsize>) {
    let held = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&held);
    let address = serve(move |stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async move {
            future::pending::<()>().await;
            drop(stream);
            Ok(())
        }
    });
    (address, held)
}

fn serve<F>(mut handle: impl FnMut(TcpStream) -> F + Send + 'static) -> SocketAddrV4
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let (listener, address) = listen().expect("a loopback port");
    thread::spawn(move || {
        let executor = Executor::new();
        smol::block_on(executor.run(async {
            // It ends with the test process.
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    executor.spawn(handle(stream)).detach();
                }
            }
        }))
    });
    address
}

/// A listener whose queue holds a thousand connections at once; the standard library's holds 128, and drops what comes above.
fn listen() -> io::Result<(TcpListener, SocketAddrV4)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(QUEUE)?;
    let Some(SocketAddr::V4(address)) = socket.local_addr()?.as_socket() else { unreachable!("bound to IPv4 above") };
    Ok((Async::new(std::net::TcpListener::from(socket))?.into(), address))
}

/// Sends `length` bytes grown from `seed`, ends its side, and checks that they all, and nothing else, come back.
///
/// # Errors
/// The connection fails, or what comes back differs: the message says from where.
pub async fn exchange(address: impl Into<SocketAddr>, seed: u64, length: usize) -> io::Result<()> {
    let stream = TcpStream::connect(address.into()).await?;
    let (mut reader, mut writer) = (stream.clone(), stream.clone());
    let send = async {
        let (mut rng, mut chunk, mut left) = (Rng::with_seed(seed), [0; CHUNK], length);
        while left > 0 {
            rng.fill(&mut chunk);
            let part = left.min(CHUNK);
            writer.write_all(&chunk[..part]).await?;
            left -= part;
        }
        stream.shutdown(std::net::Shutdown::Write)
    };
    let check = async {
        let (mut rng, mut expected, mut chunk, mut seen) = (Rng::with_seed(seed), [0; CHUNK], [0; CHUNK], 0);
        while seen < length {
            rng.fill(&mut expected);
            let part = (length - seen).min(CHUNK);
            reader.read_exact(&mut chunk[..part]).await.map_err(|error| differs(seed, seen, &error.to_string()))?;
            if chunk[..part] != expected[..part] {
                let at = chunk.iter().zip(&expected).take_while(|(came, sent)| came == sent).count();
                return Err(differs(seed, seen + at, "another byte came back"));
            }
            seen += part;
        }
        match reader.read(&mut chunk).await {
            Ok(0) => Ok(()),
            Ok(more) => Err(differs(seed, seen, &format!("{more} bytes more than were sent"))),
            Err(error) => Err(differs(seed, seen, &format!("no clean end: {error}"))),
        }
    };
    try_zip(send, check).await.map(drop)
}

fn differs(seed: u64, at: usize, how: &str) -> io::Error {
    io::Error::other(format!("stream {seed}, byte {at}: {how}"))
}

/// Sends until nobody takes more, and never reads. Returns the bytes that were taken when it gave up; keep the stream to hold it open.
///
/// # Errors
/// The connection fails.
pub async fn flood(address: impl Into<SocketAddr>, until: std::time::Duration) -> io::Result<(TcpStream, u64)> {
    let mut stream = TcpStream::connect(address.into()).await?;
    let (chunk, mut sent) = ([0x55; CHUNK], 0);
    loop {
        let write = async { Some(stream.write(&chunk).await) };
        let give_up = async {
            smol::Timer::after(until).await;
            None
        };
        match future::or(write, give_up).await {
            Some(Ok(length)) => sent += length as u64,
            Some(Err(error)) => return Err(error),
            None => return Ok((stream, sent)),
        }
    }
}
