//! Promise: the program does what its help says: serves until it is told to stop, reloads, mints tokens that relays
//! take, carries standard input and output; each failure is one line that says what to do, and an exit code of its own.

#![allow(clippy::unwrap_used)]

mod world;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use umbilical_relay_protocol::{Key, Right, Rule, SasToken, authorize};
use world::serving::{Serving, command, outcome};
use world::{Client, Cuttable, Folder, RELAY, echo, elsewhere, embedded, eventually, expose, pattern, run, try_echo};

#[test]
fn it_serves_reloads_and_stops() {
    run(async {
        let folder = Folder::new();
        let mut cloud = Serving::start(&folder, &embedded(&[("d1", "echo")]));
        let relay = cloud.address("relay listens on");
        let exposure = cloud.address("echo of d1 is at");
        let _device = folder.device("d1", relay, &[("echo", echo()), ("more", echo())]);
        eventually("an answer", || async { try_echo(exposure).await.ok() }).await;
        let mut open = Client::connect(exposure).await;
        open.round_trip(b"hello").await;

        folder.write("cloud.toml", "[relay");
        cloud.signal(Signal::SIGHUP);
        assert!(cloud.line("not reloaded").contains("cloud.toml:1: "));
        folder.write("cloud.toml", &format!("{}{}", embedded(&[("d1", "echo")]), expose("d1", "more")));
        cloud.signal(Signal::SIGHUP);
        try_echo(cloud.address("more of d1 is at")).await.unwrap();
        open.round_trip(b"not disturbed").await;

        cloud.signal(Signal::SIGTERM);
        cloud.line("stopping");
        open.round_trip(b"may finish").await;
        open.finish().await;
        assert_eq!(cloud.ended().code(), Some(0));
    });
}

#[test]
fn a_second_request_to_stop_is_obeyed_at_once() {
    run(async {
        let folder = Folder::new();
        let text = embedded(&[("d1", "echo")]).replace("[gateway]", "[gateway]\ndrain-for = '24h'");
        let mut cloud = Serving::start(&folder, &text);
        let exposure = cloud.address("echo of d1 is at");
        let _device = folder.device("d1", cloud.address("relay listens on"), &[("echo", echo())]);
        eventually("an answer", || async { try_echo(exposure).await.ok() }).await;
        let mut open = Client::connect(exposure).await;
        open.round_trip(b"hello").await;
        cloud.signal(Signal::SIGTERM);
        cloud.line("stopping");
        open.round_trip(b"still here").await;
        cloud.signal(Signal::SIGINT);
        assert_eq!(cloud.ended().code(), Some(0));
    });
}

#[test]
fn it_takes_as_many_clients_as_the_system_lets_it() {
    run(async {
        let folder = Folder::new();
        folder.write("cloud.toml", &embedded(&[("d1", "echo")]));
        let mut shell = Command::new("/bin/sh");
        let program = env!("CARGO_BIN_EXE_umbilical-cloud");
        let config = folder.path("cloud.toml");
        shell.args(["-c", &format!("ulimit -Sn 64; exec {program} run --config {}", config.display())]);
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let cloud = Serving::spawn(shell);
        let exposure = cloud.address("echo of d1 is at");
        let agent = world::agent("d1", cloud.address("relay listens on"), &[("echo", echo())]);
        let _device = folder.start_device("d1", &format!("{agent}[memory]\nstreams = 200\n"));
        eventually("an answer", || async { try_echo(exposure).await.ok() }).await;
        let mut clients = Vec::new();
        for _ in 0..150 {
            let mut client = Client::connect(exposure).await;
            client.round_trip(b"hello").await;
            clients.push(client);
        }
    });
}

