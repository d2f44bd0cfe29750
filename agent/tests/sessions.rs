//! Senders become links, links find their sessions, streams find their services; whatever does not is told why.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::{
    net::TcpListener,
    os::unix::net::UnixListener,
    task::{Context, Waker},
};

use log::Level;
use smol::{Async, future, io};
use support::{
    files::{Directory, text},
    logs,
    relay::{KEY, Relay},
    soon,
    world::{World, noise},
};
use umbilical_agent::sys::Request;
use umbilical_link::{Event, LinkEnd, WebSocket, close_code, websocket::Incoming};
use umbilical_mux::{End, ResetReason};

fn ssh_at(port: u16) -> String {
    format!("services.ssh.target = 'tcp:127.0.0.1:{port}'\n")
}

/// A port that nobody listens on.
fn closed_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// The code and reason that the device closes `socket` with.
async fn closed(socket: &mut WebSocket) -> (u16, String) {
    let closed = future::poll_fn(|cx| match std::task::ready!(socket.poll_incoming(cx)) {
        Ok(Incoming::Closed(code, reason)) => std::task::Poll::Ready((code, reason)),
        other => panic!("expected a close frame, got {other:?}"),
    });
    soon("a close frame", closed).await
}

#[test]
fn a_serial_line_is_a_service_for_one_stream_at_a_time() {
    use nix::{fcntl::OFlag, pty};
    let line = pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
    pty::grantpt(&line).unwrap();
    pty::unlockpt(&line).unwrap();
    let path = pty::ptsname_r(&line).unwrap();
    World::run(&format!("services.plc.target = 'serial:{path}?baud=19200'\n"), async |world| {
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("plc");
        let mut device = std::fs::File::from(std::os::fd::OwnedFd::from(line));
        let echo = smol::unblock(move || {
            let mut bytes = [0; 256];
            std::io::Read::read_exact(&mut device, &mut bytes).unwrap();
            std::io::Write::write_all(&mut device, &bytes).unwrap();
            device
        });
        let all: Vec<u8> = (0..=255).collect();
        let ((), _device) = soon("the line", future::zip(stream.echo(&all), echo)).await;
        assert_eq!(gateway.fate("plc").await, End::Reset(ResetReason::BUSY));
        stream.socket.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.end().await, End::Closed);
    });
}

#[test]
fn streams_reach_tcp_and_unix_services_and_every_byte_comes_back() {
    World::run("", async |world| {
        let path = world.files.path("service.sock");
        let socket = Async::<UnixListener>::bind(&path).unwrap();
        let unix = world.executor.spawn(async move {
            let (client, _) = socket.accept().await.unwrap();
            io::copy(&client, &client).await.unwrap();
        });
        let tcp = ssh_at(world.echo());
        world.configure(&format!("{tcp}services.docker.target = 'unix:{}'\n", text(&path)));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let bytes = noise(1_000_000);
        let (ssh, docker) = (gateway.open("ssh"), gateway.open("docker"));
        future::zip(ssh.echo(&bytes), docker.echo(&bytes)).await;
        drop((ssh, docker));
        soon("the end of the service", unix).await;
    });
}

#[test]
fn what_is_not_configured_does_not_exist() {
    World::run(&ssh_at(closed_port()), async |world| {
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        assert_eq!(gateway.fate("sql").await, End::Reset(ResetReason::NOT_ALLOWED));
        let line = logs::line(Level::Warn, "not configured").await;
        assert_eq!(
            line,
            "gateway 203.0.113.9:4711 asked for the service \"sql\", which is not configured here; to offer it, add [services.sql]"
        );
    });
}

#[test]
fn a_service_that_is_not_there_is_a_refusal_and_a_line() {
    let port = closed_port();
    World::run(&format!("{}services.gone.target = 'unix:/nonexistent'\n", ssh_at(port)), async |world| {
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        assert_eq!(gateway.fate("ssh").await, End::Reset(ResetReason::REFUSED));
        let line = format!("service ssh: can't connect to tcp:127.0.0.1:{port}: Connection refused (os error 111)");
        logs::line(Level::Warn, &line).await;
        assert_eq!(gateway.fate("gone").await, End::Reset(ResetReason::REFUSED));
        logs::line(Level::Warn, "service gone: can't connect to unix:/nonexistent: No such file").await;
    });
}

