//! Promise: a bearer token of a trusted issuer opens what its roles and grants say, and nothing else; keys are fetched
//! when they are needed, and strangers cannot make that happen often.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use support::issuer::{Provider, Signer, fixed, ok, trusted};
use support::{Answer, TestRelay, closed, config, eventually, message, now, opened, run, start, target_of, token};
use umbilical_cloud::relay::config::{RelayConfig, TrustedIssuer};
use umbilical_relay_protocol::{Right, SubjectGrant};

const LISTEN: &str = "/$hc/device?sb-hc-action=listen";

fn with(issuer: TrustedIssuer) -> RelayConfig {
    RelayConfig { issuers: vec![issuer], ..config() }
}

/// Status and reason of what this token gets; an empty reason for what is let in.
async fn asked(relay: &TestRelay, target: &str, token: &str) -> (u16, String) {
    let answer = relay.answer(target, &[("ServiceBusAuthorization", token)]).await;
    if answer.status == 101 {
        return (101, String::new());
    }
    assert!(answer.reason.contains("TrackingId:"), "{answer:?}");
    (answer.status, answer.reason)
}

#[test]
fn listeners_and_senders_come_in_by_their_roles_in_header_and_query() {
    run(async {
        let signer = Signer::new("k1");
        let relay = start(&with(fixed(&signer)));
        let listening = signer.token("device-7", r#""Listener""#);
        for target in ["/$hc/device?sb-hc-action=listen", "/$hc/open?sb-hc-action=listen"] {
            assert_eq!(asked(&relay, target, &listening).await.0, 101);
        }
        assert_eq!(asked(&relay, LISTEN, &format!("Bearer {listening}")).await.0, 101);
        let control = relay.open(&format!("{LISTEN}&sb-hc-id=q&sb-hc-token=Bearer%20{listening}"), &[]).await;
        let mut listener = support::Listener { control, relay: relay.clone() };

        eventually("the others have left", || relay.relay.listeners("device") == 1).await;
        let sending = signer.token("app", r#""Azure Relay Sender""#);
        let mut sender = relay.ask("/$hc/device/sub", &[("ServiceBusAuthorization", &sending)]).await;
        let accept = listener.invitation().await;
        let _there = relay.open(target_of(&accept), &[]).await;
        assert_eq!(Answer::read(&mut sender).await.status, 101);

        let (status, reason) = asked(&relay, LISTEN, &sending).await;
        assert_eq!((status, reason.contains("\"app\"") && reason.contains("Listen")), (403, true), "{reason}");
        assert_eq!(asked(&relay, "/$hc/device", &listening).await.0, 403);
        // shared access keys go on as before
        assert_eq!(asked(&relay, LISTEN, &token("device", "listen")).await.0, 101);
    });
}

#[test]
fn what_is_wrong_with_a_token_is_said() {
    run(async {
        let (signer, forger) = (Signer::new("k1"), Signer::new("k1"));
        let relay = start(&with(fixed(&signer)));
        let role = r#""Listener""#;
        for (token, status, text) in [
            (forger.token("x", role), 401, "invalid signature"),
            (signer.token_until("x", role, now()), 401, "expired"),
            (Signer::new("k2").token("x", role), 401, "\"k2\""),
            ("Bearer nonsense".into(), 401, "malformed"),
            ("a.b.c".into(), 401, "malformed"),
            (signer.token("x", ""), 403, "neither a role nor a grant"),
        ] {
            let (got, reason) = asked(&relay, LISTEN, &token).await;
            assert_eq!((got, reason.contains(text)), (status, true), "{text}: {reason}");
        }
        let nobody = start(&config());
        let (status, reason) = asked(&nobody, LISTEN, &signer.token("x", role)).await;
        assert_eq!((status, reason.contains("issuer.example")), (401, true), "{reason}");
    });
}

#[test]
fn an_identity_without_roles_has_what_it_is_granted() {
    run(async {
        let signer = Signer::new("k1");
        let mut issuer = fixed(&signer);
        let rights = [Right::Listen].into_iter().collect();
        issuer.issuer.grants = vec![SubjectGrant { subject: "device-7".into(), rights, paths: vec!["Device".into()] }];
        let relay = start(&with(issuer));
        let token = signer.token("device-7", "");
        assert_eq!(asked(&relay, LISTEN, &token).await.0, 101);
        assert_eq!(asked(&relay, "/$hc/open?sb-hc-action=listen", &token).await.0, 403);
        assert_eq!(asked(&relay, "/$hc/device", &token).await.0, 403);
        assert_eq!(asked(&relay, LISTEN, &signer.token("device-8", "")).await.0, 403);
    });
}

#[test]
fn a_channel_is_renewed_by_a_bearer_token_and_ends_with_it() {
    run(async {
        let signer = Signer::new("k1");
        let mut config = with(fixed(&signer));
        config.deadlines.token_grace = Duration::ZERO;
        let relay = start(&config);
        let role = r#""Listener""#;
        let short = signer.token_until("x", role, now() + 2);
        let header = [("ServiceBusAuthorization", short.as_str())];
        let mut renewed = support::Listener { control: relay.open(LISTEN, &header).await, relay: relay.clone() };
        renewed.renew(&signer.token("x", role)).await;
        let mut control = relay.open(LISTEN, &header).await;
        assert_eq!(closed(&mut control).await.0, 1008);
        let _sender = relay.send("device", &[]).await;
        renewed.invitation().await;
        renewed.renew(&signer.token("x", "")).await;
        assert_eq!(renewed.closed().await.0, 1008);
    });
}

#[test]
fn keys_are_fetched_when_they_are_needed_and_kept() {
    run(async {
        let signer = Signer::new("k1");
        let body = signer.published();
        let (first, rest) = body.split_at(20);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n",
            rest.len()
        );
        for answer in [ok(&body), chunked, format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}")] {
            let provider = Provider::start(&answer);
            let config = with(trusted(provider.source.clone()));
            let relay = start(&config);
            assert_eq!(provider.times(), 0);
            let token = signer.token("x", r#""Listener""#);
            for _ in 0..3 {
                assert_eq!(asked(&relay, LISTEN, &token).await.0, 101);
            }
            relay.relay.reload(&config).unwrap();
            assert_eq!(asked(&relay, LISTEN, &token).await.0, 101);
            assert_eq!(provider.times(), 1, "{answer}");
        }
    });
}

#[test]
fn unknown_keys_are_asked_for_again_but_not_often() {
    run(async {
        let (old, new) = (Signer::new("k1"), Signer::new("k2"));
        let provider = Provider::start(&ok(&old.published()));
        let mut config = with(trusted(provider.source.clone()));
        let relay = start(&config);
        let role = r#""Listener""#;
        assert_eq!(asked(&relay, LISTEN, &old.token("x", role)).await.0, 101);
        *provider.answer.lock().unwrap() = ok(&new.published());
        for _ in 0..3 {
            assert_eq!(asked(&relay, LISTEN, &new.token("x", role)).await.0, 401);
        }
        assert_eq!(provider.times(), 1, "not again within the pause");
        assert_eq!(asked(&relay, LISTEN, &old.token("x", role)).await.0, 101);

        config.deadlines.keys = Duration::ZERO;
        relay.relay.reload(&config).unwrap();
        assert_eq!(asked(&relay, LISTEN, &new.token("x", role)).await.0, 101);
        assert_eq!(provider.times(), 2);
        assert_eq!(asked(&relay, LISTEN, &old.token("x", role)).await.0, 401, "what the issuer took back is gone");
    });
}

#[test]
fn an_issuer_that_cannot_be_reached_keeps_the_keys_it_had() {
    run(async {
        let signer = Signer::new("k1");
        let provider = Provider::start(&ok(&signer.published()));
        let mut config = with(trusted(provider.source.clone()));
        config.deadlines.keys = Duration::ZERO;
        let relay = start(&config);
        let role = r#""Listener""#;
        assert_eq!(asked(&relay, LISTEN, &signer.token("x", role)).await.0, 101);
        for broken in [
            "HTTP/1.1 503 Busy\r\n\r\n".to_owned(),
            ok("<html>"),
            ok(r#"{"keys":[]}"#),
            "SSH-2.0-x\r\n".into(),
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}".into(),
            format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(300 * 1024)),
        ] {
            *provider.answer.lock().unwrap() = broken;
            assert_eq!(asked(&relay, LISTEN, &Signer::new("k2").token("x", role)).await.0, 401);
            assert_eq!(asked(&relay, LISTEN, &signer.token("x", role)).await.0, 101);
        }
    });
}

#[test]
fn where_no_token_is_needed_none_is_looked_at_and_none_passed_on() {
    run(async {
        let signer = Signer::new("k1");
        let provider = Provider::start(&ok(&signer.published()));
        let relay = start(&with(trusted(provider.source.clone())));
        let mut listener = relay.listen("open").await;
        let token = signer.token("x", "");
        for (target, header) in
            [("/$hc/open?a=1".to_owned(), token.as_str()), (format!("/$hc/open?sb-hc-token={token}&a=1"), "nonsense")]
        {
            let sender = relay.ask(&target, &[("ServiceBusAuthorization", header)]).await;
            let accept = listener.invitation().await;
            assert!(!accept.address.contains("token") && accept.address.contains("?a=1&"), "{}", accept.address);
            assert_eq!(accept.connect_headers.get("ServiceBusAuthorization"), None);
            let mut there = relay.open(target_of(&accept), &[]).await;
            let mut here = opened(sender).await.1;
            here.send("hello".into()).await.unwrap();
            assert_eq!(message(&mut there).await, "hello".into());
        }
        assert_eq!(provider.times(), 0, "not even the keys were asked for");
    });
}
