//! The device's service. The first byte of a connection chooses:
//!
//! | first byte | the connection is |
//! | --- | --- |
//! | `E` | an echo |
//! | `S` | a source: bytes without end |
//! | `K` | a sink; 8 bytes follow, big-endian: the run (u32) and the stream's index in it (u32), under which it counts |
//!
//! What sinks took is told out of band, on a Unix socket, so that counting costs the tunnel nothing: a line with the
//! run's number is answered by one line, the bytes of each index with spaces between.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::arguments::Arguments;
use crate::flow;

/// Connections served at once. Each has a thread that waits in `accept`: nothing is spawned while a connection is timed.
const PLACES: usize = 1200;
/// Stack of such a thread, bytes.
const STACK: usize = 128 << 10;
/// Largest piece echoed at once, bytes.
const ECHO: usize = 64 << 10;

type Counts = Arc<Mutex<BTreeMap<(u32, u32), Arc<AtomicU64>>>>;

pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    let counts = Counts::default();
    if let Some(path) = &arguments.control {
        let control = UnixListener::bind(path)?;
        let counts = Arc::clone(&counts);
        thread::spawn(move || {
            for asker in control.incoming().flatten() {
                let counts = Arc::clone(&counts);
                thread::spawn(move || tell(&counts, &asker));
            }
        });
    }
    let listener = listen(arguments)?;
    let source = Arc::new(flow::source_file()?);
    for _ in 0..PLACES {
        let (listener, counts, source) = (listener.try_clone()?, Arc::clone(&counts), Arc::clone(&source));
        thread::Builder::new().stack_size(STACK).spawn(move || {
            loop {
                // A connection that ends badly is the business of its client, which measures it.
                if let Ok((socket, _)) = listener.accept() {
                    let _ = serve(&socket, &counts, &source);
                }
            }
        })?;
    }
    crate::say(&listener.local_addr()?.port().to_string())?;
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

fn listen(arguments: &Arguments) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(arguments.listen), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&arguments.listen.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn serve(mut socket: &TcpStream, counts: &Counts, source: &File) -> io::Result<()> {
    let mut kind = [0];
    socket.read_exact(&mut kind)?;
    match &kind {
        b"E" => {
            // Not for a source: it would send each piece of a page on its own.
            socket.set_nodelay(true)?;
            let mut piece = vec![0; ECHO];
            loop {
                match socket.read(&mut piece)? {
                    0 => return Ok(()),
                    length => socket.write_all(&piece[..length])?,
                }
            }
        }
        // Reopened, because clones of a descriptor share one file position.
        b"S" => flow::pour(File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(source)))?, socket),
        b"K" => {
            let mut run_and_index = [0; 8];
            socket.read_exact(&mut run_and_index)?;
            let [a, b, c, d, index @ ..] = run_and_index;
            let key = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(index));
            let count = {
                let mut counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                Arc::clone(counts.entry(key).or_default())
            };
            flow::discard(socket, &count)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn tell(counts: &Counts, mut asker: &UnixStream) {
    for line in BufReader::new(asker).lines() {
        let Some(run) = line.ok().and_then(|line| line.parse::<u32>().ok()) else { return };
        let answer = {
            let counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let of_run = counts.range((run, 0)..=(run, u32::MAX));
            let bytes: Vec<String> =
                of_run.map(|((_, index), count)| format!("{index}:{}", count.load(Ordering::Relaxed))).collect();
            bytes.join(" ") + "\n"
        };
        if asker.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
