//! Promise: a thousand streams at once on one link, each right to the byte, while streams that never read hold up nobody
//! and cost no more memory than the agent said at its start.

use std::{sync::atomic::Ordering, time::Duration};

use smol::{Executor, Timer, future, io::AsyncWriteExt, net::TcpStream};
use umbilical_system_tests::{
    deployment::{Setup, Topology},
    echo, limits,
    tunnel::Tunnel,
};

const STREAMS: u64 = 1_000;
const LENGTH: usize = 1 << 20;
/// Streams whose client never reads what comes back, and as many whose service never reads what is sent.
const DEAF: usize = 5;
const WITHIN: Duration = Duration::from_secs(180);

#[test]
fn a_thousand_streams_of_a_mebibyte_beside_ten_that_never_read() {
    limits::raise_open_files(8_192);
    let (deaf_service, held) = echo::start_deaf();
    let setup = Setup::new(Topology::Embedded)
        .service("echo", echo::start())
        .service("deaf", deaf_service)
        .memory("sessions = 1\nstreams = 1024\nreceive = \"8M\"\nreplay = \"1M\"");
    let tunnel = Tunnel::start(setup);
    let budget = tunnel.memory_budget_bytes();

    let executor = Executor::new();
    smol::block_on(executor.run(async {
        // They come first: each sends until nobody takes a byte any more, and stays.
        let floods: Vec<_> = ["echo", "deaf"]
            .iter()
            .flat_map(|service| [*service; DEAF])
            .map(|service| executor.spawn(echo::flood(tunnel.exposure(service), Duration::from_secs(1))))
            .collect();
        let mut deaf: Vec<TcpStream> = Vec::new();
        for flood in floods {
            let (stream, sent) = flood.await.expect("a stream that nobody reads stays open");
            assert!(sent > 0, "a stream that nobody reads took no byte at all");
            deaf.push(stream);
        }
        assert_eq!(held.load(Ordering::Relaxed), DEAF);

        let exchanges: Vec<_> =
            (0..STREAMS).map(|seed| executor.spawn(echo::exchange(tunnel.exposure("echo"), seed, LENGTH))).collect();
        let all = async {
            let mut failures = Vec::new();
            for exchange in exchanges {
                failures.extend(exchange.await.err());
            }
            failures
        };
        let failures = future::or(async { Some(all.await) }, async {
            Timer::after(WITHIN).await;
            None
        });
        let failures = failures.await.unwrap_or_else(|| panic!("not every stream was done within {WITHIN:?}"));
        assert!(failures.is_empty(), "{} of {STREAMS} streams failed, the first: {}", failures.len(), failures[0]);

        for stream in &mut deaf {
            // Still full, or a little room again; an error would mean that it was sacrificed for the others.
            let write = future::poll_once(stream.write(b"x")).await;
            assert!(!matches!(write, Some(Err(_))), "a stream that nobody reads was closed: {write:?}");
        }
    }));

    let peak = tunnel.agent.peak_resident_bytes();
    println!("the agent's resident memory: at most {peak} of the announced {budget} bytes");
    assert!(peak <= budget, "the agent had {peak} bytes resident and announced a budget of {budget}");
}
