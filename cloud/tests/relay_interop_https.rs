//! Promise: Microsoft's own Node client for HTTP, hyco-https, works with the relay as it is: as listener, as sender, as both;
//! with curl as a sender it has never met.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Output;
use std::sync::atomic::Ordering::Relaxed;

use smol::process::{Command, Stdio};
use support::npm::{Script, uri};
use support::{TestRelay, certificate, config, eventually, run, start, token, token_until};
use umbilical_cloud::relay::config::RelayConfig;

/// What `interop/https-listener.js` fills its bytes with.
const PATTERN: &[u8] = b"a pattern of 23 bytes..";

fn pattern(length: usize) -> Vec<u8> {
    PATTERN.iter().copied().cycle().take(length).collect()
}

/// Bytes in a file of their own.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn curl(relay: &TestRelay, path: &str, more: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--cacert"]).arg(&certificate().file);
    curl.arg(format!("https://localhost:{}/device/{path}", relay.address.port()));
    curl.args(["--header", &format!("ServiceBusAuthorization: {}", token("device", "send"))]).args(more);
    curl.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    curl
}

async fn output(mut curl: Command) -> Output {
    let output = curl.output().await.expect("these tests need curl: apt-get install curl");
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The body that curl got.
async fn body(relay: &TestRelay, path: &str, more: &[&str]) -> Vec<u8> {
    output(curl(relay, path, more)).await.stdout
}

/// Status line and headers, in lower case, and body that curl got.
async fn whole(relay: &TestRelay, path: &str, more: &[&str]) -> (String, Vec<u8>) {
    let all = body(relay, path, &[&["--include"], more].concat()).await;
    let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8_lossy(&all[..end]).to_lowercase(), all[end..].to_vec())
}

#[test]
fn hyco_https_answers_every_method() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::https_listener(&relay).await;
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
            let told = body(&relay, "told?a=1&b=%2F", &["--request", method]).await;
            let told = String::from_utf8(told).unwrap();
            let expected = format!(r#"{{"method":"{method}","url":"/device/told?a=1&b=%2F","headers":{{"#);
            assert!(told.starts_with(&expected), "{told}");
            assert!(told.contains(r#""via":"1.1 localhost""#) && !told.contains("SharedAccess"), "{told}");
            listener.told().await;
        }
        let (head, body) = whole(&relay, "bytes?10", &["--head"]).await;
        assert!(head.starts_with("http/1.1 200 ok\r\n") && head.contains("\r\nvia: 1.1 localhost\r\n"), "{head}");
        assert_eq!(body, b"");
        assert!(listener.told().await.contains(r#""method":"HEAD""#));
    });
}

#[test]
fn hyco_https_takes_and_gives_bodies_of_every_length() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::https_listener(&relay).await;
        for length in [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 10 << 20] {
            assert!(body(&relay, &format!("bytes?{length}"), &[]).await == pattern(length), "{length} bytes down");
            listener.told().await;
            let sent = pattern(length);
            let (file, chunked) = (file(&sent), "Transfer-Encoding: chunked");
            let data = format!("@{}", file.path().display());
            for more in [&[][..], &["--header", chunked]] {
                let more = [&["--data-binary", &data], more].concat();
                assert!(body(&relay, "echo", &more).await == sent, "{length} bytes up and down, {more:?}");
                let told = format!(r#"{{"event":"request","method":"POST","url":"/device/echo","bytes":{length}}}"#);
                assert_eq!(listener.told().await, told);
            }
        }
    });
}

#[test]
fn hyco_https_gets_a_body_that_comes_slowly() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::https_listener(&relay).await;
        let sent = pattern(200_000);
        let file = file(&sent);
        let data = format!("@{}", file.path().display());
        let more = ["--data-binary", data.as_str(), "--limit-rate", "200K", "--header", "Expect: 100-continue"];
        assert!(body(&relay, "echo", &more).await == sent);
        assert!(listener.told().await.contains(r#""bytes":200000"#));
    });
}

#[test]
fn hyco_https_answers_piece_by_piece() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::https_listener(&relay).await;
        assert_eq!(body(&relay, "parts", &[]).await, b"one two three");
        listener.told().await;
        let slow = async { body(&relay, "slow", &[]).await };
        let go = async {
            assert!(listener.told().await.contains("/device/slow"));
            body(&relay, "go", &[]).await;
        };
        let (slow, ()) = smol::future::zip(slow, go).await;
        assert!(slow == [vec![b's'; 100 << 10], b"the rest".to_vec()].concat());
    });
}

