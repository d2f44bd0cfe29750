//! The device's web page is a URL of the relay: requests are answered from a service of the device, whole or as they come.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use async_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};
use log::Level;
use smol::{
    future,
    io::{AsyncReadExt, AsyncWriteExt},
};
use support::{
    logs,
    relay::{Control, PATH, Relay},
    service::{Service, ServiceRequest},
    soon,
    world::{World, noise},
};
use umbilical_agent::sys;
use umbilical_link::{
    pieces::{Piece, Pieces},
    transport::Transport,
    upgrade::Role,
};
use umbilical_relay_protocol::{Action, Headers, ListenerMessage, RelayMessage, RemoteEndpoint, Request, RequestHead};

/// Runs an agent with a scripted service of HTTP.
fn with_service(lines: &str, script: impl AsyncFnOnce(&World, &Service, Control)) {
    let service = Service::new();
    World::run(&http(&service, lines), async |world| {
        let control = world.relay.listener().await;
        script(world, &service, control).await;
    });
}

fn http(service: &Service, lines: &str) -> String {
    format!("session.drain-for = '0s'\n[http]\ntarget = 'tcp:127.0.0.1:{}'\n{lines}\n", service.port())
}

/// A request whose response may also come to a rendezvous of `relay`.
fn request(relay: &Relay, method: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut fields = Headers::default();
    for (name, value) in headers {
        fields.push(name, value).unwrap();
    }
    RequestHead {
        address: Some(relay.request_rendezvous("r")),
        id: "id-1".into(),
        request_target: format!("/{PATH}{path}"),
        method: method.into(),
        remote: Some(RemoteEndpoint { address: "203.0.113.9".into(), port: 4711 }),
        headers: fields,
        body: false,
    }
}

/// The rendezvous that a listener opens for a request.
async fn met(world: &World) -> support::relay::Handshake {
    let handshake = world.relay.handshake().await;
    assert_eq!(handshake.target.action(), Action::Request);
    assert_eq!(handshake.headers.get("ServiceBusAuthorization"), None, "a rendezvous needs no token");
    handshake
}

/// Reads what a listener sends on a rendezvous, piece by piece.
struct PieceByPiece {
    transport: Transport,
    pieces: Pieces,
    buffer: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Got {
    Data(Vec<u8>, bool),
    Pong(Vec<u8>),
    Close(u16),
    End,
}

impl PieceByPiece {
    async fn open(world: &World) -> PieceByPiece {
        let transport = met(world).await.upgrade().await.transport;
        PieceByPiece { transport, pieces: Pieces::new(Role::Server), buffer: Vec::new() }
    }

    async fn next(&mut self) -> Got {
        soon("a piece of a response", async {
            loop {
                let (taken, piece) = self.pieces.next(&mut self.buffer).unwrap();
                let got = match piece {
                    Some(Piece::Data(_, range, is_last)) => Some(Got::Data(self.buffer[range].to_vec(), is_last)),
                    Some(Piece::Pong) => Some(Got::Pong(self.buffer[6..taken].to_vec())),
                    Some(Piece::Close(range)) => {
                        let code = &self.buffer[range];
                        Some(Got::Close(u16::from_be_bytes([code[0], code[1]])))
                    }
                    Some(Piece::Ping(_)) => panic!("a listener has no reason to ask"),
                    None => None,
                };
                self.buffer.drain(..taken);
                if let Some(got) = got {
                    return got;
                }
                let mut chunk = [0; 4096];
                match self.transport.read(&mut chunk).await {
                    Ok(count @ 1..) => self.buffer.extend_from_slice(&chunk[..count]),
                    _ => return Got::End,
                }
            }
        })
        .await
    }

