//! The opening handshake against a server of another make, and against servers that misbehave.

// The refusal of tungstenite's callback is what it is.
#![allow(clippy::result_large_err, clippy::unwrap_used)]

mod support;

use std::future::poll_fn;
use std::net::TcpStream;
use std::task::Poll;
use std::time::Duration;

use async_tungstenite::accept_hdr_async;
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use async_tungstenite::tungstenite::http::HeaderValue;
use async_tungstenite::tungstenite::protocol::Message;
use smol::Async;
use smol::future::zip;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use support::{Authority, answer, drain, field, pair, read_request, run};
use umbilical_link::WebSocket;
use umbilical_link::frame::{FrameHeader, MAX_HEADER_BYTES, MaskSource, Opcode, apply_mask};
use umbilical_link::response::ResponseError;
use umbilical_link::tls;
use umbilical_link::transport::Transport;
use umbilical_link::upgrade::{Role, UpgradeError, UpgradeRequest, Upgraded, upgrade};

const DATE: &str = "Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n";
const DATE_SECONDS: u64 = 1_700_000_000;

fn request<'a>(subprotocol: Option<&'a str>) -> UpgradeRequest<'a> {
    UpgradeRequest {
        authority: "relay.test:8443",
        target: "/$hc/gateway-0042?sb-hc-action=connect",
        headers: vec![("ServiceBusAuthorization", "SharedAccessSignature sr=x&sig=y")],
        subprotocol,
    }
}

/// Upgrades against a server that reads the request and then does as told.
async fn against<F>(
    request: &UpgradeRequest<'_>,
    server: impl FnOnce(Async<TcpStream>, String) -> F,
) -> Result<Upgraded, UpgradeError>
where
    F: Future<Output = ()>,
{
    let (near, mut far) = pair().await;
    let serve = async {
        let head = read_request(&mut far).await;
        server(far, head).await;
    };
    zip(upgrade(Transport::Plain(near), request), serve).await.0
}

/// Upgrades against a server that answers with these bytes and no more.
async fn answered(response: impl AsRef<[u8]>) -> Result<Upgraded, UpgradeError> {
    against(&request(None), |mut far, _| async move {
        // The client may have seen enough before all is written.
        let _ = far.write_all(response.as_ref()).await;
    })
    .await
}

/// A flawless answer to the request `head`, with further fields.
fn agreement(head: &str, fields: &str) -> String {
    let accept = derive_accept_key(field(head, "Sec-WebSocket-Key").unwrap().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{fields}\r\n"
    )
}

/// A flawless answer with further fields.
async fn agreed(subprotocol: Option<&str>, fields: &str) -> Result<Upgraded, UpgradeError> {
    against(&request(subprotocol), |mut far, head| async move {
        answer(&mut far, agreement(&head, fields).as_bytes()).await;
    })
    .await
}

#[test]
fn pings_are_answered_where_the_server_says_so() {
    run(async {
        for (fields, answered) in
            [("", false), ("Umbilical-Keep-Alive: ping\r\n", true), ("Umbilical-Keep-Alive: pong\r\n", false)]
        {
            assert_eq!(agreed(None, fields).await.unwrap().answers_pings, answered, "{fields}");
        }
    });
}

#[test]
fn masks_of_zeros_are_for_tls_and_for_servers_that_take_them() {
    run(async {
        assert!(!agreed(None, "Umbilical-Mask: zero\r\n").await.unwrap().zero_mask, "without TLS");
        for (value, taken) in [("zero", true), ("random", false), ("zero, zero", false)] {
            let authority = Authority::new();
            let (near, far) = pair().await;
            let (client, server) = (authority.client(), authority.server("relay.test"));
            let (near, far) = zip(tls::connect(&client, "relay.test", near), tls::accept(&server, far)).await;
            let says = |_: &Request, mut response: Response| {
                response.headers_mut().insert("umbilical-mask", HeaderValue::from_static(value));
                Ok(response)
            };
            let serve = async { accept_hdr_async(far.unwrap(), says).await.unwrap().next().await.unwrap().unwrap() };
            let dial = async {
                let upgraded = upgrade(near.unwrap(), &request(None)).await.unwrap();
                assert_eq!(upgraded.zero_mask, taken, "{value}");
                let mut socket = WebSocket::new(upgraded);
                poll_fn(|cx| Poll::Ready(socket.send(cx, b"said ", b"plainly"))).await.unwrap();
                poll_fn(|cx| socket.poll_ready(cx)).await.unwrap();
                socket
            };
            let (heard, _open) = zip(serve, dial).await;
            assert_eq!(heard, Message::binary(&b"said plainly"[..]));
        }
    });
}

