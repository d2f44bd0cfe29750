//! Promise: a plain HTTP request reaches a listener, and its answer the sender, as the protocol says, byte for byte.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering::Relaxed;

use async_tungstenite::tungstenite::Message;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use support::http::{
    HttpClient, answer, begin_chunked, binary, chunk, request_head, response, target_in, whole_request,
};
use support::{Answer, Listener, config, eventually, message, run, start, token};
use umbilical_link::transport::Transport;
use umbilical_relay_protocol::{RelayMessage, Request, RequestHead};

#[test]
fn a_request_without_a_body_is_one_message() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let guid = "0F8FAD5B-D9CB-469F-A165-70867728950E";
        let target = format!("/Device/Sub/p%C3%A4th?a=1&sb-hc-id={guid}_G1&&sb-hc-undefined&b=%2f&sb-hc-token=x");
        let token = token("device", "send");
        let mut client = relay.client().await;
        let headers = [
            ("X-Custom", "some value"),
            ("x-custom", "another"),
            ("servicebusauthorization", &token),
            ("Authorization", "Basic mine"),
            ("Connection", "x-hop"),
            ("X-Hop", "1"),
            ("Via", "1.0 before"),
        ];
        client.head("OPTIONS", &target, &headers).await;
        let local = client.0.socket().get_ref().local_addr().unwrap();

        let (head, _) = listener.whole_request().await;
        assert_eq!(head.method, "OPTIONS");
        assert_eq!(head.request_target, "/Device/Sub/p%C3%A4th?a=1&&sb-hc-undefined&b=%2f");
        assert!(head.id.starts_with(&format!("{}_G", guid.to_lowercase())), "{}", head.id);
        let remote = head.remote.clone().unwrap();
        assert_eq!((remote.address.as_str(), remote.port), ("127.0.0.1", local.port()));
        assert_eq!(head.headers.get("X-Custom"), Some("some value, another"));
        assert_eq!(head.headers.get("Via"), Some("1.0 before, 1.1 localhost"));
        assert_eq!(head.headers.get("Host"), Some("localhost"));
        assert_eq!(head.headers.get("Authorization"), Some("Basic mine"));
        for absent in ["ServiceBusAuthorization", "Connection", "X-Hop", "Content-Length"] {
            assert_eq!(head.headers.get(absent), None, "{absent}");
        }
        let address = head.address.clone().unwrap();
        let prefix = format!("wss://localhost:{}/$hc/device?sb-hc-action=request&sb-hc-id=", relay.address.port());
        assert!(address.starts_with(&prefix), "{address}");

        listener.say(&format!(
            r#"{{"response":{{"requestId":"{}","statusCode":"418","statusDescription":"Short and stout","responseHeaders":{{"x-num":5,"Set-Cookie":["a=1","b=2"],"connection":"close","content-length":"99","Via":"1.1 inner"}},"body":true}}}}"#,
            head.id
        )).await;
        listener.control.send(Message::binary(b"tea".to_vec())).await.unwrap();
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.head.reason.as_str(), reply.text()), (418, "Short and stout", "tea"));
        let values = |name: &str| {
            let lines = reply.head.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
            lines.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(values("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(values("via"), ["1.1 inner", "1.1 localhost"]);
        assert_eq!((values("x-num"), values("connection"), values("content-length")), (vec!["5"], vec![], vec!["3"]));
        assert_eq!(values("date").len(), 1);
    });
}

#[test]
fn what_fits_64_kib_head_and_body_goes_over_the_control_channel_and_no_more() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.request("PUT", "/device", &[], b"x").await;
        let text = match message(&mut listener.control).await {
            Message::Text(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(binary(&mut listener.control).await, b"x");
        let Ok(RelayMessage::Request(Request::Head(head))) = RelayMessage::parse(&text) else { panic!("{text}") };
        listener.answer(&head.id, b"").await;
        client.reply().await;

        // on the same connection, because the message names its port
        let fits = 64 * 1024 - text.len();
        let body = vec![7; fits];
        client.request("PUT", "/device", &[], &body).await;
        let (head, received) = listener.whole_request().await;
        assert!(head.body && received == body);
        listener.answer(&head.id, &vec![8; 64 * 1024]).await;
        assert!(client.reply().await.body == vec![8; 64 * 1024]);

        for size in [fits + 1, 64 * 1024, 64 * 1024 + 1] {
            let body = vec![9; size];
            client.request("PUT", "/device", &[], &body).await;
            let mut socket = listener.fetch().await;
            let (head, received) = whole_request(&mut socket).await;
            assert!(head.body && head.address.is_none() && received == body, "{size}");
            answer(&mut socket, &head.id, b"got it").await;
            assert_eq!(client.reply().await.text(), "got it");
        }
        assert_eq!(relay.relay.metrics().request_rendezvous.load(Relaxed), 3);
    });
}

