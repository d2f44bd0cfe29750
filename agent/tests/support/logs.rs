//! What the code under test logged on this thread.

use std::{cell::RefCell, sync::Once};

use log::{Level, LevelFilter, Log, Metadata, Record};
use smol::future;

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

struct Capture;

impl Log for Capture {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target().starts_with("umbilical_") {
            LINES.with_borrow_mut(|lines| lines.push((record.level(), record.args().to_string())));
        }
    }

    fn flush(&self) {}
}

/// Starts to keep what is logged on this thread.
pub fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Capture).unwrap();
        log::set_max_level(LevelFilter::Trace);
    });
    LINES.with_borrow_mut(Vec::clear);
}

/// All lines so far.
pub fn all() -> String {
    LINES.with_borrow(|lines| lines.iter().map(|(level, line)| format!("{level} {line}\n")).collect())
}

/// Waits until a line of at least this level contains `text`, and gives it.
pub async fn line(level: Level, text: &str) -> String {
    let found = || {
        LINES.with_borrow(|lines| {
            lines.iter().find(|(at, line)| *at <= level && line.contains(text)).map(|(_, line)| line.clone())
        })
    };
    super::soon(&format!("a log line with {text:?}"), async {
        loop {
            match found() {
                Some(line) => return line,
                None => future::yield_now().await,
            }
        }
    })
    .await
}
