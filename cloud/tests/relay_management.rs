//! Promise: hybrid connections can be read, made, changed and deleted over HTTPS by the hosted service's resource names, by
//! those who may, and nothing that is acknowledged is lost.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use support::http::Reply;
use support::issuer::{Signer, fixed};
use support::{
    Answer, LONG, TestRelay, config, entity, eventually, executor, now, opened, restarted, rule, run, start, target_of,
    token, token_until,
};
use umbilical_cloud::relay::config::RelayConfig;
use umbilical_cloud::relay::{Relay, RelayError};
use umbilical_relay_protocol::Right;

const ALL: &str = "/$Resources/HybridConnections";

fn with_state(directory: &Path) -> RelayConfig {
    RelayConfig { state_directory: Some(directory.join("state")), ..config() }
}

fn description(required: bool, metadata: &str) -> String {
    format!(
        "<entry xmlns=\"http://www.w3.org/2005/Atom\"><content type=\"application/xml\"><HybridConnectionDescription \
         xmlns=\"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect\"><RequiresClientAuthorization>\
         {required}</RequiresClientAuthorization><UserMetadata>{metadata}</UserMetadata></HybridConnectionDescription>\
         </content></entry>"
    )
}

/// Asks the namespace with this token and these header lines more.
async fn ask(relay: &TestRelay, method: &str, target: &str, token: &str, more: &[(&str, &str)], body: &str) -> Reply {
    let length = body.len().to_string();
    let mut lines = vec![("X-PROCESS-AT", "ServiceBus"), ("Authorization", token)];
    if !body.is_empty() {
        lines.push(("Content-Length", &length));
    }
    lines.extend(more);
    let mut client = relay.client().await;
    client.head(method, target, &lines).await;
    client.write(body.as_bytes()).await;
    client.reply().await
}

/// Asks with the right to manage everything.
async fn manage(relay: &TestRelay, method: &str, target: &str, body: &str) -> Reply {
    ask(relay, method, target, &token("", "operator"), &[], body).await
}

async fn update(relay: &TestRelay, target: &str, body: &str) -> Reply {
    ask(relay, "PUT", target, &token("", "operator"), &[("If-Match", "*")], body).await
}

/// The text of the element, if it is there once.
fn element<'x>(reply: &'x Reply, name: &str) -> Option<&'x str> {
    let (_, rest) = reply.text().split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

fn titles(reply: &Reply) -> Vec<String> {
    let parts = reply.text().split("<entry ").skip(1);
    parts.map(|part| part.split("<title type=\"text\">").nth(1).unwrap().split('<').next().unwrap().into()).collect()
}

#[test]
fn runtime_information_is_read_as_dotnet_asks_for_it() {
    run(async {
        let relay = start(&config());
        let _first = relay.listen("device").await;
        let _second = relay.listen("device").await;
        let reply = manage(&relay, "GET", "/Device?api-version=2016-07", "").await;
        assert_eq!(reply.status(), 200, "{reply:?}");
        assert_eq!(reply.head.header("Content-Type"), Some("application/atom+xml;type=entry;charset=utf-8"));
        assert_eq!(element(&reply, "ListenerCount"), Some("2"));
        assert_eq!(element(&reply, "RequiresClientAuthorization"), Some("true"));
        assert_eq!(titles(&reply), ["device"]);
        assert!(element(&reply, "CreatedAt").unwrap().ends_with('Z'));
        let reply = manage(&relay, "GET", "/open?api-version=2016-07", "").await;
        assert_eq!(element(&reply, "RequiresClientAuthorization"), Some("false"));
        assert_eq!(element(&reply, "ListenerCount"), Some("0"));

        // what does not exist is an empty feed
        let reply = manage(&relay, "GET", "/device/other?api-version=2016-07", "").await;
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.head.header("Content-Type"), Some("application/atom+xml;type=feed;charset=utf-8"));
        assert_eq!(titles(&reply), [] as [String; 0]);

        // without the header it is a request for the listener
        let mut listener = relay.listen("open").await;
        let _sender = relay.request("GET", "/open?api-version=2016-07", &[], b"").await;
        assert_eq!(listener.whole_request().await.0.request_target, "/open?api-version=2016-07");
    });
}