#[test]
fn what_cannot_be_started_is_one_line() {
    let folder = Folder::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    folder.write(
        "port.toml",
        &embedded(&[("d1", "echo")]).replacen("127.0.0.1:0\"\ndevice", &format!("{address}\"\ndevice"), 1),
    );
    folder.write("good.toml", &embedded(&[("d1", "echo")]));
    folder.write("bad.toml", "[relay]\nlisten = 5\n");
    for (arguments, code, parts) in [
        (
            vec!["run", "--config", "@port.toml"],
            2,
            vec!["echo of d1 cannot listen on", address.as_str(), "in use", "choose another port"],
        ),
        (vec!["run", "--config", "@bad.toml"], 2, vec!["bad.toml:2: ", "expected a string"]),
        (vec!["check", "--config", "@bad.toml"], 2, vec!["bad.toml:2: ", "expected a string"]),
        (vec!["check", "--config", "@none.toml"], 2, vec!["none.toml: cannot read the configuration"]),
        (vec!["connect", "d1", "echo", "--config", "@bad.toml"], 2, vec!["bad.toml:2: "]),
        (vec!["connect", "d3", "echo", "--config", "@good.toml"], 2, vec!["no [relay.hybrid-connections.\"d3\"]"]),
        (vec!["connect", "d1", "e c h o", "--config", "@good.toml"], 2, vec!["\"e c h o\" is no service"]),
        (vec!["token", "--key-name", "k", "--key-file", "@none", "--resource", "x"], 2, vec!["cannot read", "none"]),
    ] {
        let (found, stdout, stderr) = outcome(&folder, &arguments);
        let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with("umbilical-cloud: ")).collect();
        assert_eq!((found, stdout.as_str(), lines.len()), (code, "", 1), "{arguments:?}: {stderr}");
        assert!(parts.iter().all(|part| lines[0].contains(part)), "expected {parts:?}\n   found {}", lines[0]);
    }
    let (code, _, stderr) = outcome(&folder, &["walk"]);
    assert_eq!((code, stderr.contains("unknown command \"walk\"") && stderr.contains("--help")), (2, true), "{stderr}");
}

