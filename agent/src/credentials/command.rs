//! The program of `token-command`: run, heard out, and ended with all it has started.
//!
//! What it prints is the token, for the caller to look at. What it complains goes to the log, line by line, without
//! anything in it that may be a token: a script that is traced shows what it prints.

use std::{
    fmt, io,
    os::unix::process::CommandExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use log::{Level, log};
use smol::{
    Timer, future,
    io::AsyncReadExt,
    process::{ChildStderr, Command},
};

use super::LONGEST;
use crate::sys::GroupKiller;

/// How long the program may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// What is kept of its complaints, in bytes, and shown, in lines and in characters of each.
const COMPLAINT_BYTES: usize = 4 * 1024;
const COMPLAINT_LINES: usize = 10;
const COMPLAINT_CHARS: usize = 200;

/// A word that is shorter is not worth hiding.
const SECRET_CHARS: usize = 8;

/// What the program printed.
pub(super) async fn run(program: &str, arguments: &[String]) -> Result<Vec<u8>, CommandError> {
    let mut complaints = Complaints { pipe: None, text: Vec::new() };
    let mut output = Vec::new();
    let ended = run_within(DEADLINE, program, arguments, &mut output, &mut complaints).await;
    // what it said last is still in the pipe
    let _ = future::poll_once(complaints.hear()).await;
    complaints.report(program, &output, if ended.is_ok() { Level::Info } else { Level::Warn });
    ended.map(|()| output)
}

async fn run_within(
    deadline: Duration,
    program: &str,
    arguments: &[String],
    output: &mut Vec<u8>,
    complaints: &mut Complaints,
) -> Result<(), CommandError> {
    let failed = |error| CommandError::Io { program: program.to_owned(), error };
    let mut in_group = std::process::Command::new(program);
    in_group.process_group(0);
    let mut child = Command::from(in_group)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    // a script that hangs usually hangs in a program of its own
    let killer = GroupKiller::new(child.id());
    complaints.pipe = child.stderr.take();
    let answer = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LONGEST as u64 + 1).read_to_end(output).await.map_err(failed)?;
        }
        if output.len() > LONGEST {
            return Err(CommandError::TooLong { program: program.to_owned() });
        }
        let status = child.status().await.map_err(failed)?;
        killer.disarm();
        if status.success() { Ok(()) } else { Err(CommandError::Failed { program: program.to_owned(), status }) }
    };
    let late = async {
        Timer::after(deadline).await;
        Err(CommandError::Slow { program: program.to_owned(), deadline })
    };
    let hearing = async {
        complaints.hear().await;
        future::pending().await
    };
    future::or(future::or(answer, late), hearing).await
}

/// What a program writes to its standard error.
struct Complaints {
    pipe: Option<ChildStderr>,
    text: Vec<u8>,
}

impl Complaints {
    /// Reads to the end; what is too much is read too, so that the program does not wait for us.
    async fn hear(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = [0; 512];
        while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
            let room = COMPLAINT_BYTES - self.text.len();
            self.text.extend_from_slice(&chunk[..count.min(room)]);
        }
    }

    fn report(&self, program: &str, output: &[u8], level: Level) {
        let (text, output) = (String::from_utf8_lossy(&self.text), String::from_utf8_lossy(output));
        for line in text.lines().filter(|line| !line.trim().is_empty()).take(COMPLAINT_LINES) {
            log!(level, "{program} says: {}", without_secrets(line, &output));
        }
    }
}

/// `line` as a log may have it: short, without control characters, without words that are or hold a part of `output`, or
/// that look like tokens.
fn without_secrets(line: &str, output: &str) -> String {
    let is_secret = |word: &str| {
        let bare = word.trim_matches(|char: char| char.is_ascii_punctuation());
        let shared = bare.len() >= SECRET_CHARS && output.contains(bare)
            || output.split_whitespace().any(|part| part.len() >= SECRET_CHARS && word.contains(part));
        shared || word.contains("sig=") || word.contains("eyJ")
    };
    let words = line.split_whitespace().map(|word| if is_secret(word) { "***" } else { word });
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().map(|char| if char.is_control() { ' ' } else { char }).take(COMPLAINT_CHARS).collect()
}

