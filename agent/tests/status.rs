//! `umbilical-agent status`, as the script of an A/B update asks it: the exit code is the answer, the screen is for people.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    thread,
};

use support::{
    files::text,
    program::{Outcome, Program, outcome},
    world::{World, noise},
};

const LISTENING: Option<i32> = Some(0);
const AWAY: Option<i32> = Some(1);
const NOT_RUNNING: Option<i32> = Some(2);
const NOT_KNOWN: Option<i32> = Some(3);

/// Starts an agent whose service manager has a place for it.
fn start(world: &World) -> Program {
    let (file, runtime) = (world.files.path("agent.toml"), world.files.path(""));
    Program::start(&["--config", text(&file)], &[("RUNTIME_DIRECTORY", text(&runtime))])
}

fn ask(world: &World, arguments: &[&str]) -> Outcome {
    let runtime = world.files.path("");
    outcome(&[&["status"], arguments].concat(), &[("RUNTIME_DIRECTORY", text(&runtime))])
}

#[test]
fn it_tells_whether_the_device_can_be_reached() {
    World::prepare("", async |world| {
        let echo = world.echo();
        world.configure(&format!("services.ssh.target = 'tcp:127.0.0.1:{echo}'\n"));
        let before = ask(world, &[]);
        assert_eq!((before.code, before.stdout.as_str()), (NOT_RUNNING, ""));
        assert!(before.stderr.starts_with("umbilical-agent: no agent answers at "), "{}", before.stderr);

        let mut agent = start(world);
        let url = world.relay.url();
        world.relay.handshake().await.refuse("503 Busy", "Retry-After: 1\r\n").await;
        agent.says("503 Busy");
        let away = ask(world, &[]);
        assert_eq!((away.code, away.stderr.as_str()), (AWAY, ""));
        let told = format!("{url}: not connected for 0 s\n    the relay refused to let us listen at {url}: 503 Busy; ");
        assert!(away.stdout.contains(&told), "{}", away.stdout);

        let mut control = world.relay.listener().await;
        agent.says("listening at");
        let gateway = world.connected(&mut control, 1).await;
        gateway.open("ssh").echo(&noise(100)).await;
        let _second = gateway.open("ssh");
        let stream = gateway.open("ssh");
        stream.echo(&noise(100)).await;
        let good = ask(world, &[]);
        assert_eq!((good.code, good.stderr.as_str()), (LISTENING, ""));
        let version = env!("CARGO_PKG_VERSION");
        let first =
            format!("umbilical-agent {version}, process {}: listening at {url}\n{url}: listening for ", agent.id());
        assert!(good.stdout.starts_with(&first), "{}", good.stdout);
        assert!(good.stdout.contains("\n1 sessions, ") && good.stdout.contains(" KiB resident"), "{}", good.stdout);
        assert!(good.stdout.lines().count() < 25, "more than a screen: {}", good.stdout);

        agent.signal("TERM");
        agent.says("stopping");
        let stopping = ask(world, &[]);
        assert_eq!(stopping.code, AWAY, "a device that takes nobody new is not what an update waits for");
        agent.signal("TERM");
        assert_eq!(agent.end().0.code(), Some(0));
        assert_eq!(ask(world, &[]).code, NOT_RUNNING);
        assert!(!world.files.path("agent.sock").exists(), "the socket outlived its agent");
    });
}

