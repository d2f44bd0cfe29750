//! Promise: whatever is malformed, unknown, forged or out of date is answered with the status or close code that the
//! protocol has for it, says why, and leaves nothing behind.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering::Relaxed;

use async_tungstenite::tungstenite::Message;
use smol::io::AsyncWriteExt;
use support::issuer::{Signer, fixed};
use support::{Answer, Listener, TestRelay, client, closed, config, eventually, now, run, start, token, token_until};
use umbilical_cloud::relay::config::{Deadlines, RelayConfig};
use umbilical_relay_protocol::SasToken;

const LISTEN: &str = "/$hc/device?sb-hc-action=listen";
const CONNECT: &str = "/$hc/device?sb-hc-action=connect";

async fn clean(relay: &TestRelay) {
    let metrics = relay.relay.metrics();
    eventually("nothing is left", || {
        [&metrics.listeners, &metrics.waiting, &metrics.splices, &metrics.connections]
            .iter()
            .all(|gauge| gauge.load(Relaxed) == 0)
    })
    .await;
}

#[test]
fn handshakes() {
    run(async {
        let relay = start(&config());
        let (listen, send, all) = (token("device", "listen"), token("device", "send"), token("", "operator"));
        for (target, token, status, text) in [
            // the address
            ("/$hc/device?sb-hc-action=sing", &all, 400, "sb-hc-action"),
            ("/$hc/device?sb-hc-action=", &all, 400, "sb-hc-action"),
            ("/$hc/device#x?sb-hc-action=listen", &all, 400, "character"),
            ("/$hc/?sb-hc-action=listen", &all, 404, "Endpoint does not exist"),
            ("/$hc/nobody?sb-hc-action=listen", &all, 404, "Endpoint does not exist: 'nobody'"),
            ("/$hc/nobody?sb-hc-action=connect", &all, 404, "Endpoint does not exist: 'nobody'"),
            ("/$hc/device/sub?sb-hc-action=listen", &all, 404, "Endpoint does not exist: 'device/sub'"),
            ("/$hc/device%00?sb-hc-action=listen", &all, 404, "Endpoint does not exist"),
            ("/$hc/%ff%fe?sb-hc-action=connect", &all, 404, "Endpoint does not exist"),
            // nobody there
            (CONNECT, &send, 404, "no listeners connected"),
            ("/$hc/device", &send, 404, "no listeners connected"),
            ("/$hc/open?sb-hc-token=nonsense", &String::new(), 404, "no listeners connected"),
            // the right
            (LISTEN, &send, 403, "Listen"),
            (CONNECT, &listen, 403, "Send"),
            // a rendezvous that is none
            ("/$hc/device?sb-hc-action=accept", &all, 403, "rendezvous"),
            ("/$hc/device?sb-hc-action=accept&sb-hc-id=x&sb-hc-statusCode=400", &all, 403, "rendezvous"),
            ("/$hc/device?sb-hc-action=request&sb-hc-id=x", &all, 403, "rendezvous"),
        ] {
            let headers: &[_] = if token.is_empty() { &[] } else { &[("ServiceBusAuthorization", token.as_str())] };
            let answer = relay.answer(target, headers).await;
            assert_eq!((answer.status, answer.reason.contains(text)), (status, true), "{target}: {answer:?}");
            assert!(status == 400 || answer.reason.contains("TrackingId:"), "{target}: {answer:?}");
        }
        clean(&relay).await;
    });
}

