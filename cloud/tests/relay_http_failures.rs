//! Promise: an HTTP request that cannot be relayed is answered with a status that says why, costs nobody else anything, and
//! what breaks in the middle breaks visibly.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_tungstenite::tungstenite::Message;
use smol::future::or;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use smol::{Timer, future};
use support::http::{answer, begin_chunked, chunk, request_head, response, target_in};
use support::{LONG, SHORT, config, eventually, now, run, start, token, token_until};
use umbilical_cloud::relay::config::RelayConfig;
use umbilical_relay_protocol::{Request, SasToken};

#[test]
fn tokens_are_looked_for_in_three_places_and_only_the_relay_s_own_are_taken_away() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut open = relay.listen("open").await;
        let good = token("device", "send");
        let escaped = good.replace('%', "%25").replace(' ', "%20").replace('&', "%26").replace('=', "%3D");
        let in_query = format!("/device?sb-hc-token={escaped}&a=1");
        let header = ("ServiceBusAuthorization", good.as_str());
        let basic = ("Authorization", "Basic abc");
        // target, headers, what the listener sees of Authorization, or the status
        for (target, headers, expected) in [
            ("/device", &[header][..], Ok(None)),
            ("/device", &[header, basic][..], Ok(Some("Basic abc"))),
            (in_query.as_str(), &[][..], Ok(None)),
            (in_query.as_str(), &[basic][..], Ok(Some("Basic abc"))),
            ("/device", &[("Authorization", good.as_str())][..], Ok(None)),
            ("/device", &[("ServiceBusAuthorization", ""), ("Authorization", good.as_str())][..], Ok(None)),
            ("/device", &[basic][..], Err(401)),
            ("/device", &[][..], Err(401)),
            ("/device?sb-hc-token=x", &[("Authorization", good.as_str())][..], Err(401)),
            ("/open?sb-hc-token=x", &[("ServiceBusAuthorization", "y"), basic][..], Ok(Some("Basic abc"))),
            ("/open", &[("Authorization", good.as_str())][..], Ok(Some(good.as_str()))),
        ] {
            let mut client = relay.client().await;
            client.head("GET", target, headers).await;
            if let Err(status) = expected {
                assert_eq!(client.reply().await.status(), status, "{target} {headers:?}");
                continue;
            }
            let listener = if target.starts_with("/open") { &mut open } else { &mut listener };
            let (head, _) = listener.whole_request().await;
            assert!(!head.request_target.contains("sb-hc-token"), "{}", head.request_target);
            assert_eq!(head.headers.get("ServiceBusAuthorization"), None);
            assert_eq!(Ok(head.headers.get("Authorization")), expected, "{target} {headers:?}");
            listener.answer(&head.id, b"").await;
            assert_eq!(client.reply().await.status(), 200);
        }
    });
}