#[test]
fn tungstenite_agrees_over_tls_and_echoes() {
    run(async {
        let authority = Authority::new();
        let (near, far) = pair().await;
        let (client, server) = (authority.client(), authority.server("relay.test"));
        let (near, far) = zip(tls::connect(&client, "relay.test", near), tls::accept(&server, far)).await;

        let check = |request: &Request, mut response: Response| {
            assert_eq!(request.uri(), "/$hc/gateway-0042?sb-hc-action=connect");
            assert_eq!(request.headers()["host"], "relay.test:8443");
            assert_eq!(request.headers()["servicebusauthorization"], "SharedAccessSignature sr=x&sig=y");
            assert_eq!(request.headers()["sec-websocket-protocol"], "umbilical.v1");
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("umbilical.v1"));
            response.headers_mut().insert("date", HeaderValue::from_static("Tue, 14 Nov 2023 22:13:20 GMT"));
            Ok(response)
        };
        let serve = async {
            let mut socket = accept_hdr_async(far.unwrap(), check).await.unwrap();
            socket.send(Message::binary(&b"welcome"[..])).await.unwrap();
            let message = socket.next().await.unwrap().unwrap();
            assert_eq!(message, Message::binary(&b"through the frame codec"[..]));
        };
        let dial = async {
            let mut upgraded = upgrade(near.unwrap(), &request(Some("umbilical.v1"))).await.unwrap();
            assert_eq!(upgraded.subprotocol.as_deref(), Some("umbilical.v1"));
            assert_eq!(upgraded.role, Role::Client);
            assert_eq!(upgraded.date, Some(DATE_SECONDS));

            let mut bytes = upgraded.leftover;
            while bytes.len() < 9 {
                let mut chunk = [0; 9];
                let count = upgraded.transport.read(&mut chunk).await.unwrap();
                bytes.extend_from_slice(&chunk[..count]);
            }
            let (header, length) = FrameHeader::parse(&bytes).unwrap().unwrap();
            assert_eq!(header, FrameHeader::whole(Opcode::Binary, None, 7));
            header.check_mask(Role::Client).unwrap();
            assert_eq!(&bytes[length..], b"welcome");

            let mask = MaskSource::new().next_mask().unwrap();
            let mut payload = *b"through the frame codec";
            apply_mask(&mut payload, mask, 0);
            let mut out = [0; MAX_HEADER_BYTES];
            let length = FrameHeader::whole(Opcode::Binary, Some(mask), payload.len() as u64).encode(&mut out);
            upgraded.transport.write_all(&out[..length]).await.unwrap();
            upgraded.transport.write_all(&payload).await.unwrap();
            upgraded.transport.flush().await.unwrap();
        };
        zip(serve, dial).await;
    });
}

#[test]
fn a_refusal_of_tungstenite_is_understood() {
    run(async {
        let (near, far) = pair().await;
        let refuse = |_: &Request, _: Response| {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = 404.try_into().unwrap();
            refusal.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
            Err(refusal)
        };
        let (outcome, served) =
            zip(upgrade(Transport::Plain(near), &request(None)), accept_hdr_async(far, refuse)).await;
        served.map(drop).unwrap_err();
        let UpgradeError::Refused { status: 404, retry_after, date: None, .. } = outcome.as_ref().unwrap_err() else {
            panic!("{outcome:?}");
        };
        assert_eq!(*retry_after, Some(Duration::from_secs(7)));
    });
}