    /// The head, whatever is in it.
    async fn head(&mut self) {
        while !matches!(self.next().await, Got::Data(_, true)) {}
    }
}

#[test]
fn a_small_response_comes_over_the_control_channel_and_neither_side_sees_the_others_hops() {
    with_service("", async |world, service, mut control| {
        let fields = [
            ("Accept", "text/html"),
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "1"),
            ("Expect", "100-continue"),
            ("Transfer-Encoding", "chunked"),
            ("ServiceBusAuthorization", "SharedAccessSignature top-secret"),
            ("X-Forwarded-For", "forged"),
            ("Host", "relay.example"),
        ];
        control.request(request(&world.relay, "POST", "/a%20b/c?d=e", &fields), b"hello").await;
        let mut asked = service.request().await;
        assert_eq!(asked.line(), "POST /a%20b/c?d=e HTTP/1.1");
        for (name, expected) in [
            ("Host", Some("relay.example")),
            ("Accept", Some("text/html")),
            ("Content-Length", Some("5")),
            ("Connection", Some("close")),
            ("X-Forwarded-For", Some("203.0.113.9")),
            ("X-Forwarded-Proto", Some("http")),
            ("X-Forwarded-Prefix", Some(format!("/{PATH}").as_str())),
            ("X-Hop", None),
            ("Expect", None),
            ("Transfer-Encoding", None),
            ("ServiceBusAuthorization", None),
        ] {
            assert_eq!(asked.header(name), expected, "{name}");
        }
        assert_eq!(asked.body(5).await, b"hello");
        let response = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made it\r\nTransfer-Encoding: chunked\r\n\
                        Connection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                        Location: /d\r\nX-Kept: 2\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        asked.send(response.as_bytes()).await;
        let (head, body) = control.response().await;
        assert_eq!((head.request_id.as_str(), head.status, head.reason.as_deref()), ("id-1", 201, Some("Made it")));
        assert_eq!(body, b"abcde");
        let mut lines: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        lines.sort();
        let location = format!("Location: /{PATH}/d");
        assert_eq!(lines, [location.as_str(), "Set-Cookie: a=1", "Set-Cookie: b=2", "X-Kept: 2"]);
    });
}