#[test]
fn what_cannot_be_relayed_has_its_status_and_a_tracking_id() {
    run(async {
        let relay = start(&config());
        let _listener = relay.listen("device").await;
        let wrong_key = SasToken::sign("http://localhost/device", "send", b"key of another", now() + 60);
        let large = "x".repeat(32 * 1024);
        let send = token("device", "send");
        for (method, target, header, status, text) in [
            ("GET", "/other", ("X", ""), 404, "Endpoint does not exist: 'other'"),
            ("GET", "/", ("X", ""), 404, "Endpoint does not exist: ''"),
            ("OPTIONS", "*", ("X", ""), 404, "Endpoint does not exist"),
            ("GET", "/device", ("X", ""), 401, "MissingToken"),
            ("GET", "/device", ("ServiceBusAuthorization", &wrong_key), 401, "invalid signature"),
            ("GET", "/device", ("ServiceBusAuthorization", &token_until("device", "send", now())), 401, "expired"),
            ("GET", "/device", ("ServiceBusAuthorization", &token("device", "listen")), 403, "Send"),
            ("GET", "/open", ("X", ""), 502, "There are no listeners connected for the endpoint 'open'"),
            ("CONNECT", "localhost:22", ("X", ""), 405, "CONNECT"),
            ("GET", "/device", ("Expect", "miracles"), 417, "miracles"),
            ("POST", "/device", ("Transfer-Encoding", "gzip"), 501, "chunked"),
            ("POST", "/device", ("Content-Length", "x"), 400, "Content-Length"),
            ("GET", "/device", ("Host", "twice"), 400, "Host"),
        ] {
            let mut client = relay.client().await;
            client.head(method, target, &[header]).await;
            let reply = client.reply().await;
            let reason = &reply.head.reason;
            assert_eq!((reply.status(), reason.contains(text)), (status, true), "{method} {target}: {:?}", reply.head);
            assert!(reason.contains(". TrackingId:") && reason.contains(", SystemTracker:localhost, Time"), "{reason}");
            assert_eq!((reply.head.header("Via"), reply.head.header("Connection")), (None, Some("close")), "{reason}");
            client.ended().await;
        }
        let mut client = relay.client().await;
        client.head("GET", "/device", &[("ServiceBusAuthorization", &send), ("X", &large)]).await;
        assert_eq!(client.reply().await.status(), 431);
        // quotes take twice the room in JSON
        let quotes = "\"".repeat(32 * 1024 - 60);
        let _listener = relay.listen("open").await;
        let mut client = relay.client().await;
        client.head("GET", "/open", &[("X", &quotes)]).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.head.reason.contains("too large")), (431, true), "{:?}", reply.head);
        let mut client = relay.client().await;
        client.head("HEAD", "/device", &[]).await;
        assert_eq!(client.bare_reply().await.status, 401);
        client.ended().await;
    });
}

#[test]
fn a_message_whose_end_two_readers_could_see_in_two_places_is_refused() {
    run(async {
        let relay = start(&config());
        let _listener = relay.listen("open").await;
        for (lines, status) in [
            ("Content-Length: 4\r\nTransfer-Encoding: chunked", 400),
            ("Content-Length: 4\r\nContent-Length: 5", 400),
            ("Content-Length: 4, 5", 400),
            ("Content-Length: +4", 400),
            ("Transfer-Encoding: chunked, chunked", 501),
            ("Transfer-Encoding: xchunked", 501),
            ("Content-Length : 4", 400),
        ] {
            let mut client = relay.client().await;
            let head = format!("POST /open HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n");
            client.write(format!("{head}0\r\n\r\nGET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
            let reply = client.reply().await;
            assert_eq!(reply.status(), status, "{lines}");
            client.ended().await;
        }
    });
}

#[test]
fn a_body_that_is_none_is_refused_and_the_listener_sees_it_break() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        client.write(&chunk(b"good")).await;
        let mut socket = listener.fetch().await;
        request_head(&mut socket).await;
        client.write(b"nonsense\r\n").await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.head.reason.contains("a chunk's size")), (400, true), "{:?}", reply.head);
        assert!(matches!(socket.next().await, None | Some(Err(_))), "the body looked whole");
    });
}