/// Why a program gave no token.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommandError {
    /// It can't be started or read.
    Io {
        /// The program.
        program: String,
        /// The kernel's reason.
        error: io::Error,
    },
    /// It failed.
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It took too long and was killed.
    Slow {
        /// The program.
        program: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It printed more than any token has, and was killed.
    TooLong {
        /// The program.
        program: String,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::Io { program, error } => write!(f, "can't run {program}: {error}"),
            CommandError::Failed { program, status } => write!(f, "{program} gave no token: {status}"),
            CommandError::Slow { program, deadline } => {
                write!(f, "{program} gave no token within {} s and was killed", deadline.as_secs())
            }
            CommandError::TooLong { program } => {
                write!(f, "{program} printed more than the {LONGEST} bytes of the longest token and was killed")
            }
        }
    }
}

impl std::error::Error for CommandError {}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn file_for(name: &str) -> PathBuf {
        let file = std::env::temp_dir().join(format!("umbilical-command-{}-{name}", std::process::id()));
        fs::write(&file, "").unwrap();
        file
    }

    fn script(text: &str) -> [String; 2] {
        ["-c".into(), text.into()]
    }

    /// The process id that a script wrote to `file`.
    async fn id_in(file: &PathBuf) -> u32 {
        loop {
            if let Ok(id) = fs::read_to_string(file).unwrap().trim().parse() {
                return id;
            }
            future::yield_now().await;
        }
    }

    /// Waits until a `sleep` is killed: gone, or a zombie until its new parent looks.
    fn wait_for_the_end_of(id: u32) {
        let lives = || {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            stat.contains("(sleep)") && !stat.contains("(sleep) Z")
        };
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        while lives() {
            assert!(std::time::Instant::now() < patience, "process {id} is still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_given_up_leaves_nothing_behind() {
        let file = file_for("given-up");
        let arguments = script(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
        let abandoned = async {
            run("/bin/sh", &arguments).await.unwrap();
            unreachable!("it waits");
        };
        let id = smol::block_on(future::or(id_in(&file), abandoned));
        fs::remove_file(file).unwrap();
        wait_for_the_end_of(id);
    }

    #[test]
    fn a_program_that_is_late_is_killed_with_all_it_has_started() {
        let file = file_for("late");
        let arguments = script(&format!("sleep 1000 & echo $! > {}; echo waiting >&2; wait", file.display()));
        let mut complaints = Complaints { pipe: None, text: Vec::new() };
        let mut output = Vec::new();
        let deadline = Duration::from_millis(500);
        let ended = smol::block_on(run_within(deadline, "/bin/sh", &arguments, &mut output, &mut complaints));
        assert!(matches!(ended, Err(CommandError::Slow { .. })), "{ended:?}");
        assert_eq!(complaints.text, b"waiting\n");
        wait_for_the_end_of(smol::block_on(id_in(&file)));
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_program_that_complains_at_length_is_not_held_up() {
        let arguments = script("head -c 1000000 /dev/zero >&2; echo token");
        assert_eq!(smol::block_on(run("/bin/sh", &arguments)).unwrap(), b"token\n");
    }

    #[test]
    fn no_part_of_a_token_is_in_what_it_is_said_to_complain() {
        let token = "SharedAccessSignature sr=http%3A%2F%2Fx&sig=c2VjcmV0&se=1&skn=k";
        for (line, expected) in [
            ("cannot reach https://vault", "cannot reach https://vault"),
            (&format!("+ echo '{token}'"), "+ echo *** ***"),
            ("+ T=sr=http%3A%2F%2Fx&sig=c2VjcmV0&se=1&skn=k", "+ ***"),
            ("half of it: sr=http%3A%2F%2Fx&sig=c2Vj", "half of it: ***"),
            ("another: sig=b3RoZXI eyJhbGciOiJub25lIn0.e30.", "another: *** ***"),
            ("bell \u{7} and \u{1b}[31mred", "bell \u{20} and [31mred"),
        ] {
            let shown = without_secrets(line, token);
            assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>());
            assert!(!shown.contains(char::is_control));
        }
        assert_eq!(without_secrets(&"long ".repeat(100), "").chars().count(), COMPLAINT_CHARS);
    }
}
