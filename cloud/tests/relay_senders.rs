//! Senders: who is let in, what the listener gets to know, and the answers it can give.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_tungstenite::tungstenite::Message;
use smol::io::AsyncWriteExt;
use support::{
    Answer, SHORT, config, eventually, message, now, opened, refusal_of, run, start, target_of, token, token_until,
};
use umbilical_cloud::relay::connect::SenderRequest;
use umbilical_link::upgrade::{Role, Upgraded};
use umbilical_relay_protocol::{Headers, SasToken};

fn request() -> SenderRequest {
    SenderRequest {
        suffix: String::new(),
        query: String::new(),
        headers: Headers::default(),
        subprotocol: None,
        remote: SocketAddr::from(([192, 0, 2, 7], 1234)),
    }
}

#[test]
fn tokens_that_do_not_allow_to_send_are_refused() {
    run(async {
        let relay = start(&config());
        let _listener = relay.listen("device").await;
        let wrong_key = SasToken::sign("http://localhost/device", "send", b"key of another", now() + 60);
        for (token, status, text) in [
            (String::new(), 401, "MissingToken"),
            (wrong_key, 401, "invalid signature"),
            (token_until("device", "send", now()), 401, "expired"),
            (token("device", "listen"), 403, "Send"),
            (token("device/deeper", "operator"), 403, "does not cover"),
        ] {
            let answer = relay.answer("/$hc/device", &[("ServiceBusAuthorization", &token)]).await;
            assert_eq!((answer.status, answer.reason.contains(text)), (status, true), "{answer:?}");
        }
    });
}

#[test]
fn a_token_may_be_for_the_suffix_too_as_hyco_ws_signs_it() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let token = token("device/sub/path", "send");
        let _sender = relay.ask("/$hc/device/sub/path?a=1", &[("ServiceBusAuthorization", &token)]).await;
        assert!(listener.invitation().await.address.contains("/$hc/device/sub/path?a=1&"));
        for path in ["device", "device/sub", "device/sub/paths"] {
            let answer = relay.answer(&format!("/$hc/{path}"), &[("ServiceBusAuthorization", &token)]).await;
            assert_eq!(answer.status, 403, "{path}");
        }
    });
}

#[test]
fn who_comes_while_a_listener_is_on_its_way_waits_for_it() {
    run(async {
        let mut config = config();
        config.deadlines.absence = Duration::from_secs(20);
        let relay = start(&config);
        let listeners = || relay.relay.metrics().listeners.load(Relaxed);
        let mut listener = None;
        for what in ["the relay has just started", "the listener was lost"] {
            drop(listener.take());
            eventually(what, || listeners() == 0).await;
            let mut sender = relay.send("device", &[]).await;
            eventually("the sender waits", || relay.relay.metrics().waiting.load(Relaxed) == 1).await;
            let accept = listener.insert(relay.listen("device").await).invitation().await;
            relay.answer(&refusal_of(&accept, 503, "here"), &[]).await;
            assert_eq!(Answer::read(&mut sender).await.reason, "here", "{what}");
        }

        // who has said goodbye is not on its way
        let mut back = listener.unwrap();
        back.control.close(None).await.unwrap();
        eventually("it has left", || listeners() == 0).await;
        assert_eq!(Answer::read(&mut relay.send("device", &[]).await).await.status, 404);
    });
}

/// A channel that is dying takes what is said on it.
#[test]
fn who_was_invited_over_a_channel_that_is_lost_is_invited_again() {
    run(async {
        let relay = start(&config());
        let waiting = || relay.relay.metrics().waiting.load(Relaxed);
        let mut old = relay.listen_as("device", "plant_7").await;
        let mut sender = relay.send("device", &[]).await;
        let first = old.invitation().await;
        drop(old);
        eventually("it is lost", || relay.relay.metrics().listeners.load(Relaxed) == 0).await;
        let mut new = relay.listen_as("device", "plant_7").await;
        let second = new.invitation().await;
        assert_eq!((target_of(&first), waiting()), (target_of(&second), 1));
        let newest = relay.listen_as("device", "plant_7");
        let third = newest.await.invitation().await;
        relay.answer(&refusal_of(&third, 503, "here"), &[]).await;
        assert_eq!(Answer::read(&mut sender).await.reason, "here");
        assert_eq!(relay.answer(target_of(&first), &[]).await.status, 403, "the address is used up");

        // who takes its leave may come to what it was invited to
        let mut leaving = relay.listen_as("device", "plant_7").await;
        let mut sender = relay.send("device", &[]).await;
        let accept = leaving.invitation().await;
        leaving.control.close(None).await.unwrap();
        eventually("it has left", || relay.relay.metrics().listeners.load(Relaxed) == 0).await;
        relay.answer(&refusal_of(&accept, 503, "on its way"), &[]).await;
        assert_eq!(Answer::read(&mut sender).await.reason, "on its way");
    });
}