#[test]
fn what_has_no_body_has_none() {
    with_service("", async |world, service, mut control| {
        for (method, response) in [
            ("HEAD", "200 OK\r\nContent-Length: 7"),
            ("GET", "204 No Content"),
            ("GET", "304 Not Modified\r\nContent-Length: 7"),
            ("GET", "200 OK\r\nContent-Length: 0"),
            ("GET", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0"),
        ] {
            control.request(request(&world.relay, method, "", &[]), b"").await;
            let mut asked = service.request().await;
            assert_eq!(asked.line(), format!("{method} / HTTP/1.1"));
            asked.send(format!("HTTP/1.1 {response}\r\n\r\n").as_bytes()).await;
            let (head, body) = control.response().await;
            assert!(!head.body && body.is_empty(), "{method} {response}");
            assert_eq!(head.headers.get("Content-Length"), None);
        }
    });
}

/// Has the service answer with a body of `length`, and tells whether the answer came over a rendezvous.
async fn comes_by_rendezvous(world: &World, service: &Service, control: &mut Control, length: usize) -> bool {
    control.request(request(&world.relay, "GET", "/large", &[]), b"").await;
    let expected = noise(length);
    let mut asked = service.request().await;
    let answer = async {
        asked.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await;
        asked.send(&expected).await;
        future::pending().await
    };
    let arrived = async {
        let there = async { Some(met(world).await.control().await) };
        let here = async {
            let (_, body) = control.response().await;
            assert!(body == expected, "{length} bytes came changed");
            None
        };
        match future::or(here, there).await {
            None => false,
            Some(mut rendezvous) => {
                let (head, body) = rendezvous.response().await;
                assert_eq!((head.request_id.as_str(), head.status), ("id-1", 200));
                assert!(body == expected, "{length} bytes came changed");
                assert_eq!(rendezvous.closed().await, Some(1000));
                true
            }
        }
    };
    future::or(arrived, answer).await
}

#[test]
fn a_response_of_more_than_64_kib_comes_over_a_rendezvous_of_its_own() {
    with_service("", async |world, service, mut control| {
        for (length, by_rendezvous) in
            [(65_000, false), (64 * 1024, true), (64 * 1024 + 1, true), (5_000_000, true), (1, false)]
        {
            let found = comes_by_rendezvous(world, service, &mut control, length).await;
            assert_eq!(found, by_rendezvous, "{length} bytes");
        }
    });
}

#[test]
fn a_response_that_takes_its_time_is_passed_on_as_it_comes_and_pings_are_answered_meanwhile() {
    with_service("", async |world, service, mut control| {
        control.request(request(&world.relay, "GET", "/events", &[]), b"").await;
        let mut asked = service.request().await;
        asked.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nfirst").await;
        let mut rendezvous = PieceByPiece::open(world).await;
        rendezvous.head().await;
        assert_eq!(rendezvous.next().await, Got::Data(b"first".to_vec(), false));
        asked.send(b"second").await;
        assert_eq!(rendezvous.next().await, Got::Data(b"second".to_vec(), false));
        // nobody says anything now
        rendezvous.transport.write_all(b"\x89\x02hi").await.unwrap();
        rendezvous.transport.flush().await.unwrap();
        // masked: only its length can be seen without its key
        assert!(matches!(rendezvous.next().await, Got::Pong(payload) if payload.len() == 2));
        drop(asked);
        assert_eq!(rendezvous.next().await, Got::Data(Vec::new(), true));
        assert_eq!(rendezvous.next().await, Got::Close(1000));
    });
}

#[test]
fn a_request_to_be_fetched_is_streamed_both_ways_on_its_own_socket() {
    with_service("", async |world, service, mut control| {
        for (length, is_one) in [(5, true), (0, true), (3_000_000, false)] {
            let sent = noise(length);
            control.send(&RelayMessage::Request(Request::Fetch { address: world.relay.request_rendezvous("f") })).await;
            let mut rendezvous = met(world).await.control().await;
            let head = RequestHead { address: None, ..request(&world.relay, "PUT", "/upload", &[]) };
            let asking = async {
                rendezvous.request(head, &sent).await;
                rendezvous.response().await
            };
            let serving = async {
                let mut asked = service.request().await;
                assert_eq!(asked.line(), "PUT /upload HTTP/1.1");
                let body = match asked.header("Content-Length").map(|length| length.parse().unwrap()) {
                    Some(length) => asked.body(length).await,
                    None => {
                        assert_eq!(asked.header("Transfer-Encoding"), Some("chunked"));
                        assert!(!is_one);
                        chunks(&mut asked).await
                    }
                };
                asked.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await;
                asked.send(&body).await;
                (asked, body)
            };
            let ((response, back), (_open, received)) = future::zip(asking, serving).await;
            assert_eq!((response.request_id.as_str(), response.status), ("id-1", 200));
            assert!(received == sent && back == sent, "{length} bytes came changed");
            assert_eq!(rendezvous.closed().await, Some(1000));
        }
    });
}

/// A body in chunks.
async fn chunks(asked: &mut ServiceRequest) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(asked.body(1).await);
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        body.extend(asked.body(size).await);
        assert_eq!(asked.body(2).await, b"\r\n");
        if size == 0 {
            return body;
        }
    }
}

#[test]
fn a_service_that_answers_before_it_has_heard_all_is_heard() {
    with_service("", async |world, service, mut control| {
        control.send(&RelayMessage::Request(Request::Fetch { address: world.relay.request_rendezvous("f") })).await;
        let mut rendezvous = met(world).await.control().await;
        let head = RequestHead { body: true, ..request(&world.relay, "POST", "/", &[]) };
        rendezvous.send(&RelayMessage::Request(Request::Head(head))).await;
        // the first fragment of a body without an end
        rendezvous.0.send(Message::Frame(fragment(&noise(100)))).await.unwrap();
        service.request().await.answer("413 Too much", "", "no").await;
        let (response, body) = rendezvous.response().await;
        assert_eq!((response.status, body.as_slice()), (413, &b"no"[..]));
    });
}

