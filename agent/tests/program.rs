//! The program as a service manager and an operator see it: arguments, exit codes, signals, what it prints.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::{fs, os::unix::fs::MetadataExt, process::Stdio};

use support::{
    files::{Directory, text},
    program::{Program, command, outcome},
    relay::{KEY, PATH, Relay},
    world::{World, noise},
};
use umbilical_agent::config::Target;
use umbilical_relay_protocol::SasToken;

/// Starts the program with the configuration that a world has written.
fn start(world: &World, environment: &[(&str, &str)]) -> Program {
    Program::start(&["--config", text(&world.files.path("agent.toml"))], environment)
}

#[test]
fn a_good_configuration_is_called_good() {
    World::prepare("services.ssh.target = 'tcp:127.0.0.1:22'\n", async |world| {
        let outcome = outcome(&["--check", "--config", text(&world.files.path("agent.toml"))], &[]);
        assert_eq!(outcome.stdout, format!("the configuration is good: 1 services at {}\n", world.relay.url()));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    });
}

#[test]
fn a_bad_configuration_is_one_line_and_exit_code_2_checked_or_run() {
    World::prepare("services.ssh.target = 22\n", async |world| {
        let file = world.files.path("agent.toml");
        let expected = format!(
            "umbilical-agent: {}:4: `services.ssh.target`: expected {}, found 22\n",
            file.display(),
            Target::EXPECTED
        );
        for arguments in [&["--check", "--config", text(&file)][..], &["--config", text(&file)]] {
            let outcome = outcome(arguments, &[]);
            assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(2), expected.as_str()));
            assert_eq!(outcome.stdout, "");
        }
    });
}

#[test]
fn check_looks_into_files_and_environment_too() {
    World::prepare("", async |world| {
        let file = world.files.path("agent.toml");
        let authority = world.files.write("ca.pem", "not a certificate\n");
        world.configure("");
        let no_certificate = outcome(&["--check", "--config", text(&file)], &[]);
        assert_eq!(no_certificate.code, Some(2));
        let expected = format!("umbilical-agent: {} holds no certificate", authority.display());
        assert!(no_certificate.stderr.starts_with(&expected), "{}", no_certificate.stderr);

        fs::remove_file(authority).unwrap();
        world.configure("");
        let with_proxy = fs::read_to_string(&file).unwrap().replace("relay.proxy = 'none'\n", "");
        world.files.write("agent.toml", &with_proxy);
        let proxy =
            outcome(&["--check", "--config", text(&file)], &[("HTTPS_PROXY", "socks5://me:hunter2@proxy:1080")]);
        assert_eq!(proxy.code, Some(2));
        assert!(
            proxy.stderr.starts_with("umbilical-agent: HTTPS_PROXY in the environment: proxies of the kind socks5://")
        );
        assert!(!proxy.stderr.contains("hunter2"), "{}", proxy.stderr);
    });
}

#[test]
fn a_warning_is_no_refusal() {
    World::prepare("", async |world| {
        let checked = outcome(&["--check", "--config", text(&world.files.path("agent.toml"))], &[]);
        let expected = "warning: no [services.NAME] is configured: nothing on this device can be reached\n";
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), expected));
    });
}

