//! Promise: one command shows the whole thing working, ends without leaving anything running, and says why when it can't go on.

use std::{fs, process::Command, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use umbilical_system_tests::{
    binaries,
    files::Folder,
    process::{Process, run},
    wait,
};

/// It starts with a build, which has nothing to do here.
const READY: Duration = Duration::from_secs(60);

#[test]
fn the_page_comes_through_and_check_ends() {
    let folder = Folder::new();
    let page = run("quickstart --check", &mut quickstart(&folder, &["--check"]), READY);
    assert!(page.contains("This page is served by a device that nobody can dial."), "{page}");
}

#[test]
fn it_serves_until_it_is_interrupted_and_leaves_nobody_behind() {
    let folder = Folder::new();
    let mut quickstart = Process::start("quickstart", &mut quickstart(&folder, &[]));
    let curl = quickstart.line_with(&["curl http://"], READY);
    let url = curl.split_whitespace().nth(1).unwrap();
    let page = run("curl", Command::new("curl").args(["--silent", "--show-error", "--noproxy", "*", url]), wait::SOON);
    // The first request was quickstart's own.
    assert!(page.contains("<dt>requests so far</dt><dd>2</dd>"), "{page}");
    quickstart.line_with(&["link up"], wait::SOON);
    // The programs write into their logs, not over the user's terminal.
    assert!(!quickstart.output().contains("listening at"), "{}", quickstart.output());
    assert!(fs::read_to_string(folder.path("agent.log")).unwrap().contains("listening at"));
    let cloud_log = fs::read_to_string(folder.path("cloud.log")).unwrap();
    assert!(!cloud_log.contains("warn"), "a good start gives no reason to worry: {cloud_log}");

    let children = children_of(&quickstart);
    assert_eq!(children.len(), 2, "{children:?}");
    quickstart.signal(Signal::SIGINT);
    assert_eq!(quickstart.ended(READY).code(), Some(0));
    for child in children {
        assert!(kill(child, None).is_err(), "process {child} was left behind");
    }
}

#[test]
fn a_program_that_dies_is_told_with_its_last_words() {
    let folder = Folder::new();
    let mut quickstart = Process::start("quickstart", &mut quickstart(&folder, &[]));
    quickstart.line_with(&["curl http://"], READY);
    let children = children_of(&quickstart);
    kill(children[1], Signal::SIGKILL).unwrap();
    assert_eq!(quickstart.ended(READY).code(), Some(1));
    let said = quickstart.output();
    assert!(said.contains("the agent ended by itself (signal: 9"), "{said}");
    assert!(said.contains("listening at"), "its last words are missing: {said}");
    assert!(kill(children[0], None).is_err(), "the cloud was left behind");
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let folder = Folder::new();
    fs::write(folder.path("precious"), "data").unwrap();
    let mut quickstart = Process::start("quickstart", &mut quickstart(&folder, &[]));
    assert_eq!(quickstart.ended(READY).code(), Some(1));
    let said = quickstart.output();
    assert!(said.contains("--dir"), "{said}");
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 1);
}

fn quickstart(folder: &Folder, options: &[&str]) -> Command {
    let mut quickstart = Command::new(binaries::quickstart());
    quickstart.args(["--dir", &folder.path("")]).args(options);
    quickstart
}

/// Cloud and agent, in the order in which they were started.
fn children_of(quickstart: &Process) -> Vec<Pid> {
    let line = quickstart.line_with(&["started the cloud"], wait::SOON);
    let ids = line.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok());
    ids.map(Pid::from_raw).collect()
}
