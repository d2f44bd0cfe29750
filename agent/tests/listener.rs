//! The control channel is kept, whatever the relay does.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::{cell::RefCell, io::Write, rc::Rc, sync::Arc, time::Duration};

use async_tungstenite::tungstenite::Message;
use log::Level;
use smol::future;
use support::{
    files::{Directory, text},
    logs,
    relay::{KEY, KEY_NAME, PATH, Relay, judge, now},
    soon,
};
use umbilical_agent::{
    clock::Clock,
    config::{self, Auth, KeepAliveFrame, ProxyChoice},
    credentials::Credentials,
    health::Health,
    listener::{Answer, Asked, Listener, Reply, Serve},
    stop::{Stopper, stop},
};
use umbilical_link::{
    dial::Dialer,
    proxy::ProxySettings,
    tls::{Roots, client_config},
};
use umbilical_relay_protocol::{
    Accept, Headers, ListenerMessage, RelayMessage, RelayUrl, Request, RequestHead, Response, SasToken,
};

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Senders(Rc<RefCell<Vec<Accept>>>);

impl Answer for Senders {
    fn answer(&self, accept: Accept) {
        self.0.borrow_mut().push(accept);
    }

    async fn is_waited_for(&self) -> bool {
        false
    }
}

/// Keeps what it is asked.
#[derive(Default)]
struct Requests(RefCell<Vec<Asked>>);

impl Serve for Requests {
    fn serve(&self, asked: Asked) {
        self.0.borrow_mut().push(asked);
    }
}

/// A listener whose delays after a loss are a millisecond or less, and what it needs.
struct Setting {
    relay: Relay,
    files: Directory,
    listener: Listener,
    senders: Senders,
    requests: Requests,
}

impl Setting {
    fn new() -> Setting {
        Setting::with(|files| Auth::SharedKey { name: KEY_NAME.into(), file: files.write("key", KEY) })
    }

    fn with(auth: impl FnOnce(&Directory) -> Auth) -> Setting {
        logs::capture();
        let (relay, files) = (Relay::new(), Directory::new());
        let url = RelayUrl::parse(&relay.url()).unwrap();
        let auth = auth(&files);
        let clock = Arc::new(Clock::new());
        let dialer = Dialer {
            tls: client_config(&Roots::System, Arc::<Clock>::clone(&clock)).unwrap(),
            proxy: ProxySettings::direct(),
        };
        let listener = Listener {
            credentials: Credentials::new(&auth, &url),
            relay: config::Relay {
                url,
                ca_file: None,
                proxy: ProxyChoice::None,
                auth,
                keep_alive: Duration::from_secs(60),
                keep_alive_frame: None,
                standby_after: None,
            },
            dialer: Rc::new(dialer),
            clock,
            id: "11111111-2222-8333-8444-555555555555".into(),
            random: || 1 << 20,
            look_again: Duration::from_millis(10),
            presence: None,
            doubts: Rc::default(),
            standing: Health::default().standing(&relay.url()),
        };
        Setting { relay, files, listener, senders: Senders::default(), requests: Requests::default() }
    }

    /// Runs the listener beside `script`, which ends the test.
    fn run(&self, script: impl AsyncFnOnce(&Setting, Stopper)) {
        let (stopper, stop) = stop();
        smol::block_on(future::or(script(self, stopper), async {
            self.listener.run(&self.senders, &self.requests, &stop).await;
            future::pending::<()>().await;
        }));
    }
}

#[test]
fn it_registers_under_its_id_with_a_token_of_its_own_making() {
    Setting::new().run(async |setting, _stopper| {
        let handshake = setting.relay.handshake().await;
        assert_eq!(
            handshake.raw_target,
            format!("/$hc/{PATH}?sb-hc-action=listen&sb-hc-id=11111111-2222-8333-8444-555555555555")
        );
        assert_eq!(handshake.judge(), Ok(()));
        assert_eq!(handshake.headers.get("Sec-WebSocket-Protocol"), None);
        assert_eq!(handshake.headers.get("Sec-WebSocket-Extensions"), None);
        let _control = handshake.control().await;
        logs::line(Level::Info, "listening at ws://127.0.0.1").await;
    });
}