#[test]
fn check_help_and_version_say_what_there_is() {
    let folder = Folder::new();
    folder.write(
        "cloud.toml",
        &format!("{}{}", embedded(&[("d1", "echo")]), expose("d1", "ssh").replace("127.0.0.1", "0.0.0.0")),
    );
    let (code, stdout, stderr) = outcome(&folder, &["check", "--config", "@cloud.toml"]);
    assert_eq!((code, stdout.as_str()), (0, "the configuration is good: 2 hybrid connections, 2 exposures\n"));
    assert_eq!(stderr, "warning: everyone who can reach 0.0.0.0:0 can reach ssh of d1; add `allow` to name who may\n");
    let (code, stdout, _) = outcome(&folder, &["--help"]);
    assert!(
        code == 0
            && ["run", "check", "connect", "token"]
                .iter()
                .all(|word| stdout.contains(&format!("umbilical-cloud {word}")))
    );
    assert!(stdout.lines().all(|line| line.len() <= 120), "lines too long for a terminal");
    assert_eq!(outcome(&folder, &["--version"]).1, concat!("umbilical-cloud ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_token_is_one_that_a_relay_takes() {
    let folder = Folder::new();
    let rights = [Right::Listen].into_iter().collect();
    let rule = Rule { name: "listen".into(), primary: Key::new("key of device").unwrap(), secondary: None, rights };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mint = |more: &[&str]| {
        let arguments = [&["token", "--key-name", "listen", "--key-file", "@device.key"], more].concat();
        let (code, stdout, stderr) = outcome(&folder, &arguments);
        assert_eq!((code, stderr.as_str(), stdout.lines().count()), (0, "", 1));
        stdout.trim().to_owned()
    };
    let expires = |token: &str, path: &str| {
        authorize(token, Right::Listen, path, std::slice::from_ref(&rule), &[], now).map(|grant| grant.expires - now)
    };
    let token = mint(&["--relay", "wss://relay.example.net:8443/d1", "--hours", "48"]);
    assert!((48 * 3600..48 * 3600 + 60).contains(&expires(&token, "d1").unwrap()));
    assert_eq!(expires(&token, "d2").unwrap_err().status(), 403);
    let token = mint(&["--relay", "sb://contoso.servicebus.windows.net"]);
    assert!((3600..3660).contains(&expires(&token, "d2").unwrap()));
    assert!(expires(&mint(&["--resource", "http://x/d1"]), "d1").is_ok());
}

#[test]
fn a_token_may_come_from_a_connection_string() {
    let folder = Folder::new();
    let mint = |string: &str, more: &[&str]| {
        folder.write("string", string);
        outcome(&folder, &[&["token", "--connection-string-file", "@string"], more].concat())
    };
    let with_key = "Endpoint=sb://ns.example/;SharedAccessKeyName=listen;SharedAccessKey=key of device";
    for (string, more, resource) in [
        (with_key, &[][..], "http://ns.example/"),
        (&format!("{with_key};EntityPath=d1"), &[], "http://ns.example/d1/"),
        (with_key, &["--resource", "http://x/d1"], "http://x/d1"),
    ] {
        let (code, stdout, stderr) = mint(string, more);
        assert_eq!((code, stderr.as_str()), (0, ""));
        let token = SasToken::parse(&stdout).unwrap();
        assert!(token.verify(b"key of device"));
        assert_eq!((token.resource().as_str(), token.key_name()), (resource, "listen"));
    }
    for (string, words) in [
        ("Endpoint=sb://ns.example/;SharedAccessSignature=top-secret", "has no SharedAccessKey to sign a token with"),
        ("Endpoint=top-secret", "the connection string has an unusable Endpoint"),
        ("Endpoint=sb://ns/;Authentication=Managed Identity", "wants a managed identity"),
    ] {
        let (code, stdout, stderr) = mint(string, &[]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains(words) && !stderr.contains("top-secret"), "{stderr}");
    }
}

// ---- connect ----

/// `connect`, its input still open.
fn connect(folder: &Folder, arguments: &[&str]) -> (Child, ChildStdin) {
    let mut child = command(folder, &[&["connect"], arguments].concat()).stdin(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

#[test]
fn connect_carries_pipes_even_past_the_loss_of_its_link() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(RELAY);
        let relay = world::relay_of(&cloud);
        let _device = folder.device("d1", relay, &[("echo", echo())]);
        eventually("the listener", || async {
            (cloud.relay().unwrap().metrics().listeners.load(std::sync::atomic::Ordering::Relaxed) == 1).then_some(())
        })
        .await;
        // with a key and the relay's address; the way there can be cut
        let way = Cuttable::new(relay);
        let url = format!("wss://localhost:{}", way.address.port());
        let by_relay = [
            "d1",
            "echo",
            "--relay",
            &url,
            "--ca-file",
            "@relay.pem",
            "--key-name",
            "operator",
            "--key-file",
            "@operator.key",
        ];
        let (mut child, mut stdin) = connect(&folder, &by_relay);
        let mut stdout = child.stdout.take().unwrap();
        let data = pattern(3_000_000);
        let sent = data.clone();
        smol::unblock(move || {
            // a first echo: the stream is open; then the rest, with the link cut in the middle
            stdin.write_all(&sent[..10]).unwrap();
            let mut back = vec![0; 10];
            stdout.read_exact(&mut back).unwrap();
            assert_eq!(back, &sent[..10]);
            let writer = thread::spawn(move || {
                stdin.write_all(&sent[10..1_500_000]).unwrap();
                assert!(way.cut() > 0);
                stdin.write_all(&sent[1_500_000..]).unwrap();
            });
            let mut rest = Vec::new();
            stdout.read_to_end(&mut rest).unwrap();
            writer.join().unwrap();
            assert!(rest == data[10..], "bytes were lost, doubled or reordered");
        })
        .await;
        assert_eq!(child.wait().unwrap().code(), Some(0));
    });
}

#[test]
fn connect_finds_the_relay_of_a_configuration() {
    run(async {
        let folder = Folder::new();
        let serving = Serving::start(&folder, &embedded(&[("d1", "echo")]));
        let relay = serving.address("relay listens on");
        let exposure = serving.address("echo of d1 is at");
        let _device = folder.device("d1", relay, &[("echo", echo())]);
        eventually("an answer", || async { try_echo(exposure).await.ok() }).await;
        // its own relay, of which it knows the certificate; and a gateway's relay elsewhere
        folder.write("own.toml", &embedded(&[("d1", "echo")]).replacen("127.0.0.1:0", &relay.to_string(), 1));
        folder.write("elsewhere.toml", &elsewhere(relay, "operator.key", &[]));
        for file in ["@own.toml", "@elsewhere.toml"] {
            let (child, mut stdin) = connect(&folder, &["d1", "echo", "--config", file]);
            stdin.write_all(b"through a pipe\0\xff").unwrap();
            drop(stdin);
            let output = smol::unblock(|| child.wait_with_output().unwrap()).await;
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.stdout.as_slice(), stderr.as_str()), (b"through a pipe\0\xff".as_slice(), ""), "{file}");
            assert_eq!(output.status.code(), Some(0));
        }
        // another server at that address is not believed
        folder.write("another.toml", &std::fs::read_to_string(folder.path("own.toml")).unwrap());
        let another = Folder::new();
        std::fs::copy(another.path("relay.pem"), folder.path("relay.pem")).unwrap();
        std::fs::copy(another.path("relay.key"), folder.path("relay.key")).unwrap();
        let (code, _, stderr) = outcome(&folder, &["connect", "d1", "echo", "--config", "@another.toml"]);
        assert_eq!(code, 7, "{stderr}");
        assert!(stderr.contains("it is not the one of the configuration"), "{stderr}");
    });
}