#[test]
fn a_body_follows_its_head_with_nothing_in_between() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut clients = Vec::new();
        for n in 0..20u8 {
            clients.push(relay.request("POST", &format!("/device?{n}"), &[], &vec![n; 10_000]).await);
            relay.send("device", &[]).await;
        }
        let (mut requests, mut heads) = (0, Vec::new());
        while requests < 20 {
            let Message::Text(text) = message(&mut listener.control).await else { panic!("a body of its own") };
            let Ok(RelayMessage::Request(Request::Head(head))) = RelayMessage::parse(&text) else { continue };
            let body = binary(&mut listener.control).await;
            let n: u8 = head.request_target.split_once('?').unwrap().1.parse().unwrap();
            assert!(body == vec![n; 10_000], "{n}");
            requests += 1;
            heads.push((n, head));
        }
        // answered in another order than asked
        for (n, head) in heads.iter().rev() {
            listener.answer(&head.id, &[*n]).await;
        }
        for (n, client) in (0..).zip(&mut clients) {
            assert_eq!(client.reply().await.body, [n]);
        }
    });
}

#[test]
fn a_chunked_body_streams_to_the_listener() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device/up").await;
        let mut socket = listener.fetch().await;
        let head = request_head(&mut socket).await;
        assert_eq!((head.body, head.request_target.as_str()), (true, "/device/up"));
        assert_eq!(head.headers.get("Transfer-Encoding"), None);
        let mut transport = socket.into_inner();
        // each piece is there before the next one is sent, however small
        for (piece, opcode) in [(&b"first"[..], 2), (b"second", 0)] {
            client.write(&chunk(piece)).await;
            assert_eq!(frame(&mut transport).await, (opcode, piece.to_vec()));
        }
        client.write(b"0\r\nTrailer: x\r\n\r\n").await;
        assert_eq!(frame(&mut transport).await, (0x80, Vec::new()));
        let mut socket = support::client(transport).await;
        answer(&mut socket, &head.id, b"done").await;
        assert_eq!(client.reply().await.text(), "done");
    });
}

/// First byte, without the bit of data types, and payload of a short frame.
async fn frame(transport: &mut Transport) -> (u8, Vec<u8>) {
    let mut header = [0; 2];
    transport.read_exact(&mut header).await.unwrap();
    let mut payload = vec![0; usize::from(header[1])];
    transport.read_exact(&mut payload).await.unwrap();
    (header[0], payload)
}

#[test]
fn a_long_body_comes_in_few_frames_however_small_the_sender_s_pieces() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        // one write, hence a few reads
        client.write(&[chunk(b"x").repeat(1000), b"0\r\n\r\n".to_vec()].concat()).await;
        let (mut transport, head) = fetch_by_hand(&mut listener).await;
        let (lengths, received) = frames(&mut transport).await;
        assert!(lengths.len() < 10 && received == b"x".repeat(1000), "{lengths:?}");
        write_frame(&mut transport, 0x81, response(&head.id, 200, false).as_bytes()).await;
        assert_eq!(client.reply().await.status(), 200);

        let body: Vec<u8> = (0..(3u32 << 20) - 5).map(|n| n.to_le_bytes()[1]).collect();
        let sending = async {
            client.request("PUT", "/device", &[], &body).await;
            client
        };
        let receiving = async {
            let (mut transport, head) = fetch_by_hand(&mut listener).await;
            let (lengths, received) = frames(&mut transport).await;
            assert!(received == body);
            assert_eq!(lengths, [1 << 20, 1 << 20, (1 << 20) - 5]);
            write_frame(&mut transport, 0x81, response(&head.id, 201, false).as_bytes()).await;
        };
        let (mut client, ()) = smol::future::zip(sending, receiving).await;
        assert_eq!(client.reply().await.status(), 201);
    });
}

