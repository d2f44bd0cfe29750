//! Promise: the units in `systemd/` are good by systemd's own judgement, as tight as their README says, and not tighter than
//! the programs can bear; systemd's own tools hand over sockets and make the files that the units want.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use umbilical_system_tests::{
    binaries,
    deployment::{Deployment, Setup, Topology},
    echo,
    process::{Process, run},
    tunnel::LISTENING,
    wait,
};

const AGENT: &str = "umbilical-agent.service";
const CLOUD: &str = "umbilical-cloud.service";
const SOCKET: &str = "umbilical-cloud.socket";
const SERIAL: &str = "drop-ins/agent-serial.conf";
const WATCHDOG: &str = "drop-ins/agent-watchdog.conf";

#[test]
fn units_and_drop_ins_are_without_fault() {
    let units = Units::new();
    units.drop_in(SERIAL);
    units.drop_in(WATCHDOG);
    let output = units.analyze(&["verify"], &[AGENT, CLOUD, SOCKET]);
    // what is misspelt is only warned of
    assert_eq!(output, "", "systemd-analyze verify has something to say");
}

#[test]
fn exposure_is_as_low_as_promised() {
    // tenths, as systemd-analyze takes them
    let units = Units::new();
    units.analyze(&["security", "--offline=true", "--threshold=15"], &[AGENT]);
    units.analyze(&["security", "--offline=true", "--threshold=25"], &[CLOUD]);
    units.drop_in(SERIAL);
    units.analyze(&["security", "--offline=true", "--threshold=15"], &[AGENT]);
}

#[test]
fn whatever_is_left_open_has_its_reason_in_the_readme() {
    let units = Units::new();
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    units.drop_in(SERIAL);
    for unit in [AGENT, CLOUD] {
        let table = units.analyze(&["security", "--offline=true", "--no-pager"], &[unit]);
        let open: Vec<_> = table.lines().filter_map(|line| line.strip_prefix('✗')).collect();
        assert!(!open.is_empty(), "{table}");
        for line in open {
            let key = line.split_whitespace().next().and_then(|name| name.split('=').next()).unwrap();
            assert!(readme.contains(&format!("`{key}")), "README.md does not say why {unit} has it open: {line}");
        }
    }
}

#[test]
fn every_system_call_of_the_programs_is_allowed() {
    let deployment = Setup::new(Topology::Embedded).service("echo", echo::start()).write();
    // with a program that fetches tokens, which lives in the same cage
    let fetch = format!(
        "token-command = [\"{}\", \"token\", \"--key-name\", \"listen\", \"--key-file\", \"{}\", \"--relay\", \"{}\"]",
        binaries::cloud().display(),
        deployment.path("agent.key"),
        deployment.relay_url()
    );
    let key = format!("key-name = \"listen\"\nkey-file = \"{}\"", deployment.path("agent.key"));
    deployment.edit_file("agent.toml", &key, &fetch);
    let notify = deployment.path("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    let traced = |name: &str, command: Command| {
        // the tracer is the grandchild, so that signals reach the program
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-q", "-o", &deployment.path(&format!("{name}.trace"))]).arg(command.get_program());
        strace.args(command.get_args()).env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "100000");
        strace.env("RUNTIME_DIRECTORY", deployment.path(""));
        Process::start(name, &mut strace)
    };
    let mut cloud = traced("cloud", deployment.cloud_command("run", "cloud.toml"));
    let mut agent = traced("agent", deployment.agent_command());
    agent.line_with(LISTENING, wait::SOON);
    let exposure = deployment.exposure("echo");
    wait::for_some("an echo", wait::SOON, || smol::block_on(echo::exchange(exposure, 1, 100_000)).ok());
    for program in [&agent, &cloud] {
        program.signal(Signal::SIGHUP);
    }
    agent.line_with(&["read again"], wait::SOON);
    cloud.line_with(&["reloaded"], wait::SOON);
    let mut status = Command::new(binaries::agent());
    status.args(["status", "--socket", &deployment.path("agent.sock")]);
    assert!(run("status", &mut status, wait::SOON).contains("listening"));
    for program in [&mut agent, &mut cloud] {
        program.signal(Signal::SIGTERM);
        assert_eq!(program.ended(wait::SOON).code(), Some(0));
    }
    drop(manager);
    for (name, unit) in [("agent", AGENT), ("cloud", CLOUD)] {
        let allowed = allowed_calls(unit);
        let made = wait::for_some("the end of the trace", wait::SOON, || ended_trace(&deployment, name));
        assert!(made.contains("epoll_wait") || made.contains("epoll_pwait"), "this is no trace of it: {made:?}");
        let refused: Vec<_> = made.difference(&allowed).collect();
        assert!(refused.is_empty(), "SystemCallFilter of {unit} would refuse {refused:?}");
    }
}

