//! A link of bytes may break after any of them, in either direction: whatever part of a message had come, every byte of
//! every stream arrives once and in order over the next link.

mod support;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use embedded_io::ErrorKind;
use support::host::Host;
use support::ports::Then;
use support::storage::SHAPE;
use umbilical_mux::{ByteLink, End, Instant, Progress, Side};

/// One direction: what is under way, and how many bytes more get through before the link is cut.
struct Line {
    bytes: VecDeque<u8>,
    carries: usize,
    carried: usize,
}

/// One end of a link. It is cut when either direction has carried all it carries; what had come before can still be read.
struct Wire {
    incoming: Rc<RefCell<Line>>,
    outgoing: Rc<RefCell<Line>>,
}

fn wires(carries: [usize; 2]) -> [Wire; 2] {
    let line = |carries| Rc::new(RefCell::new(Line { bytes: VecDeque::new(), carries, carried: 0 }));
    let [there, back] = carries.map(line);
    let near = Wire { incoming: Rc::clone(&back), outgoing: Rc::clone(&there) };
    [near, Wire { incoming: there, outgoing: back }]
}

impl Wire {
    fn is_cut(&self) -> bool {
        self.incoming.borrow().carries == 0 || self.outgoing.borrow().carries == 0
    }
}

impl embedded_io::ErrorType for Wire {
    type Error = ErrorKind;
}

impl embedded_io::ReadReady for Wire {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        Ok(!self.incoming.borrow().bytes.is_empty() || self.is_cut())
    }
}

impl embedded_io::Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ErrorKind> {
        let mut incoming = self.incoming.borrow_mut();
        let count = buffer.len().min(incoming.bytes.len());
        buffer.iter_mut().zip(incoming.bytes.drain(..count)).for_each(|(byte, got)| *byte = got);
        Ok(count)
    }
}

impl embedded_io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        if self.is_cut() {
            return Err(ErrorKind::BrokenPipe);
        }
        let mut outgoing = self.outgoing.borrow_mut();
        let count = bytes.len().min(outgoing.carries);
        outgoing.bytes.extend(&bytes[..count]);
        outgoing.carries -= count;
        outgoing.carried += count;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

struct World {
    hosts: [Host; 2],
    now: Instant,
    links: u32,
}

impl World {
    fn new() -> Self {
        let mut hosts = [Side::Gateway, Side::Agent].map(|side| Host::new(side, SHAPE));
        let now = Instant::from_micros(1);
        hosts[0].open(now, "echo:1", 300).expect("room");
        hosts[0].change(1, |port| port.then = Then::End);
        hosts[1].open(now, "both:2:200", 250).expect("room");
        hosts[1].change(2, |port| port.then = Then::End);
        Self { hosts, now, links: 0 }
    }

    /// A link that carries so many bytes there and back, until it is cut or nothing happens any more; how many it carried.
    fn link(&mut self, carries: [usize; 2]) -> [usize; 2] {
        let [near, far] = wires(carries);
        let lines = [Rc::clone(&near.outgoing), Rc::clone(&far.outgoing)];
        self.links += 1;
        let mut ends = [ByteLink::dial(near, self.links), ByteLink::answer(far)];
        let mut broken = [false; 2];
        let mut nothing = 0;
        while nothing < 3 {
            let mut progress = false;
            for (end, host) in self.hosts.iter_mut().enumerate() {
                host.wake();
                if !broken[end] {
                    match ends[end].turn(self.now, &mut host.session, &mut host.ports) {
                        Ok(turned) => progress |= turned != Progress::Nothing,
                        Err(_) => (broken[end], progress) = (true, true),
                    }
                }
            }
            nothing = if progress { 0 } else { nothing + 1 };
            self.now = if progress { self.now } else { self.now.after_millis(20) };
        }
        lines.map(|line| line.borrow().carried)
    }

    /// Both streams are complete, and over where both sides ended.
    fn assert_whole(&mut self, cut: [usize; 2]) {
        let [near, far] = &mut self.hosts;
        assert_eq!((near.got(1), far.got(1)), (300, 300), "stream 1, cut at {cut:?}");
        assert_eq!((near.got(2), far.got(2)), (250, 200), "stream 2, cut at {cut:?}");
        assert_eq!((near.ports.end(1), far.ports.end(1)), (Some(End::Closed), Some(End::Closed)), "cut at {cut:?}");
        assert!(near.ports.port(2).finished, "the end of stream 2, cut at {cut:?}");
    }
}

const WHOLE: [usize; 2] = [usize::MAX; 2];

#[test]
fn a_link_may_break_after_any_byte() {
    let mut world = World::new();
    let all = world.link(WHOLE);
    world.assert_whole(WHOLE);
    assert!(all.iter().all(|bytes| *bytes > 500), "{all:?} bytes are not worth cutting");
    let there = (1..all[0]).map(|bytes| [bytes, usize::MAX]);
    let back = (1..all[1]).map(|bytes| [usize::MAX, bytes]);
    let both = (1..all[0]).step_by(13).flat_map(|there| (1..all[1]).step_by(11).map(move |back| [there, back]));
    for cut in there.chain(back).chain(both) {
        let mut world = World::new();
        world.link(cut);
        world.link(WHOLE);
        world.assert_whole(cut);
    }
}

#[test]
fn links_may_break_again_and_again_each_a_few_bytes_later() {
    for step in 1..40 {
        let mut world = World::new();
        for carries in (step..1_000).step_by(step) {
            world.link([carries, 1_000 - carries + step]);
        }
        world.link(WHOLE);
        world.assert_whole(WHOLE);
    }
}