#[test]
fn senders_are_reported_and_nonsense_between_them_is_not_fatal() {
    Setting::new().run(async |setting, _stopper| {
        let mut control = setting.relay.listener().await;
        control.accept("wss://one/$hc/x?a", "umbilical.v1").await;
        for nonsense in ["", "{}", "[]", "{\"accept\":{}}", "{\"accept\":{\"address\":5}}", "{\"future\":1}"] {
            control.0.send(Message::text(nonsense)).await.unwrap();
        }
        control.0.send(Message::binary(vec![0; 100])).await.unwrap();
        control.accept("wss://two/$hc/x?b", "umbilical.v1").await;
        soon("two senders", async {
            while setting.senders.0.borrow().len() < 2 {
                future::yield_now().await;
            }
        })
        .await;
        let addresses: Vec<_> = setting.senders.0.borrow().iter().map(|accept| accept.address.clone()).collect();
        assert_eq!(addresses, ["wss://one/$hc/x?a", "wss://two/$hc/x?b"]);
    });
}

/// The request `id`, whose body may be the next message.
fn request(id: &str, body: bool) -> RelayMessage {
    RelayMessage::Request(Request::Head(RequestHead {
        address: None,
        id: id.into(),
        request_target: format!("/{PATH}?secret=1"),
        method: "POST".into(),
        remote: None,
        headers: Headers::default(),
        body,
    }))
}

#[test]
fn a_request_is_reported_with_the_body_behind_it_and_its_answer_sent_in_one_piece() {
    Setting::new().run(async |setting, _stopper| {
        let mut control = setting.relay.listener().await;
        // of the longest length; then one whose body never comes, and a stray body; then one without
        control.send(&request("r1", true)).await;
        control.0.send(Message::binary(vec![7; 64 * 1024])).await.unwrap();
        control.send(&request("r2", true)).await;
        control.send(&RelayMessage::Unknown("future".into())).await;
        control.0.send(Message::binary(vec![8; 10])).await.unwrap();
        control.send(&request("r3", false)).await;
        soon("two requests", async {
            while setting.requests.0.borrow().len() < 2 {
                future::yield_now().await;
            }
        })
        .await;
        let asked = setting.requests.0.take();
        let seen: Vec<_> = asked
            .iter()
            .map(|asked| match &asked.request {
                Request::Head(head) => (head.id.as_str(), asked.body.len(), asked.body.first()),
                Request::Fetch { .. } => panic!("nothing is to be fetched"),
            })
            .collect();
        assert_eq!(seen, [("r1", 64 * 1024, Some(&7)), ("r3", 0, None)]);
        for (asked, length) in asked.into_iter().zip([64 * 1024, 0]) {
            let response = Response {
                request_id: "r".into(),
                status: 200,
                reason: None,
                headers: Headers::default(),
                body: length > 0,
            };
            asked.replies.send(Reply { response, body: vec![9; length] }).await.unwrap();
            let ListenerMessage::Response(response) = control.message().await else { panic!("no response") };
            assert_eq!(response.body, length > 0);
            if length > 0 {
                let Some(Message::Binary(body)) = control.frame().await else { panic!("no body") };
                assert!(body.len() == length && body.iter().all(|byte| *byte == 9));
            }
        }
    });
}

#[test]
fn the_token_is_renewed_before_it_ends() {
    let mut setting = Setting::new();
    setting.listener.credentials = Credentials::new(&setting.listener.relay.auth, &setting.listener.relay.url)
        .with_lifetime(Duration::from_secs(2));
    setting.run(async |setting, _stopper| {
        let handshake = setting.relay.handshake().await;
        let first = SasToken::parse(handshake.token()).unwrap().expires();
        let mut control = handshake.control().await;
        let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
        assert!(now() <= first, "renewed after the end");
        assert_eq!(judge(&token, now()), Ok(()));
        assert!(SasToken::parse(&token).unwrap().expires() > first);
        let ListenerMessage::RenewToken { token: third } = control.message().await else { panic!("no renewal") };
        assert!(SasToken::parse(&third).unwrap().expires() > SasToken::parse(&token).unwrap().expires());
    });
}

#[test]
fn a_renewal_that_is_due_and_fails_is_tried_until_it_works() {
    let mut setting = Setting::new();
    setting.listener.credentials = Credentials::new(&setting.listener.relay.auth, &setting.listener.relay.url)
        .with_lifetime(Duration::from_secs(2));
    setting.run(async |setting, _stopper| {
        let mut control = setting.relay.listener().await;
        std::fs::remove_file(setting.files.path("key")).unwrap();
        logs::line(Level::Warn, "can't renew the token: can't read ").await;
        setting.files.write("key", KEY);
        let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
        assert_eq!(judge(&token, now()), Ok(()));
    });
}