#[test]
fn nobody_comes_back_and_senders_are_refused_in_the_end() {
    run(async {
        let mut config = config();
        config.deadlines.absence = SHORT;
        let relay = start(&config);
        drop(relay.listen("device").await);
        eventually("it is lost", || relay.relay.metrics().listeners.load(Relaxed) == 0).await;
        assert_eq!(Answer::read(&mut relay.send("device", &[]).await).await.status, 404);
    });
}

#[test]
fn nobody_there_is_404_in_different_words() {
    run(async {
        let relay = start(&config());
        let absent = Answer::read(&mut relay.send("device", &[]).await).await;
        assert_eq!(absent.status, 404);
        assert!(absent.reason.contains("no listeners connected for the endpoint 'device'"), "{}", absent.reason);
        let unknown = relay.answer("/$hc/other?sb-hc-action=connect", &[]).await;
        assert_eq!(unknown.status, 404);
        assert!(unknown.reason.starts_with("Endpoint does not exist: 'other'"), "{}", unknown.reason);
    });
}

#[test]
fn a_request_without_action_is_a_sender_and_an_open_entity_takes_any_token() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("open").await;
        for target in ["/$hc/open", "/$hc/open?sb-hc-token=nonsense", "/%24hc/OPEN?sb-hc-action=Connect"] {
            let mut sender = relay.ask(target, &[]).await;
            let invitation = listener.invitation().await;
            assert!(!invitation.address.contains("nonsense"), "{}", invitation.address);
            relay.open(target_of(&invitation), &[]).await;
            assert_eq!(Answer::read(&mut sender).await.status, 101);
        }
    });
}

#[test]
fn the_listener_is_told_who_asks_for_what_but_not_by_which_token() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let guid = "0F8FAD5B-D9CB-469F-A165-70867728950E";
        let path = format!("Device/Sub/p%C3%A4th?a=1&sb-hc-id={guid}_G1&&sb-hc-undefined&b=%2f");
        let token = token("device", "send");
        let headers = [
            ("X-Custom", "some value"),
            ("x-custom", "another"),
            ("serviceBusAuthorization", &token),
            ("sec-websocket-extensions", "permessage-deflate"),
        ];
        let sender = relay.ask(&format!("/$hc/{path}&sb-hc-token=x"), &headers).await;
        let accept = listener.invitation().await;

        let (_, target) = accept.address.split_once("/$hc/").unwrap();
        assert!(target.starts_with("Device/Sub/p%C3%A4th?a=1&&sb-hc-undefined&b=%2f&sb-hc-action=accept&"), "{target}");
        assert_eq!(accept.id, format!("{}_G0", guid.to_lowercase()));
        assert!(target.contains(&format!("&sb-hc-id={}&", accept.id)), "{target}");
        assert_eq!(accept.connect_headers.get("X-Custom"), Some("some value, another"));
        assert_eq!(accept.connect_headers.get("Sec-WebSocket-Key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept.connect_headers.get("Host"), Some(format!("localhost:{}", relay.address.port()).as_str()));
        assert_eq!(accept.connect_headers.get("ServiceBusAuthorization"), None);
        assert_eq!(accept.connect_headers.get("Sec-WebSocket-Extensions"), None);
        let remote = accept.remote.unwrap();
        let local = sender.socket().get_ref().local_addr().unwrap();
        assert_eq!((remote.address.as_str(), remote.port), ("127.0.0.1", local.port()));
    });
}

#[test]
fn an_accepted_sender_gets_its_101_only_when_the_listener_has_come() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut sender = relay.send("device", &[("Sec-WebSocket-Extensions", "permessage-deflate")]).await;
        let invitation = listener.invitation().await;
        let early = async {
            Answer::read(&mut sender).await;
            true
        };
        let patient = async {
            smol::Timer::after(SHORT).await;
            false
        };
        assert!(!smol::future::or(early, patient).await);

        // the header that Microsoft's Node client sends in place of an extension
        let odd = [("0", "Sec-WebSocket-Extensions: permessage-deflate")];
        let (answer, mut there) = opened(relay.ask(target_of(&invitation), &odd).await).await;
        assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
        let (answer, mut here) = opened(sender).await;
        assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
        assert_eq!(answer.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        here.send(Message::text("ping")).await.unwrap();
        assert_eq!(message(&mut there).await, Message::text("ping"));
        there.send(Message::text("pong")).await.unwrap();
        assert_eq!(message(&mut here).await, Message::text("pong"));
        assert_eq!(relay.relay.metrics().joined.load(Relaxed), 1);
    });
}