#[test]
fn a_sender_that_leaves_early_costs_nobody_anything() {
    run(async {
        let relay = start(&config());
        let metrics = relay.relay.metrics();
        let mut listener = relay.listen("device").await;
        // before the answer
        let client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        drop(client);
        eventually("it is noticed", || metrics.exchanges.load(Relaxed) == 0).await;
        assert_eq!(metrics.broken_requests.load(Relaxed), 1);
        listener.answer(&head.id, b"too late").await;
        // not refused: hyco-https does not survive that
        let target = target_in(&head.address.unwrap());
        assert_eq!(support::closed(&mut relay.open(&target, &[]).await).await.0, 1001);
        assert_eq!(relay.answer(&target, &[]).await.status, 403);

        // in the middle of its body
        let mut client = begin_chunked(&relay, "/device").await;
        client.write(&chunk(b"half of it")).await;
        let mut socket = listener.fetch().await;
        request_head(&mut socket).await;
        drop(client);
        assert!(matches!(socket.next().await, None | Some(Err(_))), "the body looked whole");

        // in the middle of the answer
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        let mut socket = relay.open(&target_in(&head.address.unwrap()), &[]).await;
        socket.send(Message::text(response(&head.id, 200, true))).await.unwrap();
        assert_eq!(client.bare_reply().await.status, 200);
        drop(client);
        assert!(matches!(socket.next().await, None | Some(Err(_))));

        // while the rendezvous is waited for
        let client = begin_chunked(&relay, "/device").await;
        let Request::Fetch { address } = listener.told().await else { panic!("not to be fetched") };
        drop(client);
        eventually("it is noticed", || metrics.exchanges.load(Relaxed) == 0).await;
        assert_eq!(support::closed(&mut relay.open(&target_in(&address), &[]).await).await.0, 1001);

        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        listener.answer(&head.id, b"in step").await;
        assert_eq!(client.reply().await.text(), "in step");
    });
}

#[test]
fn a_listener_that_leaves_ends_the_wait_at_once() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.request("GET", "/device", &[], b"").await;
        listener.whole_request().await;
        drop(listener);
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.head.reason.contains("The listener left")), (502, true), "{:?}", reply.head);

        let mut listener = relay.listen("device").await;
        for said in ["", "{", r#"{"response":{"requestId":"x","statusCode":99}}"#] {
            let mut client = begin_chunked(&relay, "/device").await;
            let mut socket = listener.fetch().await;
            request_head(&mut socket).await;
            if !said.is_empty() {
                socket.send(Message::text(said)).await.unwrap();
            }
            drop(socket);
            assert_eq!(client.reply().await.status(), 502, "{said}");
        }
        for rendezvous in [false, true] {
            let mut client = relay.request("GET", "/device", &[], b"").await;
            let (head, _) = listener.whole_request().await;
            let said = Message::text(response(&head.id, 101, false));
            if rendezvous {
                let mut socket = relay.open(&target_in(&head.address.unwrap()), &[]).await;
                socket.send(said).await.unwrap();
                assert_eq!(client.reply().await.status(), 502);
            } else {
                listener.control.send(said).await.unwrap();
                assert_eq!(client.reply().await.status(), 502);
            }
        }
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for how in ["gone", "closed", "nonsense"] {
            let mut client = relay.request("GET", "/device", &[], b"").await;
            let (head, _) = listener.whole_request().await;
            let mut socket = relay.open(&target_in(&head.address.unwrap()), &[]).await;
            socket.send(Message::text(response(&head.id, 200, true))).await.unwrap();
            let mut transport = socket.into_inner();
            transport.write_all(b"\x02\x84\0\0\0\0half").await.unwrap();
            assert_eq!(client.bare_reply().await.status, 200);
            assert_eq!(client.chunk().await.unwrap(), b"half");
            match how {
                "gone" => {}
                "closed" => transport.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.unwrap(),
                _ => transport.write_all(b"\x82\x80\0\0\0\0").await.unwrap(),
            }
            drop(transport);
            client.ended().await;
        }
        assert_eq!(relay.relay.metrics().broken_requests.load(Relaxed), 3);
    });
}

fn impatient() -> RelayConfig {
    let mut config = config();
    config.deadlines.response = SHORT;
    config.deadlines.rendezvous = SHORT;
    config
}