#[test]
fn a_service_has_its_own_limit_of_streams_over_all_sessions() {
    World::run("", async |world| {
        world.configure(&format!("{}services.ssh.max-streams = 2\n", ssh_at(world.echo())));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let one = world.connected(&mut control, 1).await;
        let other = world.connected(&mut control, 2).await;
        let (first, second) = (one.open("ssh"), other.open("ssh"));
        first.echo(b"1").await;
        second.echo(b"2").await;
        assert_eq!(one.fate("ssh").await, End::Reset(ResetReason::BUSY));
        logs::line(Level::Warn, "asked for more than the 2 streams of service ssh").await;
        drop(second);
        // the device has seen the end
        logs::line(Level::Debug, " bytes to the cloud, ").await;
        let again = one.open("ssh");
        again.echo(b"4").await;
        first.echo(b"5").await;
    });
}

#[test]
fn a_sender_that_is_no_gateway_is_told_what_is_spoken_here() {
    World::run("", async |world| {
        let mut control = world.relay.listener().await;
        control.accept(&world.relay.rendezvous("r"), "chat, mqtt").await;
        let handshake = world.relay.handshake().await;
        let refusal = handshake.target.refusal().unwrap();
        assert_eq!(refusal.status, 400);
        let reason = "This device speaks the WebSocket subprotocol umbilical.v1 only, offered was chat, mqtt";
        assert_eq!(refusal.description, reason);
        handshake.refuse("410 Gone", "").await;
        logs::line(Level::Warn, &format!("refused sender 203.0.113.9:4711: {reason}")).await;
    });
}

#[test]
fn a_rendezvous_that_fails_is_a_line_and_the_next_one_works() {
    World::run("", async |world| {
        let mut control = world.relay.listener().await;
        control.accept(&world.relay.rendezvous("r"), "umbilical.v1").await;
        world.relay.handshake().await.refuse("403 The rendezvous address is unknown", "").await;
        logs::line(Level::Warn, "can't answer gateway 203.0.113.9:4711: the WebSocket was refused with status 403")
            .await;
        control.accept("gopher://relay/x", "umbilical.v1").await;
        logs::line(Level::Warn, "the rendezvous has no usable address").await;
        control.accept(&format!("ws://127.0.0.1:{}/x?y", closed_port()), "umbilical.v1").await;
        logs::line(Level::Warn, "can't answer gateway 203.0.113.9:4711: cannot connect to 127.0.0.1").await;
        world.connected(&mut control, 1).await;
    });
}

#[test]
fn only_so_many_rendezvous_are_dialled_at_once_and_only_so_many_wait() {
    World::run("", async |world| {
        let mut control = world.relay.listener().await;
        for _ in 0..25 {
            control.accept(&world.relay.rendezvous("r"), "umbilical.v1").await;
        }
        logs::line(Level::Warn, "did not answer gateway 203.0.113.9:4711: 20 others are waiting").await;
        let mut at_once = Vec::new();
        for _ in 0..4 {
            at_once.push(world.relay.handshake().await);
        }
        assert!(future::poll_once(world.relay.handshake()).await.is_none(), "a fifth at the same time");
        // each that is done makes room for one that waits
        for handshake in at_once {
            handshake.refuse("403 No", "").await;
        }
        for _ in 0..16 {
            world.relay.handshake().await.refuse("403 No", "").await;
        }
        let unanswered = logs::all().matches("did not answer").count();
        assert_eq!(unanswered, 5);
    });
}

#[test]
fn a_relay_with_tls_cannot_send_the_device_somewhere_without() {
    let files = Directory::new();
    let relay = Relay::with_tls(&files);
    World::run_with(relay, files, "", async |world| {
        let mut control = world.relay.listener().await;
        control.accept("ws://127.0.0.1:1/$hc/x?y", "umbilical.v1").await;
        logs::line(Level::Warn, "the rendezvous is without TLS, the relay itself is not").await;
        world.connected(&mut control, 1).await;
    });
}

#[test]
fn a_first_message_that_is_no_hello_is_refused_with_the_reason() {
    World::run("", async |world| {
        let mut control = world.relay.listener().await;
        let mut socket = WebSocket::new(world.link(&mut control).await);
        socket.send(&mut Context::from_waker(Waker::noop()), b"nonsense", b"").unwrap();
        let flushed = future::poll_fn(|cx| socket.poll_ready(cx));
        flushed.await.unwrap();
        assert_eq!(closed(&mut socket).await, (close_code::VIOLATION, "first message is not hello".to_owned()));
        logs::line(Level::Warn, "gateway 203.0.113.9:4711: link refused: first message is not hello").await;
    });
}

