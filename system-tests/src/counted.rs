//! A TCP port in front of another: what passes is noted, connection by connection.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Longer than an exchange takes, shorter than the pause before the next one.
const PAUSE: Duration = Duration::from_secs(2);

/// The port.
pub struct Counted {
    /// Where it is.
    pub address: SocketAddrV4,
    connections: Arc<Mutex<Vec<Connection>>>,
}

/// What passed on one connection.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    passed: Vec<(Instant, usize)>,
}

/// Bytes that passed, in both directions, with no pause between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// When it began.
    pub at: Instant,
    /// How many.
    pub bytes: usize,
}

impl Counted {
    /// A port in front of `target`, on the loopback device.
    ///
    /// # Panics
    /// There is no port to be had.
    pub fn new(target: SocketAddrV4) -> Counted {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let port = listener.local_addr().expect("it is bound").port();
        let connections = Arc::<Mutex<Vec<Connection>>>::default();
        let counted =
            Counted { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), connections: Arc::clone(&connections) };
        thread::spawn(move || {
            // it ends with the test process
            for near in listener.incoming().flatten() {
                let number = {
                    let mut connections = lock(&connections);
                    connections.push(Connection::default());
                    connections.len() - 1
                };
                let _ = forward(&near, target, &connections, number);
            }
        });
        counted
    }

    /// The connections so far, in the order of their beginnings.
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.connections).clone()
    }
}

impl Connection {
    /// What passed after `since`, as exchanges; the last may still be going on.
    pub fn exchanges(&self, since: Instant) -> Vec<Exchange> {
        let mut exchanges: Vec<Exchange> = Vec::new();
        let mut last = None::<Instant>;
        for &(at, bytes) in self.passed.iter().filter(|(at, _)| *at > since) {
            match exchanges.last_mut() {
                Some(exchange) if last.is_some_and(|last| at - last < PAUSE) => exchange.bytes += bytes,
                _ => exchanges.push(Exchange { at, bytes }),
            }
            last = Some(at);
        }
        exchanges
    }
}

fn forward(
    near: &TcpStream,
    target: SocketAddrV4,
    connections: &Arc<Mutex<Vec<Connection>>>,
    number: usize,
) -> io::Result<()> {
    let far = TcpStream::connect(target)?;
    for (from, to) in [(near, &far), (&far, near)] {
        from.set_nodelay(true)?;
        let (mut from, mut to, connections) = (from.try_clone()?, to.try_clone()?, Arc::clone(connections));
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                lock(&connections)[number].passed.push((Instant::now(), count));
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}

fn lock(connections: &Mutex<Vec<Connection>>) -> MutexGuard<'_, Vec<Connection>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}