#[test]
fn a_refusal_keeps_what_the_operator_needs() {
    type Expected<'a> = (u16, &'a str, Option<u64>, Option<u64>);
    let long = "x".repeat(5000);
    let cases: [(String, Expected); 11] = [
        (
            format!("HTTP/1.1 401 The token has an invalid signature. TrackingId:a_G1\r\n{DATE}\r\n"),
            (401, "The token has an invalid signature. TrackingId:a_G1", None, Some(DATE_SECONDS)),
        ),
        (format!("HTTP/1.1 503 Busy\r\n{DATE}Retry-After: 120\r\n\r\n"), (503, "Busy", Some(120), Some(DATE_SECONDS))),
        // A point in time counts from the server's clock, not from this machine's.
        (
            format!("HTTP/1.1 429 Slow down\r\n{DATE}Retry-After: Tue, 14 Nov 2023 22:14:00 GMT\r\n\r\n"),
            (429, "Slow down", Some(40), Some(DATE_SECONDS)),
        ),
        (
            format!("HTTP/1.1 429 Slow down\r\n{DATE}Retry-After: Tue, 14 Nov 2023 22:13:00 GMT\r\n\r\n"),
            (429, "Slow down", Some(0), Some(DATE_SECONDS)),
        ),
        (
            "HTTP/1.1 429 Slow down\r\nRetry-After: Tue, 14 Nov 2023 22:14:00 GMT\r\n\r\n".into(),
            (429, "Slow down", None, None),
        ),
        ("HTTP/1.1 503 Busy\r\nRetry-After: soon\r\nDate: yesterday\r\n\r\n".into(), (503, "Busy", None, None)),
        ("HTTP/1.1 500\r\n\r\n".into(), (500, "", None, None)),
        ("HTTP/1.0 302 Found\r\nLocation: http://elsewhere.test/\r\n\r\n".into(), (302, "Found", None, None)),
        ("HTTP/1.1 403 Zugriff verweigert für gäste\n\n".into(), (403, "Zugriff verweigert für gäste", None, None)),
        ("HTTP/1.1 403 a\tb\r\nTransfer-Encoding: chunked\r\n\r\nbody".into(), (403, "a b", None, None)),
        (format!("HTTP/1.1 400 {long}\r\n\r\n"), (400, &long[..256], None, None)),
    ];
    run(async {
        for (response, (status, reason, retry_after, date)) in &cases {
            match answered(response).await.unwrap_err() {
                UpgradeError::Refused { status: s, reason: r, retry_after: a, date: d } => {
                    assert_eq!((s, r.as_str(), a.map(|a| a.as_secs()), d), (*status, *reason, *retry_after, *date));
                }
                other => panic!("{response:?}: {other}"),
            }
        }
        let text = answered(&cases[0].0).await.unwrap_err().to_string();
        assert_eq!(
            text,
            "the WebSocket was refused with status 401: The token has an invalid signature. TrackingId:a_G1"
        );
        let text = answered(&cases[6].0).await.unwrap_err().to_string();
        assert_eq!(text, "the WebSocket was refused with status 500");
    });
}

#[test]
fn an_answer_may_come_byte_by_byte_after_interim_ones_with_the_first_frame_behind_it() {
    run(async {
        let upgraded = against(&request(None), |mut far, head| async move {
            far.get_ref().set_nodelay(true).unwrap();
            let all = format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{}",
                agreement(&head, DATE)
            );
            for byte in all.as_bytes() {
                far.write_all(&[*byte]).await.unwrap();
                smol::future::yield_now().await;
            }
            answer(&mut far, b"\x82\x02hi").await;
        })
        .await
        .unwrap();
        assert_eq!(upgraded.date, Some(DATE_SECONDS));
        let mut transport = upgraded.transport;
        let rest = drain(&mut transport).await;
        assert_eq!([upgraded.leftover, rest].concat(), b"\x82\x02hi");

        let upgraded = against(&request(None), |mut far, head| async move {
            answer(&mut far, &[agreement(&head, "").as_bytes(), b"\x82\x02hi"].concat()).await;
        })
        .await
        .unwrap();
        assert_eq!(upgraded.leftover, b"\x82\x02hi", "all of it came in one piece");
    });
}