#[test]
fn arguments_that_make_no_sense_are_refused_with_a_hint() {
    for (arguments, complaint) in [
        (&[][..], "--config FILE is missing"),
        (&["--check"], "--config FILE is missing"),
        (&["--config"], "missing argument for option '--config'"),
        (&["--cofnig", "x"], "invalid option '--cofnig'"),
        (&["x"], "unexpected argument \"x\""),
    ] {
        let outcome = outcome(arguments, &[]);
        assert_eq!(outcome.code, Some(2));
        assert_eq!(outcome.stderr, format!("umbilical-agent: {complaint}\nTry --help.\n"));
    }
    let help = outcome(&["--help"], &[]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("--config FILE") && help.stdout.contains("SIGHUP"));
    let version = outcome(&["--version"], &[]);
    assert_eq!((version.code, version.stdout), (Some(0), format!("umbilical-agent {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn terminated_it_takes_leave_and_ends_with_0() {
    for signal in ["TERM", "INT"] {
        World::prepare("", async |world| {
            let mut agent = start(world, &[]);
            let mut control = world.relay.listener().await;
            agent.says("listening at ws://127.0.0.1");
            agent.signal(signal);
            assert_eq!(control.closed().await, Some(1000));
            let (status, said) = agent.end();
            assert_eq!(status.code(), Some(0));
            assert!(said.ends_with("info  supervisor: stopped\n"), "{said}");
        });
    }
}

#[test]
fn terminated_while_the_relay_is_away_it_ends_with_0() {
    World::prepare("", async |world| {
        let mut agent = start(world, &[]);
        world.relay.handshake().await.refuse("404 Endpoint does not exist", "").await;
        agent.says("404 Endpoint does not exist");
        agent.signal("TERM");
        assert_eq!(agent.end().0.code(), Some(0));
    });
}

#[test]
fn terminated_twice_it_does_not_wait_for_streams() {
    World::prepare("", async |world| {
        let echo = world.echo();
        world.configure(&format!("session.drain-for = '1h'\nservices.ssh.target = 'tcp:127.0.0.1:{echo}'\n"));
        let mut agent = start(world, &[]);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(&noise(10_000)).await;
        agent.signal("TERM");
        agent.says("stopping: 1 sessions have 3600 s to finish");
        stream.echo(&noise(10_000)).await;
        agent.signal("TERM");
        agent.says("stopped at once");
        assert_eq!(agent.end().0.code(), Some(0));
    });
}

#[test]
fn hung_up_it_reads_its_configuration_again_and_keeps_its_streams() {
    World::prepare("", async |world| {
        let echo = world.echo();
        let ssh = format!("session.drain-for = '0s'\nservices.ssh.target = 'tcp:127.0.0.1:{echo}'\n");
        world.configure(&ssh);
        let mut agent = start(world, &[]);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(b"1").await;
        world.configure(&format!("{ssh}services.new.target = 'tcp:127.0.0.1:{echo}'\n"));
        agent.signal("HUP");
        agent.says("read again: the same relays; 1 services new or changed, 0 gone");
        gateway.open("new").echo(b"2").await;
        stream.echo(b"3").await;
        world.configure("nonsense = 1\n");
        agent.signal("HUP");
        let line = agent.says("stays in force");
        assert!(
            line.starts_with("error supervisor: ") && line.contains("agent.toml:4: unknown key `nonsense`"),
            "{line}"
        );
        stream.echo(b"4").await;
        agent.signal("TERM");
        assert_eq!(agent.end().0.code(), Some(0));
    });
}

#[test]
fn under_systemd_each_line_has_its_priority() {
    World::prepare("", async |world| {
        let (reader, writer) = std::io::pipe().unwrap();
        let pipe = fs::File::from(std::os::fd::OwnedFd::from(writer));
        let metadata = pipe.metadata().unwrap();
        let stream = format!("{}:{}", metadata.dev(), metadata.ino());
        let file = world.files.path("agent.toml");
        let mut child =
            command(&["--config", text(&file)], &[("JOURNAL_STREAM", &stream)]).stderr(pipe).spawn().unwrap();
        let mut control = world.relay.listener().await;
        let status = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(status.success());
        assert_eq!(control.closed().await, Some(1000));
        assert!(child.wait().unwrap().success());
        let said = std::io::read_to_string(reader).unwrap();
        assert!(said.contains("\n<6>listener: listening at ws://"), "{said}");
        assert!(said.contains("<4>supervisor: no [services.NAME] is configured"), "{said}");
        assert!(said.lines().all(|line| line.starts_with('<')), "{said}");
    });
}

#[test]
fn the_budget_is_printed_and_the_program_is_within_it() {
    World::prepare("", async |world| {
        let mut agent = start(world, &[]);
        let line = agent.says("at most, in bytes");
        let budget: usize = line.split_whitespace().last().unwrap().parse().unwrap();
        let _control = world.relay.listener().await;
        agent.says("listening at");
        let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident: usize = resident.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        assert!(resident * 1024 < budget, "{resident} KiB resident, {budget} bytes allowed");
    });
}

#[test]
fn no_secret_reaches_the_log_even_at_trace() {
    let files = Directory::new();
    let relay = Relay::with_tls(&files);
    World::prepare_with(relay, files, "session.drain-for = '0s'\n", async |world| {
        let mut agent = start(world, &[("UMBILICAL_LOG", "trace")]);
        // refused, with the token in the request
        let handshake = world.relay.handshake().await;
        let mut secrets = vec![KEY.to_owned(), signature(handshake.token())];
        handshake.refuse("503 Busy", "").await;
        agent.says("503 Busy");
        // accepted; senders come, one of them is refused
        let handshake = world.relay.handshake().await;
        secrets.push(signature(handshake.token()));
        let mut control = handshake.control().await;
        control.accept(&world.relay.rendezvous("S3CRET-MEETING"), "chat").await;
        world.relay.handshake().await.refuse("410 Gone", "").await;
        agent.says("refused sender");
        control.accept(&world.relay.rendezvous("S3CRET-MEETING"), "umbilical.v1").await;
        world.relay.handshake().await.refuse("403 No", "").await;
        agent.says("403: No");
        let gateway = world.connected(&mut control, 0x5e).await;
        gateway.fate("sql").await;
        agent.says("not configured here");
        // a ready token that is renewed
        let ready = |expires| SasToken::sign(&format!("http://localhost/{PATH}"), "listen", KEY.as_bytes(), expires);
        let first = ready(support::relay::now() + 4);
        world.files.write("token", &first);
        let file = world.files.path("agent.toml");
        let configuration = fs::read_to_string(&file).unwrap();
        let without_auth: String = configuration
            .lines()
            .filter(|line| !line.starts_with("relay.auth"))
            .fold(String::new(), |all, line| all + line + "\n");
        let token_file = world.files.path("token");
        world.files.write("agent.toml", &format!("{without_auth}relay.auth.token-file = '{}'\n", token_file.display()));
        agent.signal("HUP");
        let mut control = world.relay.listener_with(&first).await;
        let second = ready(support::relay::now() + 5000);
        world.files.write("token", &second);
        control.message().await;
        agent.says("sent a fresh token");
        secrets.extend([signature(&first), signature(&second)]);
        // a proxy that is not there, with a password
        let with_proxy = fs::read_to_string(&file).unwrap().replace("'none'", "'http://me:hunter2@127.0.0.1:1'");
        world.files.write("agent.toml", &with_proxy);
        agent.signal("HUP");
        agent.says("cannot connect to 127.0.0.1:1");
        secrets.extend(["hunter2".to_owned(), "S3CRET-MEETING".to_owned(), "5e5e5e5e5e5e".to_owned()]);
        agent.signal("TERM");
        let (status, said) = agent.end();
        assert_eq!(status.code(), Some(0));
        assert!(said.contains("debug "), "the level is not in force:\n{said}");
        for secret in secrets {
            assert!(!said.contains(&secret), "{secret} in the log:\n{said}");
        }
    });
}

/// The part of a token that nobody may see.
fn signature(token: &str) -> String {
    let start = token.find("sig=").unwrap() + "sig=".len();
    token[start..].split('&').next().unwrap().to_owned()
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_it() {
    World::prepare("", async |world| {
        let file = world.files.path("agent.toml");
        let mut child = command(&["--config", text(&file)], &[]).stderr(Stdio::null()).spawn().unwrap();
        let mut control = world.relay.listener().await;
        let status = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(status.success());
        assert_eq!(control.closed().await, Some(1000));
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn the_limit_of_open_files_is_raised_and_one_too_low_is_said() {
    World::prepare("memory = { sessions = 2, streams = 1000, receive = '1M' }\n", async |world| {
        let file = world.files.path("agent.toml");
        let limited = |limits: &str| {
            let script =
                format!("ulimit {limits} && exec {} --config {}", env!("CARGO_BIN_EXE_umbilical-agent"), text(&file));
            Program::watch(std::process::Command::new("bash").args(["-c", &script]).stderr(Stdio::piped()))
        };
        let agent = limited("-Sn 300 && ulimit -Hn 2100");
        let _control = world.relay.listener().await;
        let limits = fs::read_to_string(format!("/proc/{}/limits", agent.id())).unwrap();
        let files: Vec<_> =
            limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
        assert_eq!(files[3..5], ["2100", "2100"]);
        agent.signal("TERM");
        assert!(!agent.end().1.contains("files may be open"));
        let mut agent = limited("-n 300");
        let line = agent.says("files may be open");
        let expected = "warn  supervisor: only 300 files may be open at once, 2 sessions of 1000 streams and 0 foreign connections \
             want 2100: raise";
        assert!(line.starts_with(expected), "{line}");
    });
}

#[test]
fn refused_it_waits_whatever_is_logged() {
    for level in ["info", "debug"] {
        World::prepare("", async |world| {
            let mut agent = start(world, &[("UMBILICAL_LOG", level)]);
            world.relay.handshake().await.refuse("404 Endpoint does not exist", "").await;
            agent.says("404 Endpoint does not exist");
            // one who had heard that things are better would be back within a second
            let again = async { Some(world.relay.handshake().await) };
            let patient = async {
                smol::Timer::after(std::time::Duration::from_millis(1_500)).await;
                None
            };
            assert!(smol::future::or(again, patient).await.is_none(), "it came again within seconds, logging {level}");
        });
    }
}

/// In a network of its own.
#[test]
fn when_the_network_comes_back_it_does_not_wait_out_its_delay() {
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // only this thread and what it starts move there
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests that move networks run as root");
        let ip = |arguments: &str| {
            let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        };
        ip("link set lo up");
        World::prepare("", async |world| {
            let mut agent = start(world, &[("UMBILICAL_LOG", "debug")]);
            world.relay.handshake().await.refuse("404 Endpoint does not exist", "").await;
            let line = agent.says("404 Endpoint does not exist");
            let delay: f32 = line.trim_end().strip_suffix(" s").unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            assert!(delay >= 30.0, "{line}");
            ip("address add 192.0.2.7/24 dev lo");
            agent.says("the network has changed");
            world.relay.listener().await;
            said.send(()).unwrap();
        });
    })
    .join()
    .unwrap();
    heard.try_recv().expect("the script came to its end");
}
