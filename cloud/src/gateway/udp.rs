//! The clients of a public UDP port: each address that writes to it has a stream.
//!
//! ```text
//! client A ──┐            ┌─► mailbox of A ──► stream of A
//! client B ──┼─► socket ──┼─► mailbox of B ──► stream of B      what comes back leaves by the socket at once
//!            └────────────┘
//! ```
//!
//! - A mailbox holds what the link has not taken: [`QUEUE_BYTES`] at most, the newest is dropped; and nothing for longer than
//!   [`MAX_WAIT`], since nobody waits for the answer any more.
//! - A client is one as long as something is said, either way. When there are as many as there may be, the first that was
//!   answered and has been quiet for [`ANSWERED`], or is quiet for [`QUIET`], makes room. So a port that everybody asks once
//!   serves everybody, and one that is flooded from forged addresses opens no more than `max-connections` streams in that
//!   time, and ends nobody's who is in conversation.
//! - The gateway itself says nothing: an answer is the service's, and goes to who asked.
//!
//! Owns: who is a client, mailboxes, ends. Leaves to others: the socket (`udp_socket`), who may be one and where it leads
//! (`exposures`), the stream.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use log::warn;
use smol::Timer;
use smol::future::yield_now;
use umbilical_link::Io;
use umbilical_link::datagrams::{Datagrams, IdleTimer};
use umbilical_mux::MAX_DATAGRAM;

use super::exposures::{Objection, Shared};
use super::udp_socket::{Beside, Origin, UdpSocket};

/// Bytes of datagrams that one client may have waiting.
const QUEUE_BYTES: usize = 64 * 1024;

/// How long a datagram may wait: as long as a resolver waits for an answer (resolv.conf(5), `timeout`).
const MAX_WAIT: Duration = Duration::from_secs(5);

/// How long a client must be quiet before it makes room for another: when the last word was the device's, and when it is
/// still waited for.
const ANSWERED: Duration = Duration::from_millis(250);
const QUIET: Duration = Duration::from_secs(2);

/// How long no new client is taken after one could not be served: the next one would fare no better.
pub(super) const REST: Duration = Duration::from_secs(1);

/// Datagrams before the executor's other tasks run.
const TURNS: usize = 32;

/// Pause after the system refused to hand out datagrams.
const PAUSE: Duration = Duration::from_millis(200);

/// All clients of one socket. Dropped, they are none any more.
pub(super) struct Clients {
    socket: UdpSocket,
    table: Mutex<Table>,
}

struct Table {
    mailboxes: HashMap<Origin, Arc<Mailbox>>,
    /// Nobody is quiet for long enough before that.
    all_busy_until: Option<Instant>,
}

/// What a client has sent and its stream has not read.
struct Mailbox {
    origin: Origin,
    state: Mutex<Mail>,
}

struct Mail {
    /// [`HEAD_BYTES`] and a datagram, again and again.
    queue: VecDeque<u8>,
    /// When the times in the queue begin.
    since: Instant,
    active_at: Instant,
    /// The last word was the device's.
    answered: bool,
    ended: bool,
    reader: Option<Waker>,
}

/// Length of a datagram, and when it came: milliseconds, in four bytes.
const HEAD_BYTES: usize = 2 + 4;

/// What became of a datagram for a mailbox.
#[derive(Debug, PartialEq, Eq)]
enum Put {
    Taken,
    Full,
    /// It is nobody's any more.
    Ended,
}

/// Why datagrams were dropped.
#[derive(Clone, Copy)]
pub(super) enum Dropped {
    /// It has so many bytes, and came from a client or from a device.
    TooLong(usize),
    /// The client's mailbox is full.
    Full,
    /// So many were in it for too long.
    Old(u64),
    /// The socket did not take an answer.
    Unsent(ErrorKind),
    /// Its sender is nobody, or the port itself.
    NoSender,
}

impl Dropped {
    pub(super) fn kind(self) -> u8 {
        match self {
            Self::TooLong(_) => 0,
            Self::Full => 1,
            Self::Old(_) => 2,
            Self::Unsent(_) => 3,
            Self::NoSender => 4,
        }
    }

