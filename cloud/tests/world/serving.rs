//! The real program, its signals and what it says.

use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Folder, PATIENCE};

/// The program with these arguments, in which `@` is the folder, and nothing of the tests' own environment.
pub(crate) fn command(folder: &Folder, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbilical-cloud"));
    command.args(arguments.iter().map(|argument| argument.replace('@', &format!("{}/", folder.path("").display()))));
    let heard = ["HTTPS_PROXY", "https_proxy", "UMBILICAL_LOG", "RUST_LOG", "JOURNAL_STREAM"];
    let managed = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"];
    for variable in heard.iter().chain(&managed) {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end: exit code, standard output, standard error.
pub(crate) fn outcome(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(folder, arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A program that serves. Dropped, it is killed.
pub(crate) struct Serving {
    child: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Serving {
    pub(crate) fn start(folder: &Folder, config: &str) -> Self {
        folder.write("cloud.toml", config);
        Self::spawn(command(folder, &["run", "--config", "@cloud.toml"]))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = Arc::<(Mutex<Vec<String>>, Condvar)>::default();
        let (stderr, kept) = (child.stderr.take().unwrap(), Arc::clone(&lines));
        thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(stderr)) {
                kept.0.lock().unwrap().push(line.unwrap());
                kept.1.notify_all();
            }
        });
        Self { child, lines }
    }

    /// The first line that holds `text`.
    pub(crate) fn line(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE / 2;
        let mut lines = self.lines.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {text:?} in {lines:#?}");
            lines = self.lines.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits until `count` lines hold `text`.
    pub(crate) fn lines_with(&self, text: &str, count: usize) {
        let end = Instant::now() + PATIENCE / 2;
        let mut lines = self.lines.0.lock().unwrap();
        while lines.iter().filter(|line| line.contains(text)).count() < count {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {count} lines with {text:?} in {lines:#?}");
            lines = self.lines.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// The address at the end of the first line that holds `text`.
    pub(crate) fn address(&self, text: &str) -> SocketAddr {
        let line = self.line(text);
        let last = line.split_whitespace().last().unwrap();
        let address = last.split_once("://").map_or(last, |(_, rest)| rest.split('/').next().unwrap());
        address.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE / 2;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end: {:#?}", self.lines.0.lock().unwrap());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