#[test]
fn what_is_made_works_and_what_is_deleted_ends() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let mut config = with_state(folder.path());
        config.rules.push(rule("listen", "key of listen", &[Right::Listen]));
        config.rules.push(rule("send", "key of send", &[Right::Send]));
        let relay = start(&config);
        let before = now();
        let reply = manage(&relay, "PUT", "/Plant/line_2?api-version=2016-07", &description(true, "a &amp; b")).await;
        assert_eq!(reply.status(), 201, "{reply:?}");
        assert_eq!((titles(&reply), element(&reply, "UserMetadata")), (vec!["Plant/line_2".into()], Some("a &amp; b")));
        let reply = manage(&relay, "PUT", "/plant/LINE_2", &description(false, "")).await;
        assert_eq!(reply.status(), 409);
        assert_eq!(element(&reply, "Code"), Some("409"));
        assert!(element(&reply, "Detail").unwrap().contains("exists already"), "{reply:?}");

        let mut listener = relay.listen("plant/line_2").await;
        let sender = relay.ask("/$hc/Plant/Line_2/sub", &[("ServiceBusAuthorization", &token("plant", "send"))]).await;
        let accept = listener.invitation().await;
        let mut there = relay.open(target_of(&accept), &[]).await;
        let mut here = opened(sender).await.1;

        let listeners = manage(&relay, "GET", "/plant/line_2/Listeners", "").await;
        assert_eq!(listeners.status(), 200);
        assert!(element(&listeners, "RemoteEndpoint").unwrap().starts_with("127.0.0.1:"), "{listeners:?}");
        assert_eq!(element(&listeners, "Id").unwrap().len(), 36);
        assert!(element(&listeners, "ConnectedAt").is_some());

        let reply = update(&relay, "/plant/line_2", &description(false, "new")).await;
        assert_eq!(reply.status(), 200, "{reply:?}");
        assert_eq!(element(&reply, "UserMetadata"), Some("new"));
        assert_eq!(titles(&reply), ["Plant/line_2"], "it keeps its spelling");
        let _open = relay.ask("/$hc/plant/line_2", &[]).await;
        listener.invitation().await;

        assert_eq!(manage(&relay, "DELETE", "/PLANT/line_2", "").await.status(), 200);
        assert_eq!(listener.closed().await, (1001, "The endpoint was deleted or disabled".to_owned()));
        assert_eq!(support::closed(&mut here).await.0, 1001);
        assert_eq!(support::closed(&mut there).await.0, 1001);
        assert_eq!(manage(&relay, "DELETE", "/plant/line_2", "").await.status(), 404);
        assert_eq!(update(&relay, "/plant/line_2", &description(false, "")).await.status(), 404);
        let gone = relay.answer("/$hc/plant/line_2?sb-hc-action=listen", &[]).await;
        assert_eq!(gone.status, 404);
        assert!(now() - before < LONG.as_secs());
    });
}

#[test]
fn all_are_listed_in_parts() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let relay = start(&with_state(folder.path()));
        for name in ["c", "a", "b"] {
            assert_eq!(manage(&relay, "PUT", &format!("/{name}"), &description(true, "")).await.status(), 201);
        }
        assert_eq!(titles(&manage(&relay, "GET", ALL, "").await), ["a", "b", "c", "device", "open"]);
        let part = manage(&relay, "GET", &format!("{ALL}?api-version=2016-07&$skip=1&$top=2"), "").await;
        assert_eq!((titles(&part), part.status()), (vec!["b".to_owned(), "c".into()], 200));
        assert_eq!(manage(&relay, "GET", &format!("{ALL}?$top=x"), "").await.status(), 400);
        assert_eq!(manage(&relay, "PUT", ALL, &description(true, "")).await.status(), 405);
    });
}

