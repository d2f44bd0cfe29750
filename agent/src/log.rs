//! One line on stderr for each event that matters.
//!
//! Under systemd a line starts with its priority (`<6>`, sd-daemon(3)) and the journal adds the time; elsewhere it starts
//! with its level. `UMBILICAL_LOG`, else `RUST_LOG`, sets the level: `debug`, or `info,umbilical_agent::listener=trace`.
//!
//! The libraries beneath print whole frames and requests at `debug` and `trace`, tokens among them: they are heard from
//! `warn` upwards whatever the level, so no setting can bring a secret into a log. Control characters are escaped:
//! the text of a peer can't forge a line. What it can bring about again and again is told fifty times, then twice a minute
//! (`allowance.rs`); `debug` and `trace`, which somebody has asked for, are told whole.

use std::{
    env,
    fmt::{self, Write as _},
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use log::{Level, LevelFilter, Log, Metadata, Record, SetLoggerError};

use self::allowance::{Allowance, EVERY, Verdict};

mod allowance;

/// The crates whose every record may be shown.
const OWN: &str = "umbilical_";

/// Starts logging for the whole process.
///
/// # Errors
/// Logging was started before.
pub fn start() -> Result<(), SetLoggerError> {
    let journal = writes_to_journal(env::var("JOURNAL_STREAM").ok().as_deref());
    let logger = Logger::new(build(journal, level_setting().as_deref(), env_logger::Target::Stderr));
    let max = logger.lines.filter();
    log::set_boxed_logger(Box::new(logger))?;
    log::set_max_level(max);
    Ok(())
}

struct Logger {
    lines: env_logger::Logger,
    started: Instant,
    allowance: Mutex<Allowance>,
}

impl Logger {
    fn new(lines: env_logger::Logger) -> Logger {
        Logger { lines, started: Instant::now(), allowance: Mutex::default() }
    }

    fn judge(&self, record: &Record<'_>) -> Verdict {
        if record.level() > Level::Info {
            return Verdict::Log { left_out: 0 };
        }
        let place = (record.module_path_static().unwrap_or_default(), record.line().unwrap_or_default());
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).judge(place, self.started.elapsed())
    }

    fn log_instead(&self, record: &Record<'_>, said: fmt::Arguments<'_>) {
        self.lines.log(&Record::builder().metadata(record.metadata().clone()).args(said).build());
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        may_show(metadata) && self.lines.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // what is not shown takes nothing from the allowance of what is
        if !may_show(record.metadata()) || !self.lines.matches(record) {
            return;
        }
        let said = record.args();
        match self.judge(record) {
            Verdict::Log { left_out: 0 } => self.lines.log(record),
            Verdict::Log { left_out } => {
                self.log_instead(record, format_args!("{said} ({left_out} like this were left out before it)"));
            }
            Verdict::LogAsLast => {
                self.log_instead(
                    record,
                    format_args!("{said} (of more like this, one in {} s is told)", EVERY.as_secs()),
                );
            }
            Verdict::LeaveOut => {}
        }
    }

    fn flush(&self) {
        self.lines.flush();
    }
}

fn may_show(metadata: &Metadata<'_>) -> bool {
    metadata.level() <= Level::Warn || metadata.target().starts_with(OWN)
}

fn build(journal: bool, setting: Option<&str>, target: env_logger::Target) -> env_logger::Logger {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Info);
    if let Some(setting) = setting {
        builder.parse_filters(setting);
    }
    builder.target(target).format(move |line, record| write_line(line, record, journal)).build()
}

fn level_setting() -> Option<String> {
    env::var("UMBILICAL_LOG").or_else(|_| env::var("RUST_LOG")).ok()
}

fn write_line(line: &mut impl Write, record: &Record<'_>, journal: bool) -> io::Result<()> {
    if journal {
        write!(line, "<{}>", priority(record.level()))?;
    } else {
        write!(line, "{:<5} ", record.level().as_str().to_ascii_lowercase())?;
    }
    let module = record.target().rsplit("::").next().unwrap_or_default();
    writeln!(line, "{}: {}", module.strip_prefix(OWN).unwrap_or(module), one_line(*record.args()))
}

