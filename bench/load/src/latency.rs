//! Latency as a user feels it: `ping` on one open connection, `connect` from nothing to the first byte back.
//!
//! Both print `{"samples": [[unix time, microseconds], ...], "failed": N}`. One message is under way at a time; the next
//! is sent `--pause` after the answer, so a stall is one long sample and not many.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::bulk::unix_time;

pub(crate) fn ping(arguments: &Arguments) -> io::Result<()> {
    let mut socket = TcpStream::connect_timeout(&arguments.to()?, arguments.patience)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(arguments.patience))?;
    let message = vec![b'x'; arguments.bytes];
    let mut answer = vec![0; arguments.bytes];
    // The first message opens the stream at the far end; that is what `connect` measures.
    socket.write_all(b"E")?;
    socket.write_all(&message)?;
    socket.read_exact(&mut answer)?;
    let mut samples = Samples::default();
    let began = Instant::now();
    while samples.taken.len() < arguments.count && began.elapsed() < arguments.window {
        thread::sleep(arguments.pause);
        let (at, sent) = (unix_time(), Instant::now());
        if socket.write_all(&message).and_then(|()| socket.read_exact(&mut answer)).is_err() {
            // An answer that never came counts as the time spent waiting for it.
            samples.failed += 1;
            samples.taken.push((at, sent.elapsed()));
            break;
        }
        samples.taken.push((at, sent.elapsed()));
    }
    samples.print()
}

pub(crate) fn connect(arguments: &Arguments) -> io::Result<()> {
    let mut samples = Samples::default();
    let began = Instant::now();
    while samples.taken.len() + samples.failed < arguments.count && began.elapsed() < arguments.window {
        thread::sleep(arguments.pause);
        let (at, started) = (unix_time(), Instant::now());
        match one_byte(arguments) {
            Ok(()) => samples.taken.push((at, started.elapsed())),
            Err(_) => samples.failed += 1,
        }
    }
    samples.print()
}

fn one_byte(arguments: &Arguments) -> io::Result<()> {
    let mut socket = TcpStream::connect_timeout(&arguments.to()?, arguments.patience)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(arguments.patience))?;
    socket.write_all(b"Ex")?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    if &answer == b"x" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[derive(Default)]
struct Samples {
    taken: Vec<(f64, Duration)>,
    failed: usize,
}

impl Samples {
    fn print(&self) -> io::Result<()> {
        let taken: Vec<String> =
            self.taken.iter().map(|(at, took)| format!("[{at:.4}, {:.1}]", took.as_secs_f64() * 1e6)).collect();
        crate::say(&format!(r#"{{"samples": [{}], "failed": {}}}"#, taken.join(", "), self.failed))
    }
}