#[test]
fn who_may_do_what() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::new("k1");
        let mut config = with_state(folder.path());
        config.issuers = vec![fixed(&signer)];
        config.hybrid_connections[0].rules.push(rule("admin", "key of admin", &[Right::Manage]));
        config.rules.push(rule("fleet", "key of fleet", &[Right::Listen, Right::Send]));
        let relay = start(&config);
        let entry = description(true, "");
        let owner = format!("Bearer {}", signer.token("x", r#""Owner""#));
        for (method, target, token, status) in [
            // one may be read with any right that one has there
            ("GET", "/device", token("device", "listen"), 200),
            ("GET", "/device", token("device", "send"), 200),
            ("GET", "/open", token("device", "listen"), 403),
            ("GET", "/device", token_until("device", "listen", now()), 401),
            ("GET", "/device", String::new(), 401),
            ("GET", "/device", "nonsense".into(), 401),
            ("GET", "/other", token("other", "listen"), 401),
            // all else takes Manage
            ("GET", "/device/Listeners", token("device", "listen"), 403),
            ("GET", "/device/Listeners", token("device", "admin"), 200),
            ("GET", ALL, token("", "operator"), 200),
            ("GET", ALL, token("device", "admin"), 401),
            ("PUT", "/made", token("made", "operator"), 201),
            ("PUT", "/made-2", token("made", "operator"), 403),
            ("PUT", "/made-3", signer.token("x", r#""Listener","Sender""#), 403),
            ("PUT", "/made-3", owner.clone(), 201),
            ("DELETE", "/made", token("device", "listen"), 401),
            // with all other rights everywhere, what they are there for
            ("GET", "/made", token("", "fleet"), 200),
            ("GET", "/made/Listeners", token("", "fleet"), 403),
            ("GET", ALL, token("", "fleet"), 403),
            ("PUT", "/made-4", token("", "fleet"), 403),
            ("DELETE", "/made", token("", "fleet"), 403),
            ("DELETE", "/made", token_until("", "operator", now()), 401),
            ("DELETE", "/made", owner, 200),
        ] {
            let body = if method == "PUT" { entry.as_str() } else { "" };
            let reply = ask(&relay, method, target, &token, &[], body).await;
            assert_eq!(reply.status(), status, "{method} {target} {token}: {reply:?}");
            if status >= 400 {
                assert_eq!(reply.head.header("Content-Type"), Some("application/xml; charset=utf-8"));
                assert_eq!(element(&reply, "Code"), Some(status.to_string().as_str()));
                assert!(element(&reply, "Detail").unwrap().contains("TrackingId:"), "{reply:?}");
            }
        }
        // where listeners and senders have their token
        let mut client = relay.client().await;
        let operator = token("", "operator");
        client.head("GET", "/device", &[("x-process-at", "servicebus"), ("ServiceBusAuthorization", &operator)]).await;
        assert_eq!(client.reply().await.status(), 200);
    });
}

#[test]
fn what_makes_no_sense_is_told() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let relay = start(&with_state(folder.path()));
        let good = description(true, "");
        for (method, target, body, status, text) in [
            ("PUT", "/a b".replace(' ', "%20").as_str(), good.as_str(), 400, "letters, digits"),
            ("PUT", "/-a", &good, 400, "letters, digits"),
            ("PUT", &format!("/{}", "a".repeat(261)), &good, 400, "260"),
            ("PUT", "/$Resources/Other", &good, 400, "letters, digits"),
            ("PUT", "/a", "<entry/>", 400, "HybridConnectionDescription"),
            ("PUT", "/a", "{}", 400, "HybridConnectionDescription"),
            ("PUT", "/a", "<!DOCTYPE a><a/>", 400, "document type"),
            ("PUT", "/a", &good.replace("true", "yes"), 400, "true or false"),
            ("PUT", "/a", "", 400, "HybridConnectionDescription"),
            ("PUT", "/a/Listeners", &good, 400, "the last of them not Listeners"),
            ("PUT", "/a", &" ".repeat(64 * 1024 + 1), 413, "64 KiB"),
            ("PUT", "/device", &good, 409, "exists already"),
            ("DELETE", "/device", "", 409, "configuration"),
            ("DELETE", "/nobody", "", 404, "Endpoint does not exist: 'nobody'"),
            ("GET", "/nobody/Listeners", "", 404, "Endpoint does not exist: 'nobody'"),
            ("GET", "/", "", 400, "$Resources/HybridConnections"),
            ("POST", "/a", &good, 405, "GET, PUT, DELETE"),
            ("DELETE", ALL, "", 405, "GET"),
        ] {
            let reply = manage(&relay, method, target, body).await;
            assert_eq!(
                (reply.status(), reply.head.reason.contains(text)),
                (status, true),
                "{method} {target}: {reply:?}"
            );
        }
        let operator = token("", "operator");
        let ask = async |headers: &[(&str, &str)], body: &[u8]| {
            let mut client = relay.client().await;
            let lines = [&[("X-PROCESS-AT", "ServiceBus"), ("Authorization", operator.as_str())], headers].concat();
            client.head("PUT", "/a", &lines).await;
            client.write(body).await;
            client.0.close().await.unwrap();
            client.reply().await.status()
        };
        assert_eq!(ask(&[("Content-Length", "5"), ("Content-Length", "6")], b"<a/> ").await, 400);
        assert_eq!(ask(&[("Content-Length", "-5")], b"").await, 400);
        assert_eq!(ask(&[("Content-Length", "18446744073709551616")], b"").await, 400);
        assert_eq!(ask(&[("Content-Length", "18446744073709551615")], b"").await, 413);
        assert_eq!(ask(&[("Content-Length", "50")], b"<a/>").await, 400);
        assert_eq!(ask(&[("Content-Length", "2")], b"\xff\xfe").await, 400);
        assert_eq!(ask(&[("Transfer-Encoding", "gzip")], b"").await, 501);
        assert_eq!(ask(&[("Transfer-Encoding", "chunked")], b"nonsense\r\n").await, 400);
        let chunks = format!("8000\r\n{0}\r\n8000\r\n{0}\r\n1\r\n \r\n0\r\n\r\n", " ".repeat(0x8000));
        assert_eq!(ask(&[("Transfer-Encoding", "chunked")], chunks.as_bytes()).await, 413);
        assert_eq!(ask(&[("Expect", "a miracle"), ("Content-Length", "4")], b"<a/>").await, 417);
        let length = good.len().to_string();
        assert_eq!(ask(&[("If-Match", "\"1\""), ("Content-Length", &length)], good.as_bytes()).await, 412);
        assert_eq!(update(&relay, "/device", &good).await.status(), 409);
        assert_eq!(titles(&manage(&relay, "GET", ALL, "").await), ["device", "open"], "nothing was made");
    });
}