/// As [`Listener::fetch`], frame by frame: the socket behind the head of the request.
async fn fetch_by_hand(listener: &mut Listener) -> (Transport, RequestHead) {
    let Request::Fetch { address } = listener.told().await else { panic!("not to be fetched") };
    let mut transport = listener.relay.ask(&target_in(&address), &[]).await;
    assert_eq!(Answer::read(&mut transport).await.status, 101);
    let (_, text) = frames(&mut transport).await;
    match RelayMessage::parse(std::str::from_utf8(&text).unwrap()) {
        Ok(RelayMessage::Request(Request::Head(head))) => (transport, head),
        other => panic!("{other:?}"),
    }
}

/// The lengths of the next message's frames, and their payload.
async fn frames(transport: &mut Transport) -> (Vec<usize>, Vec<u8>) {
    let (mut lengths, mut payload) = (Vec::new(), Vec::new());
    loop {
        let mut header = [0; 2];
        transport.read_exact(&mut header).await.unwrap();
        let mut length = [0; 8];
        let wide = match header[1] {
            126 => 6,
            127 => 0,
            short => {
                length[7] = short;
                8
            }
        };
        transport.read_exact(&mut length[wide..]).await.unwrap();
        let length = usize::try_from(u64::from_be_bytes(length)).unwrap();
        let start = payload.len();
        payload.resize(start + length, 0);
        transport.read_exact(&mut payload[start..]).await.unwrap();
        lengths.push(length);
        if header[0] & 0x80 != 0 {
            return (lengths, payload);
        }
    }
}

#[test]
fn an_empty_chunked_body_is_an_empty_message() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        client.write(b"0\r\n\r\n").await;
        let mut socket = listener.fetch().await;
        let (head, body) = whole_request(&mut socket).await;
        assert_eq!((head.body, body.len()), (true, 0));
        answer(&mut socket, &head.id, b"").await;
        assert_eq!(client.reply().await.body, b"");
    });
}

#[test]
fn a_short_body_that_dawdles_does_not_hold_up_the_control_channel() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let token = token("device", "send");
        let mut client = relay.client().await;
        client.head("POST", "/device", &[("ServiceBusAuthorization", &token), ("Content-Length", "10")]).await;
        client.write(b"hello").await;
        let mut socket = listener.fetch().await;
        let head = request_head(&mut socket).await;
        client.write(b"world").await;
        assert_eq!(binary(&mut socket).await, b"helloworld");
        answer(&mut socket, &head.id, b"at last").await;
        assert_eq!(client.reply().await.text(), "at last");
    });
}

#[test]
fn a_response_streams_to_the_sender() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        let mut transport = relay.open(&target_in(&head.address.unwrap()), &[]).await.into_inner();
        let text = response(&head.id, 200, true);
        write_frame(&mut transport, 0x81, text.as_bytes()).await;
        let reply = client.bare_reply().await;
        assert_eq!((reply.status, reply.header("Transfer-Encoding")), (200, Some("chunked")));
        for (first, piece) in [(0x02, &b"first"[..]), (0x00, b""), (0x00, b"second")] {
            write_frame(&mut transport, first, piece).await;
            if !piece.is_empty() {
                assert_eq!(client.chunk().await.unwrap(), piece);
            }
        }
        write_frame(&mut transport, 0x89, b"are you there").await;
        assert_eq!(frame(&mut transport).await, (0x8A, b"are you there".to_vec()));
        write_frame(&mut transport, 0x80, b"").await;
        assert_eq!(client.chunk().await, None);
        // the relay closes the socket, not the sender's connection
        let mut socket = support::client(transport).await;
        assert_eq!(support::closed(&mut socket).await.0, 1000);
        client.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        listener.answer(&head.id, b"again").await;
        assert_eq!(client.reply().await.text(), "again");
    });
}

async fn write_frame(transport: &mut Transport, first: u8, payload: &[u8]) {
    let length = payload.len();
    let mut bytes = vec![first];
    match u8::try_from(length) {
        Ok(short) if short < 126 => bytes.push(0x80 | short),
        _ => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    transport.write_all(&bytes).await.unwrap();
    transport.flush().await.unwrap();
}

#[test]
fn a_body_that_comes_with_its_head_has_a_length_also_over_a_rendezvous() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        let mut transport = relay.open(&target_in(&head.address.unwrap()), &[]).await.into_inner();
        let text = response(&head.id, 200, true);
        let mut both = vec![0x81, 0x80 | 126];
        both.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        both.extend_from_slice(&[0; 4]);
        both.extend_from_slice(text.as_bytes());
        both.extend_from_slice(b"\x82\x85\0\0\0\0hello");
        transport.write_all(&both).await.unwrap();
        let reply = client.reply().await;
        assert_eq!((reply.head.header("Content-Length"), reply.text()), (Some("5"), "hello"));
    });
}