#[test]
fn a_response_may_begin_before_its_request_ends_and_neither_is_cut() {
    with_service("", async |world, service, mut control| {
        control.send(&RelayMessage::Request(Request::Fetch { address: world.relay.request_rendezvous("f") })).await;
        let mut rendezvous = met(world).await.control().await;
        let head = RequestHead { body: true, address: None, ..request(&world.relay, "POST", "/echo", &[]) };
        rendezvous.send(&RelayMessage::Request(Request::Head(head))).await;
        rendezvous.0.send(Message::Frame(fragment(b"first "))).await.unwrap();
        let mut asked = service.request().await;
        asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nfirst ").await;
        let ListenerMessage::Response(response) = rendezvous.message().await else { panic!("expected a response") };
        assert_eq!(response.status, 200);
        // the rest of the request is sent when the response is there
        let rest = Frame::message(&b"last!"[..], OpCode::Data(Data::Continue), true);
        rendezvous.0.send(Message::Frame(rest)).await.unwrap();
        assert_eq!(chunks(&mut asked).await, b"first last!");
        asked.send(b"last!").await;
        match rendezvous.frame().await {
            Some(Message::Binary(body)) => assert_eq!(&body[..], b"first last!"),
            other => panic!("expected the body, got {other:?}"),
        }
    });
}

#[test]
fn a_service_that_answers_and_hangs_up_in_the_middle_of_a_request_is_heard() {
    with_service("", async |world, service, mut control| {
        control.send(&RelayMessage::Request(Request::Fetch { address: world.relay.request_rendezvous("f") })).await;
        let mut rendezvous = met(world).await.control().await;
        let head = RequestHead { body: true, address: None, ..request(&world.relay, "PUT", "/", &[]) };
        rendezvous.send(&RelayMessage::Request(Request::Head(head))).await;
        rendezvous.0.send(Message::Frame(fragment(&noise(60_000)))).await.unwrap();
        let mut asked = service.request().await;
        // what is left unread turns the end of the connection into a reset
        asked.body(1).await;
        asked.answer("413 Too much", "", &"x".repeat(100_000)).await;
        let (response, body) = rendezvous.response().await;
        assert_eq!((response.status, body.len()), (413, 100_000));
    });
}

fn fragment(payload: &[u8]) -> Frame {
    Frame::message(payload.to_vec(), OpCode::Data(Data::Binary), false)
}

#[test]
fn each_fault_of_the_service_has_a_status_and_a_reason() {
    with_service("timeout = '1s'", async |world, service, mut control| {
        for (response, status, reason) in [
            ("SSH-2.0-OpenSSH\r\n", 502, "gave no response that can be passed on"),
            ("HTTP/1.1 101 Switching\r\n\r\n", 502, "gave no response that can be passed on"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 502, "gave no response that can be passed on"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 502, "gave no response"),
            ("", 502, "gave no response"),
        ] {
            control.request(request(&world.relay, "GET", "/", &[]), b"").await;
            service.request().await.send(response.as_bytes()).await;
            let (head, body) = control.response().await;
            assert_eq!(head.status, status, "{response:?}");
            assert!(head.reason.unwrap().contains(reason) && String::from_utf8(body).unwrap().contains(reason));
        }
        // silent before the head, and behind it
        for response in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
            control.request(request(&world.relay, "GET", "/", &[]), b"").await;
            let mut silent = service.request().await;
            silent.send(response.as_bytes()).await;
            let (head, _) = control.response().await;
            assert_eq!(
                (head.status, head.reason.as_deref()),
                (504, Some("The HTTP service of this device said nothing for 1 s"))
            );
        }
        let mut nowhere = request(&world.relay, "GET", "/", &[]);
        nowhere.request_target = "elsewhere".into();
        control.request(nowhere, b"").await;
        assert_eq!(control.response().await.0.status, 400);
    });
    // a port that was free a moment ago
    let nobody = http(&Service::new(), "");
    World::run(&nobody, async |world| {
        let mut control = world.relay.listener().await;
        control.request(request(&world.relay, "GET", "/secret?key=top-secret", &[]), b"").await;
        let (head, _) = control.response().await;
        assert_eq!(head.status, 502);
        assert_eq!(head.reason.as_deref(), Some("The HTTP service of this device is not reached: connection refused"));
        logs::line(Level::Warn, "answered 502: can't connect to the service: Connection refused").await;
        assert!(!logs::all().contains("top-secret"));
        // the head of a failure is all that HEAD gets
        control.request(request(&world.relay, "HEAD", "/", &[]), b"").await;
        assert!(!control.response().await.0.body);
    });
}