#[test]
fn patience_ends_everywhere() {
    run(async {
        let relay = start(&impatient());
        let mut listener = relay.listen("device").await;
        let late = |reply: support::http::Reply| {
            assert_eq!((reply.status(), reply.head.reason.contains("in time")), (504, true), "{:?}", reply.head);
        };
        // no answer on the control channel
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        late(client.reply().await);
        listener.answer(&head.id, b"too late").await;
        // nobody at the rendezvous
        let mut client = begin_chunked(&relay, "/device").await;
        listener.told().await;
        late(client.reply().await);
        // at the rendezvous, but silent
        let mut client = begin_chunked(&relay, "/device").await;
        let mut socket = listener.fetch().await;
        client.write(b"0\r\n\r\n").await;
        support::http::whole_request(&mut socket).await;
        late(client.reply().await);
        // the sender does not go on with its body
        let mut client = begin_chunked(&relay, "/device").await;
        let mut socket = listener.fetch().await;
        request_head(&mut socket).await;
        assert_eq!(client.reply().await.status(), 408);
        // the listener does not go on with its answer
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        let mut socket = relay.open(&target_in(&head.address.unwrap()), &[]).await;
        socket.send(Message::text(response(&head.id, 200, true))).await.unwrap();
        assert_eq!(client.bare_reply().await.status, 200);
        client.ended().await;
    });
}

#[test]
fn a_reload_changes_the_patience() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        relay.relay.reload(&impatient()).unwrap();
        let mut client = relay.request("GET", "/device", &[], b"").await;
        listener.whole_request().await;
        assert_eq!(client.reply().await.status(), 504);
    });
}

#[test]
fn a_slow_request_may_take_longer_than_its_answer() {
    run(async {
        let mut config = config();
        config.deadlines.response = Duration::from_millis(500);
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        let mut socket = listener.fetch().await;
        let head = request_head(&mut socket).await;
        for _ in 0..6 {
            // the pace is the point: each piece in time, all of them not
            Timer::after(config.deadlines.response / 4).await;
            client.write(&chunk(b"piece")).await;
        }
        client.write(b"0\r\n\r\n").await;
        assert_eq!(support::http::binary(&mut socket).await, b"piece".repeat(6));
        answer(&mut socket, &head.id, b"ok").await;
        assert_eq!(client.reply().await.status(), 200);
    });
}

#[test]
fn a_silent_connection_is_closed_between_requests() {
    run(async {
        let mut config = config();
        config.deadlines.idle = SHORT;
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        listener.answer(&head.id, b"ok").await;
        client.reply().await;
        client.ended().await;
    });
}

#[test]
fn a_listener_cannot_answer_for_another() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut other = relay.listen("open").await;
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        other.answer(&head.id, b"not mine to answer").await;
        // it has been heard once what it says next has
        let mut own = relay.client().await;
        own.head("GET", "/open", &[]).await;
        let (asked, _) = other.whole_request().await;
        other.answer(&asked.id, b"mine").await;
        assert_eq!(own.reply().await.text(), "mine");
        listener.answer(&head.id, b"right").await;
        assert_eq!(client.reply().await.text(), "right");
    });
}

#[test]
fn an_address_serves_one_request_and_no_sender() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        let Request::Fetch { address } = listener.told().await else { panic!("not to be fetched") };
        let target = target_in(&address);
        assert_eq!(relay.answer(&target.replace("sb-hc-action=request", "sb-hc-action=accept"), &[]).await.status, 403);
        let mut socket = relay.open(&target, &[]).await;
        assert_eq!(relay.answer(&target, &[]).await.status, 403);
        client.write(b"0\r\n\r\n").await;
        let (head, _) = support::http::whole_request(&mut socket).await;
        answer(&mut socket, &head.id, b"ok").await;
        assert_eq!(client.reply().await.status(), 200);
    });
}

#[test]
fn a_response_in_place_of_a_body_ends_the_channel() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        for _ in 0..2 {
            listener.say(&response(&head.id, 200, true)).await;
        }
        assert_eq!(listener.closed().await.0, 1002);
        drop(listener);
        assert_eq!(client.reply().await.status(), 502);
    });
}