#[test]
fn a_token_file_that_changes_is_read_again() {
    // one that does not tell its end
    let setting = Setting::with(|files| Auth::TokenFile(files.write("token", "first")));
    setting.run(async |setting, _stopper| {
        let handshake = setting.relay.handshake().await;
        assert_eq!(handshake.token(), "first");
        let mut control = handshake.control().await;
        for content in ["second", "third"] {
            setting.files.write("token", content);
            let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
            assert_eq!(token, content);
        }
    });
}

#[test]
fn a_connection_string_is_signed_with_and_read_again() {
    let setting = Setting::with(|files| Auth::ConnectionString(files.path("string")));
    let endpoint = setting.relay.url().replace(&format!("/{PATH}"), "");
    let string = |key: &str| {
        format!("Endpoint={endpoint};SharedAccessKeyName={KEY_NAME};SharedAccessKey={key};EntityPath={PATH}\n")
    };
    setting.files.write("string", &string(KEY));
    setting.run(async |setting, _stopper| {
        let mut control = setting.relay.listener().await;
        // the key is changed
        setting.files.write("string", &string("bmV3"));
        let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
        assert!(SasToken::parse(&token).unwrap().verify(b"bmV3"));
        // a ready token in its place
        let ready = format!("Endpoint={endpoint};SharedAccessSignature=opaque;EntityPath={PATH}");
        setting.files.write("string", &ready);
        let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
        assert_eq!(token, "opaque");
        // what a connection string says of the relay can't change under way
        setting.files.write("string", &string(KEY).replace(PATH, "another"));
        let line = logs::line(Level::Warn, "can't renew the token: ").await;
        assert!(line.ends_with("have the configuration read again (SIGHUP)"), "{line}");
        setting.files.write("string", "Endpoint=top-secret");
        let line = logs::line(Level::Warn, "has an unusable Endpoint").await;
        assert!(!logs::all().contains("top-secret"), "{line}");
    });
}

#[test]
fn a_renewal_that_fails_is_one_warning_and_tried_again_when_the_file_has_changed() {
    let mut setting = Setting::with(|files| Auth::TokenFile(files.write("token", "first")));
    setting.listener.relay.keep_alive = Duration::from_millis(20);
    setting.run(async |setting, _stopper| {
        let mut control = setting.relay.listener_with("first").await;
        setting.files.write("token", "two\nlines");
        let line = logs::line(Level::Warn, "can't renew the token: ").await;
        assert!(line.ends_with("is not usable: expected one line of at most 16384 bytes"), "{line}");
        // time passes, with several looks at the file
        for _ in 0..3 {
            assert_eq!(control.frame().await, Some(Message::Pong(Vec::new().into())));
        }
        assert_eq!(logs::all().matches("can't renew").count(), 1, "{}", logs::all());
        setting.files.write("token", "second");
        let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
        assert_eq!(token, "second");
    });
}

#[test]
fn a_token_that_is_over_by_a_clock_that_is_ahead_is_tried_and_judged_by_the_relays_time() {
    let ends = now() - 100;
    let token = SasToken::sign("http://127.0.0.1/", KEY_NAME, KEY.as_bytes(), ends);
    let setting = Setting::with(|files| Auth::TokenFile(files.write("token", &token)));
    setting.run(async |setting, _stopper| {
        // by the relay's clock it is good
        let date = date(ends - 1000);
        setting.relay.handshake().await.refuse("503 Busy", &date).await;
        assert_eq!(setting.relay.handshake().await.token(), token);
    });
    let setting = Setting::with(|files| Auth::TokenFile(files.write("token", &token)));
    setting.run(async |setting, _stopper| {
        // by the relay's clock it is over: it is not tried again
        let date = date(ends + 1000);
        setting.relay.handshake().await.refuse("401 The token has expired", &date).await;
        logs::line(Level::Warn, "expired 10").await;
    });
}

#[test]
fn what_a_token_command_complains_is_in_the_log_and_its_token_is_not() {
    let setting = Setting::with(|_| {
        let script = "set -x; T=sesame-open-up; echo $T";
        Auth::TokenCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
    });
    setting.run(async |setting, _stopper| {
        let _control = setting.relay.listener_with("sesame-open-up").await;
        logs::line(Level::Info, "/bin/sh says: + echo ***").await;
        assert!(!logs::all().contains("sesame"), "{}", logs::all());
    });
    let setting = Setting::with(|_| {
        let script = "echo no vault here >&2; exit 7";
        Auth::TokenCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] }
    });
    setting.run(async |_setting, _stopper| {
        logs::line(Level::Warn, "/bin/sh says: no vault here").await;
        logs::line(Level::Warn, "/bin/sh gave no token: exit status: 7").await;
    });
}