    pub(super) fn count(self) -> u64 {
        match self {
            Self::Old(count) => count,
            Self::TooLong(_) | Self::Full | Self::Unsent(_) | Self::NoSender => 1,
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => {
                write!(f, "it has {length} bytes, and the longest that can be carried has {MAX_DATAGRAM}")
            }
            Self::Full => write!(f, "{QUEUE_BYTES} bytes wait already; the link to the device is slow or lost"),
            Self::Old(_) => {
                write!(f, "it waited for {} s; the link to the device is slow or lost", MAX_WAIT.as_secs())
            }
            Self::Unsent(kind) => write!(f, "the answer was not sent: {kind}"),
            Self::NoSender => f.write_str("there is nobody at that address who could be answered"),
        }
    }
}

impl Clients {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, table: Mutex::new(Table { mailboxes: HashMap::new(), all_busy_until: None }) }
    }

    /// Takes what comes to the socket, for ever.
    pub(super) async fn serve(self: Arc<Self>, shared: Arc<Shared>) {
        let (mut buffer, mut beside) = (vec![0; MAX_DATAGRAM], Beside::new());
        loop {
            let mut outcome = self.socket.readable().await;
            for _ in 0..TURNS {
                match outcome.and_then(|()| self.socket.receive(&mut buffer, &mut beside)) {
                    Ok((origin, length)) => {
                        let datagram = buffer.get(..length).ok_or(Dropped::TooLong(length));
                        self.arrived(&shared, origin, datagram, Instant::now());
                        outcome = Ok(());
                    }
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            match outcome {
                Ok(()) => yield_now().await,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    warn!("udp:{} cannot take datagrams: {error}", self.socket.address());
                    Timer::after(PAUSE).await;
                }
            }
        }
    }

    fn arrived(self: &Arc<Self>, shared: &Arc<Shared>, origin: Origin, datagram: Result<&[u8], Dropped>, now: Instant) {
        let known = self.table().mailboxes.get(&origin).cloned();
        let peer = origin.peer;
        if let Some(mailbox) = known {
            match datagram.map(|datagram| mailbox.put(datagram, now)) {
                Ok(Put::Taken) => return,
                Ok(Put::Full) => return shared.dropped(peer, Dropped::Full),
                Err(dropped) => return shared.dropped(peer, dropped),
                // a new one takes its place
                Ok(Put::Ended) => {}
            }
        }
        let target = shared.target();
        let exposure = target.exposure();
        if !self.socket.may_answer(&origin) {
            return shared.dropped(peer, Dropped::NoSender);
        }
        if let Some(objection) = shared.not_allowed(exposure, peer) {
            return shared.turn_away(exposure, peer, &objection);
        }
        let datagram = match datagram {
            Ok(datagram) => datagram,
            Err(dropped) => return shared.dropped(peer, dropped),
        };
        if shared.rests(now) {
            return shared.count_dropped(1);
        }
        let most = exposure.max_connections.unwrap_or(usize::MAX);
        // those that made room are streams until the device has heard of it
        if shared.open_streams() >= most.saturating_mul(2) || !self.table().make_room(most, now) {
            return shared.turn_away(exposure, peer, &Objection::TooMany { most });
        }
        let mailbox = Arc::new(Mailbox::new(origin, now));
        mailbox.put(datagram, now);
        self.table().mailboxes.insert(origin, Arc::clone(&mailbox));
        let port = ClientPort {
            clients: Arc::downgrade(self),
            shared: Arc::clone(shared),
            mailbox,
            idle: IdleTimer::new(exposure.idle_timeout),
        };
        shared.open(&target, Io::Datagrams(Box::new(port)), peer);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client of that mailbox, and not one that has come after it, is none any more.
    fn forget(&self, mailbox: &Arc<Mailbox>) {
        let mut table = self.table();
        if table.mailboxes.get(&mailbox.origin).is_some_and(|known| Arc::ptr_eq(known, mailbox)) {
            table.mailboxes.remove(&mailbox.origin);
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.table().mailboxes.values().for_each(|mailbox| mailbox.mail().end());
    }
}

impl Table {
    /// Whether there is room for one more client, by the leave of another if need be.
    fn make_room(&mut self, most: usize, now: Instant) -> bool {
        if self.mailboxes.len() < most {
            return true;
        }
        if self.all_busy_until.is_some_and(|until| now < until) {
            return false;
        }
        let busy = self.mailboxes.values().map(|mailbox| (mailbox.mail().busy_until(), mailbox.origin));
        let Some((until, origin)) = busy.min_by_key(|(until, _)| *until) else { return false };
        if now < until {
            // who is answered in the meantime makes room sooner
            self.all_busy_until = Some(until.min(now + ANSWERED));
            return false;
        }
        if let Some(quiet) = self.mailboxes.remove(&origin) {
            quiet.mail().end();
        }
        true
    }
}

impl Mailbox {
    fn new(origin: Origin, now: Instant) -> Self {
        let mail =
            Mail { queue: VecDeque::new(), since: now, active_at: now, answered: false, ended: false, reader: None };
        Self { origin, state: Mutex::new(mail) }
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, datagram: &[u8], now: Instant) -> Put {
        let mut mail = self.mail();
        if mail.ended {
            return Put::Ended;
        }
        (mail.active_at, mail.answered) = (now, false);
        if mail.queue.len() + HEAD_BYTES + datagram.len() > QUEUE_BYTES {
            return Put::Full;
        }
        let length = u16::try_from(datagram.len()).expect("no datagram is longer");
        let came = mail.millis(now);
        mail.queue.extend(length.to_le_bytes());
        mail.queue.extend(came.to_le_bytes());
        mail.queue.extend(datagram);
        if let Some(reader) = mail.reader.take() {
            reader.wake();
        }
        Put::Taken
    }
}

impl Mail {
    /// The next datagram that has not waited for too long, if it has room in `buffer`; and how many have.
    fn take(&mut self, buffer: &mut [u8], now: Instant) -> (Option<usize>, u64) {
        let (mut old, millis) = (0, self.millis(now));
        let mut head = [0; HEAD_BYTES];
        while self.queue.read_exact(&mut head).is_ok() {
            let [low, high, came @ ..] = head;
            let (length, came) = (usize::from(u16::from_le_bytes([low, high])), u32::from_le_bytes(came));
            let waited = Duration::from_millis(u64::from(millis.wrapping_sub(came)));
            match buffer.get_mut(..length) {
                Some(room) if waited <= MAX_WAIT => {
                    self.queue.read_exact(room).expect("a length is that of what follows");
                    return (Some(length), old);
                }
                _ => {
                    self.queue.drain(..length);
                    old += 1;
                }
            }
        }
        (None, old)
    }

    #[allow(clippy::cast_possible_truncation, reason = "waits are shorter than the 49 days after which it begins anew")]
    fn millis(&self, now: Instant) -> u32 {
        now.duration_since(self.since).as_millis() as u32
    }

    /// Until then the client does not make room for another.
    fn busy_until(&self) -> Instant {
        self.active_at + if self.answered { ANSWERED } else { QUIET }
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// A client as its stream sees it.
struct ClientPort {
    clients: Weak<Clients>,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    idle: IdleTimer,
}

impl Datagrams for ClientPort {
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<usize>>> {
        let mut mail = self.mailbox.mail();
        let (taken, old) = mail.take(buffer, Instant::now());
        let outcome = if taken.is_some() {
            Poll::Ready(Ok(taken))
        } else if mail.ended || self.idle.poll(cx, mail.active_at).is_ready() {
            mail.ended = true;
            Poll::Ready(Ok(None))
        } else {
            mail.reader = Some(cx.waker().clone());
            Poll::Pending
        };
        drop(mail);
        if old > 0 {
            self.shared.dropped(self.mailbox.origin.peer, Dropped::Old(old));
        }
        outcome
    }

    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        // an exposure that is gone has no socket to answer by
        let Some(clients) = self.clients.upgrade() else { return Ok(()) };
        {
            let mut mail = self.mailbox.mail();
            (mail.active_at, mail.answered) = (Instant::now(), true);
        }
        if let Err(error) = clients.socket.send(datagram, &self.mailbox.origin) {
            self.shared.dropped(self.mailbox.origin.peer, Dropped::Unsent(error.kind()));
        }
        Ok(())
    }

    fn refuse(&mut self, length: usize) {
        self.shared.dropped(self.mailbox.origin.peer, Dropped::TooLong(length));
    }
}

impl Drop for ClientPort {
    fn drop(&mut self) {
        self.mailbox.mail().ended = true;
        if let Some(clients) = self.clients.upgrade() {
            clients.forget(&self.mailbox);
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("address", &self.socket.address()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn mailbox(now: Instant) -> Mailbox {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let client = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.send_to(b"", socket.address()).unwrap();
        smol::block_on(socket.readable()).unwrap();
        let (origin, _) = socket.receive(&mut [0; 1], &mut Beside::new()).unwrap();
        Mailbox::new(origin, now)
    }

    #[test]
    fn a_mailbox_gives_what_it_took_whole_and_in_order() {
        let now = Instant::now();
        let mailbox = mailbox(now);
        let datagrams = [vec![], vec![1], vec![2; MAX_DATAGRAM], vec![3; 1_472], vec![]];
        let mut buffer = vec![0; MAX_DATAGRAM];
        // more often than once around
        for _ in 0..20 {
            for datagram in &datagrams {
                assert_eq!(mailbox.put(datagram, now), Put::Taken);
            }
            for datagram in &datagrams {
                assert_eq!(mailbox.mail().take(&mut buffer, now), (Some(datagram.len()), 0));
                assert!(buffer[..datagram.len()] == *datagram);
            }
            assert_eq!(mailbox.mail().take(&mut buffer, now), (None, 0));
        }
    }

    #[test]
    fn a_full_mailbox_takes_no_more_until_one_is_read() {
        let now = Instant::now();
        let mailbox = mailbox(now);
        let taken = (0..).take_while(|_| mailbox.put(&[7; 994], now) == Put::Taken).count();
        assert_eq!(taken, QUEUE_BYTES / 1_000);
        // empty ones have their heads at least
        assert_eq!(mailbox.put(&[7; 994], now), Put::Full);
        assert!((0..QUEUE_BYTES).any(|_| mailbox.put(&[], now) == Put::Full));
        assert_eq!(mailbox.mail().take(&mut [0; 1_000], now), (Some(994), 0));
        assert_eq!(mailbox.put(&[7; 994], now), Put::Taken);
    }

    #[test]
    fn nothing_is_read_that_has_waited_for_too_long() {
        let start = Instant::now();
        let mailbox = mailbox(start);
        for second in 0..4 {
            mailbox.put(&[second], start + Duration::from_secs(second.into()));
        }
        let mut buffer = [0; 16];
        let late = start + MAX_WAIT + Duration::from_millis(1_500);
        assert_eq!(mailbox.mail().take(&mut buffer, late), (Some(1), 2));
        assert_eq!(buffer[0], 2);
        assert_eq!(mailbox.mail().take(&mut buffer, late + MAX_WAIT), (None, 1));
    }

    #[test]
    fn room_is_made_by_who_was_answered_then_by_who_waited_and_only_when_it_must_be() {
        let start = Instant::now();
        let mut table = Table { mailboxes: HashMap::new(), all_busy_until: None };
        let add = |table: &mut Table| {
            let mailbox = Arc::new(mailbox(start));
            table.mailboxes.insert(mailbox.origin, Arc::clone(&mailbox));
            mailbox
        };
        let (waiting, answered) = (add(&mut table), add(&mut table));
        assert!(table.make_room(3, start));
        assert_eq!(table.mailboxes.len(), 2);
        // all wait for an answer; one gets it while nobody looks
        assert!(!table.make_room(2, start));
        answered.mail().answered = true;
        assert!(!table.make_room(2, start + ANSWERED / 2));
        assert!(table.make_room(2, start + ANSWERED));
        assert!(answered.mail().ended && !waiting.mail().ended);
        assert!(!table.make_room(1, start + QUIET / 2));
        assert!(table.make_room(1, start + QUIET));
        assert!(waiting.mail().ended && table.mailboxes.is_empty());
    }

    #[test]
    fn who_has_ended_takes_nothing_and_gives_what_there_is() {
        let now = Instant::now();
        let mailbox = mailbox(now);
        mailbox.put(b"last", now);
        mailbox.mail().end();
        assert_eq!(mailbox.put(b"late", now), Put::Ended);
        assert_eq!(mailbox.mail().take(&mut [0; 16], now), (Some(4), 0));
    }
}
