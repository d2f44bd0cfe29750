//! Promise: systemd hears when the cloud side is ready, reloads, stops and is stuck (sd_notify(3)), and may hold its sockets
//! (sd_listen_fds(3)): then a restart refuses nobody.

#![allow(clippy::unwrap_used)]

mod world;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use world::serving::{Serving, command};
use world::{Client, Folder, PATIENCE, echo, embedded, eventually, expose, run, try_echo};

// ---- what it says ----

/// The manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn start(folder: &Folder, config: &str, environment: &[(&str, &str)]) -> (Self, Serving) {
        let path = folder.path("notify");
        let manager = Self(UnixDatagram::bind(&path).unwrap());
        folder.write("cloud.toml", config);
        let mut command = command(folder, &["run", "--config", "@cloud.toml"]);
        command.env("NOTIFY_SOCKET", &path).envs(environment.iter().copied());
        (manager, Serving::spawn(command))
    }

    fn hears_within(&self, time: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 4096];
        match self.0.recv(&mut buffer) {
            Ok(count) => Some(String::from_utf8(buffer[..count].to_vec()).unwrap()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a message that contains `words`.
    fn hears_of(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.hears_within(PATIENCE).expect("a message");
            if message.contains(words) {
                return message;
            }
            assert!(Instant::now() < deadline, "never heard {words:?}, last {message:?}");
        }
    }
}

#[test]
fn it_is_ready_when_its_ports_are_open_and_tells_of_reload_and_stop() {
    run(async {
        let folder = Folder::new();
        let config = embedded(&[("d1", "echo")]);
        let (manager, mut cloud) = Manager::start(&folder, &config, &[]);
        let exposure = cloud.address("echo of d1 is at");
        assert_eq!(manager.hears_of(""), "READY=1\nSTATUS=2 hybrid connections, 1 exposures\n");
        // the port takes connections, though it leads to nobody
        std::net::TcpStream::connect(exposure).unwrap();

        folder.write("cloud.toml", "[relay");
        cloud.signal(Signal::SIGHUP);
        let reloading = manager.hears_of("");
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        let ready = manager.hears_of("");
        let refused = "READY=1\nSTATUS=2 hybrid connections, 1 exposures; the last reload changed nothing: ";
        assert!(ready.starts_with(refused) && ready.contains("cloud.toml:1: "), "{ready}");
        assert_eq!(ready.lines().count(), 2, "{ready}");

        folder.write("cloud.toml", &format!("{config}{}", expose("d1", "more")));
        cloud.signal(Signal::SIGHUP);
        manager.hears_of("RELOADING=1");
        assert_eq!(manager.hears_of(""), "READY=1\nSTATUS=2 hybrid connections, 2 exposures\n");

        cloud.signal(Signal::SIGTERM);
        let stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=15000000\nSTATUS=stopping, open streams may finish\n";
        assert_eq!(manager.hears_of("STOPPING"), stopping);
        assert_eq!(cloud.ended().code(), Some(0));
    });
}

#[test]
fn the_watchdog_is_fed_while_the_loop_turns_and_not_while_it_is_stuck() {
    let folder = Folder::new();
    let (manager, cloud) = Manager::start(&folder, &embedded(&[("d1", "echo")]), &[("WATCHDOG_USEC", "100000")]);
    for _ in 0..3 {
        assert_eq!(manager.hears_of("WATCHDOG"), "WATCHDOG=1\n");
    }
    // a reload reads the key: opening a pipe without a writer holds up the thread that hears of sockets
    let key = folder.path("operator.key");
    fs::remove_file(&key).unwrap();
    assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
    cloud.signal(Signal::SIGHUP);
    manager.hears_of("RELOADING");
    let in_ten_periods = manager.hears_within(Duration::from_secs(1));
    assert_eq!(in_ten_periods, None, "a stuck loop fed the watchdog");
    fs::write(&key, "the loop goes on").unwrap();
    manager.hears_of("WATCHDOG=1");
}

// ---- what it is handed ----

/// The program with `sockets` as its descriptors from 3 on, as a service manager starts it. Held here, they outlive it.
fn hand(folder: &Folder, sockets: [&OwnedFd; 2], environment: &str) -> Serving {
    let [third, fourth] = sockets.map(|socket| Stdio::from(socket.try_clone().unwrap()));
    let mut shell = Command::new("sh");
    let script = format!("exec 3<&0 4<&1 </dev/null >/dev/null; {environment} exec \"$0\" run --config \"$1\"");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_umbilical-cloud")]).arg(folder.path("cloud.toml"));
    Serving::spawn({
        shell.stdin(third).stdout(fourth).stderr(Stdio::piped());
        shell
    })
}