#[test]
fn what_can_be_done_is_told_with_what_cannot() {
    run(async {
        let relay = start(&config());
        assert_eq!(manage(&relay, "POST", "/device", "").await.head.header("Allow"), Some("GET, PUT, DELETE"));
        assert_eq!(manage(&relay, "PUT", ALL, "").await.head.header("Allow"), Some("GET"));
        let mut client = relay.client().await;
        client
            .head("HEAD", "/device", &[("X-PROCESS-AT", "ServiceBus"), ("Authorization", &token("", "operator"))])
            .await;
        let mut answer = String::new();
        client.0.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.ends_with("\r\n\r\n"), "no body: {answer}");
    });
}

#[test]
fn a_body_may_come_in_chunks() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let relay = start(&with_state(folder.path()));
        let body = description(false, "chunked");
        let (begin, end) = body.split_at(50);
        let mut client = relay.client().await;
        let operator = token("", "operator");
        let lines =
            [("X-PROCESS-AT", "ServiceBus"), ("Authorization", operator.as_str()), ("Transfer-Encoding", "chunked")];
        client.head("PUT", "/a", &lines).await;
        client.write(format!("{:x}\r\n{begin}\r\n{:x}\r\n{end}\r\n0\r\n\r\n", begin.len(), end.len()).as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!((reply.status(), element(&reply, "UserMetadata")), (201, Some("chunked")), "{reply:?}");
    });
}