#[test]
fn frames_that_come_with_the_handshake_are_not_lost() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut sender = relay.send("device", &[]).await;
        let invitation = listener.invitation().await;
        sender.write_all(b"\x81\x85\0\0\0\0early").await.unwrap();
        let mut there = relay.open(target_of(&invitation), &[]).await;
        assert_eq!(message(&mut there).await, Message::text("early"));
        assert_eq!(Answer::read(&mut sender).await.status, 101);
    });
}

#[test]
fn the_subprotocol_the_listener_chose_is_told_to_both() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for (chosen, told) in [(Some("p2"), Some("p2")), (None, None), (Some("p9, p1"), Some("p1"))] {
            let mut sender = relay.send("device", &[("Sec-WebSocket-Protocol", "p1, p2")]).await;
            let invitation = listener.invitation().await;
            assert_eq!(invitation.subprotocols().collect::<Vec<_>>(), ["p1", "p2"]);
            let headers: Vec<_> = chosen.map(|chosen| ("Sec-WebSocket-Protocol", chosen)).into_iter().collect();
            let (answer, _there) = opened(relay.ask(target_of(&invitation), &headers).await).await;
            assert_eq!(answer.header("Sec-WebSocket-Protocol"), told);
            assert_eq!(Answer::read(&mut sender).await.header("Sec-WebSocket-Protocol"), told);
        }
    });
}

#[test]
fn a_subprotocol_that_was_not_offered_ends_the_rendezvous_for_both() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut sender = relay.send("device", &[("Sec-WebSocket-Protocol", "p1")]).await;
        let invitation = listener.invitation().await;
        let answer = relay.answer(target_of(&invitation), &[("Sec-WebSocket-Protocol", "p3")]).await;
        assert_eq!(answer.status, 400);
        assert_eq!(Answer::read(&mut sender).await.status, 502);
    });
}

#[test]
fn a_refusal_reaches_the_sender_in_the_listeners_words() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for (said, told) in [
            ((418, "I'm a teapot"), (418, "I'm a teapot")),
            ((200, ""), (400, "Rejected by user code")),
            ((999, "a\r\nb"), (599, "a  b")),
        ] {
            let mut sender = relay.send("device", &[]).await;
            let invitation = listener.invitation().await;
            let answer = relay.answer(&refusal_of(&invitation, said.0, said.1), &[]).await;
            assert_eq!((answer.status, answer.reason.as_str()), (410, "Gone"));
            let answer = Answer::read(&mut sender).await;
            assert_eq!((answer.status, answer.reason.as_str()), told);
        }
        // Microsoft's Node packages leave the prefix out
        let mut sender = relay.send("device", &[]).await;
        let invitation = listener.invitation().await;
        let target = format!("{}&statusCode=404&statusDescription=not+here", target_of(&invitation));
        assert_eq!(relay.answer(&target, &[]).await.status, 410);
        let answer = Answer::read(&mut sender).await;
        assert_eq!((answer.status, answer.reason.as_str()), (404, "not here"));
    });
}

#[test]
fn an_address_is_good_once() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let _sender = relay.send("device", &[]).await;
        let invitation = listener.invitation().await;
        let _there = relay.open(target_of(&invitation), &[]).await;
        let again = relay.answer(target_of(&invitation), &[]).await;
        assert_eq!(again.status, 403);
        assert!(again.reason.contains("has been used"), "{}", again.reason);
        for made_up in ["", "&sb-hc-rendezvous=", "&sb-hc-rendezvous=00000000000000000000000000000000"] {
            let answer = relay.answer(&format!("/$hc/device?sb-hc-action=accept{made_up}"), &[]).await;
            assert_eq!(answer.status, 403);
        }
    });
}

#[test]
fn a_listener_that_does_not_come_is_504_and_too_late_then() {
    run(async {
        let mut config = config();
        config.deadlines.rendezvous = SHORT;
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let mut sender = relay.send("device", &[]).await;
        let invitation = listener.invitation().await;
        let answer = Answer::read(&mut sender).await;
        assert_eq!(answer.status, 504);
        assert!(answer.reason.contains("did not answer in time"), "{}", answer.reason);
        assert_eq!(relay.answer(target_of(&invitation), &[]).await.status, 403);
        assert_eq!(relay.relay.metrics().waiting.load(Relaxed), 0);
    });
}

#[test]
fn a_sender_that_gives_up_makes_its_address_void() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        for politely in [true, false] {
            let mut sender = relay.send("device", &[]).await;
            let invitation = listener.invitation().await;
            if politely {
                sender.close().await.unwrap();
            }
            drop(sender);
            eventually("nobody waits", || relay.relay.metrics().waiting.load(Relaxed) == 0).await;
            assert_eq!(relay.answer(target_of(&invitation), &[]).await.status, 403);
        }
    });
}