#[test]
fn a_reload_cannot_change_the_memory_and_says_so() {
    World::run("memory.sessions = 1\n", async |world| {
        let mut control = world.relay.listener().await;
        let _gateway = world.connected(&mut control, 1).await;
        world.configure("memory.sessions = 2\n");
        world.request(Request::Reload);
        logs::line(Level::Warn, "a change of [memory] takes effect when the agent is restarted").await;
        let second = world.gateway(2);
        second.link(world.link(&mut control).await);
        assert!(matches!(second.event().await, Event::LinkFailed(LinkEnd::Closed(close_code::BUSY, _))));
    });
}

#[test]
fn one_session_too_many_is_refused_and_the_others_go_on() {
    let echo = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let port = echo.get_ref().local_addr().unwrap().port();
    World::run(&format!("memory.sessions = 2\n{}", ssh_at(port)), async |world| {
        world.serve_echo(echo);
        let mut control = world.relay.listener().await;
        let one = world.connected(&mut control, 1).await;
        let other = world.connected(&mut control, 2).await;
        let (first, second) = (one.open("ssh"), other.open("ssh"));
        first.echo(b"1").await;
        second.echo(b"2").await;

        let third = world.gateway(3);
        third.link(world.link(&mut control).await);
        match third.event().await {
            Event::LinkFailed(LinkEnd::Closed(code, reason)) => {
                assert_eq!(code, close_code::BUSY);
                assert_eq!(reason, "this device has 2 sessions, which is all that `memory.sessions` allows");
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
        logs::line(Level::Warn, "gateway 203.0.113.9:4711: link refused: this device has 2 sessions").await;
        first.echo(b"3").await;
        second.echo(b"4").await;
    });
}

#[test]
fn a_session_that_was_left_behind_makes_room() {
    World::run("memory.sessions = 1\n", async |world| {
        let mut control = world.relay.listener().await;
        let crashed = world.connected(&mut control, 1).await;
        crashed.handle.stop();
        logs::line(Level::Info, "link 1 lost").await;
        world.connected(&mut control, 2).await;
    });
}

#[test]
fn a_new_link_of_a_session_takes_over_and_its_streams_go_on() {
    World::run("", async |world| {
        world.configure(&ssh_at(world.echo()));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(&noise(100_000)).await;
        for _ in 0..3 {
            gateway.link(world.link(&mut control).await);
            gateway.link_up().await;
            stream.echo(&noise(100_000)).await;
        }
        let begun = logs::all().matches("session 01010101.. begins").count();
        assert_eq!(begun, 1, "{}", logs::all());
    });
}

#[test]
fn the_control_channel_may_go_and_come_while_links_go_on() {
    World::run("", async |world| {
        world.configure(&ssh_at(world.echo()));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(b"before").await;
        control.close(1011, "NameRenewalFailed").await;
        stream.echo(b"without").await;
        let mut control = world.relay.listener().await;
        stream.echo(b"after").await;
        world.connected(&mut control, 2).await;
    });
}

#[test]
fn a_reload_changes_what_it_names_and_nothing_else() {
    World::run("", async |world| {
        let (one, two) = (world.echo(), world.echo());
        world.configure(&format!("{}services.old.target = 'tcp:127.0.0.1:{one}'\n", ssh_at(one)));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let (ssh, old) = (gateway.open("ssh"), gateway.open("old"));
        ssh.echo(b"1").await;
        old.echo(b"2").await;

        // services
        world.configure(&format!("{}services.new.target = 'tcp:127.0.0.1:{two}'\n", ssh_at(one)));
        world.request(Request::Reload);
        logs::line(Level::Info, "read again: the same relays; 1 services new or changed, 1 gone").await;
        gateway.open("new").echo(b"3").await;
        assert_eq!(gateway.fate("old").await, End::Reset(ResetReason::NOT_ALLOWED));
        ssh.echo(b"4").await;
        old.echo(b"5").await;

        // a fault: nothing
        world.configure("services.ssh = 5\n");
        world.request(Request::Reload);
        let line = logs::line(Level::Error, "the configuration of before stays in force").await;
        assert!(line.contains("agent.toml:4: `services.ssh`: expected a table, found 5;"), "{line}");
        gateway.open("new").echo(b"6").await;

        // another relay: the control channel moves, the link stays
        let other = Relay::new();
        world.configure_for(&other, &ssh_at(one));
        world.request(Request::Reload);
        assert_eq!(control.closed().await, Some(1000));
        let _control = other.listener().await;
        ssh.echo(b"7").await;
    });
}

#[test]
fn asked_to_stop_it_lets_streams_finish() {
    World::run("", async |world| {
        world.configure(&ssh_at(world.echo()));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(b"1").await;
        world.request(Request::Stop);
        assert_eq!(control.closed().await, Some(1000), "no new senders");
        let late = gateway.fate("ssh").await;
        assert!(matches!(late, End::Local(ResetReason::GOING_AWAY) | End::Reset(ResetReason::GOING_AWAY)), "{late:?}");
        stream.echo(&noise(100_000)).await;
        stream.socket.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.end().await, End::Closed);
        let farewell = loop {
            match gateway.event().await {
                Event::PeerGoingAway => {}
                Event::LinkLost(LinkEnd::Closed(code, _)) => break code,
                other => panic!("expected a farewell, got {other:?}"),
            }
        };
        assert_eq!(farewell, close_code::GOING_AWAY);
        logs::line(Level::Info, "stopped").await;
    });
}

#[test]
fn a_gateway_that_comes_while_it_stops_is_sent_away() {
    World::run("", async |world| {
        world.configure(&format!("session.drain-for = '1h'\n{}", ssh_at(world.echo())));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(b"1").await;
        control.accept(&world.relay.rendezvous("r"), "umbilical.v1").await;
        let handshake = world.relay.handshake().await;
        world.request(Request::Stop);
        assert_eq!(control.closed().await, Some(1000));
        let late = world.gateway(2);
        late.link(handshake.upgrade().await);
        match late.event().await {
            Event::LinkFailed(LinkEnd::Closed(code, reason)) => {
                assert_eq!((code, reason.as_str()), (close_code::GOING_AWAY, "this device is shutting down"));
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
        stream.echo(b"2").await;
    });
}

#[test]
fn asked_to_stop_without_streams_it_does_not_wait() {
    World::run("session.drain-for = '1h'\n", async |world| {
        let mut control = world.relay.listener().await;
        let _gateway = world.connected(&mut control, 1).await;
        world.request(Request::Stop);
        assert_eq!(control.closed().await, Some(1000));
        logs::line(Level::Info, "stopped").await;
        assert!(!logs::all().contains("at once"));
    });
}

#[test]
fn streams_that_do_not_finish_are_cut_when_the_time_is_up() {
    let echo = Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
    let port = echo.get_ref().local_addr().unwrap().port();
    World::run(&format!("session.drain-for = '0s'\n{}", ssh_at(port)), async |world| {
        world.serve_echo(echo);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(b"1").await;
        world.request(Request::Stop);
        logs::line(Level::Info, "stopped").await;
    });
}

#[test]
fn asked_twice_it_stops_at_once() {
    World::run("session.drain-for = '1h'\n", async |world| {
        world.configure(&format!("session.drain-for = '1h'\n{}", ssh_at(world.echo())));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let gateway = world.connected(&mut control, 1).await;
        let stream = gateway.open("ssh");
        stream.echo(b"1").await;
        world.request(Request::Stop);
        logs::line(Level::Info, "stopping: 1 sessions have 3600 s to finish").await;
        stream.echo(b"2").await;
        world.request(Request::Stop);
        logs::line(Level::Warn, "stopped at once").await;
    });
}

#[test]
fn a_gateway_that_breaks_the_protocol_loses_its_session_and_no_other() {
    World::run("", async |world| {
        world.configure(&ssh_at(world.echo()));
        world.request(Request::Reload);
        let mut control = world.relay.listener().await;
        let good = world.connected(&mut control, 1).await;
        let stream = good.open("ssh");
        stream.echo(b"1").await;

        let mut socket = WebSocket::new(world.link(&mut control).await);
        let hello = umbilical_mux::Hello {
            version: umbilical_mux::VERSION,
            session: umbilical_mux::SessionId([9; 16]),
            link: 1,
            received: 0,
            resumes: 0,
            streams: 8,
            credit: 256,
            replay: 64 * 1024,
            record: 16_320,
            features: 0,
        };
        socket
            .send(&mut Context::from_waker(Waker::noop()), hello.encode(&mut [0; umbilical_mux::MAX_HELLO]), &[])
            .unwrap();
        future::poll_fn(|cx| socket.poll_ready(cx)).await.unwrap();
        soon("the device's hello", socket.next_message()).await.unwrap();
        socket.send(&mut Context::from_waker(Waker::noop()), &[0xff; 100], &[]).unwrap();
        future::poll_fn(|cx| socket.poll_ready(cx)).await.unwrap();
        assert_eq!(closed(&mut socket).await.0, close_code::VIOLATION);
        logs::line(Level::Debug, "session 09090909.. ended").await;
        stream.echo(b"2").await;
        assert!(!logs::all().contains(KEY));
    });
}