#[test]
fn connect_tells_what_stood_in_the_way() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(RELAY);
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let relay = world::relay_of(&cloud);
        let _device = folder.device("d1", relay, &[("echo", echo()), ("dead", nobody)]);
        eventually("the listener", || async {
            (cloud.relay().unwrap().metrics().listeners.load(std::sync::atomic::Ordering::Relaxed) == 1).then_some(())
        })
        .await;
        folder.write("wrong.key", "another key");
        let here = format!("wss://localhost:{}", relay.port());
        let nowhere = format!("wss://localhost:{}", nobody.port());
        for (device, service, url, key, code, parts) in [
            ("d1", "ghost", &here, "@operator.key", 4, ["ghost of d1", "not-allowed", "[services.ghost]"]),
            ("d1", "dead", &here, "@operator.key", 5, ["dead of d1", "refused", "services.dead"]),
            ("d2", "echo", &here, "@operator.key", 3, ["echo of d2", "not connected", "no listeners"]),
            ("d3", "echo", &here, "@operator.key", 3, ["echo of d3", "not connected", "does not exist"]),
            ("d1", "echo", &here, "@wrong.key", 6, ["401", "\"operator\"", "wrong.key"]),
            ("d1", "echo", &here, "@none.key", 6, ["cannot read", "none.key", "No such file"]),
            ("d1", "echo", &nowhere, "@operator.key", 7, ["cannot connect to localhost", "refused", "check"]),
        ] {
            let arguments = [
                "connect",
                device,
                service,
                "--relay",
                url,
                "--ca-file",
                "@relay.pem",
                "--key-name",
                "operator",
                "--key-file",
                key,
            ];
            let before = Instant::now();
            let (found, stdout, stderr) = outcome(&folder, &arguments);
            assert_eq!((found, stdout.as_str(), stderr.lines().count()), (code, "", 1), "{device} {service}: {stderr}");
            assert!(parts.iter().all(|part| stderr.contains(part)), "expected {parts:?}\n   found {stderr}");
            assert!(before.elapsed() < Duration::from_secs(10), "took {:?}", before.elapsed());
        }
    });
}

#[test]
fn connect_takes_a_connection_string() {
    run(async {
        let folder = Folder::new();
        let cloud = folder.start(RELAY);
        let relay = world::relay_of(&cloud);
        let key = std::fs::read_to_string(folder.path("operator.key")).unwrap();
        let endpoint = format!("Endpoint=sb://localhost:{}/", relay.port());
        let connect = |string: &str| {
            folder.write("string", string);
            outcome(
                &folder,
                &["connect", "d1", "echo", "--connection-string-file", "@string", "--ca-file", "@relay.pem"],
            )
        };
        // the relay takes the key, and then tells that the device is away
        let good = format!("{endpoint};SharedAccessKeyName=operator;SharedAccessKey={}", key.trim());
        for string in [good.clone(), format!("{good};EntityPath=d1")] {
            let (code, _, stderr) = connect(&string);
            assert_eq!(code, 3, "{stderr}");
        }
        let (code, _, stderr) = connect(&good.replace(key.trim(), "wrong"));
        assert!(code == 6 && stderr.contains("the connection string from "), "{code} {stderr}");
        let (code, _, stderr) = connect(&format!("{good};EntityPath=d2"));
        assert!(code == 2 && stderr.contains("is for \"d2\" alone (EntityPath), not for \"d1\""), "{code} {stderr}");
    });
}
