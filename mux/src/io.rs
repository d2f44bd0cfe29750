//! A session over a byte link, for hosts without an operating system: a TCP socket of a small stack, USB, a radio.
//!
//! The link must keep bytes whole and in order while it lives, as TCP does; what may lose or change some (a bare serial
//! line) needs a layer below that notices. Messages are told apart by their length, which a WebSocket would do otherwise:
//!
//! ```text
//! | length: u16, big endian, 1 to 16,344 | message | length | message | ...
//! ```
//!
//! There is no heap: a [`ByteLink`] holds the one message that is coming in, of a record of [`MIN_RECORD`] bytes at most. `examples/loopback.rs` is a whole host.

use embedded_io::{Read, ReadReady, Write};

use crate::{
    Hello, Instant, MAX_HELLO, MAX_PREFIX, MIN_RECORD, Ports, ResetReason, Resumption, Session, Side, StreamState,
    Violation,
};

const LENGTH: usize = 2;

/// Bytes of a message at most. Less than a WebSocket takes: it lies inside the link.
const MESSAGE: usize = MIN_RECORD + MAX_PREFIX;

/// One link of a session. When it is over, whatever the reason, the next one is another `ByteLink`.
#[derive(Debug)]
pub struct ByteLink<L> {
    link: L,
    side: Side,
    state: State,
    /// Length and message, as far as they have come.
    input: [u8; LENGTH + MESSAGE],
    filled: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The gateway's `Hello` with this number is still to be said.
    Dialling(u32),
    /// The peer's `Hello` is awaited.
    Waiting,
    /// Records go over it; its number.
    Up(u32),
    Over,
}

/// What a turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer's `Hello` came: records go over the link from now on.
    Up(Resumption),
    /// A message came in, or went out, or part of one came: turn again.
    Some,
    /// Nothing, until bytes come, a port has news, or the session's [next timeout](Session::next_timeout).
    Nothing,
}

/// The link is over, and the session has been told if it was its link: it waits for another one, unless the peer broke
/// the protocol, which ends its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteLinkError<E> {
    /// The peer closed the link.
    Ended,
    /// A newer link has taken over; the session goes on there.
    TakenOver,
    /// Reading or writing failed.
    Io(E),
    /// The peer broke the protocol.
    Violation(Violation),
}

impl<E: core::fmt::Debug> core::fmt::Display for ByteLinkError<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ended => f.write_str("link was closed by the peer"),
            Self::TakenOver => f.write_str("a newer link has taken over"),
            Self::Io(error) => write!(f, "link failed: {error:?}"),
            Self::Violation(violation) => write!(f, "peer broke the protocol: {violation}"),
        }
    }
}

impl<E: core::fmt::Debug> core::error::Error for ByteLinkError<E> {}

impl<E> From<Violation> for ByteLinkError<E> {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl<L: Read + ReadReady + Write> ByteLink<L> {
    /// The gateway's end of a new link, whose `number` must be above all before ([`Session::link_number`]).
    pub const fn dial(link: L, number: u32) -> Self {
        Self::new(link, Side::Gateway, State::Dialling(number))
    }

    /// The agent's end of a new link.
    pub const fn answer(link: L) -> Self {
        Self::new(link, Side::Agent, State::Waiting)
    }

    const fn new(link: L, side: Side, state: State) -> Self {
        Self { link, side, state, input: [0; LENGTH + MESSAGE], filled: 0 }
    }

    /// Takes at most one message in and hands at most one out. Reads only what is ready; a write may block, as
    /// [`Write`] does, for up to a record of [`MIN_RECORD`] bytes and its prefix.
    ///
    /// # Errors
    /// The link is over; so is every later turn.
    pub fn turn<B, S>(
        &mut self,
        now: Instant,
        session: &mut Session<B, S>,
        ports: &mut impl Ports,
    ) -> Result<Progress, ByteLinkError<L::Error>>
    where
        B: AsRef<[u8]> + AsMut<[u8]>,
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let done = self.try_turn(now, session, ports);
        if let Err(error) = &done {
            match (core::mem::replace(&mut self.state, State::Over), error) {
                (_, ByteLinkError::TakenOver) => {}
                (State::Up(_), ByteLinkError::Violation(_)) => session.abandon(ports, ResetReason::FAILED),
                (State::Up(_), _) => session.handle_link_lost(now),
                _ => {} // what never was the session's link leaves it as it is
            }
        }
        done
    }

