#![no_main]
//! A hostile peer. Each operation is one byte and what belongs to it.

use libfuzzer_sys::fuzz_target;
use umbilical_mux::{Frame, Hello, Instant, MAX_MESSAGE, Mode, ResetReason, Side, Slot, VERSION};
use umbilical_mux_fuzz::{Host, ID, Input};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let side = if input.byte().is_multiple_of(2) { Side::Gateway } else { Side::Agent };
    let mut host = Host::new(side, false);
    let (mut time, mut number) = (1_000_000, 0);
    while let Some(operation) = input.next() {
        let now = Instant::from_micros(time);
        let slot = Slot::at(u16::from(operation / 16));
        match operation % 16 {
            0..=7 => {
                let length = input.byte();
                let message = input.bytes(usize::from(length));
                if host.session.handle_message(now, message, &mut host.ports).is_err() {
                    host.session.abandon(&mut host.ports, ResetReason::FAILED);
                    assert!(host.ports.is_empty());
                }
            }
            8 => {
                number += 1;
                let hello = Hello {
                    version: VERSION,
                    session: ID,
                    link: number,
                    received: input.byte().into(),
                    resumes: u32::from(input.byte()).min(number - 1),
                    streams: input.byte().into(),
                    credit: u32::from(input.byte()) << (operation / 16),
                    replay: 0,
                    record: u32::from(input.byte()) << 8,
                    features: u32::MAX,
                };
                let _ = host.session.handle_hello(now, &hello, &mut host.ports);
            }
            9 => {
                let mode = if operation < 128 { Mode::Stream } else { Mode::Datagram };
                host.open(now, mode);
            }
            10 => {
                for _ in 0..64 {
                    let Some(message) = host.poll(now) else { break };
                    read(&message);
                }
            }
            11 => {
                time += u64::from(input.byte()) << (operation / 16);
                host.session.handle_timeout(Instant::from_micros(time), &mut host.ports);
            }
            12 => host.make_room(slot, 40 * u64::from(input.byte())),
            13 => host.say(slot, 64 * u16::from(input.byte())),
            14 => host.end(slot),
            _ if operation < 64 => host.session.handle_link_lost(now),
            _ if operation == 255 => host.session.go_away(5_000),
            _ => host.reset(slot),
        }
        host.check();
    }
});

/// What the session says keeps to the protocol, whatever the peer says.
fn read(message: &[u8]) {
    assert!(!message.is_empty() && message.len() <= MAX_MESSAGE);
    let mut at = 0;
    while at < message.len() {
        let (frame, _, taken) = Frame::decode(&message[at..], at).expect("a frame");
        assert!(frame != Frame::Hello);
        at += taken;
    }
}
