//! Promise: whatever the relay has acknowledged is there after `kill -9` at any moment and a restart of the real program;
//! a state directory that cannot be used is one clear line, and a disk that is full is told to who asks.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use smol::Async;
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use support::{certificate, eventually, run, token};
use umbilical_link::tls;
use umbilical_link::transport::Transport;

const FILE: &str = "state/hybrid-connections.redb";

/// Writers at a time.
const WRITERS: usize = 8;

/// A directory with a configuration, keys and state.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        home.write("operator.key", "key of operator");
        let (file, key_file) = (certificate().file.display(), certificate().key_file.display());
        let (state, operator) = (home.path("state"), home.path("operator.key"));
        home.write(
            "cloud.toml",
            &format!(
                "[relay]\nlisten = '127.0.0.1:0'\ncertificate-file = '{file}'\nkey-file = '{key_file}'\n\
                 state-directory = '{}'\n[relay.keys.operator]\nsecret-file = '{}'\nrights = ['manage']\n[relay.on-demand]\npattern = 'fleet-*'\n",
                state.display(),
                operator.display()
            ),
        );
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umbilical-cloud"));
        command.args(["run", "--config"]).arg(self.path("cloud.toml"));
        for variable in ["UMBILICAL_LOG", "RUST_LOG", "JOURNAL_STREAM"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// The running program. Dropped, it is killed.
struct Program {
    child: Child,
    address: SocketAddr,
}

impl Program {
    fn start(home: &Home) -> Self {
        Self::spawn(home.command())
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("relay listens on")).expect("it starts");
        std::thread::spawn(move || lines.for_each(drop));
        let address = line.rsplit("://").next().unwrap().trim().parse().unwrap();
        Self { child, address }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body; `None` if there was no whole answer.
async fn ask(address: SocketAddr, method: &str, target: &str, body: &str) -> Option<(u16, String)> {
    let lines = format!("X-PROCESS-AT: ServiceBus\r\nContent-Length: {}\r\n", body.len());
    let mut transport = request(address, &format!("{method} {target}"), &lines, body).await.ok()?;
    let mut answer = String::new();
    transport.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The status line that a listener is answered with. Then it leaves.
async fn listen(address: SocketAddr, path: &str) -> String {
    let lines = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a2V5\r\n";
    let transport = request(address, &format!("GET /$hc/{path}?sb-hc-action=listen"), lines, "").await.unwrap();
    smol::io::BufReader::new(transport).lines().next().await.unwrap().unwrap()
}

async fn request(address: SocketAddr, request: &str, lines: &str, body: &str) -> io::Result<Transport> {
    let socket = Async::<TcpStream>::connect(address).await?;
    let connected = tls::connect(&certificate().client, "localhost", socket).await;
    let mut transport = connected.map_err(|error| io::Error::other(error.to_string()))?;
    let token = token("", "operator");
    let request =
        format!("{request} HTTP/1.1\r\nHost: localhost\r\nServiceBusAuthorization: {token}\r\n{lines}\r\n{body}");
    transport.write_all(request.as_bytes()).await?;
    transport.flush().await?;
    Ok(transport)
}

async fn all(address: SocketAddr) -> BTreeSet<String> {
    let (status, feed) = ask(address, "GET", "/$Resources/HybridConnections?$top=1000", "").await.unwrap();
    assert_eq!(status, 200);
    let entries = feed.split("<entry ").skip(1);
    entries
        .map(|entry| entry.split("<title type=\"text\">").nth(1).unwrap().split('<').next().unwrap().into())
        .collect()
}

/// What must be there, and what must not be.
#[derive(Default)]
struct Acknowledged {
    made: BTreeSet<String>,
    deleted: BTreeSet<String>,
    count: usize,
}

/// Makes hybrid connections and deletes every third, until the program is gone.
async fn write(address: SocketAddr, name: String, acknowledged: Arc<Mutex<Acknowledged>>) {
    for n in 0.. {
        let path = format!("{name}-{n}");
        match ask(address, "PUT", &format!("/{path}"), "<HybridConnectionDescription/>").await {
            Some((201, _)) => {
                let mut acknowledged = acknowledged.lock().unwrap();
                acknowledged.made.insert(path.clone());
                acknowledged.count += 1;
            }
            Some(other) => panic!("{path}: {other:?}"),
            None => return,
        }
        if n % 3 == 2 {
            // from here on nobody knows, until it is acknowledged
            acknowledged.lock().unwrap().made.remove(&path);
            match ask(address, "DELETE", &format!("/{path}"), "").await {
                Some((200, _)) => _ = acknowledged.lock().unwrap().deleted.insert(path),
                Some(other) => panic!("{path}: {other:?}"),
                None => return,
            }
        }
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_kill_9() {
    run(async {
        let home = Home::new();
        let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
        for round in 0..6 {
            let mut program = Program::start(&home);
            let there = all(program.address).await;
            {
                let acknowledged = acknowledged.lock().unwrap();
                let lost: Vec<_> = acknowledged.made.difference(&there).collect();
                assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
                let back: Vec<_> = acknowledged.deleted.intersection(&there).collect();
                assert!(back.is_empty(), "deleted and back: {back:?}");
            }
            let before = acknowledged.lock().unwrap().count;
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let name = format!("r{round}-w{writer}");
                    smol::spawn(write(program.address, name, Arc::clone(&acknowledged)))
                })
                .collect();
            // at another moment in each round
            let enough = 8 + 5 * round;
            eventually("writes", || acknowledged.lock().unwrap().count >= before + enough).await;
            program.kill();
            for writer in writers {
                writer.await;
            }
        }
        assert!(acknowledged.lock().unwrap().deleted.len() > 3, "the test deletes too");
    });
}

/// Starts the program where it cannot, and returns the line that says why.
fn refused(home: &Home) -> String {
    let mut child = home.command().spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{text}");
    let [line] = text.lines().filter(|line| line.starts_with("umbilical-cloud: ")).collect::<Vec<_>>()[..] else {
        panic!("one line: {text}")
    };
    line.to_owned()
}

#[test]
fn a_state_directory_that_cannot_be_used_is_one_line() {
    run(async {
        let home = Home::new();
        let program = Program::start(&home);
        assert_eq!(ask(program.address, "PUT", "/a", "<HybridConnectionDescription/>").await.unwrap().0, 201);
        let line = refused(&home);
        assert!(line.contains("in use by another umbilical-cloud"), "{line}");
        drop(program);

        let good = fs::read(home.path(FILE)).unwrap();
        for damaged in [&good[..good.len() - 4096], b"", b"\0\0\0\0"] {
            fs::write(home.path(FILE), damaged).unwrap();
            let line = refused(&home);
            assert!(line.contains(FILE) && line.contains("is damaged") && line.contains("backup"), "{line}");
        }
        fs::write(home.path(FILE), &good).unwrap();
        let program = Program::start(&home);
        assert!(all(program.address).await.contains("a"));
        drop(program);

        fs::remove_dir_all(home.path("state")).unwrap();
        fs::write(home.path("state"), "a file").unwrap();
        let line = refused(&home);
        assert!(line.contains("`relay.state-directory`: cannot open") && line.contains(FILE), "{line}");
    });
}

/// Lets the program write so many bytes into a file, the hard limit left alone: none is a disk that is full.
fn limit_file_size(program: &Program, bytes: &str) {
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit").args(["--pid", &program.child.id().to_string(), &limit]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_disk_that_takes_nothing_is_told_and_when_there_is_space_again_all_goes_on() {
    run(async {
        let home = Home::new();
        // the system's signal for a file that is too large is ignored, as it is under a full disk
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_umbilical-cloud"), "run", "--config"]);
        shell.arg(home.path("cloud.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut program = Program::spawn(shell);
        let address = program.address;
        let put = async |path: &str| ask(address, "PUT", path, "<HybridConnectionDescription/>").await.unwrap();
        assert_eq!(put("/a").await.0, 201);

        limit_file_size(&program, "0");
        // again, because a database that could not be written is opened anew
        for _ in 0..2 {
            let (status, body) = put("/b").await;
            assert_eq!((status, body.contains("cannot write its state")), (503, true), "{body}");
            assert_eq!(ask(address, "DELETE", "/a", "").await.unwrap().0, 503);
            let listening = listen(address, "fleet-1").await;
            assert!(
                listening.starts_with("HTTP/1.1 503 ") && listening.contains("cannot write its state"),
                "{listening}"
            );
        }
        assert_eq!(all(address).await, BTreeSet::from(["a".to_owned()]), "what is not kept is not there");

        limit_file_size(&program, "unlimited");
        assert_eq!(put("/b").await.0, 201);
        assert_eq!(ask(address, "DELETE", "/a", "").await.unwrap().0, 200);
        assert!(listen(address, "fleet-1").await.starts_with("HTTP/1.1 101 "));
        program.kill();
        let program = Program::start(&home);
        assert_eq!(all(program.address).await, BTreeSet::from(["b".to_owned(), "fleet-1".to_owned()]));
    });
}
