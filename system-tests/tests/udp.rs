//! Promise: what speaks UDP works through the tunnel as it does beside it: names, SNMP, a steady flow.

use std::{net::UdpSocket, time::Duration};

use umbilical_system_tests::{
    deployment::{DEVICE, Setup, Topology},
    process::Process,
    programs::{
        dnsmasq::{self, Dnsmasq, LONG_TEXT, NAME},
        iperf3::{self, Flow, Iperf3},
        snmpd::{self, LOCATION, Snmpd},
    },
    tunnel::Tunnel,
    wait,
};

#[test]
fn names_are_resolved_over_udp_and_tcp_at_one_number() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let dnsmasq = Dnsmasq::start();
        let setup = Setup::new(topology).service("dns", dnsmasq.address).udp_service("dns-udp", dnsmasq.address);
        let tunnel = Tunnel::start(setup);
        let server = tunnel.exposure("dns-udp");
        assert_eq!(server, tunnel.exposure("dns"));
        let ask = |options: &[&str]| dnsmasq::dig(server, NAME.0, "A", options);
        assert_eq!(ask(&["+notcp"]), NAME.1);
        assert_eq!(ask(&["+tcp"]), NAME.1);
        // an answer of several fragments, in one datagram
        let long = dnsmasq::dig(server, LONG_TEXT.0, "TXT", &["+notcp", "+ignore", "+bufsize=4096"]);
        assert_eq!(long.matches('x').count(), LONG_TEXT.1);
        // and one that is cut off and asked for again by TCP
        let long = dnsmasq::dig(server, LONG_TEXT.0, "TXT", &["+bufsize=512"]);
        assert_eq!(long.matches('x').count(), LONG_TEXT.1);
        // each from a port of its own, more of them than may be clients at once
        for _ in 0..40 {
            assert_eq!(ask(&["+notcp"]), NAME.1);
        }
    }
}

#[test]
fn snmp_is_read_one_by_one_and_in_bulk() {
    let snmpd = Snmpd::start();
    let tunnel = Tunnel::start(Setup::new(Topology::Embedded).udp_service("snmp", snmpd.address));
    let through = tunnel.exposure("snmp");
    assert_eq!(snmpd::location(through), LOCATION);
    let still = |line: &&str| !line.contains("imeticks") && !line.starts_with(".1.3.6.1.2.1.1.8");
    let (beside, through) = (snmpd::walk(snmpd.address, 50), snmpd::walk(through, 50));
    assert_eq!(through.lines().filter(still).collect::<Vec<_>>(), beside.lines().filter(still).collect::<Vec<_>>());
    assert!(through.contains(LOCATION), "{through}");
}

#[test]
fn a_steady_flow_arrives_in_order_and_whole() {
    let iperf3 = Iperf3::start();
    // iperf3 arranges what it does over TCP, at the same number
    let setup = Setup::new(Topology::Apart).service("iperf3", iperf3.address).udp_service("iperf3-udp", iperf3.address);
    let tunnel = Tunnel::start(setup);
    for reverse in [false, true] {
        let flow = iperf3::measure_datagrams(tunnel.exposure("iperf3"), reverse, "5M", 1_200, Duration::from_secs(2));
        let Flow { sent, lost, out_of_order } = flow;
        assert!(sent > 900, "{sent} datagrams");
        assert_eq!(out_of_order, 0);
        // a busy machine may not read a socket for a while: what has no room in it then is lost, as beside the tunnel
        assert!(lost * 20 <= sent, "{lost} of {sent} were lost");
    }
}

#[test]
fn a_service_that_is_not_there_is_said_once_on_both_sides() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let std::net::SocketAddr::V4(gone) = gone else { panic!("asked for IPv4") };
    let tunnel = Tunnel::start(Setup::new(Topology::Embedded).udp_service("snmp", gone));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(tunnel.exposure("snmp")).unwrap();
    let said = |process: &Process| process.output().lines().filter(|line| line.contains("refused")).count();
    wait::for_some("the line about it", wait::SOON, || {
        client.send(b"anybody?").unwrap();
        (said(&tunnel.agent) == 1 && said(tunnel.gateway()) == 1).then_some(())
    });
    for _ in 0..1_000 {
        client.send(b"anybody?").unwrap();
    }
    let line = tunnel.agent.line_with(&["refused"], wait::SOON);
    assert!(line.contains(&format!("service snmp at udp:{gone}: nobody takes datagrams there")), "{line}");
    let line = tunnel.gateway().line_with(&["refused"], wait::SOON);
    assert!(line.contains(DEVICE) && line.contains("services.snmp"), "{line}");
    assert_eq!((said(&tunnel.agent), said(tunnel.gateway())), (1, 1));
}

#[test]
fn a_service_of_the_other_kind_is_refused_in_words() {
    let snmpd = Snmpd::start();
    let deployment = Setup::new(Topology::Embedded).udp_service("snmp", snmpd.address).write();
    deployment.edit_file("cloud.toml", "listen = \"udp:", "listen = \"");
    let tunnel = Tunnel::start_deployment(deployment);
    let address = tunnel.exposure("snmp");
    wait::for_listener(address, wait::SOON);
    drop(std::net::TcpStream::connect(address));
    let line = tunnel.gateway().line_with(&["snmp", "wrong-mode"], wait::SOON);
    assert!(line.contains("it takes datagrams, for an exposure with listen = \"udp:ADDRESS:PORT\""), "{line}");
    let line = tunnel.agent.line_with(&["asked service snmp"], wait::SOON);
    assert!(line.contains("for a stream, and it takes datagrams"), "{line}");

    let mut connect = std::process::Command::new("/bin/sh");
    connect.args(["-c", &format!("exec {}", tunnel.deployment.connect_command("snmp"))]);
    let mut connect = Process::start("umbilical-cloud connect", &mut connect);
    assert_eq!(connect.ended(wait::SOON).code(), Some(4));
    assert!(connect.output().contains("snmp of device-1: wrong-mode; it takes datagrams"), "{}", connect.output());
}
