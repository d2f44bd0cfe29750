//! Joined sockets: what one side says is what the other hears, to the very end.

#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_tungstenite::tungstenite::protocol::CloseFrame;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::{Error, Message};
use smol::future::{or, zip};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use support::{SHORT, closed, config, eventually, message, run, start};
use umbilical_cloud::relay::config::HybridConnection;
use umbilical_link::SUBPROTOCOL;
use umbilical_link::frame::{FrameHeader, MAX_HEADER_BYTES, Opcode, apply_mask};
use umbilical_link::transport::Transport;

const MASK: [u8; 4] = *b"mask";

fn frame(fin: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; MAX_HEADER_BYTES];
    let n = FrameHeader { fin, opcode, mask, length: payload.len() as u64 }.encode(&mut header);
    let mut bytes = [&header[..n], payload].concat();
    apply_mask(&mut bytes[n..], mask.unwrap_or_default(), 0);
    bytes
}

async fn send(transport: &mut Transport, bytes: &[u8]) {
    transport.write_all(bytes).await.unwrap();
    transport.flush().await.unwrap();
}

async fn hear(transport: &mut Transport, bytes: usize) -> Vec<u8> {
    let mut heard = vec![0; bytes];
    transport.read_exact(&mut heard).await.unwrap();
    heard
}

/// What is still to come, and how it ends.
async fn rest(transport: &mut Transport) -> (Vec<u8>, io::Result<()>) {
    let mut heard = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match transport.read(&mut buf).await {
            Ok(0) => return (heard, Ok(())),
            Ok(n) => heard.extend_from_slice(&buf[..n]),
            Err(error) => return (heard, Err(error)),
        }
    }
}

#[test]
fn types_fragments_and_empty_frames_arrive_as_they_were_sent() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join_raw(&mut listener, "device").await;
        let conversation = |mask| {
            let long: Vec<u8> = (0..=255).cycle().take(100_000).collect();
            [
                frame(true, Opcode::Text, mask, "grüezi".as_bytes()),
                frame(true, Opcode::Binary, mask, b""),
                frame(false, Opcode::Binary, mask, &long),
                frame(true, Opcode::Ping, mask, b"between"),
                frame(false, Opcode::Continuation, mask, b""),
                frame(true, Opcode::Continuation, mask, &long[..126]),
                frame(true, Opcode::Pong, mask, b"unasked"),
                frame(true, Opcode::Close, mask, b"\x0f\xa0bye"),
            ]
            .concat()
        };
        let (sent, expected) = (conversation(Some(MASK)), conversation(None));
        let (heard, ()) = zip(hear(&mut there, expected.len()), send(&mut here, &sent)).await;
        assert!(heard == expected);
        // the other direction does not know yet that this one has ended
        let (heard, ()) = zip(hear(&mut here, expected.len()), send(&mut there, &sent)).await;
        assert!(heard == expected);
        for transport in [&mut here, &mut there] {
            let (heard, end) = rest(transport).await;
            assert_eq!(heard, b"");
            end.unwrap();
        }
    });
}

#[test]
fn one_byte_at_a_time_is_enough() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join_raw(&mut listener, "device").await;
        let sent = [frame(true, Opcode::Text, Some(MASK), b"slow"), frame(true, Opcode::Binary, Some(MASK), &[7; 300])];
        let expected =
            [frame(true, Opcode::Text, None, b"slow"), frame(true, Opcode::Binary, None, &[7; 300])].concat();
        let sending = async {
            for byte in sent.concat() {
                send(&mut here, &[byte]).await;
            }
        };
        assert!(zip(hear(&mut there, expected.len()), sending).await.0 == expected);
    });
}

#[test]
fn close_code_and_reason_travel_both_ways() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join(&mut listener, "device").await;
        let goodbye = CloseFrame { code: CloseCode::from(4321), reason: "that was it".into() };
        here.close(Some(goodbye)).await.unwrap();
        assert_eq!(closed(&mut there).await, (4321, "that was it".into()));
        // the library answers a close frame with the same
        let (ended, echoed) = zip(there.next(), closed(&mut here)).await;
        assert!(ended.is_none());
        assert_eq!(echoed, (4321, "that was it".into()));
        assert!(here.next().await.is_none());
        drop((here, there));
        eventually("the join is over", || relay.relay.metrics().splices.load(Relaxed) == 0).await;
        assert_eq!(relay.relay.metrics().aborted.load(Relaxed), 0);
    });
}

