//! Listeners: who may register, how long, and what ends a control channel.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_tungstenite::tungstenite::Message;
use smol::stream::StreamExt;
use support::{
    LONG, Listener, SHORT, closed, config, entity, eventually, message, now, opened, rule, run, start, target_of,
    token, token_until,
};
use umbilical_relay_protocol::{MAX_LISTENERS, Right, SasToken};

const LISTEN: &str = "/$hc/device?sb-hc-action=listen";

/// Status and reason that a listener with this token in its header is answered.
async fn refused(target: &str, token: Option<&str>) -> (u16, String) {
    let relay = start(&config());
    let headers: Vec<_> = token.map(|token| ("ServiceBusAuthorization", token)).into_iter().collect();
    let answer = relay.answer(target, &headers).await;
    assert!(answer.reason.contains("TrackingId:"), "{answer:?}");
    assert!(answer.header("Date").is_some(), "{answer:?}");
    assert_eq!(relay.relay.metrics().rejections().collect::<Vec<_>>(), [(answer.status, 1)]);
    (answer.status, answer.reason)
}

#[test]
fn tokens_that_do_not_allow_to_listen_are_refused() {
    run(async {
        let wrong_key = SasToken::sign("http://localhost/device", "listen", b"key of another", now() + 60);
        for (token, status, text) in [
            (None, 401, "MissingToken"),
            (Some("nonsense".to_owned()), 401, "SharedAccessSignature"),
            (Some(wrong_key), 401, "The token has an invalid signature"),
            (Some(token("device", "nobody")), 401, "nobody"),
            (Some(token_until("device", "listen", now())), 401, "expired"),
            (Some(token("device", "send")), 403, "Listen"),
            (Some(token("other", "operator")), 403, "does not cover"),
        ] {
            let (got, reason) = refused(LISTEN, token.as_deref()).await;
            assert_eq!((got, reason.contains(text)), (status, true), "{token:?}: {reason}");
        }
    });
}

#[test]
fn what_does_not_exist_is_answered_404_with_its_name() {
    run(async {
        let token = token("", "operator");
        for path in ["other", "device/suffix"] {
            let (status, reason) = refused(&format!("/$hc/{path}?sb-hc-action=listen"), Some(&token)).await;
            assert_eq!(status, 404);
            assert!(reason.starts_with(&format!("Endpoint does not exist: '{path}'")), "{reason}");
        }
    });
}

#[test]
fn a_token_may_be_in_the_query_and_for_the_whole_namespace() {
    run(async {
        let relay = start(&config());
        let token = token("", "operator").replace('%', "%25").replace('&', "%26").replace('=', "%3D").replace(' ', "+");
        let target = format!("/$hc/DEVICE?sb-hc-token={token}&sb-hc-action=listen");
        let _listener = relay.open(&target, &[]).await;
        eventually("one listener", || relay.relay.metrics().listeners.load(Relaxed) == 1).await;
    });
}

#[test]
fn the_answer_agrees_to_no_extension_and_no_subprotocol() {
    run(async {
        let relay = start(&config());
        let token = token("device", "listen");
        let offers = [
            ("ServiceBusAuthorization", token.as_str()),
            ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
            ("Sec-WebSocket-Protocol", "p1"),
        ];
        let (answer, _socket) = opened(relay.ask(LISTEN, &offers).await).await;
        assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
        assert_eq!(answer.header("Sec-WebSocket-Protocol"), None);
        assert!(answer.header("Date").is_some());
    });
}

#[test]
fn the_26th_listener_is_refused_with_403() {
    run(async {
        let relay = start(&config());
        let mut listeners = Vec::new();
        for _ in 0..MAX_LISTENERS {
            listeners.push(relay.listen("device").await);
        }
        let token = token("device", "listen");
        let headers = [("ServiceBusAuthorization", token.as_str())];
        let answer = relay.answer(LISTEN, &headers).await;
        assert_eq!(answer.status, 403);
        assert!(answer.reason.contains("MaximumListenersPerEndpoint"), "{}", answer.reason);

        listeners.pop();
        eventually("24 listeners", || relay.relay.metrics().listeners.load(Relaxed) == 24).await;
        opened(relay.ask(LISTEN, &headers).await).await;
    });
}