#[test]
fn only_owner_and_group_may_ask() {
    World::prepare("", async |world| {
        let mut agent = start(world);
        let _control = world.relay.listener().await;
        agent.says("listening at");
        let mode = fs::metadata(world.files.path("agent.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o660);
    });
}

#[test]
fn an_agent_that_was_killed_leaves_a_place_for_the_next() {
    World::prepare("", async |world| {
        let mut agent = start(world);
        let _control = world.relay.listener().await;
        agent.says("listening at");
        drop(agent);
        let socket = world.files.path("agent.sock");
        assert!(socket.exists(), "killed, it can't have removed it");
        assert_eq!(ask(world, &[]).code, NOT_RUNNING);
        let mut agent = start(world);
        let _control = world.relay.listener().await;
        agent.says("listening at");
        assert_eq!(ask(world, &[]).code, LISTENING);
    });
}

#[test]
fn it_takes_nothing_from_others() {
    World::prepare("", async |world| {
        // another agent's, who is alive; and a file that is no socket
        let socket = world.files.path("taken.sock");
        let theirs = UnixListener::bind(&socket).unwrap();
        let file = world.files.write("data", "precious");
        for place in [&socket, &file] {
            world.configure(&format!("status.socket = '{}'\n", place.display()));
            let mut agent = start(world);
            agent.says(&format!("no status socket at {}: Address already in use", place.display()));
            let _control = world.relay.listener().await;
            agent.says("listening at");
        }
        assert_eq!(fs::read_to_string(file).unwrap(), "precious");
        drop(theirs.accept().unwrap());
    });
}

#[test]
fn a_device_without_a_place_for_the_socket_works() {
    World::prepare("", async |world| {
        let file = world.files.path("agent.toml");
        // nothing can be made in /proc, as root or not
        for (lines, place) in [("", "/proc"), ("", "/nonexistent"), ("status.socket = '/proc/x.sock'\n", "/tmp")] {
            world.configure(lines);
            let mut agent = Program::start(&["--config", text(&file)], &[("RUNTIME_DIRECTORY", place)]);
            let _control = world.relay.listener().await;
            agent.says("listening at");
        }
    });
}

#[test]
fn the_configuration_says_where_and_a_reload_moves_it() {
    World::prepare("", async |world| {
        let file = world.files.path("agent.toml");
        let (here, there) = (world.files.path("here.sock"), world.files.path("there.sock"));
        world.configure(&format!("status.socket = '{}'\n", here.display()));
        let mut agent = start(world);
        let _control = world.relay.listener().await;
        agent.says("listening at");
        assert_eq!(ask(world, &[]).code, NOT_RUNNING, "it is not where it is by default");
        assert_eq!(ask(world, &["--config", text(&file)]).code, LISTENING);
        world.configure(&format!("status.socket = '{}'\n", there.display()));
        agent.signal("HUP");
        agent.says("read again");
        assert_eq!(ask(world, &["--socket", text(&there)]).code, LISTENING);
        assert_eq!(ask(world, &["--socket", text(&here)]).code, NOT_RUNNING);
        // whoever asks need not be able to read what else the file names
        fs::remove_file(world.files.path("key")).unwrap();
        assert_eq!(ask(world, &["--config", text(&file)]).code, LISTENING);
        world.files.write("agent.toml", "status.socket = 'none'\n");
        let none = ask(world, &["--config", text(&file)]);
        assert_eq!((none.code, none.stderr.contains("\"none\": nobody can ask")), (NOT_KNOWN, true), "{}", none.stderr);
    });
}

#[test]
fn what_is_no_answer_is_never_taken_for_health() {
    World::prepare("", async |world| {
        let socket = world.files.path("odd.sock");
        let odd = UnixListener::bind(&socket).unwrap();
        let answers: [&[u8]; 4] = [b"", b"0", b"00\nfine\n", b"\xff\n"];
        let server = thread::spawn(move || {
            for answer in answers {
                odd.accept().unwrap().0.write_all(answer).unwrap();
            }
        });
        for _ in answers {
            let asked = ask(world, &["--socket", text(&socket)]);
            assert_eq!(asked.code, NOT_KNOWN, "{}", asked.stdout);
            assert!(asked.stderr.ends_with("is no umbilical-agent\n"), "{}", asked.stderr);
        }
        server.join().unwrap();
        for arguments in [&["--check"][..], &["--socket"], &["--socket", "/x", "--config", "/x"], &["again"]] {
            let asked = ask(world, arguments);
            assert_eq!((asked.code, asked.stdout.as_str()), (NOT_KNOWN, ""), "{arguments:?}");
            assert!(asked.stderr.ends_with("\nTry --help.\n"), "{}", asked.stderr);
        }
        let asked = ask(world, &["--config", text(&world.files.path("absent.toml"))]);
        assert_eq!(asked.code, NOT_KNOWN);
        assert!(asked.stderr.contains("absent.toml: can't read the configuration"), "{}", asked.stderr);
    });
}

#[test]
fn an_agent_that_is_stuck_is_told_from_one_that_does_not_run() {
    World::prepare("", async |world| {
        let mut agent = start(world);
        let _control = world.relay.listener().await;
        agent.says("listening at");
        agent.signal("STOP");
        let asked = ask(world, &[]);
        agent.signal("CONT");
        assert_eq!((asked.code, asked.stdout.as_str()), (NOT_KNOWN, ""));
        assert!(asked.stderr.contains("has not answered for 5 s"), "{}", asked.stderr);
    });
}
