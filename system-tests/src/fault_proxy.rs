//! A TCP proxy that does what networks do to connections: cuts, silence, stalls, throttling, delay, half-closed ends.
//!
//! It stands between whoever dials the relay and the relay, under TLS and WebSocket, and knows nothing of either. What it does
//! is the test's decision, and takes effect on connections that exist; [`Weather`] is for those to come as well.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use event_listener::Event;
use smol::{
    Async, Task, Timer,
    channel::{Receiver, Sender, unbounded},
    future::try_zip,
    io::{AsyncReadExt, AsyncWriteExt},
};
use socket2::SockRef;

const CHUNK: usize = 64 * 1024;
/// What may be under way on a delayed connection, each way: at 100 ms this is 160 MB/s.
const UNDER_WAY: usize = 16 << 20;

/// What the path is like; on every connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// How much later a byte arrives, one way.
    pub delay: Duration,
    /// How many bytes pass in a second, each way; as many as come if `None`.
    pub bytes_per_second: Option<u32>,
    /// Nothing passes, nothing is lost, and connections still come about, as TCP's own handshake would be repeated.
    pub stalled: bool,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    /// What the relay is sent.
    Relay,
    /// What the one who dialled is sent.
    Dialler,
}

/// The proxy. Dropped, it resets its connections.
pub struct FaultProxy {
    /// Where it listens.
    pub address: SocketAddrV4,
    path: Arc<Path>,
    _accepting: Task<()>,
}

#[derive(Default)]
struct Path {
    weather: Mutex<Weather>,
    changed: Event,
    connections: Mutex<Vec<Connection>>,
    /// Connections that carry nothing any more, and of which nobody was told.
    vanished: Mutex<Vec<Arc<Ends>>>,
    carried: AtomicU64,
}

/// Its ends close with its task.
struct Connection {
    ends: Weak<Ends>,
    task: Task<()>,
}

struct Ends {
    dialler: Async<TcpStream>,
    relay: Async<TcpStream>,
    /// Half-closed by us: what still comes for this end is thrown away.
    deaf: [AtomicBool; 2],
}

impl FaultProxy {
    /// A port on the loopback device, in front of `target`.
    ///
    /// # Panics
    /// There is no port to be had.
    pub fn start(target: SocketAddrV4) -> FaultProxy {
        let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let port = listener.get_ref().local_addr().expect("it is bound").port();
        let path = Arc::<Path>::default();
        let accepting = smol::spawn(accept(listener, target, Arc::clone(&path)));
        FaultProxy { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), path, _accepting: accepting }
    }

    /// Connections that are open and not cut.
    pub fn connections(&self) -> usize {
        let mut connections = lock(&self.path.connections);
        connections.retain(|connection| !connection.task.is_finished());
        connections.len()
    }

    /// Bytes that have passed so far, both ways together.
    pub fn carried(&self) -> u64 {
        self.path.carried.load(Ordering::Relaxed)
    }

    /// Makes the weather.
    pub fn set(&self, weather: Weather) {
        *lock(&self.path.weather) = weather;
        self.path.changed.notify(usize::MAX);
    }

    /// Cuts all connections: both ends are sent a reset. Returns how many there were.
    pub fn reset(&self) -> usize {
        let cut = self.take();
        let count = cut.len();
        for connection in cut {
            connection.reset();
        }
        count
    }

    /// Cuts all connections without a word: what is sent arrives nowhere, and nothing comes any more. Returns how many there
    /// were.
    pub fn vanish(&self) -> usize {
        let cut = self.take();
        let count = cut.len();
        for Connection { ends, task } in cut {
            lock(&self.path.vanished).extend(ends.upgrade());
            smol::block_on(task.cancel());
        }
        count
    }

    /// Ends one direction of all connections as if its sender had: the other goes on. Returns how many there were.
    pub fn half_close(&self, toward: Toward) -> usize {
        self.connections();
        let connections = lock(&self.path.connections);
        for ends in connections.iter().filter_map(|connection| connection.ends.upgrade()) {
            ends.deaf[toward as usize].store(true, Ordering::Relaxed);
            // one that has just been closed needs no more
            let _ = ends.toward(toward).get_ref().shutdown(Shutdown::Write);
        }
        connections.len()
    }

    fn take(&self) -> Vec<Connection> {
        self.connections();
        lock(&self.path.connections).drain(..).collect()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.reset();
        for ends in lock(&self.path.vanished).drain(..) {
            ends.reset_on_close();
        }
    }
}