#[test]
fn senders_are_reported_while_a_token_is_being_fetched() {
    let mut setting = Setting::with(|files| {
        let first = SasToken::sign("http://127.0.0.1/", KEY_NAME, KEY.as_bytes(), now() + 2);
        files.write("first", &first);
        std::process::Command::new("mkfifo").arg(files.path("second")).status().unwrap();
        // the first run prints a token, the second waits for one
        let script = format!("cd {}; cat first 2>/dev/null && rm first || cat second", text(&files.path("")));
        Auth::TokenCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script] }
    });
    setting.listener.look_again = Duration::from_secs(60);
    setting.run(async |setting, _stopper| {
        let mut control = setting.relay.handshake().await.control().await;
        // opening a pipe for writing waits until somebody reads it
        let second = setting.files.path("second");
        let mut writer = soon("the second run", smol::unblock(move || std::fs::File::create(second).unwrap())).await;
        control.accept("wss://meanwhile/$hc/x?a", "umbilical.v1").await;
        soon("a sender", async {
            while setting.senders.0.borrow().is_empty() {
                future::yield_now().await;
            }
        })
        .await;
        writer.write_all(b"second").unwrap();
        drop(writer);
        let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
        assert_eq!(token, "second");
    });
}

#[test]
fn a_lost_channel_is_opened_again_and_the_reason_is_logged() {
    Setting::new().run(async |setting, _stopper| {
        let control = setting.relay.listener().await;
        control.close(1011, "NameRenewalFailed").await;
        logs::line(Level::Warn, "lost the control channel").await;
        logs::line(Level::Warn, "1011 (the relay's daily reconnect): \"NameRenewalFailed\"; next try in 0.0 s").await;
        let control = setting.relay.listener().await;
        drop(control);
        logs::line(Level::Warn, "ended without a close frame").await;
        let control = setting.relay.listener().await;
        control.close(1008, "The token has expired").await;
        logs::line(Level::Warn, "the token expired or its renewal was refused").await;
        setting.relay.listener().await;
    });
}

#[test]
fn a_relay_that_is_busy_is_left_alone_for_as_long_as_it_asks() {
    Setting::new().run(async |setting, _stopper| {
        setting.relay.handshake().await.refuse("503 The relay is busy", "Retry-After: 7\r\n").await;
        let line = logs::line(Level::Warn, "503 The relay is busy").await;
        assert!(line.ends_with("; next try in 7.0 s"), "{line}");
    });
}

#[test]
fn a_wrong_key_is_named_and_tried_slowly() {
    Setting::new().run(async |setting, _stopper| {
        let reason = "401 The token has an invalid signature. TrackingId:1_G0";
        setting.relay.handshake().await.refuse(reason, "").await;
        let line = logs::line(Level::Warn, "refused to let us listen").await;
        assert!(line.contains(reason), "{line}");
        let file = setting.files.path("key");
        let advice = format!(
            "check the key \"listen\" from {} and its right to listen at \"{PATH}\"; the relay did not tell its time; next \
             try in 30.0 s",
            file.display()
        );
        assert!(line.ends_with(&advice), "{line}");
        assert!(!logs::all().contains(KEY));
    });
}

#[test]
fn an_unknown_hybrid_connection_is_named_and_tried_slowly() {
    Setting::new().run(async |setting, _stopper| {
        setting.relay.handshake().await.refuse("404 Endpoint does not exist", "").await;
        let line = logs::line(Level::Warn, "404 Endpoint does not exist").await;
        let advice =
            format!("check that the relay has a hybrid connection \"{PATH}\", and `relay.url`; next try in 30.0 s");
        assert!(line.ends_with(&advice), "{line}");
    });
}

#[test]
fn a_token_dated_by_a_wrong_clock_is_tried_again_at_once_with_the_relays_time_and_only_once() {
    Setting::new().run(async |setting, _stopper| {
        // 2033-05-18: years after this machine's clock
        let date = "Date: Wed, 18 May 2033 03:33:20 GMT\r\n";
        let handshake = setting.relay.handshake().await;
        assert_eq!(judge(handshake.token(), 2_000_000_000), Err(handshake_expired(handshake.token())));
        handshake.refuse("401 The token has expired", date).await;
        let handshake = setting.relay.handshake().await;
        assert_eq!(judge(handshake.token(), 2_000_000_000), Ok(()));
        handshake.refuse("401 The token has expired", date).await;
        logs::line(Level::Warn, " s behind the relay's, whose time is used for tokens from now on; next try in 0.0 s")
            .await;
        logs::line(Level::Warn, " s behind the relay's; next try in 30.0 s").await;
    });
}