#[test]
fn what_has_no_body_gets_none_and_the_connection_goes_on() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.client().await;
        for rendezvous in [false, true] {
            for (method, status, announced, sent) in [
                ("HEAD", 200, true, Some(&b"not for a HEAD"[..])),
                ("HEAD", 204, false, None),
                ("HEAD", 200, false, None),
                ("GET", 204, false, Some(b"")),
                ("GET", 204, true, Some(b"no")),
                ("GET", 304, false, None),
            ] {
                client.request(method, "/device", &[], b"").await;
                let (head, _) = listener.whole_request().await;
                let mut socket = match rendezvous {
                    true => Some(relay.open(&target_in(&head.address.unwrap()), &[]).await),
                    false => None,
                };
                let socket = socket.as_mut().unwrap_or(&mut listener.control);
                socket.send(Message::text(response(&head.id, status, announced))).await.unwrap();
                if let Some(sent) = sent {
                    socket.send(Message::binary(sent.to_vec())).await.unwrap();
                }
                let reply = client.bare_reply().await;
                let framed = reply.header("Transfer-Encoding").or(reply.header("Content-Length"));
                assert_eq!((reply.status, framed.is_some()), (status, status == 200), "{method} {status}");
            }
        }
        client.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        listener.answer(&head.id, b"still in step").await;
        assert_eq!(client.reply().await.text(), "still in step");
    });
}

#[test]
fn an_announced_body_may_be_empty_or_cut_into_fragments() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.request("GET", "/device", &[], b"").await;
        let (head, _) = listener.whole_request().await;
        listener.answer(&head.id, b"").await;
        let reply = client.reply().await;
        assert_eq!((reply.head.header("Content-Length"), reply.text()), (Some("0"), ""));

        let mut transport = listener.control.into_inner();
        client.request("GET", "/device", &[], b"").await;
        let id = loop {
            let (_, text) = frames(&mut transport).await;
            if let Ok(RelayMessage::Request(Request::Head(head))) =
                RelayMessage::parse(std::str::from_utf8(&text).unwrap())
            {
                break head.id;
            }
        };
        write_frame(&mut transport, 0x81, response(&id, 200, true).as_bytes()).await;
        for (first, piece) in [(0x02, &b"a"[..]), (0x00, b"b"), (0x8A, b""), (0x00, b""), (0x80, b"c")] {
            write_frame(&mut transport, first, piece).await;
        }
        assert_eq!(client.reply().await.text(), "abc");
    });
}

#[test]
fn requests_follow_one_another_on_one_connection_even_if_sent_at_once() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = relay.client().await;
        for body in [&b"one"[..], b"", b"three"] {
            client.request("POST", "/device", &[], body).await;
        }
        for body in [&b"one"[..], b"", b"three"] {
            let (head, received) = listener.whole_request().await;
            assert_eq!(received, body);
            listener.answer(&head.id, body).await;
            assert_eq!(client.reply().await.body, body);
        }
        // and a WebSocket may be the last thing on it
        let token = token("device", "send");
        let handshake = [
            ("ServiceBusAuthorization", token.as_str()),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        client.head("GET", "/$hc/device", &handshake).await;
        let invitation = listener.invitation().await;
        relay.open(support::target_of(&invitation), &[]).await;
        assert_eq!(Answer::read(&mut client.0).await.status, 101);
    });
}

#[test]
fn a_sender_that_wants_the_end_gets_it() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let token = token("device", "send");
        for (line, close) in [("GET /device HTTP/1.1\r\nConnection: close", true), ("GET /device HTTP/1.0", true)] {
            let mut client = relay.client().await;
            client
                .write(format!("{line}\r\nHost: localhost\r\nServiceBusAuthorization: {token}\r\n\r\n").as_bytes())
                .await;
            let (head, _) = listener.whole_request().await;
            listener.answer(&head.id, b"bye").await;
            let reply = client.reply().await;
            assert_eq!((reply.text(), reply.head.header("Connection").is_some()), ("bye", close));
            client.ended().await;
        }
        // a body without a length, to one who knows no chunks
        let mut client = relay.client().await;
        client.write(format!("GET /device HTTP/1.0\r\nServiceBusAuthorization: {token}\r\n\r\n").as_bytes()).await;
        let (head, _) = listener.whole_request().await;
        let mut transport = relay.open(&target_in(&head.address.unwrap()), &[]).await.into_inner();
        write_frame(&mut transport, 0x81, response(&head.id, 200, true).as_bytes()).await;
        let reply = client.bare_reply().await;
        assert_eq!((reply.header("Transfer-Encoding"), reply.header("Connection")), (None, Some("close")));
        write_frame(&mut transport, 0x82, b"to the end").await;
        let mut rest = Vec::new();
        client.0.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"to the end");
    });
}