impl Connection {
    fn reset(self) {
        if let Some(ends) = self.ends.upgrade() {
            ends.reset_on_close();
        }
        smol::block_on(self.task.cancel());
    }
}

impl Ends {
    fn toward(&self, toward: Toward) -> &Async<TcpStream> {
        match toward {
            Toward::Relay => &self.relay,
            Toward::Dialler => &self.dialler,
        }
    }

    fn reset_on_close(&self) {
        for end in [&self.dialler, &self.relay] {
            let _ = SockRef::from(end.get_ref()).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Path {
    fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    async fn until_it_moves(&self) {
        loop {
            let changed = self.changed.listen();
            if !self.weather().stalled {
                return;
            }
            changed.await;
        }
    }

    async fn join(&self, ends: &Ends) {
        let there = self.pump(ends, Toward::Relay);
        let back = self.pump(ends, Toward::Dialler);
        if try_zip(there, back).await.is_err() {
            // one end broke: the other is to hear of it the same way
            ends.reset_on_close();
        }
    }

    async fn pump(&self, ends: &Ends, toward: Toward) -> io::Result<()> {
        let (mut from, mut to) = match toward {
            Toward::Relay => (&ends.dialler, &ends.relay),
            Toward::Dialler => (&ends.relay, &ends.dialler),
        };
        let deaf = &ends.deaf[toward as usize];
        let (queue_in, queue): (Sender<(Instant, Vec<u8>)>, Receiver<_>) = unbounded();
        let (queued, written) = (AtomicUsize::new(0), Event::new());
        let (queued, written) = (&queued, &written);
        let read = async move {
            loop {
                loop {
                    let room = written.listen();
                    if queued.load(Ordering::Relaxed) < self.weather().room() {
                        break;
                    }
                    room.await;
                }
                self.until_it_moves().await;
                let mut chunk = vec![0; CHUNK];
                let count = from.read(&mut chunk).await?;
                if count == 0 {
                    return Ok(());
                }
                chunk.truncate(count);
                queued.fetch_add(count, Ordering::Relaxed);
                let due = Instant::now() + self.weather().delay;
                let _ = queue_in.send((due, chunk)).await;
            }
        };
        let write = async move {
            while let Ok((due, chunk)) = queue.recv().await {
                if due > Instant::now() {
                    Timer::at(due).await;
                }
                if let Some(rate) = self.weather().bytes_per_second {
                    Timer::after(Duration::from_secs_f64(chunk.len() as f64 / f64::from(rate))).await;
                }
                self.until_it_moves().await;
                if !deaf.load(Ordering::Relaxed) {
                    to.write_all(&chunk).await?;
                }
                self.carried.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                queued.fetch_sub(chunk.len(), Ordering::Relaxed);
                written.notify(1);
            }
            match to.get_ref().shutdown(Shutdown::Write) {
                Err(error) if !deaf.load(Ordering::Relaxed) => Err(error),
                _ => Ok(()),
            }
        };
        try_zip(read, write).await.map(drop)
    }
}

impl Weather {
    /// How many bytes may wait, each way: no more than are under way by nature, for a queue would be a delay nobody asked for.
    fn room(&self) -> usize {
        match self.bytes_per_second {
            _ if self.delay.is_zero() => 1,
            None => UNDER_WAY,
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few MiB")]
            Some(rate) => (f64::from(rate) * self.delay.as_secs_f64()) as usize + 1,
        }
    }
}

async fn accept(listener: Async<TcpListener>, target: SocketAddrV4, path: Arc<Path>) {
    // it ends with the proxy
    while let Ok((dialler, _)) = listener.accept().await {
        let Ok(relay) = Async::<TcpStream>::connect(target).await else {
            // nobody is there: what comes closest to a refusal
            let _ = SockRef::from(dialler.get_ref()).set_linger(Some(Duration::ZERO));
            continue;
        };
        for end in [&dialler, &relay] {
            let _ = end.get_ref().set_nodelay(true);
        }
        let ends = Arc::new(Ends { dialler, relay, deaf: <[AtomicBool; 2]>::default() });
        let (joined, on) = (Arc::downgrade(&ends), Arc::clone(&path));
        let task = smol::spawn(async move { on.join(&ends).await });
        lock(&path.connections).push(Connection { ends: joined, task });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
