//! Saturating streams, and what arrived of each at its far end within the measured window.
//!
//! Prints `start` when the window opens and `stop` when it closes (the harness reads the tunnel's CPU time at both), then
//! `{"seconds": S, "bytes": [per stream], "samples": [[unix time, bytes so far], ...]}`.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::arguments::{Arguments, Direction};
use crate::flow;

/// Between two samples of the total.
const SAMPLE: Duration = Duration::from_millis(100);

pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    let run = std::process::id();
    let sockets = open(arguments, run)?;
    let arrived: Arc<[AtomicU64]> = sockets.iter().map(|_| AtomicU64::new(0)).collect();
    let mut far_end = match arguments.direction {
        Direction::DeviceToCloud => None,
        Direction::CloudToDevice => Some(FarEnd::ask_at(arguments, run)?),
    };
    let source = flow::source_file()?;
    for (index, socket) in sockets.into_iter().enumerate() {
        let file = match arguments.direction {
            Direction::DeviceToCloud => None,
            // Reopened, because clones of a descriptor share one file position.
            Direction::CloudToDevice => {
                Some(std::fs::File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&source)))?)
            }
        };
        let arrived = Arc::clone(&arrived);
        thread::spawn(move || match file {
            None => flow::discard(&socket, &arrived[index]),
            Some(file) => flow::pour(file, &socket),
        });
    }
    let mut snapshot = || match &mut far_end {
        None => Ok(arrived.iter().map(|count| count.load(Ordering::Relaxed)).collect()),
        Some(far_end) => far_end.counts(arrived.len()),
    };

    thread::sleep(arguments.warm);
    crate::say("start")?;
    let (opened, before): (_, Vec<u64>) = (Instant::now(), snapshot()?);
    let mut samples = Vec::new();
    let mut after = before.clone();
    while opened.elapsed() < arguments.window {
        thread::sleep(SAMPLE.min(arguments.window.saturating_sub(opened.elapsed())));
        after = snapshot()?;
        samples.push((unix_time(), after.iter().sum::<u64>() - before.iter().sum::<u64>()));
    }
    let seconds = opened.elapsed().as_secs_f64();
    crate::say("stop")?;

    let bytes: Vec<String> = after.iter().zip(&before).map(|(after, before)| (after - before).to_string()).collect();
    let samples: Vec<String> = samples.iter().map(|(at, total)| format!("[{at:.4}, {total}]")).collect();
    crate::say(&format!(
        r#"{{"seconds": {seconds:.6}, "bytes": [{}], "samples": [{}]}}"#,
        bytes.join(", "),
        samples.join(", ")
    ))?;
    // The streams' threads are still at work; ending the process closes every socket.
    std::process::exit(0)
}

/// Opens every stream and tells the service what it is, before the first byte of bulk flows.
fn open(arguments: &Arguments, run: u32) -> io::Result<Vec<TcpStream>> {
    let mut sockets = Vec::new();
    for index in 0..arguments.streams {
        let mut socket = TcpStream::connect_timeout(&arguments.to()?, arguments.patience)?;
        match arguments.direction {
            Direction::DeviceToCloud => socket.write_all(b"S")?,
            Direction::CloudToDevice => {
                let index = u32::try_from(index).map_err(io::Error::other)?;
                let mut head = vec![b'K'];
                head.extend_from_slice(&run.to_be_bytes());
                head.extend_from_slice(&index.to_be_bytes());
                socket.write_all(&head)?;
            }
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// The target's own count of what its sinks took.
struct FarEnd {
    ask: UnixStream,
    answers: BufReader<UnixStream>,
    run: u32,
}

impl FarEnd {
    fn ask_at(arguments: &Arguments, run: u32) -> io::Result<FarEnd> {
        let path = arguments.control.as_ref().ok_or_else(|| io::Error::other("--control PATH is needed"))?;
        let ask = UnixStream::connect(path)?;
        Ok(FarEnd { answers: BufReader::new(ask.try_clone()?), ask, run })
    }

    /// Bytes per stream; a stream that the target has not seen yet has none.
    fn counts(&mut self, streams: usize) -> io::Result<Vec<u64>> {
        writeln!(self.ask, "{}", self.run)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let mut counts = vec![0; streams];
        for word in line.split_whitespace() {
            let (index, bytes) = word.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            let index: usize = index.parse().map_err(io::Error::other)?;
            if let Some(count) = counts.get_mut(index) {
                *count = bytes.parse().map_err(io::Error::other)?;
            }
        }
        Ok(counts)
    }
}

pub(crate) fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