/// A `Date` field, by the program that everybody has.
fn date(unix: u64) -> String {
    let output = std::process::Command::new("date")
        .env("LC_ALL", "C")
        .args(["-u", "-d", &format!("@{unix}"), "+Date: %a, %d %b %Y %H:%M:%S GMT\r"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn handshake_expired(token: &str) -> String {
    let expires = SasToken::parse(token).unwrap().expires();
    let ago = 2_000_000_000 - expires;
    format!("the token expired {ago} s ago (se={expires}): renew it, or check the clock of who made it")
}

#[test]
fn the_same_failure_is_a_warning_once() {
    Setting::new().run(async |setting, _stopper| {
        for _ in 0..4 {
            setting.relay.handshake().await.refuse("500 Oops", "").await;
        }
        setting.relay.listener().await;
        let warnings = logs::all().lines().filter(|line| line.starts_with("WARN") && line.contains("500 Oops")).count();
        assert_eq!(warnings, 1, "{}", logs::all());
    });
}

#[test]
fn a_key_that_is_gone_is_a_clear_line_and_comes_back() {
    Setting::new().run(async |setting, _stopper| {
        let control = setting.relay.listener().await;
        std::fs::remove_file(setting.files.path("key")).unwrap();
        drop(control);
        let line = logs::line(Level::Warn, "no token for ws://").await;
        assert!(line.contains("No such file or directory"), "{line}");
        setting.files.write("key", KEY);
        setting.relay.listener().await;
    });
}

#[test]
fn silence_is_broken_by_unasked_pongs() {
    let mut setting = Setting::new();
    setting.listener.relay.keep_alive = Duration::from_millis(30);
    setting.run(async |setting, _stopper| {
        let mut control = setting.relay.listener().await;
        for _ in 0..3 {
            assert_eq!(control.frame().await, Some(Message::Pong(Vec::new().into())));
        }
    });
}

#[test]
fn a_relay_that_says_it_answers_pings_is_pinged() {
    let mut setting = Setting::new();
    setting.listener.relay.keep_alive = Duration::from_millis(30);
    setting.run(async |setting, _stopper| {
        for (says, frame) in [("ping", Message::Ping(Vec::new().into())), ("no", Message::Pong(Vec::new().into()))] {
            let handshake = setting.relay.handshake().await;
            let mut control = handshake.control_with(&format!("Umbilical-Keep-Alive: {says}\r\n")).await;
            for _ in 0..3 {
                assert_eq!(control.frame().await.as_ref(), Some(&frame), "{says}");
            }
        }
    });
}

#[test]
fn a_channel_whose_pings_nobody_answers_is_given_up() {
    let mut setting = Setting::new();
    setting.listener.relay.keep_alive = Duration::from_millis(30);
    setting.listener.relay.keep_alive_frame = Some(KeepAliveFrame::Ping);
    setting.run(async |setting, _stopper| {
        // an open WebSocket that nobody reads
        let _mute = setting.relay.handshake().await.upgrade().await;
        logs::line(Level::Warn, "nothing was heard from the relay").await;
        let mut alive = setting.relay.listener().await;
        for _ in 0..3 {
            // the library answers
            assert_eq!(alive.frame().await, Some(Message::Ping(Vec::new().into())));
        }
    });
}

#[test]
fn asked_to_stop_it_takes_leave() {
    Setting::new().run(async |setting, stopper| {
        let mut control = setting.relay.listener().await;
        drop(stopper);
        assert_eq!(control.closed().await, Some(1000));
    });
}

#[test]
fn asked_to_stop_while_it_waits_it_is_gone_at_once() {
    logs::capture();
    let setting = Setting::new();
    let (stopper, stop) = stop();
    let refused = async {
        setting.relay.handshake().await.refuse("404 Endpoint does not exist", "").await;
        logs::line(Level::Warn, "next try in 30.0 s").await;
        drop(stopper);
    };
    let listener = setting.listener.run(&setting.senders, &setting.requests, &stop);
    smol::block_on(soon("the listener's end", future::zip(refused, listener)));
}

#[test]
fn a_message_beyond_the_protocols_limit_costs_the_channel_and_not_the_memory() {
    Setting::new().run(async |setting, _stopper| {
        let mut control = setting.relay.listener().await;
        control.0.send(Message::text("x".repeat(70_000))).await.unwrap();
        logs::line(Level::Warn, "broke the WebSocket protocol").await;
        setting.relay.listener().await;
    });
}