#[test]
fn the_newest_connection_of_a_listener_takes_over_at_once() {
    run(async {
        let relay = start(&config());
        let mut old = relay.listen_as("device", "plant_7").await;
        let mut new = relay.listen_as("device", "plant_7").await;
        let (code, reason) = old.closed().await;
        assert_eq!(code, 1001);
        assert!(reason.contains("newer connection"), "{reason}");
        let _sender = relay.send("device", &[]).await;
        new.invitation().await;
        assert_eq!(relay.relay.metrics().takeovers.load(Relaxed), 1);
    });
}

#[test]
fn a_channel_outlives_its_token_by_the_grace_and_no_more() {
    run(async {
        let mut config = config();
        config.deadlines.token_grace = Duration::ZERO;
        let relay = start(&config);
        let token = token_until("device", "listen", now() + 1);
        let mut control = relay.open(LISTEN, &[("ServiceBusAuthorization", &token)]).await;
        let (code, reason) = closed(&mut control).await;
        assert_eq!(code, 1008);
        assert!(reason.contains("expired"), "{reason}");
        eventually("no listener", || relay.relay.metrics().listeners.load(Relaxed) == 0).await;
        eventually("it is counted", || relay.relay.metrics().expired_tokens.load(Relaxed) == 1).await;
    });
}

#[test]
fn an_expired_token_ends_the_control_channel_and_no_join() {
    run(async {
        let mut config = config();
        config.deadlines.token_grace = Duration::ZERO;
        let relay = start(&config);
        let until = now() + 2;
        let short = token_until("device", "listen", until);
        let control = relay.open(LISTEN, &[("ServiceBusAuthorization", &short)]).await;
        let mut listener = Listener { control, relay: relay.clone() };
        let short = token_until("device", "send", until);
        let sender = relay.ask("/$hc/device", &[("ServiceBusAuthorization", &short)]).await;
        let accept = listener.invitation().await;
        let mut there = relay.open(target_of(&accept), &[]).await;
        let mut here = opened(sender).await.1;
        assert_eq!(listener.closed().await.0, 1008);
        assert!(now() >= until);
        here.send(Message::text("still here")).await.unwrap();
        assert_eq!(message(&mut there).await, Message::text("still here"));
        there.send(Message::text("so am I")).await.unwrap();
        assert_eq!(message(&mut here).await, Message::text("so am I"));
    });
}

#[test]
fn a_renewed_token_keeps_the_channel() {
    run(async {
        let mut config = config();
        config.deadlines.token_grace = Duration::ZERO;
        let relay = start(&config);
        let short = token_until("device", "listen", now() + 2);
        let control = relay.open(LISTEN, &[("ServiceBusAuthorization", &short)]).await;
        let mut renewed = Listener { control, relay: relay.clone() };
        renewed.renew(&token("device", "listen")).await;
        let mut control = relay.open(LISTEN, &[("ServiceBusAuthorization", &short)]).await;
        // the one that does not renew is gone, the other one is not
        assert_eq!(closed(&mut control).await.0, 1008);
        let _sender = relay.send("device", &[]).await;
        renewed.invitation().await;
    });
}

#[test]
fn a_refused_renewal_closes_the_channel() {
    run(async {
        let relay = start(&config());
        for (token, text) in [
            (token("device", "send"), "Listen"),
            (token_until("device", "listen", now() - 1), "expired"),
            (SasToken::sign("http://localhost/device", "listen", b"?", now() + 60), "invalid signature"),
        ] {
            let mut listener = relay.listen("device").await;
            listener.renew(&token).await;
            let (code, reason) = listener.closed().await;
            assert_eq!(code, 1008);
            assert!(reason.contains(text), "{reason}");
        }
    });
}

#[test]
fn a_renewal_is_judged_by_the_rules_of_today() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        config.hybrid_connections[0].rules = vec![rule("listen", "another key", &[Right::Listen])];
        relay.relay.reload(&config).unwrap();
        listener.renew(&token("device", "listen")).await;
        assert_eq!(listener.closed().await.0, 1008);
    });
}

#[test]
fn messages_that_make_no_sense_end_the_channel_and_unknown_commands_do_not() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for ignored in [r#"{"injectFault":{"delay":"00:01:00"}}"#, r#"{"response":{"requestId":"1","statusCode":200}}"#]
        {
            listener.control.send(Message::text(ignored)).await.unwrap();
        }
        listener.control.send(Message::binary(Vec::new())).await.unwrap();
        listener.control.send(Message::Pong(Vec::new().into())).await.unwrap();
        listener.control.send(Message::text("{")).await.unwrap();
        let (code, reason) = listener.closed().await;
        assert_eq!(code, 1002);
        assert!(reason.contains("JSON"), "{reason}");

        let mut listener = relay.listen("device").await;
        listener.control.send(Message::text(" ".repeat(64 * 1024 + 1))).await.unwrap();
        assert_eq!(listener.closed().await.0, 1009);
    });
}