#[test]
fn what_was_not_offered_is_not_accepted() {
    run(async {
        let protocol = |name: &str| format!("Sec-WebSocket-Protocol: {name}\r\n");
        let taken = agreed(Some("umbilical.v1"), &protocol("umbilical.v1")).await.unwrap();
        assert_eq!(taken.subprotocol.as_deref(), Some("umbilical.v1"));
        let ignored = agreed(Some("umbilical.v1"), "").await.unwrap();
        assert_eq!(ignored.subprotocol, None);

        for (offered, fields) in [
            (Some("umbilical.v1"), protocol("umbilical.v2")),
            (Some("umbilical.v1"), protocol("Umbilical.v1")),
            (Some("umbilical.v1"), protocol("umbilical.v1").repeat(2)),
            (None, protocol("umbilical.v1")),
        ] {
            let outcome = agreed(offered, &fields).await;
            assert!(matches!(outcome, Err(UpgradeError::Subprotocol { .. })), "{fields}: {outcome:?}");
        }
        let outcome = agreed(None, "Sec-WebSocket-Extensions: permessage-deflate\r\n").await;
        assert!(
            matches!(&outcome, Err(UpgradeError::Extension { name }) if name == "permessage-deflate"),
            "{outcome:?}"
        );
        agreed(None, "Sec-WebSocket-Extensions: \r\n").await.expect("an empty list asks for nothing");
    });
}

#[test]
fn an_agreement_must_be_complete() {
    run(async {
        let changed = |from: &'static str, to: &'static str| async move {
            against(&request(None), |mut far, head| async move {
                let whole = agreement(&head, "");
                let changed = whole.replace(from, to);
                assert_ne!(whole, changed);
                answer(&mut far, changed.as_bytes()).await;
            })
            .await
            .map(drop)
        };
        for (from, to) in [
            ("Upgrade: WebSocket\r\n", ""),
            ("Upgrade: WebSocket", "Upgrade: h2c"),
            ("Connection: keep-alive, Upgrade\r\n", ""),
            ("keep-alive, Upgrade", "keep-alive"),
        ] {
            let outcome = changed(from, to).await;
            assert!(matches!(outcome, Err(UpgradeError::NotWebSocket)), "{from:?}: {outcome:?}");
        }
        for (from, to) in [
            ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: A"),
            ("Sec-WebSocket-Accept: ", "X: "),
            ("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Accept: "),
            ("\r\n\r\n", "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        ] {
            let outcome = changed(from, to).await;
            assert!(matches!(outcome, Err(UpgradeError::WrongAccept)), "{from:?}: {outcome:?}");
        }
    });
}

#[test]
fn no_answer_is_longer_than_the_limit() {
    run(async {
        let endless = format!("HTTP/1.1 101 Switching Protocols\r\n{}", "X: y\r\n".repeat(100_000));
        let many = format!("HTTP/1.1 101 Switching Protocols\r\n{}\r\n", "X: y\r\n".repeat(65));
        let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100_000);
        let fits = format!("HTTP/1.1 400 No\r\nX: {}\r\n\r\n", "y".repeat(16 * 1024 - 24));
        let one_more = format!("HTTP/1.1 400 No\r\nX: {}\r\n\r\n", "y".repeat(16 * 1024 - 23));
        assert_eq!(fits.len(), 16 * 1024);
        for response in [endless, interim, one_more] {
            let outcome = answered(response).await;
            assert!(matches!(outcome, Err(UpgradeError::Response(ResponseError::TooLarge { .. }))), "{outcome:?}");
        }
        let outcome = answered(many).await;
        let malformed = UpgradeError::Response(ResponseError::Malformed(httparse::Error::TooManyHeaders)).to_string();
        assert_eq!(outcome.unwrap_err().to_string(), malformed);
        let outcome = answered(fits).await;
        assert!(matches!(outcome, Err(UpgradeError::Refused { status: 400, .. })), "{outcome:?}");
    });
}

