//! A child process: its output kept and waited for, its end certain.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddrV4,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::wait;

/// How many lines of a child's output a failing test shows.
const SHOWN_LINES: usize = 60;
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A running child. Dropped, it is asked to stop, then killed; when the test is failing, its last lines are shown.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    stop_signal: Signal,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    ended_streams: usize,
}

impl Process {
    /// Starts `command`; `name` is what failures call it. It gets no standard input.
    ///
    /// # Panics
    /// It can't be started.
    pub fn start(name: &str, command: &mut Command) -> Process {
        Process::spawn(name, command.stdin(Stdio::null()))
    }

    /// Starts `command` and returns what is written to its standard input.
    ///
    /// # Panics
    /// It can't be started.
    pub fn start_with_input(name: &str, command: &mut Command) -> (Process, ChildStdin) {
        let mut process = Process::spawn(name, command.stdin(Stdio::piped()));
        let input = process.child.stdin.take().expect("piped above");
        (process, input)
    }

    fn spawn(name: &str, command: &mut Command) -> Process {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: can't start {command:?}: {error}"));
        let log = Arc::new(Log::default());
        collect(child.stdout.take().expect("piped above"), &log);
        collect(child.stderr.take().expect("piped above"), &log);
        Process { name: name.to_owned(), child, log, stop_signal: Signal::SIGTERM }
    }

    /// The signal that asks this program to stop, where that is not SIGTERM.
    #[must_use]
    pub fn stopped_by(mut self, signal: Signal) -> Process {
        self.stop_signal = signal;
        self
    }

    /// Its process id.
    ///
    /// # Panics
    /// Never: the kernel's ids fit.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are below 2^22"))
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// The process has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        signal::kill(self.pid(), signal).unwrap_or_else(|error| panic!("{}: {signal}: {error}", self.name));
    }

    /// All it has written so far, standard output and error in the order of arrival.
    pub fn output(&self) -> String {
        self.log.lock().all.join("\n")
    }

    /// The first line, from the start of its output, that holds every one of `parts`.
    ///
    /// # Panics
    /// There was none `within` that time, or the process closed its output without one.
    pub fn line_with(&self, parts: &[&str], within: Duration) -> String {
        let deadline = Instant::now() + within;
        let mut lines = self.log.lock();
        loop {
            if let Some(line) = lines.all.iter().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = lines.ended_streams == 2;
            if left.is_zero() || ended {
                drop(lines);
                let how = if ended { "it ended" } else { "nothing came" };
                panic!("{}: waited for a line with {parts:?}, {how}; it wrote:\n{}", self.name, self.output());
            }
            lines = self.log.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It did not end `within` that time.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        let status = wait::for_some(&format!("the end of {name}"), within, || self.child.try_wait().ok().flatten());
        // What it wrote last may still be on its way through the pipes. A grandchild may hold them open: no failure.
        let mut lines = self.log.lock();
        while lines.ended_streams < 2 {
            let (next, timeout) =
                self.log.changed.wait_timeout(lines, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
            lines = next;
            if timeout.timed_out() {
                break;
            }
        }
        status
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The largest resident memory so far, in bytes (`VmHWM` of proc(5)).
    ///
    /// # Panics
    /// The process is gone.
    pub fn peak_resident_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// The resident memory now, in bytes (`VmRSS` of proc(5)).
    ///
    /// # Panics
    /// The process is gone.
    pub fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// How many files it has open.
    ///
    /// # Panics
    /// The process is gone.
    pub fn open_files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        files.unwrap_or_else(|error| panic!("{}: no files of process {}: {error}", self.name, self.pid())).count()
    }

    /// The processor time it has taken so far (`utime` and `stime` of proc_pid_stat(5)).
    ///
    /// # Panics
    /// The process is gone.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // the name before may hold anything but ends with the last parenthesis
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: Vec<u64> = fields.skip(11).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
        assert_eq!(ticks.len(), 2, "{}: no times of process {}: {stat:?}", self.name, self.pid());
        // clock ticks are hundredths of a second on every Linux there is
        Duration::from_millis(ticks.iter().sum::<u64>() * 10)
    }

    /// How many TCP connections it has to an IPv4 `address`: of the established ones in proc_net_tcp(5), those whose inode is
    /// that of one of its files.
    pub fn connections_to(&self, address: SocketAddrV4) -> usize {
        let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten().flatten();
        let own: Vec<_> = files.filter_map(|file| fs::read_link(file.path()).ok()).collect();
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let ours = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            matches!(fields[..], [_, _, to, "01", _, _, _, _, _, inode, ..]
                if to == remote && own.contains(&format!("socket:[{inode}]").into()))
        };
        sockets.lines().filter(ours).count()
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .map(|kilobytes| kilobytes * 1024)
            .unwrap_or_else(|| panic!("{}: no {field} for process {}", self.name, self.pid()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = signal::kill(self.pid(), self.stop_signal);
            let deadline = Instant::now() + STOP_WITHIN;
            while self.is_running() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            if self.is_running() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        if thread::panicking() {
            let lines = self.log.lock();
            let hidden = lines.all.len().saturating_sub(SHOWN_LINES);
            let shown = lines.all[hidden..].join("\n");
            #[expect(clippy::print_stdout, reason = "the test harness captures it and shows it with the failure")]
            let () = println!("--- {} ({hidden} earlier lines not shown)\n{shown}\n---", self.name);
        }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn collect(stream: impl Read + Send + 'static, log: &Arc<Log>) {
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            log.lock().all.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            log.changed.notify_all();
            line.clear();
        }
        log.lock().ended_streams += 1;
        log.changed.notify_all();
    });
}

/// Runs a command to its end with nothing on standard input and returns what it wrote.
///
/// # Panics
/// It can't be started, takes longer than `within`, or ends with another status than 0; its output is in the message.
pub fn run(name: &str, command: &mut Command, within: Duration) -> String {
    let mut process = Process::start(name, command);
    let status = process.ended(within);
    let output = process.output();
    assert!(status.success(), "{name} ended with {status}: {command:?}\n{output}");
    output
}