#[test]
fn sockets_that_systemd_opens_are_served() {
    let deployment = Setup::new(Topology::Embedded).service("echo", echo::start()).write();
    let exposure = deployment.exposure("echo");
    let program = deployment.cloud_command("run", "cloud.toml");
    let mut activate = Command::new("systemd-socket-activate");
    for address in deployment.addresses() {
        activate.args(["-l", &address.to_string()]);
    }
    let log = env::vars().filter(|(name, _)| name == "PATH");
    activate.arg("--fdname=echo:relay").arg(program.get_program()).args(program.get_args()).env_clear().envs(log);
    let cloud = Process::start("cloud", &mut activate);
    for address in deployment.addresses() {
        wait::for_listener(address, wait::SOON);
    }
    // the first who connects wakes it
    let agent = deployment.start_agent();
    for address in deployment.addresses() {
        cloud.line_with(&[&address.to_string(), "is held for us by the service manager"], wait::SOON);
    }
    agent.line_with(LISTENING, wait::SOON);
    wait::for_some("an echo", wait::SOON, || smol::block_on(echo::exchange(exposure, 1, 10_000)).ok());
}

#[test]
fn folders_and_group_are_made_as_the_units_want_them() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    for (tool, option, file) in [
        ("systemd-sysusers", None, "sysusers.d/umbilical.conf"),
        ("systemd-tmpfiles", Some("--create"), "tmpfiles.d/umbilical.conf"),
    ] {
        let mut command = Command::new(tool);
        command.arg(format!("--root={}", root.path().display())).args(option).arg(folder().join(file));
        run(tool, &mut command, wait::SOON);
    }
    let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
    assert!(groups.lines().any(|line| line.starts_with("umbilical:")), "{groups}");
    for (place, expected) in [("etc/umbilical", 0o755), ("etc/umbilical/secrets", 0o700)] {
        let mode = fs::metadata(root.path().join(place)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, expected, "{place}");
    }
}

/// The units in a folder of their own, with the programs of this work tree.
struct Units(TempDir);

impl Units {
    fn new() -> Units {
        let units = TempDir::new().unwrap();
        for name in [AGENT, CLOUD, SOCKET] {
            let text = fs::read_to_string(folder().join(name)).unwrap();
            let text = text.replace("/usr/bin/umbilical-agent", &binaries::agent().display().to_string());
            let text = text.replace("/usr/bin/umbilical-cloud", &binaries::cloud().display().to_string());
            fs::write(units.path().join(name), text).unwrap();
        }
        Units(units)
    }

    /// Adds a drop-in of the agent.
    fn drop_in(&self, name: &str) {
        let directory = self.0.path().join(format!("{AGENT}.d"));
        fs::create_dir_all(&directory).unwrap();
        fs::copy(folder().join(name), directory.join(Path::new(name).file_name().unwrap())).unwrap();
    }

    /// `systemd-analyze`, which must be content; gives all it says.
    fn analyze(&self, arguments: &[&str], units: &[&str]) -> String {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).args(units.iter().map(|unit| format!("./{unit}"))).current_dir(self.0.path());
        if arguments[0] == "security" {
            // it wants names there, and finds them here
            command = Command::new("systemd-analyze");
            command.args(arguments).args(units).current_dir(self.0.path());
        }
        run("systemd-analyze", command.stdin(Stdio::null()), wait::SOON)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

/// What `SystemCallFilter=` of a unit lets through: lines with a tilde forbid, the others allow.
fn allowed_calls(unit: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(folder().join(unit)).unwrap();
    let mut allowed = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        match line.strip_prefix('~') {
            None => line.split(' ').for_each(|entry| match entry.starts_with('@') {
                true => allowed.extend(calls_of(entry)),
                false => _ = allowed.insert(entry.to_owned()),
            }),
            Some(forbidden) => {
                for set in forbidden.split(' ') {
                    let calls = calls_of(set);
                    allowed.retain(|call| !calls.contains(call));
                }
            }
        }
    }
    assert!(allowed.len() > 100, "{allowed:?}");
    // systemd always allows these
    allowed.extend(calls_of("@default"));
    allowed
}

/// The calls of a set, and of the sets that it holds.
fn calls_of(set: &str) -> BTreeSet<String> {
    let mut command = Command::new("systemd-analyze");
    let text = run("systemd-analyze", command.args(["syscall-filter", "--no-pager", set]), wait::SOON);
    let mut calls = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with(' ')).map(str::trim) {
        match line.strip_prefix('#') {
            Some(_) => {}
            None if line.starts_with('@') => calls.extend(calls_of(line)),
            None => _ = calls.insert(line.to_owned()),
        }
    }
    calls
}

/// The system calls in a trace that is complete: the program's own end is in it.
fn ended_trace(deployment: &Deployment, name: &str) -> Option<BTreeSet<String>> {
    let text = fs::read_to_string(deployment.path(&format!("{name}.trace"))).ok()?;
    let first = text.split_whitespace().next()?;
    let ended = text.lines().any(|line| line.starts_with(first) && line.contains("+++ exited with 0 +++"));
    let call = |line: &str| {
        let (_, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| name.to_owned())
    };
    ended.then(|| text.lines().filter_map(call).collect())
}
