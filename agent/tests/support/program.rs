//! The real program, its signals and what it says.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// A run that is over.
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end.
pub fn outcome(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let output = command(arguments, environment).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The program while it runs.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Program {
    /// Starts it.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        Program::watch(command(arguments, environment).stderr(Stdio::piped()))
    }

    /// Starts a prepared command, whose stderr must be a pipe.
    pub fn watch(command: &mut Command) -> Program {
        let mut child = command.spawn().unwrap();
        let lines = read_lines(child.stderr.take().unwrap());
        Program { child, lines, said: String::new() }
    }

    /// Waits until it says a line that contains `text`, and gives the line.
    pub fn says(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push_str(&line);
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("it never said {text:?} but:\n{}", self.said)
                }
            }
        }
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; gives its status and all it said.
    pub fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("it does not end; it said:\n{}", self.said),
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        self.said.extend(self.lines.iter());
        (status, std::mem::take(&mut self.said))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with these arguments, and nothing of the tests' own environment that it listens to.
pub fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbilical-agent"));
    let heard = ["RUST_LOG", "UMBILICAL_LOG", "JOURNAL_STREAM", "HTTPS_PROXY", "https_proxy", "RUST_BACKTRACE"];
    let managed = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "RUNTIME_DIRECTORY"];
    for variable in heard.iter().chain(&managed) {
        command.env_remove(variable);
    }
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

fn read_lines(stderr: ChildStderr) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        let mut line = String::new();
        while reader.by_ref().read_line(&mut line).is_ok_and(|count| count > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    lines
}