#[test]
fn senders_are_spread_over_all_listeners() {
    run(async {
        let relay = start(&config());
        let mut listeners = Vec::new();
        for _ in 0..4 {
            listeners.push(relay.listen("open").await);
        }
        let mut senders = Vec::new();
        for _ in 0..100 {
            senders.push(relay.ask("/$hc/open", &[]).await);
        }
        for mut listener in listeners {
            // by chance none comes here once in 10^12 runs
            listener.invitation().await;
        }
    });
}

#[test]
fn every_secret_is_another() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("open").await;
        let (mut seen, mut senders) = (HashSet::new(), Vec::new());
        for _ in 0..20 {
            senders.push(relay.ask("/$hc/open", &[]).await);
            let address = listener.invitation().await.address;
            let (_, secret) = address.split_once("sb-hc-rendezvous=").unwrap();
            assert!(secret.len() == 32 && seen.insert(secret.to_owned()), "{secret}");
        }
    });
}

#[test]
fn the_largest_head_still_fits_into_an_accept_message_and_larger_ones_are_answered_431() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        // each of these is two characters in JSON
        let quotes = "\"".repeat(32_000);
        let _sender = relay.send("device", &[("X-Large", &quotes)]).await;
        assert_eq!(listener.invitation().await.connect_headers.get("X-Large"), Some(quotes.as_str()));
        let answer = Answer::read(&mut relay.send("device", &[("X-Large", &quotes.repeat(2))]).await).await;
        assert_eq!(answer.status, 431);
    });
}

#[test]
fn a_sender_in_this_process_is_given_the_listeners_own_socket() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut asked = request();
        asked.suffix = "sub path".into();
        asked.query = "a=1&b".into();
        asked.subprotocol = Some("umbilical.v1".into());
        asked.headers.push("X-Custom", "value").unwrap();
        let answering = async {
            let accept = listener.invitation().await;
            assert!(target_of(&accept).starts_with("/$hc/Device/sub%20path?a=1&b&sb-hc-action=accept&"), "{accept:?}");
            assert_eq!(accept.connect_headers.get("X-Custom"), Some("value"));
            assert!(accept.connect_headers.get("Sec-WebSocket-Key").is_some());
            assert_eq!(accept.remote.as_ref().unwrap().address, "192.0.2.7");
            let protocol = [("Sec-WebSocket-Protocol", "umbilical.v1")];
            opened(relay.ask(target_of(&accept), &protocol).await).await.1
        };
        let (given, mut there) = smol::future::zip(relay.relay.connect("Device", asked), answering).await;
        let Upgraded { mut transport, role, subprotocol, .. } = given.unwrap();
        assert_eq!((role, subprotocol.as_deref()), (Role::Server, Some("umbilical.v1")));
        transport.write_all(b"\x82\x02hi").await.unwrap();
        transport.flush().await.unwrap();
        assert_eq!(message(&mut there).await, Message::binary(b"hi".to_vec()));
        assert_eq!(relay.relay.metrics().handed_over.load(Relaxed), 1);
    });
}

#[test]
fn a_sender_in_this_process_is_refused_like_any_other() {
    run(async {
        let mut config = config();
        config.deadlines.rendezvous = SHORT;
        let relay = start(&config);
        assert_eq!(relay.relay.connect("other", request()).await.unwrap_err().status(), 404);
        assert_eq!(relay.relay.connect("device", request()).await.unwrap_err().status(), 404);
        let mut listener = relay.listen("device").await;
        assert_eq!(relay.relay.connect("device", request()).await.unwrap_err().status(), 504);
        listener.invitation().await;
        let refusing = async {
            let accept = listener.invitation().await;
            assert_eq!(relay.answer(&refusal_of(&accept, 503, "busy"), &[]).await.status, 410);
        };
        let (refused, ()) = smol::future::zip(relay.relay.connect("device", request()), refusing).await;
        let refused = refused.unwrap_err();
        assert_eq!((refused.status(), refused.reason()), (503, "busy"));
    });
}

#[test]
fn what_is_taken_away_or_shut_down_does_not_keep_senders_waiting() {
    run(async {
        let mut config = config();
        let relay = start(&config);
        let mut listener = relay.listen("device").await;
        let mut sender = relay.send("device", &[]).await;
        listener.invitation().await;
        let device = config.hybrid_connections.remove(0);
        relay.relay.reload(&config).unwrap();
        assert_eq!(Answer::read(&mut sender).await.status, 404);

        drop((sender, listener));
        config.hybrid_connections.push(device);
        relay.relay.reload(&config).unwrap();
        let mut listener = relay.listen("device").await;
        let mut sender = relay.send("device", &[]).await;
        listener.invitation().await;
        let closing = smol::spawn(async move { relay.relay.shutdown(support::LONG).await });
        assert_eq!(Answer::read(&mut sender).await.status, 503);
        drop((sender, listener));
        closing.await;
    });
}
