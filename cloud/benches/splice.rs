//! What joining two sockets costs, against what it must cost: the relay's splice beside a loop that copies bytes from
//! one TLS connection to another, in alternating rounds. Prints throughput and CPU time of the thread in the middle.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Executor, future};
use support::{TestRelay, certificate, config};
use umbilical_cloud::relay::Relay;
use umbilical_link::frame::{FrameHeader, MAX_HEADER_BYTES, Opcode};
use umbilical_link::tls;
use umbilical_link::transport::{Transport, prepare_socket};

const ROUNDS: usize = 5;
const BYTES: usize = 512 << 20;
/// A message and its header fill one TLS record.
const PAYLOAD: usize = 16 * 1024 - 8;

fn main() {
    // cargo test runs benches too, to see that they work
    let bytes = if std::env::args().any(|argument| argument == "--bench") { BYTES } else { BYTES / 256 };
    let relay = Middle::start(|executor| {
        let relay = Relay::start(executor, &config()).unwrap();
        let address = relay.addresses()[0];
        (Some(relay), address)
    });
    let copy = Middle::start(|executor| {
        let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.get_ref().local_addr().unwrap();
        executor.spawn(copy_pairs(Arc::clone(executor), listener)).detach();
        (None, address)
    });
    for round in 1..=ROUNDS {
        let (spliced, spliced_cpu) = relay.measure(bytes);
        let (copied, copied_cpu) = copy.measure(bytes);
        println!(
            "round {round}: splice {spliced:.0} MiB/s, {spliced_cpu:.2} CPU s/GiB; copy {copied:.0} MiB/s, \
             {copied_cpu:.2} CPU s/GiB; splice/copy {:.2}",
            spliced / copied
        );
    }
}

/// What is between the two clients, on a thread of its own.
struct Middle {
    relay: Option<TestRelay>,
    address: SocketAddr,
    thread: u64,
}

impl Middle {
    fn start(set_up: impl FnOnce(&Arc<Executor<'static>>) -> (Option<Relay>, SocketAddr) + Send + 'static) -> Self {
        let (told, tell) = mpsc::channel();
        thread::spawn(move || {
            let executor = Arc::new(Executor::new());
            let (relay, address) = set_up(&executor);
            let thread = fs::read_link("/proc/thread-self").unwrap();
            told.send((relay, address, thread.file_name().unwrap().to_str().unwrap().parse().unwrap())).unwrap();
            smol::block_on(executor.run(future::pending::<()>()));
        });
        let (relay, address, thread) = tell.recv().unwrap();
        let relay = relay.map(|relay| TestRelay { address, tls: true, relay });
        Self { relay, address, thread }
    }

    /// MiB/s, and CPU seconds of the middle per GiB.
    fn measure(&self, bytes: usize) -> (f64, f64) {
        smol::block_on(async {
            let (mut from, mut to) = match &self.relay {
                Some(relay) => {
                    let mut listener = relay.listen("device").await;
                    relay.join_raw(&mut listener, "device").await
                }
                None => (self.dial().await, self.dial().await),
            };
            let header_bytes = if self.relay.is_some() { 4 } else { 8 };
            let messages = bytes / PAYLOAD;
            let before = self.cpu();
            let start = Instant::now();
            let writing = thread::spawn(move || {
                let mut header = [0; MAX_HEADER_BYTES];
                let n = FrameHeader::whole(Opcode::Binary, Some(*b"mask"), PAYLOAD as u64).encode(&mut header);
                let message = [&header[..n], &[7; PAYLOAD]].concat();
                smol::block_on(async {
                    for _ in 0..messages {
                        from.write_all(&message).await.unwrap();
                    }
                    from.flush().await.unwrap();
                });
                from
            });
            let mut left = messages * (PAYLOAD + header_bytes);
            let mut buf = vec![0; 64 * 1024];
            while left > 0 {
                left -= to.read(&mut buf).await.unwrap();
            }
            let (elapsed, cpu) = (start.elapsed(), self.cpu() - before);
            drop(writing.join().unwrap());
            let mib = bytes as f64 / f64::from(1 << 20);
            (mib / elapsed.as_secs_f64(), cpu.as_secs_f64() * 1024.0 / mib)
        })
    }

    async fn dial(&self) -> Transport {
        let socket = Async::<TcpStream>::connect(self.address).await.unwrap();
        tls::connect(&certificate().client, "localhost", socket).await.unwrap()
    }

    /// CPU time of the middle's thread, in nanoseconds of the scheduler's own count.
    fn cpu(&self) -> Duration {
        let counts = fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.thread)).unwrap();
        Duration::from_nanos(counts.split(' ').next().unwrap().parse().unwrap())
    }
}

async fn copy_pairs(executor: Arc<Executor<'static>>, listener: Async<TcpListener>) {
    loop {
        let (mut from, mut to) = (accept(&listener).await, accept(&listener).await);
        executor
            .spawn(async move {
                let mut buf = vec![0; 16 * 1024];
                while let Ok(n @ 1..) = from.read(&mut buf).await {
                    if to.write_all(&buf[..n]).await.is_err() || to.flush().await.is_err() {
                        break;
                    }
                }
            })
            .detach();
    }
}

async fn accept(listener: &Async<TcpListener>) -> Transport {
    let (socket, _) = listener.accept().await.unwrap();
    prepare_socket(&socket).unwrap();
    tls::accept(&certificate().server, socket).await.unwrap()
}