#[test]
fn a_half_closed_join_goes_on_in_the_other_direction() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for sender_first in [true, false] {
            let (here, there) = relay.join_raw(&mut listener, "device").await;
            let (mut first, mut second) = if sender_first { (here, there) } else { (there, here) };
            let shutdown = [
                frame(true, Opcode::Binary, Some(MASK), b"all I have"),
                frame(true, Opcode::Close, Some(MASK), b"\x03\xe8Shutdown"),
            ];
            send(&mut first, &shutdown.concat()).await;
            let heard = hear(&mut second, 12 + 12).await;
            assert_eq!(heard, b"\x82\x0aall I have\x88\x0a\x03\xe8Shutdown");
            for _ in 0..3 {
                let chunk = [1; 70_000];
                let expected = frame(true, Opcode::Binary, None, &chunk);
                let sending = frame(true, Opcode::Binary, Some(MASK), &chunk);
                let (heard, ()) = zip(hear(&mut first, expected.len()), send(&mut second, &sending)).await;
                assert!(heard == expected);
            }
            send(&mut second, &frame(true, Opcode::Close, Some(MASK), b"\x03\xe8CloseAsync")).await;
            assert_eq!(rest(&mut first).await.0, b"\x88\x0c\x03\xe8CloseAsync");
            assert_eq!(rest(&mut second).await.0, b"");
        }
    });
}

#[test]
fn a_side_that_leaves_after_its_close_frame_does_not_hold_the_other() {
    run(async {
        let mut config = config();
        config.deadlines.close = SHORT;
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join_raw(&mut listener, "device").await;
        send(&mut here, &frame(true, Opcode::Close, Some(MASK), b"\x03\xe8")).await;
        drop(here);
        let (heard, _) = rest(&mut there).await;
        assert_eq!(heard, b"\x88\x02\x03\xe8");
    });
}

#[test]
fn an_abort_is_an_error_on_the_other_side_after_all_that_was_said() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for sender_first in [true, false] {
            let (here, there) = relay.join(&mut listener, "device").await;
            let (mut leaver, mut other) = if sender_first { (here, there) } else { (there, here) };
            let last = Message::binary(vec![9; 50_000]);
            leaver.send(last.clone()).await.unwrap();
            drop(leaver);
            assert_eq!(message(&mut other).await, last);
            let end = other.next().await.unwrap();
            assert!(matches!(end, Err(Error::Protocol(_) | Error::Io(_))), "{end:?}");
        }
        eventually("both joins are over", || relay.relay.metrics().aborted.load(Relaxed) == 2).await;
    });
}

#[test]
fn an_abort_inside_a_message_is_no_end_of_message() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join_raw(&mut listener, "device").await;
        let whole = frame(true, Opcode::Binary, Some(MASK), &[1; 1000]);
        send(&mut here, &whole[..500]).await;
        let heard = hear(&mut there, 4).await;
        assert_eq!(heard, b"\x82\x7e\x03\xe8");
        drop(here);
        let (heard, _) = rest(&mut there).await;
        assert_eq!(heard.len(), 500 - 8);
    });
}

#[test]
fn who_breaks_the_protocol_is_told_and_the_other_side_sees_an_abort() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for (bad, reason) in [
            (frame(true, Opcode::Text, None, b"unmasked"), "mask"),
            (vec![0xF2, 0x80, 0, 0, 0, 0], "reserved"),
            (vec![0x82, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "announces"),
            (vec![0x88, 0xFE, 0, 200, 0, 0, 0, 0], "close"),
        ] {
            let (mut here, mut there) = relay.join_raw(&mut listener, "device").await;
            send(&mut here, &[frame(true, Opcode::Text, Some(MASK), b"fine"), bad].concat()).await;
            assert_eq!(rest(&mut there).await.0, b"\x81\x04fine");
            let mut told = [0; 4];
            here.read_exact(&mut told).await.unwrap();
            assert_eq!((told[0], &told[2..]), (0x88, &b"\x03\xea"[..]));
            let (words, end) = rest(&mut here).await;
            let words = String::from_utf8(words).unwrap();
            assert!(words.to_lowercase().contains(reason), "{words}");
            end.unwrap();
        }
    });
}

#[test]
fn a_ping_is_answered_by_the_far_end() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join(&mut listener, "device").await;
        here.send(Message::Ping(b"far?".to_vec().into())).await.unwrap();
        let seen = there.next().await.unwrap().unwrap();
        assert_eq!(seen, Message::Ping(b"far?".to_vec().into()));
        let reading = async {
            while there.next().await.is_some() {}
            panic!("the join ended");
        };
        let answered = or(here.next(), reading).await.unwrap().unwrap();
        assert_eq!(answered, Message::Pong(b"far?".to_vec().into()));
    });
}