#[test]
fn a_ping_is_answered_and_a_goodbye_returned() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        listener.control.send(Message::Ping(b"hello".to_vec().into())).await.unwrap();
        let pong = listener.control.next().await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong(b"hello".to_vec().into()));
        listener.control.close(None).await.unwrap();
        assert_eq!(listener.closed().await.0, 1005);
        eventually("no listener", || relay.relay.metrics().listeners.load(Relaxed) == 0).await;
    });
}

#[test]
fn a_listener_that_answers_no_ping_is_dropped_and_one_that_does_is_kept() {
    run(async {
        let mut config = config();
        config.deadlines.quiet = SHORT;
        config.deadlines.pong = SHORT;
        let relay = start(&config);
        let mut alive = relay.listen("device").await;
        let _silent = relay.listen("device").await;
        let metrics = relay.relay.metrics();
        // reading is what answers pings; the silent one's socket stays open and is never read
        let answering = async {
            while alive.control.next().await.is_some() {}
            panic!("the channel that answers was closed");
        };
        let waiting = eventually("one listener", || metrics.listeners.load(Relaxed) == 1);
        smol::future::or(answering, waiting).await;
        eventually("it is counted", || metrics.silent_listeners.load(Relaxed) == 1).await;
    });
}

#[test]
fn an_invitation_finds_out_whether_a_listener_is_still_there() {
    run(async {
        let mut config = config();
        config.deadlines.pong = SHORT;
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let mut senders = Vec::new();
        // one that was heard just now is not doubted
        loop {
            senders.push(relay.send("device", &[]).await);
            listener.invitation().await;
            let doubted = async { matches!(listener.control.next().await, Some(Ok(Message::Ping(_)))) };
            let trusted = async {
                smol::Timer::after(SHORT / 10).await;
                false
            };
            if smol::future::or(doubted, trusted).await {
                break;
            }
        }
    });
}

#[test]
fn a_hybrid_connection_that_is_taken_out_closes_its_listeners_and_spares_others() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        let (mut goes, mut stays) = (relay.listen("device").await, relay.listen("open").await);
        config.hybrid_connections.remove(0);
        config.hybrid_connections.push(entity("new", Vec::new(), false));
        relay.relay.reload(&config).unwrap();
        let (code, reason) = goes.closed().await;
        assert_eq!(code, 1001);
        assert!(reason.contains("deleted"), "{reason}");
        let _sender = relay.ask("/$hc/open", &[]).await;
        stays.invitation().await;
        let token = token("", "operator");
        opened(relay.ask("/$hc/new?sb-hc-action=listen", &[("ServiceBusAuthorization", &token)]).await).await;
    });
}

#[test]
fn a_listener_is_invited_to_where_it_has_dialled_or_to_where_the_configuration_says() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let _sender = relay.send("device", &[]).await;
        let invitation = listener.invitation().await;
        let origin = format!("wss://localhost:{}/$hc/device?", relay.address.port());
        assert!(invitation.address.starts_with(&origin), "{}", invitation.address);
        assert!(target_of(&invitation).starts_with("/$hc/device?sb-hc-action=accept&"));

        config.public_origin = Some("wss://Relay.example:8443".into());
        relay.relay.reload(&config).unwrap();
        let mut listener = relay.listen_as("open", "1").await;
        let _sender = relay.send("open", &[]).await;
        let invitation = listener.invitation().await;
        assert!(invitation.address.starts_with("wss://relay.example:8443/$hc/open?"), "{}", invitation.address);
    });
}

#[test]
fn shutting_down_says_goodbye() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let closing = smol::spawn({
            let relay = relay.relay.clone();
            async move { relay.shutdown(LONG).await }
        });
        assert_eq!(listener.closed().await.0, 1001);
        assert!(listener.control.next().await.is_none());
        drop(listener);
        closing.await;
        assert!(smol::Async::<std::net::TcpStream>::connect(relay.address).await.is_err());
    });
}
