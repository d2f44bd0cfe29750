//! Promise: OpenSSH works through the tunnel as it does without it: a shell, large files, and no public port at all.

use std::{io::Write, time::Duration};

use umbilical_system_tests::{
    deployment::{Setup, Topology},
    files::{self, Folder},
    process::{Process, run},
    programs::sshd::{Remote, Sshd},
    tunnel::Tunnel,
    wait,
};

const GIBIBYTE: u64 = 1 << 30;

#[test]
fn a_shell_answers_on_a_terminal() {
    let (sshd, tunnel) = tunnel(Topology::Embedded);
    let mut ssh = sshd.ssh(tunnel.exposure("ssh"));
    // `ssh` takes options after the destination; `-tt` gets a terminal although this input is none.
    let (mut shell, mut input) = Process::start_with_input("ssh", ssh.args(["-tt", "/bin/sh"]));
    input.write_all(b"tty; echo answer-$((6 * 7))\n").unwrap();
    shell.line_with(&["/dev/pts/"], wait::SOON);
    shell.line_with(&["answer-42"], wait::SOON);
    input.write_all(b"exit 7\n").unwrap();
    assert_eq!(shell.ended(wait::SOON).code(), Some(7));
}

#[test]
fn a_gibibyte_arrives_whole_each_way_through_one_process() {
    copies_a_gibibyte_each_way(Topology::Embedded);
}

#[test]
fn a_gibibyte_arrives_whole_each_way_through_relay_and_gateway_apart() {
    copies_a_gibibyte_each_way(Topology::Apart);
}

#[test]
fn proxy_command_needs_no_public_port() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let (sshd, tunnel) = tunnel(topology);
        let mut ssh = sshd.ssh_by_proxy_command(&tunnel.deployment.connect_command("ssh"));
        assert_eq!(run("ssh", ssh.arg("echo $((6 * 7))"), wait::SOON), "42", "{topology:?}");
        // Binary and long enough to fill every buffer on the way.
        let mut ssh = sshd.ssh_by_proxy_command(&tunnel.deployment.connect_command("ssh"));
        let counted = run("ssh", ssh.arg("head -c 50000000 /dev/zero | cat"), wait::SOON);
        assert_eq!(counted.len(), 50_000_000, "{topology:?}");
    }
}

#[test]
fn a_plain_bridge_carries_it_without_a_session() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let sshd = Sshd::start();
        let tunnel = Tunnel::start(Setup::new(topology).service("ssh", sshd.address).plain("ssh"));
        let mut ssh = sshd.ssh(tunnel.exposure("ssh"));
        let counted = run("ssh", ssh.arg("head -c 50000000 /dev/zero | cat"), wait::SOON);
        assert_eq!(counted.len(), 50_000_000, "{topology:?}");
        let plainly = tunnel.deployment.connect_command("ssh") + " --plain";
        let mut ssh = sshd.ssh_by_proxy_command(&plainly);
        assert_eq!(run("ssh", ssh.arg("echo $((6 * 7))"), wait::SOON), "42", "{topology:?}");
    }
}

fn copies_a_gibibyte_each_way(topology: Topology) {
    let (sshd, tunnel) = tunnel(topology);
    let folder = Folder::new();
    let (original, sent, fetched) = (folder.path("original"), folder.path("sent"), folder.path("fetched"));
    files::make_random(&original, GIBIBYTE);

    let minutes = Duration::from_secs(300);
    let address = tunnel.exposure("ssh");
    run("scp to the device", &mut sshd.scp(address, &original, &sent, Remote::Target), minutes);
    run("scp from the device", &mut sshd.scp(address, &sent, &fetched, Remote::Source), minutes);
    assert_eq!(files::length(&sent), GIBIBYTE);
    assert_eq!(files::sha256(&sent), files::sha256(&original), "sent");
    assert_eq!(files::sha256(&fetched), files::sha256(&original), "fetched");
}

fn tunnel(topology: Topology) -> (Sshd, Tunnel) {
    let sshd = Sshd::start();
    let tunnel = Tunnel::start(Setup::new(topology).service("ssh", sshd.address));
    (sshd, tunnel)
}
