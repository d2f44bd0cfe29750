//! Promise: what can go wrong is said once, in one line that names the thing and what to do about it.

use std::{
    fs,
    net::{SocketAddrV4, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use umbilical_relay_protocol::SasToken;
use umbilical_system_tests::{
    deployment::{AGENT_KEY, DEVICE, Deployment, Setup, Topology, new_key},
    echo, ports,
    process::Process,
    tunnel::Tunnel,
    wait,
};

#[test]
fn unknown_service() {
    let tunnel = Tunnel::start(Setup::new(Topology::Embedded).service("echo", echo::start()).exposure("ghost"));
    closed_at_once(tunnel.exposure("ghost"));
    let line = tunnel.gateway().line_with(&["ghost"], wait::SOON);
    says(&line, &[DEVICE, "services.ghost"]);
    let line = tunnel.agent.line_with(&["ghost"], wait::SOON);
    says(&line, &["services.ghost"]);

    let mut connect = shell(&tunnel.deployment.connect_command("ghost"));
    let said = fails("umbilical-cloud connect", &mut connect);
    says(&said, &[DEVICE, "services.ghost"]);
}

#[test]
fn refused_target() {
    let nobody = ports::free();
    let tunnel = Tunnel::start(Setup::new(Topology::Embedded).service("web", nobody));
    closed_at_once(tunnel.exposure("web"));
    let line = tunnel.agent.line_with(&["web", &nobody.to_string()], wait::SOON);
    says(&line, &["refused"]);
    let line = tunnel.gateway().line_with(&["web", "refused"], wait::SOON);
    says(&line, &[DEVICE]);
}

#[test]
fn a_failure_that_goes_on_and_on_does_not_fill_a_devices_log() {
    let nobody = ports::free();
    let tunnel = Tunnel::start(Setup::new(Topology::Embedded).service("web", nobody));
    for _ in 0..200 {
        closed_at_once(tunnel.exposure("web"));
    }
    let line = tunnel.agent.line_with(&["web", "more like this"], wait::SOON);
    says(&line, &["refused"]);
    let told = tunnel.agent.output().matches("refused").count();
    // one more for each half minute that this took
    assert!((50..60).contains(&told), "{told} lines of 200 refusals");
}

#[test]
fn wrong_key() {
    let deployment = one_service().write();
    deployment.write_file(AGENT_KEY, &new_key());
    // The cloud reads its copy from the same file: it has to be running with the right one first.
    let (_cloud, agent) = start_with_agents_key(&deployment, &new_key());
    let line = agent.line_with(&["401"], wait::SOON);
    says(&line, &["listen", AGENT_KEY, DEVICE]);
    assert_eq!(agent.output().matches("401").count(), 1, "said more than once, or tried in a tight loop");
}

#[test]
fn expired_token() {
    let deployment = one_service().write();
    let key = fs::read_to_string(deployment.path(AGENT_KEY)).unwrap();
    let _cloud = deployment.start_cloud();
    wait::for_listener(deployment.relay, wait::SOON);
    let expired = SasToken::sign(&format!("http://localhost/{DEVICE}"), "listen", key.as_bytes(), 1_000_000_000);
    deployment.write_file("token", &expired);
    deployment.edit_file("agent.toml", "key-name = \"listen\"\n", "");
    let key_line = format!("key-file = \"{}\"", deployment.path(AGENT_KEY));
    deployment.edit_file("agent.toml", &key_line, &format!("token-file = \"{}\"", deployment.path("token")));
    let agent = deployment.start_agent();
    let line = agent.line_with(&["expired"], wait::SOON);
    says(&line, &["token"]);
    assert!(!agent.output().contains(&expired), "the token is in the log");
}

#[test]
fn bad_configuration_key() {
    let deployment = one_service().write();
    deployment.edit_file("agent.toml", "ca-file", "ca-fiel");
    for mut command in [deployment.agent_command(), checking(deployment.agent_command())] {
        let said = fails("umbilical-agent", &mut command);
        says(&said, &["agent.toml:3", "ca-fiel", "ca-file"]);
        one_line(&said);
    }

    deployment.edit_file("cloud.toml", "certificate-file", "certifikate-file");
    for subcommand in ["run", "check"] {
        let said = fails("umbilical-cloud", &mut deployment.cloud_command(subcommand, "cloud.toml"));
        says(&said, &["cloud.toml:3", "certifikate-file", "certificate-file"]);
        one_line(&said);
    }
}

#[test]
fn missing_files() {
    let deployment = one_service().write();
    fs::remove_file(deployment.path(AGENT_KEY)).unwrap();
    let said = fails("umbilical-agent", &mut checking(deployment.agent_command()));
    says(&said, &["agent.toml", AGENT_KEY]);
    let said = fails("umbilical-cloud", &mut deployment.cloud_command("check", "cloud.toml"));
    says(&said, &["cloud.toml", AGENT_KEY]);
    let said = fails("umbilical-cloud", &mut deployment.cloud_command("run", "nowhere.toml"));
    says(&said, &["nowhere.toml"]);
}

#[test]
fn port_in_use() {
    for taken in ["relay", "exposure"] {
        let deployment = one_service().write();
        let address = if taken == "relay" { deployment.relay } else { deployment.exposure("echo") };
        let _other = TcpListener::bind(address).unwrap();
        let said = fails("umbilical-cloud", &mut deployment.cloud_command("run", "cloud.toml"));
        says(&said, &[&address.to_string(), "in use", "listen"]);
    }
}

#[test]
fn no_relay() {
    let deployment = one_service().write();
    let agent = deployment.start_agent();
    let line = agent.line_with(&["refused"], wait::SOON);
    says(&line, &["localhost", &deployment.relay.port().to_string()]);
}

#[test]
fn no_device() {
    let deployment = one_service().write();
    let cloud = deployment.start_cloud();
    let address = deployment.exposure("echo");
    wait::for_listener(address, wait::SOON);
    closed_at_once(address);
    let line = cloud[0].line_with(&[DEVICE], wait::SOON);
    says(&line, &["echo"]);
}

fn one_service() -> Setup {
    Setup::new(Topology::Embedded).service("echo", echo::start())
}

/// Starts the cloud with the keys as they are, then the agent with another.
fn start_with_agents_key(deployment: &Deployment, key: &str) -> (Vec<Process>, Process) {
    let cloud = deployment.start_cloud();
    wait::for_listener(deployment.relay, wait::SOON);
    deployment.write_file(AGENT_KEY, key);
    (cloud, deployment.start_agent())
}

/// A client there gets no byte, and the end or a reset before long.
fn closed_at_once(address: SocketAddrV4) {
    let ended = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(wait::SOON))?;
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    match ended {
        Ok(bytes) => assert_eq!(bytes, 0, "somebody answers"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

fn checking(mut agent: Command) -> Command {
    agent.arg("--check");
    agent
}

fn shell(words: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec {words}")]);
    shell
}

/// Runs a command that must not succeed, and returns all it wrote.
fn fails(name: &str, command: &mut Command) -> String {
    let mut process = Process::start(name, command);
    let status = process.ended(Duration::from_secs(20));
    let output = process.output();
    assert!(status.code().is_some_and(|code| code != 0), "{name} ended with {status}:\n{output}");
    output
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "nothing about {part:?} in:\n{text}");
    }
}

fn one_line(text: &str) {
    assert_eq!(text.lines().count(), 1, "one problem, one line:\n{text}");
}