#[test]
fn a_sender_that_waits_for_a_100_gets_it_from_the_relay() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let token = token("device", "send");
        let lines = |framing| [("ServiceBusAuthorization", token.as_str()), ("Expect", "100-continue"), framing];
        let mut client = relay.client().await;
        client.head("PUT", "/device", &lines(("Content-Length", "5"))).await;
        assert_eq!(Answer::read(&mut client.0).await.status, 100);
        client.write(b"hello").await;
        let (head, body) = listener.whole_request().await;
        assert_eq!((head.headers.get("Expect"), body.as_slice()), (None, &b"hello"[..]));
        listener.answer(&head.id, b"ok").await;
        assert_eq!(client.reply().await.text(), "ok");

        client.head("PUT", "/device", &lines(("Transfer-Encoding", "chunked"))).await;
        let mut socket = listener.fetch().await;
        assert_eq!(Answer::read(&mut client.0).await.status, 100);
        client.write(&[chunk(b"hello"), b"0\r\n\r\n".to_vec()].concat()).await;
        let (head, body) = whole_request(&mut socket).await;
        assert_eq!(body, b"hello");
        answer(&mut socket, &head.id, b"ok").await;
        assert_eq!(client.reply().await.text(), "ok");
    });
}

#[test]
fn a_sender_whose_listener_is_not_there_is_not_asked_for_its_body() {
    run(async {
        let relay = start(&config());
        let token = token("device", "send");
        let mut client = relay.client().await;
        let lines = [("ServiceBusAuthorization", token.as_str()), ("Expect", "100-continue"), ("Content-Length", "5")];
        client.head("PUT", "/device", &lines).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), reply.head.header("Via")), (502, None));
        client.ended().await;
    });
}

#[test]
fn an_early_answer_ends_the_request() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        client.write(&chunk(b"the beginning")).await;
        let mut socket = listener.fetch().await;
        let head = request_head(&mut socket).await;
        answer(&mut socket, &head.id, b"enough").await;
        let reply = client.reply().await;
        assert_eq!((reply.text(), reply.head.header("Connection")), ("enough", Some("close")));
        drop(client);
        assert!(matches!(socket.next().await, None | Some(Err(_))));
    });
}

#[test]
fn a_listener_may_answer_while_it_is_still_being_asked() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut client = begin_chunked(&relay, "/device").await;
        let mut socket = listener.fetch().await;
        let head = request_head(&mut socket).await;
        let mut transport = socket.into_inner();
        write_frame(&mut transport, 0x81, response(&head.id, 200, true).as_bytes()).await;
        assert_eq!(client.bare_reply().await.status, 200);
        for piece in [&b"one"[..], b"two", b"three"] {
            client.write(&chunk(piece)).await;
            let (_, said) = frame(&mut transport).await;
            let first = if piece == b"one" { 0x02 } else { 0x00 };
            write_frame(&mut transport, first, &said).await;
            assert_eq!(client.chunk().await.unwrap(), piece);
        }
        write_frame(&mut transport, 0x80, b"").await;
        assert_eq!(client.chunk().await, None);
    });
}

#[test]
fn many_at_a_time_each_get_their_own() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut clients: Vec<HttpClient> = Vec::new();
        for n in 0..50 {
            clients.push(relay.request("GET", &format!("/device/{n}"), &[], b"").await);
        }
        for _ in 0..50 {
            let (head, _) = listener.whole_request().await;
            listener.answer(&head.id, head.request_target.as_bytes()).await;
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.reply().await.text(), format!("/device/{n}"));
        }
        eventually("nobody waits", || relay.relay.metrics().exchanges.load(Relaxed) == 0).await;
        assert_eq!(relay.relay.metrics().waiting.load(Relaxed), 0);
    });
}