#[test]
fn tokens() {
    run(async {
        let signer = Signer::new("k1");
        let relay = start(&RelayConfig { issuers: vec![fixed(&signer)], ..config() });
        let good = token("device", "listen");
        let field = |from: &str, to: &str| good.replacen(from, to, 1);
        let jwt = signer.token("x", r#""Listener""#);
        for (token, status, text) in [
            (String::new(), 401, "MissingToken"),
            ("   ".into(), 401, "MissingToken"),
            ("SharedAccessSignature".into(), 401, "sr=..&sig="),
            ("Basic dXNlcjpwYXNz".into(), 401, "sr=..&sig="),
            (field("SharedAccessSignature", "SharedAccessKey"), 401, "sr=..&sig="),
            (field("sr=", "xx="), 401, "`sr`"),
            (field("sig=", "sig=!"), 401, "`sig`"),
            (field("&se=", "&se=-"), 401, "`se`"),
            (field("&se=", "&se=99999999999999999999"), 401, "`se`"),
            (field("&skn=listen", ""), 401, "`skn`"),
            (field("&skn=listen", "&skn=listen&skn=listen"), 401, "`skn`"),
            (field("skn=listen", "skn=nobody"), 401, "\"nobody\""),
            (field("&se=", "&se=0"), 401, "invalid signature"),
            (SasToken::sign("http://localhost/device", "listen", b"x", now() + 60), 401, "invalid signature"),
            (token_until("device", "listen", now()), 401, "expired"),
            (token("other", "listen"), 403, "does not cover"),
            (token("devic", "listen"), 403, "does not cover"),
            (token("device", "send"), 403, "right Listen"),
            ("Bearer ".into(), 401, "JSON Web Token"),
            ("Bearer x".into(), 401, "`signature`"),
            ("..".into(), 401, "`header`"),
            (format!("{jwt}x"), 401, "`signature`"),
            (Signer::new("k1").token("x", r#""Listener""#), 401, "invalid signature"),
            (jwt.replacen('.', "", 1), 401, "JSON Web Token"),
            (signer.token_until("x", r#""Listener""#, now()), 401, "expired"),
            (signer.token("x", r#""Sender""#), 403, "right Listen"),
        ] {
            let answer = relay.answer(LISTEN, &[("ServiceBusAuthorization", &token)]).await;
            assert_eq!((answer.status, answer.reason.contains(text)), (status, true), "{token}: {answer:?}");
            assert!(answer.reason.contains("TrackingId:"), "{answer:?}");

            // as a renewal, every one of them ends the channel
            let mut listener = relay.listen("device").await;
            listener.renew(&token).await;
            let (code, reason) = listener.closed().await;
            let expected = if token.is_empty() { 1002 } else { 1008 };
            assert_eq!(code, expected, "{token}: {reason}");
        }
        clean(&relay).await;
    });
}

#[test]
fn messages_on_the_control_channel() {
    run(async {
        let relay = start(&config());
        for (text, code, reason) in [
            (String::new(), 1002, "JSON"),
            ("{".into(), 1002, "JSON"),
            ("[]".into(), 1002, "JSON object"),
            ("\"renewToken\"".into(), 1002, "JSON object"),
            ("{}".into(), 1002, "command"),
            (r#"{"renewToken":5}"#.into(), 1002, "renewToken"),
            (r#"{"renewToken":{}}"#.into(), 1002, "renewToken.token"),
            (r#"{"renewToken":{"token":7}}"#.into(), 1002, "renewToken.token"),
            (r#"{"response":[]}"#.into(), 1002, "response"),
            (r#"{"response":{"statusCode":200}}"#.into(), 1002, "response.requestId"),
            (r#"{"response":{"requestId":"1","statusCode":"ok"}}"#.into(), 1002, "response.statusCode"),
            (r#"{"response":{"requestId":"1","statusCode":200,"responseHeaders":7}}"#.into(), 1002, "responseHeaders"),
            ("[".repeat(1000), 1002, "JSON"),
            (" ".repeat(64 * 1024), 1009, "65536"),
            (" ".repeat(64 * 1024 + 1), 1009, ""),
        ] {
            let mut listener = relay.listen("device").await;
            listener.control.send(Message::text(text.clone())).await.unwrap();
            let (got, said) = listener.closed().await;
            assert_eq!((got, said.contains(reason)), (code, true), "{:?}: {said}", &text[..text.len().min(80)]);
        }
        clean(&relay).await;
    });
}

#[test]
fn frames_on_the_control_channel() {
    run(async {
        let relay = start(&config());
        let masked = |first: u8, payload: &[u8]| {
            [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
        };
        for (frames, code) in [
            // not masked
            (vec![0x81, 2, b'{', b'}'], 1002),
            // reserved bits: nobody agreed to an extension
            (masked(0xC1, b"{}"), 1002),
            // no such opcode
            (masked(0x83, b"{}"), 1002),
            (masked(0x8F, b""), 1002),
            // a continuation of nothing, a message inside a message
            (masked(0x80, b"{}"), 1002),
            ([masked(0x01, b"{"), masked(0x81, b"{}")].concat(), 1002),
            // control frames are whole and short
            (masked(0x09, b""), 1002),
            ([&[0x89, 0xFE, 0, 126, 0, 0, 0, 0][..], &[0; 126]].concat(), 1002),
            // no UTF-8
            (masked(0x81, b"\xff\xfe"), 1007),
            // a length that nobody may allocate
            ([&[0x81, 0xFF][..], &[0x7F; 8], &[0; 4]].concat(), 1009),
        ] {
            let mut transport = relay.ask(LISTEN, &[("ServiceBusAuthorization", &token("device", "listen"))]).await;
            assert_eq!(Answer::read(&mut transport).await.status, 101);
            transport.write_all(&frames).await.unwrap();
            transport.flush().await.unwrap();
            let (got, reason) = closed(&mut client(transport).await).await;
            assert_eq!(got, code, "{frames:02x?}: {reason}");
        }
        clean(&relay).await;
    });
}

#[test]
fn what_is_merely_unknown_is_passed_over() {
    run(async {
        let relay = start(&config());
        let control = relay.open(LISTEN, &[("ServiceBusAuthorization", &token("device", "listen"))]).await;
        let mut listener = Listener { control, relay: relay.clone() };
        for text in [
            r#"{"injectFault":{"delay":"00:01:00"}}"#,
            r#"{"listen":null}"#,
            r#"{"response":{"requestId":"nobody asked","statusCode":"200","what":1}}"#,
        ] {
            listener.control.send(Message::text(text)).await.unwrap();
        }
        listener.control.send(Message::binary(Vec::new())).await.unwrap();
        let _sender = relay.send("device", &[]).await;
        listener.invitation().await;
    });
}

#[test]
fn the_hosted_service_s_deadlines_are_the_defaults() {
    let Deadlines { rendezvous, token_grace, keys, quiet, .. } = Deadlines::default();
    assert_eq!([rendezvous, token_grace, keys].map(|time| time.as_secs()), [30, 60, 60]);
    assert!(quiet.as_secs() < 240, "load balancers forget a connection after four minutes");
}
