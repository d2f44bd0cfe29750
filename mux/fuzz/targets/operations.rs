#![no_main]
//! Two honest sessions and everything that can happen to them.

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use umbilical_mux::{Hello, Instant, Mode, Side, Slot};
use umbilical_mux_fuzz::{Host, Input};

struct World {
    hosts: [Host; 2],
    /// Messages under way, from the gateway and from the agent; none where there is no link.
    ways: [VecDeque<Vec<u8>>; 2],
    /// The side is on the newest link.
    linked: [bool; 2],
    number: u32,
    time: u64,
}

impl World {
    fn now(&self) -> Instant {
        Instant::from_micros(self.time)
    }

    /// A new link. The gateway's `Hello` arrives or is lost; the agent's answer too.
    fn dial(&mut self, hello_arrives: bool, answer_arrives: bool) {
        let now = self.now();
        self.number += 1;
        // What was under way from the agent is not taken any more once the gateway says `Hello`.
        self.ways[1].clear();
        self.lose(0);
        let hello = Hello::decode(&self.hosts[0].hello(self.number)).expect("a hello");
        if !hello_arrives {
            return;
        }
        let [gateway, agent] = &mut self.hosts;
        self.ways[0].clear();
        agent.session.handle_hello(now, &hello, &mut agent.ports).expect("the agent takes a newer link");
        self.linked[1] = true;
        if !answer_arrives {
            return self.lose(1);
        }
        let answer = Hello::decode(&agent.hello(self.number)).expect("a hello");
        gateway.session.handle_hello(now, &answer, &mut gateway.ports).expect("the gateway takes the answer");
        self.linked[0] = true;
    }

    fn lose(&mut self, side: usize) {
        let now = self.now();
        self.hosts[side].session.handle_link_lost(now);
        self.linked[side] = false;
    }

    fn cut(&mut self) {
        self.ways.iter_mut().for_each(VecDeque::clear);
        self.lose(0);
        self.lose(1);
    }

    fn poll(&mut self, side: usize) -> bool {
        let now = self.now();
        let message = self.hosts[side].poll(now);
        let any = message.is_some();
        self.ways[side].extend(message.filter(|_| self.linked[side]));
        any
    }

    fn deliver(&mut self, from: usize) -> bool {
        let now = self.now();
        let to = &mut self.hosts[1 - from];
        let Some(message) = self.ways[from].pop_front().filter(|_| self.linked[1 - from]) else { return false };
        to.session.handle_message(now, &message, &mut to.ports).expect("the peer is honest");
        true
    }

    fn pass(&mut self, micros: u64) {
        self.time += micros;
        let now = self.now();
        for (side, host) in self.hosts.iter_mut().enumerate() {
            host.session.handle_timeout(now, &mut host.ports);
            assert!(self.linked[side] || host.poll(now).is_none(), "a message without a link");
        }
    }

    /// Lets everything that was said arrive.
    fn settle(&mut self) {
        self.dial(true, true);
        for _ in 0..10_000 {
            let mut any = false;
            for side in [0, 1] {
                for slot in 0..4 {
                    self.hosts[side].make_room(Slot::at(slot), 1 << 20);
                }
                any |= self.poll(side);
                any |= self.deliver(side);
            }
            if !any {
                let next = self.hosts.iter().filter_map(|host| host.session.next_timeout()).min();
                let Some(next) = next else { return };
                self.pass(next.as_micros().saturating_sub(self.time).max(1));
            }
        }
        panic!("two sessions that do not come to rest");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let hosts = [Host::new(Side::Gateway, true), Host::new(Side::Agent, true)];
    let mut world = World { hosts, ways: Default::default(), linked: [false; 2], number: 0, time: 1_000_000 };
    while let Some(operation) = input.next() {
        let now = world.now();
        let side = usize::from(operation / 16 % 2);
        let slot = Slot::at(u16::from(operation / 32 % 4));
        match operation % 16 {
            0 | 1 => _ = world.poll(side),
            2 | 3 => _ = world.deliver(side),
            4 => {
                for _ in 0..20 {
                    if !world.poll(side) && !world.deliver(side) {
                        break;
                    }
                }
            }
            5 => {
                let mode = if operation < 192 { Mode::Stream } else { Mode::Datagram };
                world.hosts[side].open(now, mode);
            }
            6 | 7 => world.hosts[side].say(slot, u16::from(input.byte()) << (operation % 2 * 6)),
            8 => world.hosts[side].make_room(slot, 16 * u64::from(input.byte())),
            9 => world.hosts[side].end(slot),
            10 => world.hosts[side].reset(slot),
            11 => world.pass(u64::from(input.byte()) << (operation / 16)),
            12 => world.cut(),
            13 => world.dial(operation / 16 != 0, operation / 16 != 1),
            14 if operation / 16 == 15 => world.hosts[side].session.go_away(1_000),
            _ => world.lose(side),
        }
        world.hosts.iter().for_each(Host::check);
    }
    world.settle();
    let [gateway, agent] = &world.hosts;
    let (near, far) = (gateway.heard_and_said(), agent.heard_and_said());
    assert!(near.keys().eq(far.keys()), "streams that only one side has");
    for (service, (near_heard, near_said, near_rest)) in near {
        let (far_heard, far_said, far_rest) = far[service];
        assert_eq!([near_heard, far_heard], [far_said, near_said], "{service}: not everything arrived");
        assert_eq!([near_rest, far_rest], [0, 0], "{service}: something was never said");
    }
});