const BOTH: &str = "LISTEN_PID=$$ LISTEN_FDS=2";

fn socket() -> (OwnedFd, SocketAddr) {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket.into(), address)
}

/// An embedded relay at one address and the exposure of an echo service at another.
fn at(relay: SocketAddr, exposure: SocketAddr) -> String {
    let anywhere = "127.0.0.1:0";
    let config = embedded(&[("d1", "echo")]).replacen(anywhere, &relay.to_string(), 1);
    config.replacen(anywhere, &exposure.to_string(), 1)
}

#[test]
fn a_restart_refuses_nobody() {
    run(async {
        let folder = Folder::new();
        let ((relay, relay_address), (exposure, address)) = (socket(), socket());
        folder.write("cloud.toml", &at(relay_address, address));
        let mut first = hand(&folder, [&relay, &exposure], BOTH);
        first.line(&format!("{address} is held for us by the service manager"));
        let _device = folder.device("d1", relay_address, &[("echo", echo())]);
        eventually("an answer", || async { try_echo(address).await.ok() }).await;
        first.signal(Signal::SIGTERM);
        assert_eq!(first.ended().code(), Some(0));

        // nobody is there, and nobody is refused
        let mut early = Client::connect(address).await;
        let second = hand(&folder, [&relay, &exposure], BOTH);
        early.round_trip(b"worth waiting for").await;
        eventually("an answer", || async { try_echo(address).await.ok() }).await;
        drop(second);
    });
}

#[test]
fn a_held_socket_that_nothing_uses_is_told_and_can_be_taken_up_again() {
    run(async {
        let folder = Folder::new();
        let ((relay, relay_address), (exposure, address)) = (socket(), socket());
        let with = at(relay_address, address);
        let without = with.split("[[gateway.expose]]").next().unwrap().to_owned();
        folder.write("cloud.toml", &without);
        let cloud = hand(&folder, [&relay, &exposure], BOTH);
        let warning = cloud.line("clients wait in vain");
        assert!(warning.contains(&format!("holds {address} for us")), "{warning}");
        let _device = folder.device("d1", relay_address, &[("echo", echo())]);
        for round in 0..2 {
            folder.write("cloud.toml", &with);
            cloud.signal(Signal::SIGHUP);
            eventually("an answer", || async { try_echo(address).await.ok() }).await;
            folder.write("cloud.toml", &without);
            cloud.signal(Signal::SIGHUP);
            cloud.lines_with("clients wait in vain", round + 2);
        }
    });
}

#[test]
fn what_is_handed_to_another_process_is_not_taken() {
    let folder = Folder::new();
    let ((relay, relay_address), (exposure, address)) = (socket(), socket());
    folder.write("cloud.toml", &at(relay_address, address));
    let mut cloud = hand(&folder, [&relay, &exposure], "LISTEN_PID=1 LISTEN_FDS=2");
    assert!(cloud.line("cannot listen on").contains("in use"));
    assert_eq!(cloud.ended().code(), Some(2));
}

#[test]
fn what_is_handed_and_cannot_be_used_is_one_line() {
    let folder = Folder::new();
    let (good, address) = socket();
    folder.write("cloud.toml", &at(address, address));
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().into();
    let local = UnixDatagram::unbound().unwrap().into();
    let (connected, _) = (std::net::TcpStream::connect(address).unwrap().into(), 0);
    for odd in [&datagrams, &local, &connected] {
        let mut cloud = hand(&folder, [&good, odd], BOTH);
        let line = cloud.line("can't take descriptor 4 from the service manager: ");
        assert!(line.starts_with("umbilical-cloud: ") && line.contains("no TCP socket that listens"), "{line}");
        assert_eq!(cloud.ended().code(), Some(2));
    }
    for environment in ["LISTEN_PID=$$ LISTEN_FDS=many", "LISTEN_PID=us LISTEN_FDS=1", "LISTEN_PID=$$ LISTEN_FDS=3"] {
        let mut cloud = hand(&folder, [&good, &good], environment);
        cloud.line("umbilical-cloud: can't take sockets from the service manager: ");
        assert_eq!(cloud.ended().code(), Some(2));
    }
}