#[test]
fn senders_choose_their_listeners_by_header() {
    run(async {
        let relay = start(&config());
        let mut listeners = [relay.listen_as("device", "one").await, relay.listen_as("device", "two").await];
        for (name, value, who) in
            [("Microsoft-Relay-AllowedListeners", "TWO, nobody", 1), ("Microsoft-Relay-DisallowedListeners", "two", 0)]
        {
            for _ in 0..10 {
                let mut client = relay.request("GET", "/device", &[(name, value)], b"").await;
                let (head, _) = listeners[who].whole_request().await;
                listeners[who].answer(&head.id, b"").await;
                assert_eq!(client.reply().await.status(), 200);
                let sender = relay.send("device", &[(name, value)]).await;
                listeners[who].invitation().await;
                drop(sender);
            }
        }
        let none = [("Microsoft-Relay-AllowedListeners", "three")];
        let reply = relay.request("GET", "/device", &none, b"").await.reply().await;
        let expected = "None of the connected listeners meet the AllowedListeners/DisallowedListeners criteria";
        assert_eq!((reply.status(), reply.head.reason.starts_with(expected)), (404, true), "{:?}", reply.head);
        let reply = support::Answer::read(&mut relay.send("device", &none).await).await;
        assert_eq!((reply.status, reply.reason.starts_with(expected)), (404, true), "{reply:?}");
    });
}

#[test]
fn a_side_that_does_not_read_stops_the_other() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        let socket = listener.fetch().await;
        let mut transport = socket.into_inner();
        let piece = chunk(&[7; 60_000]);
        let sent = async { write_until_stuck(&mut client.0, &piece).await };
        assert!(sent.await < 32 << 20);
        // and the other way round: the listener answers at length, the sender does not read
        let text = response("x", 200, true);
        let mut head = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        head.extend_from_slice(text.as_bytes());
        head.extend_from_slice(b"\x02\x80\0\0\0\0");
        transport.write_all(&head).await.unwrap();
        let frame = [&b"\0\xfe\xea\x60\0\0\0\0"[..], &[7; 60_000]].concat();
        assert!(write_until_stuck(&mut transport, &frame).await < 32 << 20);
    });
}

/// Writes until nothing has been taken for a while; how many bytes were.
async fn write_until_stuck(transport: &mut umbilical_link::transport::Transport, piece: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        let writing = async { transport.write_all(piece).await.map(|()| true).unwrap() };
        let stuck = async {
            Timer::after(SHORT * 4).await;
            false
        };
        if taken > 64 << 20 || !or(writing, stuck).await {
            return taken;
        }
        taken += piece.len();
    }
}

#[test]
fn a_relay_that_stops_lets_answers_finish_and_takes_no_more() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut idle = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        listener.answer(&head.id, b"ok").await;
        idle.reply().await;
        let mut waiting = relay.request("GET", "/device", &[], b"").await;
        listener.whole_request().await;
        let mut streaming = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        let mut socket = relay.open(&target_in(&head.address.unwrap()), &[]).await;
        socket.send(Message::text(response(&head.id, 200, true))).await.unwrap();
        assert_eq!(streaming.bare_reply().await.status, 200);

        let stopping = relay.relay.shutdown(LONG);
        let rest = async {
            idle.ended().await;
            assert!([502, 503].contains(&waiting.reply().await.status()));
            drop((idle, waiting, listener));
            socket.send(Message::binary(b"the rest".to_vec())).await.unwrap();
            assert_eq!(streaming.chunk().await.unwrap(), b"the rest");
            assert_eq!(streaming.chunk().await, None);
            let mut rest = Vec::new();
            let _ = streaming.0.read_to_end(&mut rest).await;
            drop((streaming, socket));
        };
        future::zip(stopping, rest).await;
    });
}

#[test]
fn a_request_waits_for_a_listener_that_is_on_its_way() {
    run(async {
        let mut config = config();
        config.deadlines.absence = Duration::from_secs(20);
        let relay = start(&config);
        let mut client = relay.request("POST", "/device", &[], b"question").await;
        eventually("the request waits", || relay.relay.metrics().waiting.load(Relaxed) == 1).await;
        let mut listener = relay.listen("device").await;
        let (head, body) = listener.whole_request().await;
        assert_eq!(body, b"question");
        listener.answer(&head.id, b"answer").await;
        assert_eq!(client.reply().await.text(), "answer");
    });
}