    fn try_turn<B, S>(
        &mut self,
        now: Instant,
        session: &mut Session<B, S>,
        ports: &mut impl Ports,
    ) -> Result<Progress, ByteLinkError<L::Error>>
    where
        B: AsRef<[u8]> + AsMut<[u8]>,
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        match self.state {
            State::Over => return Err(ByteLinkError::Ended),
            State::Up(number) if !session.is_linked() || session.link_number() != number => {
                return Err(ByteLinkError::TakenOver);
            }
            _ => {}
        }
        session.handle_timeout(now, ports);
        if let State::Dialling(number) = self.state {
            // Nothing more is taken of the link before: this Hello counts what was received.
            session.handle_link_lost(now);
            self.say_hello(session.hello(number))?;
            self.state = State::Waiting;
        }
        let before = self.filled;
        let mut progress = Progress::Nothing;
        if self.receive()? {
            progress = self.take(now, session, ports)?;
        } else if self.filled > before {
            progress = Progress::Some;
        }
        if matches!(self.state, State::Up(_))
            && let Some(message) = session.poll_message(now, ports)
        {
            self.write(&message.prefix, message.record)?;
            if progress == Progress::Nothing {
                progress = Progress::Some;
            }
        }
        Ok(progress)
    }

    /// The link below.
    pub fn into_inner(self) -> L {
        self.link
    }

    /// Hands the message that came in to the session.
    fn take<B, S>(
        &mut self,
        now: Instant,
        session: &mut Session<B, S>,
        ports: &mut impl Ports,
    ) -> Result<Progress, ByteLinkError<L::Error>>
    where
        B: AsRef<[u8]> + AsMut<[u8]>,
        S: AsRef<[StreamState]> + AsMut<[StreamState]>,
    {
        let message = self.input.get(LENGTH..self.filled).unwrap_or_default();
        self.filled = 0;
        if matches!(self.state, State::Up(_)) {
            session.handle_message(now, message, ports)?;
            return Ok(Progress::Some);
        }
        let hello = Hello::decode(message)?;
        let resumption = session.handle_hello(now, &hello, ports)?;
        self.state = State::Up(hello.link);
        if self.side == Side::Agent {
            self.say_hello(session.hello(hello.link))?;
        }
        Ok(Progress::Up(resumption))
    }

    fn say_hello(&mut self, hello: Hello) -> Result<(), ByteLinkError<L::Error>> {
        let record = u32::try_from(MIN_RECORD).unwrap_or(u32::MAX);
        self.write(Hello { record, ..hello }.encode(&mut [0; MAX_HELLO]), &[])
    }

    /// Reads what is ready of one message; whether it is whole.
    fn receive(&mut self) -> Result<bool, ByteLinkError<L::Error>> {
        loop {
            let end = LENGTH + self.length()?;
            if self.filled > LENGTH && self.filled == end {
                return Ok(true);
            }
            if !self.link.read_ready().map_err(ByteLinkError::Io)? {
                return Ok(false);
            }
            let room = self.input.get_mut(self.filled..end).unwrap_or_default();
            match self.link.read(room).map_err(ByteLinkError::Io)? {
                0 => return Err(ByteLinkError::Ended),
                count => self.filled += count,
            }
        }
    }

    /// Bytes of the message that is coming in; 0 until that is known.
    fn length(&self) -> Result<usize, Violation> {
        let [high, low, ..] = self.input;
        match usize::from(u16::from_be_bytes([high, low])) {
            _ if self.filled < LENGTH => Ok(0),
            0 => Err(Violation::Malformed(0)),
            length if length > MESSAGE => Err(Violation::RecordTooLong(length)),
            length => Ok(length),
        }
    }

    fn write(&mut self, first: &[u8], second: &[u8]) -> Result<(), ByteLinkError<L::Error>> {
        let length = u16::try_from(first.len() + second.len()).unwrap_or(u16::MAX).to_be_bytes();
        for part in [&length, first, second] {
            self.link.write_all(part).map_err(ByteLinkError::Io)?;
        }
        self.link.flush().map_err(ByteLinkError::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, End, Mode, Read, SessionId, Shape, Slot, Storage, Write};
    use core::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    /// One end of a link in memory that gives a few bytes at a time.
    struct Wire {
        incoming: Rc<RefCell<VecDeque<u8>>>,
        outgoing: Rc<RefCell<VecDeque<u8>>>,
        /// At the end of what there is: closed.
        closed: Rc<RefCell<bool>>,
    }

    fn wires() -> [Wire; 2] {
        let (there, back, closed) = (Rc::default(), Rc::default(), Rc::new(RefCell::new(false)));
        let far = Wire { incoming: Rc::clone(&there), outgoing: Rc::clone(&back), closed: Rc::clone(&closed) };
        [Wire { incoming: back, outgoing: there, closed }, far]
    }

    impl embedded_io::ErrorType for Wire {
        type Error = embedded_io::ErrorKind;
    }

    impl embedded_io::Read for Wire {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Self::Error> {
            let mut incoming = self.incoming.borrow_mut();
            let count = buffer.len().min(incoming.len()).min(7);
            assert!(count > 0 || *self.closed.borrow(), "a read that would block");
            for (byte, got) in buffer.iter_mut().zip(incoming.drain(..count)) {
                *byte = got;
            }
            Ok(count)
        }
    }

    impl ReadReady for Wire {
        fn read_ready(&mut self) -> Result<bool, Self::Error> {
            Ok(!self.incoming.borrow().is_empty() || *self.closed.borrow())
        }
    }

    impl embedded_io::Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
            if *self.closed.borrow() {
                return Err(embedded_io::ErrorKind::BrokenPipe);
            }
            let count = bytes.len().min(5);
            self.outgoing.borrow_mut().extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct OnePort {
        says: VecDeque<u8>,
        heard: Vec<u8>,
        ended: Option<End>,
    }

    impl Ports for OnePort {
        fn service(&self, _: Slot) -> &str {
            "echo"
        }

        fn accept(&mut self, _: Slot, _: &str, _: Mode) -> Result<(), ResetReason> {
            Ok(())
        }

        fn read(&mut self, _: Slot, buffer: &mut [u8]) -> Read {
            let count = buffer.len().min(self.says.len());
            for (byte, said) in buffer.iter_mut().zip(self.says.drain(..count)) {
                *byte = said;
            }
            if count > 0 { Read::Data(count) } else { Read::Pending }
        }

        fn write(&mut self, _: Slot, chunks: &[&[u8]]) -> Write {
            let before = self.heard.len();
            self.heard.extend(chunks.iter().copied().flatten());
            Write::Taken(self.heard.len() - before)
        }

        fn finish(&mut self, _: Slot) {}

        fn release(&mut self, _: Slot, end: End) {
            self.ended = Some(end);
        }
    }

    struct Host {
        session: Session<Vec<u8>, Vec<StreamState>>,
        ports: OnePort,
    }

    fn host(side: Side) -> Host {
        let shape = Shape { streams: 2, replay: 64 * 1024, receive: 16 * 1024 };
        let storage = Storage {
            replay: vec![0; shape.replay],
            receive: vec![0; shape.receive_memory()],
            streams: vec![StreamState::EMPTY; 2],
        };
        let config =
            Config { side, id: SessionId([3; 16]), shape, record: MIN_RECORD, resume_for_ms: 1_000, features: 0 };
        Host { session: Session::new(config, storage).expect("a good shape"), ports: OnePort::default() }
    }

    type Turned = Result<Progress, ByteLinkError<embedded_io::ErrorKind>>;

    fn turn(link: &mut ByteLink<Wire>, host: &mut Host, now: u64) -> Turned {
        link.turn(Instant::from_micros(now), &mut host.session, &mut host.ports)
    }

    /// Turns both ends until nothing happens, and lets acknowledgements that may wait come.
    fn settle(links: &mut [ByteLink<Wire>; 2], hosts: &mut [Host; 2], now: &mut u64) {
        let mut nothing = 0;
        while nothing < 3 {
            let progress = [0, 1].map(|end| turn(&mut links[end], &mut hosts[end], *now).expect("a link that lives"));
            nothing = if progress == [Progress::Nothing; 2] { nothing + 1 } else { 0 };
            *now += if nothing > 0 { 20_000 } else { 0 };
        }
    }

    fn up(number: u32, hosts: &mut [Host; 2], now: &mut u64) -> [ByteLink<Wire>; 2] {
        let [near, far] = wires();
        let mut links = [ByteLink::dial(near, number), ByteLink::answer(far)];
        settle(&mut links, hosts, now);
        assert!(hosts.iter().all(|host| host.session.is_linked() && host.session.link_number() == number));
        links
    }

    #[test]
    fn a_stream_goes_on_over_the_next_link() {
        let mut hosts = [host(Side::Gateway), host(Side::Agent)];
        let mut now = 0;
        let mut links = up(1, &mut hosts, &mut now);
        let slot = hosts[0].session.open(Instant::from_micros(now), Mode::Stream).expect("room");
        let said: Vec<u8> = (0..40_000u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
        hosts[0].ports.says.extend(&said);
        hosts[0].session.handle_readable(slot);
        for _ in 0..4 {
            for end in [0, 1] {
                turn(&mut links[end], &mut hosts[end], now).expect("a link that lives");
            }
        }
        let before = hosts[1].ports.heard.len();
        assert!(before > 0 && before < said.len(), "{before} bytes before the cut");
        // What is under way is lost.
        for link in &mut links {
            link.link.incoming.borrow_mut().clear();
        }
        *links[0].link.closed.borrow_mut() = true;
        let ends = [0, 1].map(|end| turn(&mut links[end], &mut hosts[end], now));
        assert!(ends.iter().all(Result::is_err), "{ends:?}");
        assert!(hosts.iter().all(|host| !host.session.is_linked() && host.session.streams_open() == 1));
        let mut links = up(2, &mut hosts, &mut now);
        settle(&mut links, &mut hosts, &mut now);
        assert!(hosts[1].ports.heard == said, "{} bytes of {}", hosts[1].ports.heard.len(), said.len());
    }

    #[test]
    fn a_newer_link_takes_over_and_the_older_leaves_it_alone() {
        let mut hosts = [host(Side::Gateway), host(Side::Agent)];
        let mut now = 0;
        let mut old = up(1, &mut hosts, &mut now);
        // A third link that never says hello changes nothing.
        let [_, silent] = wires();
        *silent.closed.borrow_mut() = true;
        assert_eq!(turn(&mut ByteLink::answer(silent), &mut hosts[1], now), Err(ByteLinkError::Ended));
        assert!(hosts[1].session.is_linked());
        let mut new = up(2, &mut hosts, &mut now);
        for end in [0, 1] {
            assert_eq!(turn(&mut old[end], &mut hosts[end], now), Err(ByteLinkError::TakenOver));
            assert_eq!(turn(&mut old[end], &mut hosts[end], now), Err(ByteLinkError::Ended));
        }
        settle(&mut new, &mut hosts, &mut now);
        assert!(hosts.iter().all(|host| host.session.is_linked()));
    }

    #[test]
    fn a_length_out_of_range_ends_the_session_before_a_byte_is_read() {
        let longest = u16::try_from(MESSAGE).expect("a length of 16 bits");
        for (length, violation) in [(0, Violation::Malformed(0)), (longest + 1, Violation::RecordTooLong(MESSAGE + 1))]
        {
            let mut hosts = [host(Side::Gateway), host(Side::Agent)];
            let mut now = 0;
            let [_, mut far] = up(1, &mut hosts, &mut now);
            hosts[1].session.open(Instant::from_micros(now), Mode::Stream).expect("room");
            far.link.incoming.borrow_mut().extend(length.to_be_bytes());
            far.link.incoming.borrow_mut().extend([0xff; 9]);
            assert_eq!(turn(&mut far, &mut hosts[1], now), Err(ByteLinkError::Violation(violation)));
            assert_eq!(hosts[1].ports.ended, Some(End::Reset(ResetReason::FAILED)));
            assert!(!hosts[1].session.is_linked() && far.link.incoming.borrow().len() >= 4);
        }
    }

    #[test]
    fn a_longest_message_fits_and_a_first_message_must_be_hello() {
        let mut hosts = [host(Side::Gateway), host(Side::Agent)];
        let [near, far] = wires();
        near.outgoing.borrow_mut().extend([(MESSAGE >> 8).to_le_bytes()[0], MESSAGE.to_le_bytes()[0]]);
        near.outgoing.borrow_mut().extend([4; MESSAGE]);
        let mut far = ByteLink::answer(far);
        assert_eq!(turn(&mut far, &mut hosts[1], 0), Err(ByteLinkError::Violation(Violation::NoHello)));
        assert_eq!(far.into_inner().incoming.borrow().len(), 0);
    }
}
