//! What systemd hears of the agent (sd_notify(3)), on a real notification socket.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::{
    fs, io,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use support::{
    PATIENCE,
    files::text,
    program::Program,
    world::{World, noise},
};

/// The manager's end.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(world: &World) -> Manager {
        let path = world.files.path("notify");
        Manager { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    fn start(&self, world: &World, environment: &[(&str, &str)]) -> Program {
        let environment = [&[("NOTIFY_SOCKET", text(&self.path))][..], environment].concat();
        Program::start(&["--config", text(&world.files.path("agent.toml"))], &environment)
    }

    /// The next message, if it comes in time.
    fn hears_within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(count) => Some(String::from_utf8(buffer[..count].to_vec()).unwrap()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn hears(&self) -> String {
        self.hears_within(PATIENCE).expect("a message")
    }

    /// Waits for a message that contains `words`.
    fn hears_of(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.hears();
            if message.contains(words) {
                return message;
            }
            assert!(Instant::now() < deadline, "never heard {words:?}, last {message:?}");
        }
    }
}

#[test]
fn it_is_ready_without_a_relay_and_tells_how_it_stands_with_it() {
    World::prepare("", async |world| {
        let manager = Manager::new(world);
        let agent = manager.start(world, &[]);
        // the relay has not answered yet
        let handshake = world.relay.handshake().await;
        assert_eq!(manager.hears(), "READY=1\nSTATUS=connecting\n");
        handshake.refuse("503 Busy", "Retry-After: 1\r\n").await;
        let refused = format!("STATUS=the relay refused to let us listen at {}: 503 Busy", world.relay.url());
        assert!(manager.hears_of("refused").starts_with(&refused));
        let control = world.relay.listener().await;
        assert_eq!(manager.hears_of("listening"), format!("STATUS=listening at {}\n", world.relay.url()));
        drop(control);
        manager.hears_of("STATUS=lost the control channel to ");
        drop(agent);
    });
}

#[test]
fn a_reload_is_announced_and_told_when_it_is_done() {
    World::prepare("", async |world| {
        let manager = Manager::new(world);
        let agent = manager.start(world, &[]);
        let _control = world.relay.listener().await;
        manager.hears_of("listening");
        let before = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
        agent.signal("HUP");
        let reloading = manager.hears();
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading:?}"));
        let at = Duration::from_micros(usec.trim_end().parse().unwrap());
        assert!(at >= before && at - before < PATIENCE, "{at:?}, {before:?} before");
        let ready = format!("READY=1\nSTATUS=listening at {}", world.relay.url());
        assert_eq!(manager.hears(), format!("{ready}\n"));
        world.configure("nonsense = 1\n");
        agent.signal("HUP");
        manager.hears_of("RELOADING=1");
        let refused = manager.hears_of("READY=1");
        assert!(refused.starts_with(&format!("{ready}; the last reload changed nothing: ")), "{refused}");
        assert!(refused.contains("agent.toml:4: unknown key `nonsense`"), "{refused}");
    });
}

#[test]
fn a_stop_is_announced_with_the_time_that_it_may_take() {
    World::prepare("", async |world| {
        let echo = world.echo();
        world.configure(&format!("session.drain-for = '100s'\nservices.ssh.target = 'tcp:127.0.0.1:{echo}'\n"));
        let manager = Manager::new(world);
        let agent = manager.start(world, &[]);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(&noise(100)).await;
        agent.signal("TERM");
        assert_eq!(manager.hears_of("STOPPING"), "STOPPING=1\nEXTEND_TIMEOUT_USEC=105000000\nSTATUS=stopping\n");
        stream.echo(&noise(100)).await;
        agent.signal("TERM");
        assert_eq!(agent.end().0.code(), Some(0));
    });
}

#[test]
fn the_watchdog_is_fed_while_the_loop_turns_and_not_while_it_is_stuck() {
    World::prepare("", async |world| {
        const PERIOD: &str = "100000";
        let manager = Manager::new(world);
        let agent = manager.start(world, &[("WATCHDOG_USEC", PERIOD)]);
        let _control = world.relay.listener().await;
        for _ in 0..3 {
            assert_eq!(manager.hears_of("WATCHDOG"), "WATCHDOG=1\n");
        }
        // the key is looked at in a reload: opening a pipe without a writer holds up the thread that does everything
        let key = world.files.path("key");
        fs::remove_file(&key).unwrap();
        assert!(Command::new("mkfifo").arg(&key).status().unwrap().success());
        agent.signal("HUP");
        manager.hears_of("RELOADING");
        let in_ten_periods = manager.hears_within(Duration::from_secs(1));
        assert_eq!(in_ten_periods, None, "a stuck loop fed the watchdog");
        fs::write(&key, "the loop goes on").unwrap();
        manager.hears_of("WATCHDOG=1");
    });
}

#[test]
fn a_manager_that_is_stuck_holds_up_nothing() {
    World::prepare("", async |world| {
        let manager = Manager::new(world);
        // a thousand messages a second, and nobody who takes them: the queue has room for a few hundred at most
        let mut agent = manager.start(world, &[("WATCHDOG_USEC", "2000")]);
        agent.says("can't tell the service manager at NOTIFY_SOCKET: Resource temporarily unavailable");
        let _control = world.relay.listener().await;
        agent.says("listening at");
        agent.signal("TERM");
        assert_eq!(agent.end().0.code(), Some(0));
    });
}

#[test]
fn a_manager_that_is_not_there_is_worth_a_line_and_no_more() {
    World::prepare("", async |world| {
        let nowhere = world.files.path("nowhere");
        let file = world.files.path("agent.toml");
        let mut agent = Program::start(&["--config", text(&file)], &[("NOTIFY_SOCKET", text(&nowhere))]);
        agent.says("can't tell the service manager at NOTIFY_SOCKET: No such file or directory");
        let _control = world.relay.listener().await;
        agent.says("listening at");
    });
}