/// The text with its control characters escaped: what a peer says begins no line of its own.
pub(crate) fn one_line(text: fmt::Arguments<'_>) -> String {
    let mut line = OneLine(String::with_capacity(128));
    // Writing to a `String` fails only if a `Display` does; the line then ends where it did.
    let _ = line.write_fmt(text);
    line.0
}

fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

struct OneLine(String);

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() {
                self.0.extend(character.escape_default());
            } else {
                self.0.push(character);
            }
        }
        Ok(())
    }
}

/// Whether stderr is the stream that `JOURNAL_STREAM` names as `DEVICE:INODE`: the variable alone may be inherited by
/// a process whose output goes elsewhere (systemd.exec(5)).
fn writes_to_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else { return false };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(metadata) = File::from(stderr).metadata() else { return false };
    device.parse() == Ok(metadata.dev()) && inode.parse() == Ok(metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(journal: bool, setting: &str, level: Level, target: &str, text: &str) -> String {
        let (logger, sink) = logger(journal, setting);
        logger.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
        sink.text()
    }

    fn logger(journal: bool, setting: &str) -> (Logger, Sink) {
        let sink = Sink::default();
        (Logger::new(build(journal, Some(setting), env_logger::Target::Pipe(Box::new(sink.clone())))), sink)
    }

    #[test]
    fn a_line_has_level_module_and_text() {
        assert_eq!(
            logged(false, "info", Level::Info, "umbilical_agent::listener", "connected"),
            "info  listener: connected\n"
        );
        assert_eq!(logged(false, "info", Level::Warn, "umbilical_agent", "odd"), "warn  agent: odd\n");
    }

    #[test]
    fn the_journal_gets_priorities() {
        let line = |level| logged(true, "trace", level, "umbilical_link::dial", "x");
        assert_eq!(line(Level::Error), "<3>dial: x\n");
        assert_eq!(line(Level::Warn), "<4>dial: x\n");
        assert_eq!(line(Level::Info), "<6>dial: x\n");
        assert_eq!(line(Level::Debug), "<7>dial: x\n");
        assert_eq!(line(Level::Trace), "<7>dial: x\n");
    }

    #[test]
    fn libraries_are_heard_from_warn_upwards_at_any_setting() {
        for setting in ["trace", "tungstenite=trace", "debug,rustls=trace"] {
            for target in ["tungstenite::protocol", "async_tungstenite", "rustls::client"] {
                assert_eq!(logged(false, setting, Level::Trace, target, "frame"), "");
                assert_eq!(logged(false, setting, Level::Debug, target, "frame"), "");
                assert_ne!(logged(false, setting, Level::Warn, target, "odd"), "");
            }
        }
        assert_ne!(logged(false, "trace", Level::Trace, "umbilical_agent::listener", "own"), "");
    }

    #[test]
    fn a_peer_cannot_forge_a_line() {
        assert_eq!(
            logged(false, "info", Level::Info, "umbilical_agent::listener", "said a\n<0>b\u{1b}[31m\u{85}"),
            "info  listener: said a\\n<0>b\\u{1b}[31m\\u{85}\n"
        );
    }

    #[test]
    fn what_happens_again_and_again_is_left_out_unless_somebody_asked_for_it() {
        let (logger, sink) = logger(false, "debug");
        let happens = |level, text: &str| {
            let mut record = Record::builder();
            record.target("umbilical_agent").module_path_static(Some("umbilical_agent")).line(Some(1)).level(level);
            logger.log(&record.args(format_args!("{text}")).build());
        };
        (0..200).for_each(|_| happens(Level::Debug, "detail"));
        (0..200).for_each(|_| happens(Level::Warn, "refused"));
        let text = sink.text();
        assert_eq!(text.matches("detail").count(), 200);
        assert_eq!(text.matches("refused").count(), 50);
        assert!(text.ends_with("warn  agent: refused (of more like this, one in 30 s is told)\n"), "{text}");
    }

    #[test]
    fn the_journal_is_recognised_by_the_stream_itself() {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
        let (device, inode) = (stderr.dev(), stderr.ino());
        assert!(writes_to_journal(Some(&format!("{device}:{inode}"))));
        assert!(!writes_to_journal(Some(&format!("{device}:{}", inode + 1))));
        assert!(!writes_to_journal(Some("nonsense")));
        assert!(!writes_to_journal(None));
    }
}