#[test]
fn nonsense_is_called_by_its_name() {
    run(async {
        // Each is said without waiting for more than what shows it: the far end stays open.
        for (response, start) in [
            ("SSH-2.0-OpenSSH_9.2\r\n", r"SSH-2.0-OpenSSH_9.2\r\n"),
            ("\x15\x03\x01\x00\x02\x02\x46", r"\x15\x03\x01\x00\x02\x02F"),
            ("HTTP/2 101\r\n", r"HTTP/2 101\r\n"),
            ("X", "X"),
        ] {
            let (near, mut far) = pair().await;
            let serve = async {
                read_request(&mut far).await;
                far.write_all(response.as_bytes()).await.unwrap();
            };
            let ask = request(None);
            let (outcome, ()) = zip(upgrade(Transport::Plain(near), &ask), serve).await;
            match outcome.unwrap_err() {
                UpgradeError::Response(ResponseError::NotHttp { start: shown }) => assert_eq!(shown, start),
                other => panic!("{other}"),
            }
        }
        for (response, complaint) in [
            ("", "closed without a response"),
            ("HTTP/1.1 10", "closed after 11 bytes"),
            ("HTTP/1.1 abc OK\r\n\r\n", "malformed"),
            ("HTTP/1.1 101 OK\r\nno colon\r\n\r\n", "malformed"),
            ("HTTP/1.1 101 OK\r\nX: a\0b\r\n\r\n", "malformed"),
        ] {
            let text = answered(response).await.unwrap_err().to_string();
            assert!(text.contains(complaint), "{response:?}: {text}");
        }
    });
}

#[test]
fn a_request_cannot_be_broken_out_of() {
    run(async {
        let plain = UpgradeRequest { authority: "relay.test", target: "/a", headers: vec![], subprotocol: None };
        let bad = [
            (UpgradeRequest { target: "/a HTTP/1.1\r\nX: y", ..plain.clone() }, "target"),
            (UpgradeRequest { target: "a", ..plain.clone() }, "target"),
            (UpgradeRequest { target: "/\u{fc}", ..plain.clone() }, "target"),
            (UpgradeRequest { authority: "", ..plain.clone() }, "authority"),
            (UpgradeRequest { authority: "a\r\nb", ..plain.clone() }, "authority"),
            (UpgradeRequest { subprotocol: Some("a, b"), ..plain.clone() }, "subprotocol"),
            (UpgradeRequest { headers: vec![("X", "secret\r\n")], ..plain.clone() }, "header X"),
            (UpgradeRequest { headers: vec![("X:", "secret")], ..plain.clone() }, "header X:"),
            (UpgradeRequest { headers: vec![("", "secret")], ..plain.clone() }, "header "),
        ];
        for (request, expected) in bad {
            let (near, mut far) = pair().await;
            match upgrade(Transport::Plain(near), &request).await {
                Err(UpgradeError::Request { part }) => assert_eq!(part, expected),
                other => panic!("{other:?}"),
            }
            assert_eq!(drain(&mut far).await, b"", "nothing was sent");
        }
    });
}

#[test]
fn debug_shows_no_token() {
    let request = UpgradeRequest {
        authority: "relay.test",
        target: "/$hc/a?sb-hc-token=secret",
        headers: vec![("ServiceBusAuthorization", "secret")],
        subprotocol: None,
    };
    let shown = format!("{request:?}");
    assert!(!shown.contains("secret") && shown.contains("ServiceBusAuthorization"), "{shown}");
}