#[test]
fn a_curl_that_leaves_early_leaves_hyco_https_well() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::https_listener(&relay).await;
        for path in ["slow", "slow"] {
            let mut waiting = curl(&relay, path, &[]).spawn().unwrap();
            assert!(listener.told().await.contains("/device/slow"));
            waiting.kill().unwrap();
            waiting.status().await.unwrap();
        }
        // in the middle of the answer
        let mut short = curl(&relay, "bytes?10485760", &["--limit-rate", "100K"]).spawn().unwrap();
        let mut some = [0; 1000];
        smol::io::AsyncReadExt::read_exact(short.stdout.as_mut().unwrap(), &mut some).await.unwrap();
        short.kill().unwrap();
        short.status().await.unwrap();
        listener.told().await;
        eventually("nobody waits", || relay.relay.metrics().exchanges.load(Relaxed) == 0).await;
        body(&relay, "go", &[]).await;
        listener.told().await;
        assert_eq!(body(&relay, "bytes?7", &[]).await, pattern(7));
    });
}

#[test]
fn one_curl_asks_many_times_on_one_connection() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        let more = ["--output", "/dev/null", "--write-out", "%{num_connects} %{size_download}\n"];
        let told = body(&relay, "bytes?[1-30]", &more).await;
        let expected: String = (1..=30).map(|n| format!("{} {n}\n", u8::from(n == 1))).collect();
        assert_eq!(String::from_utf8(told).unwrap(), expected);
    });
}

#[test]
fn hyco_https_is_asked_by_hyco_https() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        let uri = format!("https://localhost:{}/device", relay.address.port());
        for how in ["header", "query"] {
            let mut sender = Script::start("https-sender.js", &[&uri, "send", "key of send", how]);
            for (method, status, bytes, same) in [
                ("GET", 200, 0, ""),
                ("POST", 200, 1, r#","same":true"#),
                ("PUT", 200, 65_536, r#","same":true"#),
                ("POST", 200, 200_000, r#","same":true"#),
                ("HEAD", 200, 0, ""),
                ("DELETE", 204, 0, ""),
            ] {
                let reused = method != "GET";
                let expected = format!(
                    r#"{{"event":"response","method":"{method}","status":{status},"bytes":{bytes}{same},"via":"1.1 localhost","reused":{reused}}}"#
                );
                assert_eq!(sender.told().await, expected, "{how}");
            }
            assert!(sender.ended().await);
        }
    });
}

#[test]
fn hyco_https_is_told_why_a_token_is_refused() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        for (token, status) in [
            (token_until("device", "send", 1), "401 the token"),
            (token("device", "listen"), "403 "),
            (String::from("nonsense"), "401 "),
        ] {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--include", "--noproxy", "*", "--cacert"]).arg(&certificate().file);
            curl.args(["--header", &format!("ServiceBusAuthorization: {token}")]);
            curl.arg(format!("https://localhost:{}/device/nothing", relay.address.port()));
            let answer = String::from_utf8(output(curl).await.stdout).unwrap().to_lowercase();
            assert!(answer.starts_with(&format!("http/1.1 {status}")), "{answer}");
            assert!(answer.contains("trackingid:") && !answer.contains("\r\nvia:"), "{answer}");
        }
        let uri = uri(&relay, "device", "listen");
        for (key, seconds) in [("another key", "60"), ("key of listen", "-60")] {
            let mut refused = Script::start("https-listener.js", &[&uri, "listen", key, seconds]);
            let told = refused.told().await;
            assert!(told.contains("401"), "{told}");
        }
    });
}

#[test]
fn the_26th_hyco_https_listener_is_refused() {
    run(async {
        let relay = start(&config());
        let mut listeners = Vec::new();
        for _ in 0..25 {
            listeners.push(relay.listen("device").await);
        }
        let uri = uri(&relay, "device", "listen");
        let mut one_more = Script::start("https-listener.js", &[&uri, "listen", "key of listen"]);
        let told = one_more.told().await;
        assert!(told.contains("403"), "{told}");
        drop(listeners.pop());
        // it comes again by itself
        while one_more.told().await != r#"{"event":"listening"}"# {}
    });
}

#[test]
fn hyco_https_comes_back_when_its_channel_was_closed() {
    run(async {
        let config = config();
        let relay = start(&config);
        let mut listener = Script::https_listener(&relay).await;
        let without = RelayConfig { hybrid_connections: Vec::new(), ..config.clone() };
        relay.relay.reload(&without).unwrap();
        relay.relay.reload(&config).unwrap();
        while listener.told().await != r#"{"event":"listening"}"# {}
        assert_eq!(body(&relay, "bytes?7", &[]).await, pattern(7));
    });
}

