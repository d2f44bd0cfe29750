//! Promise: a device that nobody has configured makes its own hybrid connection, if its name and its token are right; there
//! are never too many, and those that nobody uses go away.

#![allow(clippy::unwrap_used)]

mod support;

use support::issuer::{Signer, fixed};
use support::{
    Answer, LONG, SHORT, TestRelay, config, eventually, now, opened, restarted, rule, run, start, target_of, token,
    token_until,
};
use umbilical_cloud::relay::config::{OnDemand, RelayConfig};
use umbilical_relay_protocol::{PathPattern, Right};

fn fleet() -> RelayConfig {
    let mut config = config();
    config.rules.push(rule("listen", "key of listen", &[Right::Listen]));
    config.rules.push(rule("send", "key of send", &[Right::Send]));
    config.on_demand = Some(OnDemand {
        pattern: PathPattern::new("gateway-*").unwrap(),
        most: 100,
        remove_after: LONG,
        requires_client_authorization: true,
    });
    config
}

async fn listening(relay: &TestRelay, path: &str, token: &str) -> Answer {
    let target = format!("/$hc/{path}?sb-hc-action=listen");
    relay.answer(&target, &[("ServiceBusAuthorization", token)]).await
}

/// Asked when its listeners have left.
async fn exists(relay: &TestRelay, path: &str) -> bool {
    eventually("nobody listens", || relay.relay.listeners(path) == 0).await;
    let answer = relay.answer(&format!("/$hc/{path}"), &[("ServiceBusAuthorization", &token("", "send"))]).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    !answer.reason.contains("does not exist")
}

#[test]
fn a_listener_makes_what_it_is_named_after_and_senders_find_it() {
    run(async {
        let relay = start(&fleet());
        let arrival = relay.relay.arrival("Gateway-7");
        let early = Answer::read(&mut relay.send("gateway-7", &[]).await).await;
        assert_eq!((early.status, early.reason.contains("does not exist")), (404, true), "a sender makes nothing");
        let mut listener = relay.listen("gateway-7").await;
        arrival.happened().await;
        let sender = relay.send("GATEWAY-7/sub", &[]).await;
        let accept = listener.invitation().await;
        let _there = relay.open(target_of(&accept), &[]).await;
        let _here = opened(sender).await;
        let anonymous = relay.answer("/$hc/gateway-7", &[]).await;
        assert_eq!(anonymous.status, 401);
    });
}

#[test]
fn only_the_right_names_and_tokens_make_one() {
    run(async {
        let signer = Signer::new("k1");
        let mut config = fleet();
        config.issuers = vec![fixed(&signer)];
        let relay = start(&config);
        for (path, token, status) in [
            ("other-7", token("", "listen"), 404),
            ("my-gateway-7", token("", "listen"), 404),
            ("gateway-7/sub", token("", "listen"), 404),
            ("gateway-7-", token("", "listen"), 404),
            ("gateway-%20", token("", "listen"), 404),
            ("gateway-7", String::new(), 401),
            ("gateway-7", token("", "nobody"), 401),
            ("gateway-7", token_until("", "listen", now()), 401),
            ("gateway-7", token("", "send"), 403),
            ("gateway-7", token("gateway-8", "listen"), 403),
            ("gateway-7", signer.token("x", r#""Sender""#), 403),
        ] {
            assert_eq!(listening(&relay, path, &token).await.status, status, "{path} {token}");
            assert!(!exists(&relay, path).await, "{path} {token}");
        }
        for (path, token) in [
            ("gateway-7", token("gateway-7", "listen")),
            ("gateway-8", token("", "operator")),
            ("Gateway-9", signer.token("x", r#""Listener""#)),
        ] {
            assert_eq!(listening(&relay, path, &token).await.status, 101, "{path} {token}");
        }
    });
}

#[test]
fn many_at_once_make_each_one_once() {
    run(async {
        let relay = start(&fleet());
        let mut asking = Vec::new();
        let token = token("", "listen");
        for n in 0..60 {
            let target = format!("/$hc/gateway-{}?sb-hc-action=listen", n % 20);
            asking.push(relay.ask(&target, &[("ServiceBusAuthorization", &token)]).await);
        }
        let mut listeners = Vec::new();
        for transport in asking {
            listeners.push(opened(transport).await.1);
        }
        for n in 0..20 {
            assert_eq!(relay.relay.listeners(&format!("gateway-{n}")), 3);
        }
    });
}

#[test]
fn beyond_the_limit_listeners_are_refused_but_not_for_good() {
    run(async {
        let mut config = fleet();
        config.on_demand.as_mut().unwrap().most = 2;
        let relay = start(&config);
        let _listeners = [relay.listen("gateway-1").await, relay.listen("gateway-2").await];
        let answer = listening(&relay, "gateway-3", &token("", "listen")).await;
        // 404 would stop official listeners for ever
        assert_eq!((answer.status, answer.reason.contains("QuotaExceeded")), (403, true), "{answer:?}");
        relay.listen_as("gateway-1", "second").await;
        config.on_demand.as_mut().unwrap().most = 3;
        relay.relay.reload(&config).unwrap();
        relay.listen("gateway-3").await;
    });
}

#[test]
fn what_nobody_uses_goes_away_for_good_and_what_somebody_uses_stays() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let mut config = fleet();
        config.state_directory = Some(folder.path().into());
        let relay = start(&config);
        drop((relay.listen("gateway-used").await, relay.listen("gateway-left").await));
        assert!(exists(&relay, "gateway-left").await);
        config.on_demand.as_mut().unwrap().remove_after = SHORT;
        relay.relay.shutdown(LONG).await;
        drop(relay);

        let relay = restarted(&config).await;
        let mut used = relay.listen("gateway-used").await;
        while exists(&relay, "gateway-left").await {}
        let sender = relay.send("gateway-used", &[]).await;
        used.invitation().await;
        drop(sender);
        // its listener leaves, its time begins
        drop(used);
        while exists(&relay, "gateway-used").await {}
        // and it comes back when its device does
        config.on_demand.as_mut().unwrap().remove_after = LONG;
        relay.relay.reload(&config).unwrap();
        drop(relay.listen("gateway-used").await);
        relay.relay.shutdown(LONG).await;
        drop(relay);

        let relay = restarted(&config).await;
        assert!(exists(&relay, "gateway-used").await && !exists(&relay, "gateway-left").await);
    });
}

#[test]
fn without_the_table_nothing_is_made_and_nothing_taken_away() {
    run(async {
        let mut config = fleet();
        let relay = start(&config);
        drop(relay.listen("gateway-1").await);
        config.on_demand = None;
        relay.relay.reload(&config).unwrap();
        let token = token("", "listen");
        assert_eq!(listening(&relay, "gateway-2", &token).await.status, 404);
        assert_eq!(listening(&relay, "gateway-1", &token).await.status, 101);
    });
}