#[test]
fn what_the_configuration_takes_over_is_its_own_until_it_lets_go() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let mut config = with_state(folder.path());
        let relay = start(&config);
        assert_eq!(manage(&relay, "PUT", "/made", &description(false, "x")).await.status(), 201);
        config.hybrid_connections.push(entity("Made", Vec::new(), true));
        relay.relay.reload(&config).unwrap();
        let required = async || {
            let reply = manage(&relay, "GET", "/made", "").await;
            element(&reply, "RequiresClientAuthorization").unwrap().to_owned()
        };
        assert_eq!(required().await, "true");
        assert_eq!(update(&relay, "/made", &description(false, "y")).await.status(), 409);
        assert_eq!(manage(&relay, "DELETE", "/made", "").await.status(), 409);
        config.hybrid_connections.pop();
        relay.relay.reload(&config).unwrap();
        assert_eq!(required().await, "false");
        assert_eq!(manage(&relay, "DELETE", "/made", "").await.status(), 200);
    });
}

#[test]
fn a_client_that_asks_before_it_sends_is_told_to_go_on() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let relay = start(&with_state(folder.path()));
        let body = description(true, "");
        let (operator, length) = (token("", "operator"), body.len().to_string());
        let mut client = relay.client().await;
        let lines = [
            ("X-PROCESS-AT", "ServiceBus"),
            ("Authorization", operator.as_str()),
            ("Content-Length", &length),
            ("Expect", "100-continue"),
        ];
        client.head("PUT", "/a", &lines).await;
        assert_eq!(Answer::read(&mut client.0).await.status, 100);
        client.write(body.as_bytes()).await;
        assert_eq!(client.reply().await.status(), 201);
    });
}

#[test]
fn without_a_state_directory_there_is_only_reading() {
    run(async {
        let relay = start(&config());
        let reply = manage(&relay, "PUT", "/a", &description(true, "")).await;
        assert_eq!(reply.status(), 501);
        assert!(reply.head.reason.contains("state-directory"), "{reply:?}");
        assert_eq!(manage(&relay, "DELETE", "/device", "").await.status(), 501);
        assert_eq!(manage(&relay, "GET", "/device", "").await.status(), 200);
    });
}

#[test]
fn what_was_made_is_there_after_a_restart_and_survives_a_reload() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let mut config = with_state(folder.path());
        let relay = start(&config);
        for name in ["kept", "deleted"] {
            assert_eq!(manage(&relay, "PUT", &format!("/{name}"), &description(false, "x")).await.status(), 201);
        }
        assert_eq!(manage(&relay, "DELETE", "/deleted", "").await.status(), 200);
        config.hybrid_connections.push(entity("new", Vec::new(), true));
        relay.relay.reload(&config).unwrap();
        assert_eq!(titles(&manage(&relay, "GET", ALL, "").await), ["device", "kept", "new", "open"]);
        let created = element(&manage(&relay, "GET", "/kept", "").await, "CreatedAt").unwrap().to_owned();

        let error = Relay::start(executor(), &config).err().unwrap();
        assert!(matches!(&error, RelayError::State(_)) && error.to_string().contains("in use"), "{error}");
        let elsewhere = RelayConfig { state_directory: None, ..config.clone() };
        let error = relay.relay.reload(&elsewhere).unwrap_err();
        assert!(matches!(error, RelayError::StateMoved) && error.to_string().contains("restart"), "{error}");

        relay.relay.shutdown(LONG).await;
        drop(relay);
        let relay = restarted(&config).await;
        let reply = manage(&relay, "GET", "/kept", "").await;
        assert_eq!(element(&reply, "CreatedAt"), Some(created.as_str()));
        assert_eq!(
            (element(&reply, "UserMetadata"), element(&reply, "RequiresClientAuthorization")),
            (Some("x"), Some("false"))
        );
        assert_eq!(titles(&manage(&relay, "GET", ALL, "").await), ["device", "kept", "new", "open"]);
    });
}

#[test]
fn who_is_refused_again_and_again_is_slowed_down_here_too() {
    run(async {
        let mut config = config();
        config.limits.refusals = 1;
        config.limits.refusal_pause = std::time::Duration::from_secs(1);
        let relay = start(&config);
        let begin = std::time::Instant::now();
        for _ in 0..2 {
            assert_eq!(ask(&relay, "GET", "/device", "nonsense", &[], "").await.status(), 401);
        }
        assert!(begin.elapsed() >= config.limits.refusal_pause);
        eventually("all closed", || relay.relay.metrics().connections.load(Relaxed) == 0).await;
    });
}
