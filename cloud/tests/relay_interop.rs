//! Promise: Microsoft's own Node client for WebSockets, hyco-ws, works with the relay as it is: as listener, as sender, as
//! both.

#![allow(clippy::unwrap_used)]

mod support;

use async_tungstenite::tungstenite::Message;
use smol::stream::StreamExt;
use support::npm::{Script, uri};
use support::{Listener, TestRelay, closed, config, message, opened, run, start, target_of};
use umbilical_cloud::relay::config::RelayConfig;

#[test]
fn hyco_ws_talks_to_hyco_ws() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        for (offered, chosen) in [(&[][..], ""), (&["p1,p2"][..], "p1")] {
            Script::sender(&relay, "key of send", offered).heard_everything(chosen).await;
            assert_eq!(listener.told().await, format!(r#"{{"event":"open","protocol":"{chosen}","url":"/device"}}"#));
            assert_eq!(listener.told().await, r#"{"event":"close","code":4321,"reason":"that was it"}"#);
        }
    });
}

#[test]
fn hyco_ws_listens_for_another_sender() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        let headers = [("Sec-WebSocket-Extensions", "permessage-deflate"), ("Sec-WebSocket-Protocol", "p1, p2")];
        let (answer, mut sender) = opened(relay.send("device/suffix?a=1", &headers).await).await;
        assert_eq!(answer.header("Sec-WebSocket-Protocol"), Some("p1"));
        assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
        assert_eq!(listener.told().await, r#"{"event":"open","protocol":"p1","url":"/device/suffix?a=1"}"#);
        for said in [Message::text("hello"), Message::binary(vec![1; 1 << 20]), Message::text("")] {
            sender.send(said.clone()).await.unwrap();
            assert_eq!(message(&mut sender).await, said);
        }
        sender.close(None).await.unwrap();
        closed(&mut sender).await;
        assert!(listener.told().await.starts_with(r#"{"event":"close","code":"#));
    });
}

#[test]
fn hyco_ws_sends_to_another_listener() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut sender = Script::sender(&relay, "key of send", &["p1,p2"]);
        let mut rendezvous = accept(&relay, &mut listener, "p2").await;
        let echoing = async {
            loop {
                match message(&mut rendezvous).await {
                    Message::Close(_) => break while rendezvous.next().await.is_some() {},
                    said => rendezvous.send(said).await.unwrap(),
                }
            }
        };
        smol::future::zip(sender.heard_everything("p2"), echoing).await;
    });
}

async fn accept(relay: &TestRelay, listener: &mut Listener, protocol: &str) -> support::Socket {
    let invitation = listener.invitation().await;
    let rendezvous = relay.ask(target_of(&invitation), &[("Sec-WebSocket-Protocol", protocol)]).await;
    opened(rendezvous).await.1
}

#[test]
fn quirk_hyco_ws_dies_of_an_offer_of_extensions_that_it_does_not_understand() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        let mut senders = Vec::new();
        for offer in ["permessage-deflate; level=9", "permessage-deflate; =", "x; y=\"z"] {
            let (answer, sender) = opened(relay.send("device", &[("Sec-WebSocket-Extensions", offer)]).await).await;
            senders.push(sender);
            assert_eq!(answer.header("Sec-WebSocket-Extensions"), None);
            assert!(listener.told().await.starts_with(r#"{"event":"open""#), "offered {offer}");
        }
    });
}

#[test]
fn hyco_ws_is_told_why_it_is_refused_and_slowed_down_when_it_insists() {
    run(async {
        let mut config = config();
        config.limits.refusals = 3;
        let relay = start(&config);
        let mut sender = Script::sender(&relay, "another key", &[]);
        assert!(sender.told().await.contains("unexpected server response (401)"));
        let mut listener = Script::start("listener.js", &[&uri(&relay, "device", "listen"), "listen", "another key"]);
        let start = std::time::Instant::now();
        for _ in 0..4 {
            let told = listener.told().await;
            assert!(told.contains("401"), "{told}");
        }
        // left alone, it would have tried hundreds of times by now
        assert!(start.elapsed() > config.limits.refusal_pause, "{:?}", start.elapsed());
        let refused = relay.relay.metrics().rejections().map(|(_, times)| times).sum::<u64>();
        assert!(refused < 10, "{refused}");
    });
}

#[test]
fn hyco_ws_comes_back_when_its_channel_was_closed() {
    run(async {
        let config = config();
        let relay = start(&config);
        let mut listener = Script::listener(&relay).await;
        let without = RelayConfig { hybrid_connections: Vec::new(), ..config.clone() };
        relay.relay.reload(&without).unwrap();
        let told = listener.told().await;
        assert!(told.contains("404"), "{told}");
        relay.relay.reload(&config).unwrap();
        while listener.told().await != r#"{"event":"listening"}"# {}
        Script::sender(&relay, "key of send", &[]).heard_everything("").await;
    });
}