#[test]
fn a_side_that_does_not_read_does_not_stop_the_other_direction() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join_raw(&mut listener, "device").await;
        let chunk = frame(true, Opcode::Binary, Some(MASK), &[0; 60_000]);
        // until every buffer on the way is full
        let mut stuck = 0;
        let sent = async |transport: &mut Transport| {
            send(transport, &chunk).await;
            true
        };
        let stopped = async || {
            smol::Timer::after(Duration::from_millis(500)).await;
            false
        };
        while or(sent(&mut here), stopped()).await {
            stuck += chunk.len();
            assert!(stuck < 64 << 20, "the relay swallows everything");
        }
        send(&mut there, &frame(true, Opcode::Text, Some(MASK), b"hello")).await;
        assert_eq!(hear(&mut here, 7).await, b"\x81\x05hello");
    });
}

#[test]
fn large_messages_pass_in_both_directions_at_once() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (here, there) = relay.join(&mut listener, "device").await;
        let (one, other) = (vec![1_u8; 16 << 20], vec![2_u8; 16 << 20]);
        let ((mut here_out, mut here_in), (mut there_out, mut there_in)) = (here.split(), there.split());
        let sending = zip(here_out.send(Message::binary(one.clone())), there_out.send(Message::binary(other.clone())));
        let hearing = zip(there_in.next(), here_in.next());
        let ((sent_one, sent_other), (heard_one, heard_other)) = zip(sending, hearing).await;
        sent_one.unwrap();
        sent_other.unwrap();
        assert!(heard_one.unwrap().unwrap() == Message::binary(one));
        assert!(heard_other.unwrap().unwrap() == Message::binary(other));
        let metrics = relay.relay.metrics();
        for bytes in [&metrics.bytes_to_listeners, &metrics.bytes_to_senders] {
            assert_eq!(bytes.load(Relaxed), (16 << 20) + 10);
        }
    });
}

#[test]
fn shutting_down_lets_joins_go_on_for_a_while_and_then_says_so() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join(&mut listener, "device").await;
        let (mut in_a_frame, mut half) = relay.join_raw(&mut listener, "device").await;
        send(&mut in_a_frame, &frame(true, Opcode::Binary, Some(MASK), &[1; 100])[..50]).await;
        hear(&mut half, 2).await;
        let closing = {
            let relay = relay.relay.clone();
            smol::spawn(async move { relay.shutdown(SHORT * 4).await })
        };
        assert_eq!(listener.closed().await.0, 1001);
        drop(listener);
        here.send(Message::text("still here")).await.unwrap();
        assert_eq!(message(&mut there).await, Message::text("still here"));
        let (one, other) = zip(closed(&mut here), closed(&mut there)).await;
        assert_eq!((one.0, other.0), (1001, 1001));
        // a close frame inside another frame would be payload
        assert_eq!(rest(&mut half).await.0.len(), 50 - 6);
        assert_eq!(&rest(&mut in_a_frame).await.0[2..4], b"\x03\xe9");
        drop((here, there, half, in_a_frame));
        closing.await;
    });
}

#[test]
fn taking_a_hybrid_connection_out_ends_its_joins() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join(&mut listener, "device").await;
        config.hybrid_connections.clear();
        relay.relay.reload(&config).unwrap();
        let (one, other) = zip(closed(&mut here), closed(&mut there)).await;
        assert_eq!((one.0, other.0), (1001, 1001));
    });
}

#[test]
fn a_join_outlives_the_listeners_control_channel() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let (mut here, mut there) = relay.join(&mut listener, "device").await;
        drop(listener);
        eventually("no listener", || relay.relay.metrics().listeners.load(Relaxed) == 0).await;
        there.send(Message::text("go on")).await.unwrap();
        assert_eq!(message(&mut here).await, Message::text("go on"));
    });
}

/// Its control channel was thought to be alive: so are, wrongly, the links beside it. A session lives on, another join would not.
#[test]
fn a_listener_that_connects_anew_loses_its_sessions_links_and_no_other_join() {
    run(async {
        let mut config = config();
        let other = HybridConnection { path: "other".into(), ..config.hybrid_connections[0].clone() };
        config.hybrid_connections.push(other);
        let relay = start(&config);
        let mut old = relay.listen_as("device", "plant_7").await;
        let mut other = relay.listen_as("other", "plant_8").await;
        let session = [("Sec-WebSocket-Protocol", SUBPROTOCOL)];
        let (mut here, _there) = relay.join_with(&mut old, "device", &session).await;
        let (mut others_here, mut others_there) = relay.join_with(&mut other, "other", &session).await;
        let (mut plain_here, mut plain_there) = relay.join(&mut old, "device").await;

        let _new = relay.listen_as("device", "plant_7").await;
        assert_eq!(closed(&mut here).await, (1001, "Replaced by a newer connection of this listener".into()));
        for (here, there) in [(&mut others_here, &mut others_there), (&mut plain_here, &mut plain_there)] {
            there.send(Message::text("go on")).await.unwrap();
            assert_eq!(message(here).await, Message::text("go on"));
        }
    });
}