#[test]
fn a_response_that_breaks_off_has_no_end() {
    with_service("", async |world, service, mut control| {
        control.request(request(&world.relay, "GET", "/", &[]), b"").await;
        let mut asked = service.request().await;
        let sending = async {
            asked.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n").await;
            asked.send(&noise(100_000)).await;
        };
        let mut rendezvous = future::zip(PieceByPiece::open(world), sending).await.0;
        drop(asked);
        rendezvous.head().await;
        let mut received = 0;
        loop {
            match rendezvous.next().await {
                Got::Data(bytes, is_last) => {
                    assert!(!is_last, "what is cut has no end");
                    received += bytes.len();
                }
                other => break assert_eq!(other, Got::Close(1011)),
            }
        }
        assert_eq!(received, 100_000);
        logs::line(Level::Warn, "its end is missing: the connection ended before the response did").await;
    });
}

#[test]
fn a_sender_that_leaves_takes_its_connection_to_the_service_along() {
    with_service("", async |world, service, mut control| {
        control.request(request(&world.relay, "GET", "/events", &[]), b"").await;
        let mut asked = service.request().await;
        asked.send(b"HTTP/1.1 200 OK\r\n\r\nfirst").await;
        let mut rendezvous = PieceByPiece::open(world).await;
        rendezvous.head().await;
        drop(rendezvous);
        let mut rest = Vec::new();
        // an end or a reset: it is gone
        let _ = soon("the end of the connection", asked.socket.read_to_end(&mut rest)).await;
    });
}

#[test]
fn requests_at_once_are_limited_some_wait_and_the_rest_is_told_so() {
    with_service("max-requests = 1", async |world, service, mut control| {
        let numbered = |number: usize| RequestHead {
            id: format!("n{number}"),
            ..request(&world.relay, "GET", &format!("/{number}"), &[])
        };
        control.request(numbered(0), b"").await;
        let first = service.request().await;
        // 32 may wait
        for number in 1..=33 {
            control.request(numbered(number), b"").await;
        }
        let (head, _) = control.response().await;
        assert_eq!((head.request_id.as_str(), head.status, head.headers.get("Retry-After")), ("n33", 503, Some("1")));
        first.answer("200 OK", "", "").await;
        assert_eq!(control.response().await.0.request_id, "n0");
        let mut answered = Vec::new();
        for _ in 1..=32 {
            let asked = service.request().await;
            let number: usize = asked.line()["GET /".len()..].split(' ').next().unwrap().parse().unwrap();
            asked.answer("200 OK", "", "").await;
            assert_eq!(control.response().await.0.request_id, format!("n{number}"));
            answered.push(number);
        }
        answered.sort_unstable();
        assert!(answered.into_iter().eq(1..=32), "each that waited has its turn");
        // bodies that wait are limited by their sum
        control.request(numbered(0), b"").await;
        let first = service.request().await;
        for number in 1..=4 {
            control.request(numbered(number), &[1; 64 * 1024]).await;
        }
        assert_eq!(control.response().await.0.request_id, "n4");
        drop(first);
    });
}