// ---- what its answers are known to look like ----

#[test]
fn quirk_an_answer_without_a_body_announces_one() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        let (head, body) = whole(&relay, "nothing", &[]).await;
        assert!(head.contains("\r\ncontent-length: 0\r\n"), "{head}");
        assert_eq!(body, b"");
    });
}

#[test]
fn quirk_a_stray_empty_message_follows_a_204_and_a_304() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        for status in ["204", "304", "204"] {
            let (head, _) = whole(&relay, &format!("status?{status}"), &[]).await;
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        }
        // over a rendezvous too
        let (head, _) = whole(&relay, "status?204", &["--data", "x", "--header", "Transfer-Encoding: chunked"]).await;
        assert!(head.starts_with("http/1.1 204 "), "{head}");
        assert_eq!(body(&relay, "bytes?7", &[]).await, pattern(7));
    });
}

#[test]
fn quirk_a_head_is_answered_with_bytes() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        for path in ["bytes?10", "bytes?100000"] {
            let (head, body) = whole(&relay, path, &["--head"]).await;
            assert!(head.starts_with("http/1.1 200 "), "{head}");
            assert_eq!(body, b"");
        }
        assert_eq!(body(&relay, "bytes?7", &[]).await, pattern(7));
    });
}

#[test]
fn quirk_header_values_are_numbers_only_one_cookie_is_left_and_connection_is_let_through() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        let (head, body) = whole(&relay, "headers", &[]).await;
        assert!(head.contains("\r\nx-num: 5\r\n") && head.contains("\r\nset-cookie: a=1\r\n"), "{head}");
        assert!(!head.contains("b=2") && !head.contains("connection: close"), "{head}");
        assert!(head.contains("\r\ncontent-length: 7\r\n"), "{head}");
        assert_eq!(body, b"headers");
    });
}

#[test]
fn quirk_statuses_pass_unchanged_even_those_the_guide_forbids() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        for status in [201, 302, 400, 404, 418, 450, 500, 502, 504, 599] {
            let (head, _) = whole(&relay, &format!("status?{status}"), &[]).await;
            assert!(head.starts_with(&format!("http/1.1 {status} ")) && head.contains("\r\nvia: "), "{head}");
        }
    });
}

#[test]
fn quirk_pongs_come_unasked() {
    run(async {
        let mut config = config();
        config.deadlines.quiet = std::time::Duration::from_millis(400);
        config.deadlines.pong = std::time::Duration::from_secs(1);
        let relay = start(&config);
        let _listener = Script::https_listener(&relay).await;
        // its keep-alive of 50 ms is heard between requests and in the middle of them
        for _ in 0..5 {
            assert!(body(&relay, "bytes?300000", &[]).await == pattern(300_000));
        }
        assert_eq!(relay.relay.metrics().silent_listeners.load(Relaxed), 0);
        assert_eq!(relay.relay.listeners("device"), 1);
    });
}

#[test]
fn quirk_a_body_must_follow_its_head_or_the_listener_dies() {
    run(async {
        let relay = start(&config());
        let mut listener = Script::https_listener(&relay).await;
        let sent = pattern(30_000);
        let file = file(&sent);
        let data = format!("@{}", file.path().display());
        let more = ["--data-binary", data.as_str(), "--parallel", "--parallel-immediate", "--parallel-max", "20"];
        let all = body(&relay, "echo?[1-40]", &more).await;
        assert_eq!(all.len(), 40 * sent.len());
        for _ in 0..40 {
            assert!(listener.told().await.contains(r#""bytes":30000"#));
        }
    });
}

#[test]
fn quirk_its_rendezvous_stay_open_until_the_relay_closes_them() {
    run(async {
        let relay = start(&config());
        let _listener = Script::https_listener(&relay).await;
        for _ in 0..5 {
            assert!(body(&relay, "bytes?100000", &[]).await == pattern(100_000));
        }
        let metrics = relay.relay.metrics();
        assert_eq!(metrics.request_rendezvous.load(Relaxed), 5);
        eventually("the control channel is the last connection", || metrics.connections.load(Relaxed) == 1).await;
    });
}

#[test]
fn quirk_requests_to_a_hyco_ws_listener_end_in_504() {
    run(async {
        let mut config = config();
        config.deadlines.response = std::time::Duration::from_millis(500);
        let relay = start(&config);
        let _listener = Script::listener(&relay).await;
        let (head, _) = whole(&relay, "x", &[]).await;
        assert!(head.starts_with("http/1.1 504 "), "{head}");
        Script::sender(&relay, "key of send", &[]).heard_everything("").await;
    });
}