#[test]
fn hyco_ws_shows_its_token_in_the_query_and_its_listener_sees_suffix_and_query_without_it() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        let uri = uri(&relay, "device/sub/p%C3%A4th", "connect").replace('?', "?a=1&b=%2F&sb-hc-word&");
        let mut sender = Script::start("sender.js", &[&uri, "send", "key of send", "", "query"]);
        sender.heard_everything("").await;
        let opened = listener.told().await;
        let expected = r#"{"event":"open","protocol":"","url":"/device/sub/p%C3%A4th?a=1&b=%2F&sb-hc-word"}"#;
        assert_eq!(opened, expected);
    });
}

#[test]
fn hyco_ws_is_refused_with_an_expired_token_as_sender_and_as_listener() {
    run(async {
        let relay = start(&config());
        let mut sender = Script::sender(&relay, "key of send", &["", "expired"]);
        assert!(sender.told().await.contains("unexpected server response (401)"));
        let uri = uri(&relay, "device", "listen");
        let mut listener = Script::start("listener.js", &[&uri, "listen", "key of listen", "1", "-60"]);
        let told = listener.told().await;
        assert!(told.contains("401"), "{told}");
        assert_eq!(relay.relay.listeners("device"), 0);
    });
}

#[test]
fn the_26th_hyco_ws_listener_is_refused_and_the_25_serve_on() {
    run(async {
        let relay = start(&config());
        let uri = uri(&relay, "device", "listen");
        let mut listeners = Script::start("listener.js", &[&uri, "listen", "key of listen", "25"]);
        for _ in 0..25 {
            assert_eq!(listeners.told().await, r#"{"event":"listening"}"#);
        }
        let mut one_more = Script::start("listener.js", &[&uri, "listen", "key of listen"]);
        let told = one_more.told().await;
        assert!(told.contains("unexpected server response (403)"), "{told}");
        drop(one_more);
        let token = support::token("device", "listen");
        let refused = relay.answer("/$hc/device?sb-hc-action=listen", &[("ServiceBusAuthorization", &token)]).await;
        assert_eq!((refused.status, refused.reason.contains("MaximumListenersPerEndpoint")), (403, true));
        Script::sender(&relay, "key of send", &[]).heard_everything("").await;
        assert_eq!(relay.relay.listeners("device"), 25);
    });
}

#[test]
fn hyco_ws_sends_messages_in_fragments() {
    run(async {
        let relay = start(&config());
        let _listener = Script::listener(&relay).await;
        Script::sender(&relay, "key of send", &["", "fragments"]).heard_everything("").await;
    });
}

#[test]
fn hyco_ws_sends_64_mib_in_one_message() {
    run(async {
        let relay = start(&config());
        let _listener = Script::listener(&relay).await;
        let mut sender = Script::sender(&relay, "key of send", &["", "large"]);
        assert_eq!(sender.told().await, r#"{"event":"open","protocol":""}"#);
        let heard = format!(r#"{{"event":"message","bytes":{},"same":true}}"#, 64 << 20);
        assert_eq!(sender.told().await, heard);
    });
}

#[test]
fn close_codes_and_reasons_reach_hyco_ws_from_either_side() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::listener(&relay).await;
        for (code, reason) in
            [(1000, "Shutdown"), (1001, "away"), (1008, "policy"), (1011, "error"), (3000, "grüezi"), (4999, "x")]
        {
            let code_text = code.to_string();
            let mut sender = Script::sender(&relay, "key of send", &["", "close", &code_text, reason]);
            sender.told().await;
            let closed = format!(r#"{{"event":"close","code":{code},"reason":"{reason}"}}"#);
            assert_eq!(sender.told().await, closed);
            listener.told().await;
            assert_eq!(listener.told().await, closed);
        }
    });
}

#[test]
fn a_hyco_ws_sender_that_has_closed_still_hears_what_its_listener_says() {
    run(async {
        let relay = start(&config());
        let mut listener = relay.listen("device").await;
        let mut sender = Script::sender(&relay, "key of send", &["", "linger"]);
        let mut rendezvous = relay.open(target_of(&listener.invitation().await), &[]).await.into_inner();
        assert_eq!(sender.told().await, r#"{"event":"open","protocol":""}"#);
        // by hand: a WebSocket library would answer the close frame at once
        let mut close = [0; 12];
        smol::io::AsyncReadExt::read_exact(&mut rendezvous, &mut close).await.unwrap();
        assert_eq!(&close, b"\x88\x0a\x03\xe8Shutdown");
        let rest = b"\x81\x84\0\0\0\0rest\x88\x85\0\0\0\0\x03\xe8bye";
        smol::io::AsyncWriteExt::write_all(&mut rendezvous, rest).await.unwrap();
        assert_eq!(sender.told().await, r#"{"event":"message","data":"rest"}"#);
        assert!(sender.told().await.starts_with(r#"{"event":"close","code":1000"#));
    });
}