#[test]
fn an_agent_that_stops_answers_first_and_takes_no_more() {
    let service = Service::new();
    World::run(&format!("[http]\ntarget = 'tcp:127.0.0.1:{}'\n", service.port()), async |world| {
        let mut control = world.relay.listener().await;
        control.request(request(&world.relay, "GET", "/long", &[]), b"").await;
        let mut long = service.request().await;
        long.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100005\r\n\r\n").await;
        long.send(&noise(100_000)).await;
        let mut rendezvous = PieceByPiece::open(world).await;
        rendezvous.head().await;
        control.request(request(&world.relay, "GET", "/short", &[]), b"").await;
        let short = service.request().await;
        world.request(sys::Request::Stop);
        logs::line(Level::Info, "so have 2 HTTP requests").await;
        control.request(RequestHead { id: "late".into(), ..request(&world.relay, "GET", "/late", &[]) }, b"").await;
        let (refused, _) = control.response().await;
        assert_eq!(
            (refused.request_id.as_str(), refused.status, refused.headers.get("Retry-After")),
            ("late", 503, Some("1"))
        );
        short.answer("200 OK", "", "short").await;
        assert_eq!(control.response().await.1, b"short");
        long.send(b"12345").await;
        let mut length = 0;
        while let Got::Data(bytes, _) = rendezvous.next().await {
            length += bytes.len();
        }
        assert_eq!(length, 100_005);
        drop(rendezvous);
        assert_eq!(control.closed().await, Some(1000));
    });
}

#[test]
fn an_agent_that_stops_gives_up_what_is_not_answered_in_time() {
    with_service("", async |world, service, mut control| {
        control.request(request(&world.relay, "GET", "/", &[]), b"").await;
        let _asked = service.request().await;
        world.request(sys::Request::Stop);
        assert_eq!(control.closed().await, Some(1000));
        logs::line(Level::Warn, "1 HTTP requests are given up").await;
    });
}

#[test]
fn without_a_service_requests_are_refused_with_the_reason_until_the_configuration_has_one() {
    let service = Service::new();
    World::run("session.drain-for = '0s'\n", async |world| {
        let mut control = world.relay.listener().await;
        control.request(request(&world.relay, "POST", "/", &[]), b"body").await;
        let (head, _) = control.response().await;
        assert_eq!(head.status, 501);
        assert_eq!(head.reason.as_deref(), Some("This device serves no HTTP: its configuration has no [http]"));
        // by rendezvous as well
        control.send(&RelayMessage::Request(Request::Fetch { address: world.relay.request_rendezvous("f") })).await;
        let mut rendezvous = met(world).await.control().await;
        rendezvous.request(request(&world.relay, "POST", "/", &[]), b"body").await;
        assert_eq!(rendezvous.response().await.0.status, 501);
        world.configure(&http(&service, ""));
        world.request(sys::Request::Reload);
        logs::line(Level::Info, "HTTP requests ").await;
        control.request(request(&world.relay, "GET", "/", &[]), b"").await;
        service.request().await.answer("200 OK", "", "").await;
        assert_eq!(control.response().await.0.status, 200);
    });
}

#[test]
fn a_unix_socket_serves_as_well() {
    let folder = support::files::Directory::new();
    let path = folder.path("web.sock");
    let listener = smol::Async::<std::os::unix::net::UnixListener>::bind(&path).unwrap();
    World::run(&format!("session.drain-for = '0s'\nhttp.target = 'unix:{}'\n", path.display()), async |world| {
        let mut control = world.relay.listener().await;
        control.request(request(&world.relay, "GET", "/", &[]), b"").await;
        let (mut socket, _) = soon("a connection", listener.accept()).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        assert_eq!(control.response().await.1, b"hi");
    });
}

#[test]
fn a_rendezvous_without_tls_is_not_used_by_a_relay_that_has_it() {
    let folder = support::files::Directory::new();
    let (relay, bare) = (Relay::with_tls(&folder), Relay::new());
    World::run_with(relay, folder, "session.drain-for = '0s'\n", async |world| {
        let mut control = world.relay.listener().await;
        control.send(&RelayMessage::Request(Request::Fetch { address: bare.request_rendezvous("f") })).await;
        logs::line(Level::Warn, "the rendezvous is without TLS, the relay itself is not").await;
    });
}
