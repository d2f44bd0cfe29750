//! Two drivers, a real socket between them, real sockets at both ends.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on fails")]

mod support;

use std::net::TcpStream;
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, LocalExecutor};
use support::session::{Echo, SHAPE, config, config_with, connect, open, socket_pair, websocket};
use umbilical_link::upgrade::Role;
use umbilical_link::{Driver, Ended, Event, Handle, Io, KeepAlive, LinkEnd, NewLink, NewStream, NoServices};
use umbilical_mux::{End, Hello, MAX_HELLO, ResetReason, Side};

/// Runs `test` beside two drivers with a link.
fn with_session<F: Future<Output = ()>>(test: impl FnOnce(Handle, Handle) -> F) {
    let executor = LocalExecutor::new();
    let (gateway, to_gateway) = Driver::new(config(Side::Gateway, SHAPE), NoServices).unwrap();
    let (agent, to_agent) = Driver::new(config(Side::Agent, SHAPE), Echo).unwrap();
    executor.spawn(gateway.run()).detach();
    executor.spawn(agent.run()).detach();
    smol::block_on(executor.run(async {
        connect(&to_gateway, &to_agent, false).await;
        test(to_gateway.clone(), to_agent.clone()).await;
    }));
}

#[test]
fn bytes_come_back_through_the_session_and_the_end_follows() {
    with_session(|gateway, _agent| async move {
        let mut socket = open(&gateway, "echo");
        socket.write_all(b"hello").await.unwrap();
        socket.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"hello");
    });
}

#[test]
fn many_streams_carry_much_at_once() {
    with_session(|gateway, _agent| async move {
        let mut tasks = Vec::new();
        for number in 0..60u8 {
            let socket = open(&gateway, "echo");
            tasks.push(async move {
                let data: Vec<u8> = (0..1_000_000u32).map(|at| (at / 251) as u8 ^ at as u8 ^ number).collect();
                let (mut reader, mut writer) = (&socket, &socket);
                let (written, read) = smol::future::zip(
                    async {
                        writer.write_all(&data).await.unwrap();
                        socket.get_ref().shutdown(std::net::Shutdown::Write)
                    },
                    async {
                        let mut answer = Vec::new();
                        reader.read_to_end(&mut answer).await.unwrap();
                        answer
                    },
                )
                .await;
                written.unwrap();
                assert!(read == data, "stream {number} came back changed");
            });
        }
        let executor = LocalExecutor::new();
        let tasks: Vec<_> = tasks.into_iter().map(|task| executor.spawn(task)).collect();
        executor
            .run(async {
                for task in tasks {
                    task.await;
                }
            })
            .await;
    });
}

#[test]
fn an_unknown_service_closes_the_client_at_once() {
    with_session(|gateway, _agent| async move {
        let mut socket = open(&gateway, "nothing");
        let error = socket.read(&mut [0; 16]).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

/// Asks soon, and gives up soon after.
const IMPATIENT: KeepAlive = KeepAlive {
    ping_after: Duration::from_millis(20),
    dead_after: Duration::from_millis(1_000),
    dead_after_busy: Duration::from_millis(1_000),
};

#[test]
fn a_peer_that_has_nothing_to_say_is_alive() {
    let executor = LocalExecutor::new();
    let (gateway, to_gateway) = Driver::new(config_with(Side::Gateway, SHAPE, IMPATIENT), NoServices).unwrap();
    let (agent, to_agent) = Driver::new(config(Side::Agent, SHAPE), Echo).unwrap();
    for driver in [gateway.run(), agent.run()] {
        executor.spawn(driver).detach();
    }
    smol::block_on(executor.run(async {
        connect(&to_gateway, &to_agent, false).await;
        assert!(matches!(to_gateway.event().await, Some(Event::LinkUp { number: 1, .. })));
        let dead = async { Some(to_gateway.event().await) };
        let later = async {
            smol::Timer::after(2 * IMPATIENT.dead_after).await;
            None
        };
        let event = smol::future::or(dead, later).await;
        assert!(event.is_none(), "{event:?}");
    }));
}

/// Asks in a minute, and gives up soon after.
const PATIENT: KeepAlive = KeepAlive {
    ping_after: Duration::from_secs(60),
    dead_after: Duration::from_millis(60_300),
    dead_after_busy: Duration::from_millis(600),
};

#[test]
fn a_link_in_doubt_is_kept_if_the_peer_answers() {
    let executor = LocalExecutor::new();
    let (gateway, to_gateway) = Driver::new(config_with(Side::Gateway, SHAPE, PATIENT), NoServices).unwrap();
    let (agent, to_agent) = Driver::new(config(Side::Agent, SHAPE), Echo).unwrap();
    for driver in [gateway.run(), agent.run()] {
        executor.spawn(driver).detach();
    }
    smol::block_on(executor.run(async {
        connect(&to_gateway, &to_agent, false).await;
        assert!(matches!(to_gateway.event().await, Some(Event::LinkUp { number: 1, .. })));
        to_gateway.doubt();
        let longer_than_that = async {
            smol::Timer::after(Duration::from_secs(1)).await;
            None
        };
        let event = smol::future::or(async { Some(to_gateway.event().await) }, longer_than_that).await;
        assert!(event.is_none(), "{event:?}");
    }));
}

#[test]
fn a_link_in_doubt_is_lost_if_the_peer_does_not_answer() {
    let executor = LocalExecutor::new();
    let (gateway, to_gateway) = Driver::new(config_with(Side::Gateway, SHAPE, PATIENT), NoServices).unwrap();
    executor.spawn(gateway.run()).detach();
    smol::block_on(executor.run(async {
        let _mute = mute_agent(&to_gateway).await;
        to_gateway.doubt();
        match to_gateway.event().await {
            Some(Event::LinkLost(LinkEnd::Silent(silence))) => assert!(silence < PATIENT.ping_after, "{silence:?}"),
            other => panic!("expected a dead link, got {other:?}"),
        }
    }));
}

/// Gives the gateway a link to one who says `Hello` and nothing more, and that one's socket.
async fn mute_agent(gateway: &Handle) -> Async<TcpStream> {
    let (near, far) = socket_pair().unwrap();
    gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
    let writer = far.get_ref().try_clone().map(Async::new).unwrap().unwrap();
    let mut socket = websocket(far, Role::Client, true);
    let hello = Hello::decode(&socket.next_message().await.unwrap()).unwrap();
    let mut bytes = [0; MAX_HELLO];
    let length = Hello { resumes: 0, ..hello }.encode(&mut bytes).len();
    let header = [0x82, 0x80 | u8::try_from(length).unwrap(), 0, 0, 0, 0];
    (&writer).write_all(&[&header[..], &bytes[..length]].concat()).await.unwrap();
    assert!(matches!(gateway.event().await, Some(Event::LinkUp { .. })));
    writer
}

#[test]
fn a_relay_that_answers_in_its_place_does_not_keep_a_dead_peer_alive() {
    let executor = LocalExecutor::new();
    let (gateway, to_gateway) = Driver::new(config_with(Side::Gateway, SHAPE, IMPATIENT), NoServices).unwrap();
    executor.spawn(gateway.run()).detach();
    smol::block_on(executor.run(async {
        let writer = mute_agent(&to_gateway).await;
        let relay = async {
            loop {
                // a ping and a pong, each with a mask of zeros
                (&writer).write_all(&[0x89, 0x80, 0, 0, 0, 0, 0x8A, 0x80, 0, 0, 0, 0]).await.unwrap();
                smol::Timer::after(IMPATIENT.ping_after / 4).await;
            }
        };
        match smol::future::or(to_gateway.event(), relay).await {
            Some(Event::LinkLost(LinkEnd::Silent(silence))) => assert!(silence >= IMPATIENT.dead_after),
            other => panic!("expected a dead link, got {other:?}"),
        }
    }));
}

#[test]
fn a_stream_goes_on_over_the_next_link() {
    with_session(|gateway, agent| async move {
        let socket = open(&gateway, "echo");
        let data: Vec<u8> = (0..8_000_000u32).map(|at| (at / 253) as u8 ^ at as u8).collect();
        let (mut reader, mut writer) = (socket.get_ref().try_clone().unwrap(), socket.get_ref().try_clone().unwrap());
        let sent = data.clone();
        let writing = smol::unblock(move || {
            writer.set_nonblocking(false).unwrap();
            std::io::Write::write_all(&mut writer, &sent).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let reading = smol::unblock(move || {
            let mut answer = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut answer).unwrap();
            answer
        });
        let changing = async {
            for number in 0..6 {
                smol::Timer::after(Duration::from_millis(5)).await;
                connect(&gateway, &agent, number % 2 == 0).await;
            }
        };
        let (((), ()), answer) = smol::future::zip(smol::future::zip(writing, changing), reading).await;
        assert!(answer == data, "bytes were lost, doubled or reordered");
    });
}

#[test]
fn what_is_asked_of_a_session_that_ends_is_answered() {
    let (driver, handle) = Driver::new(config(Side::Gateway, SHAPE), NoServices).unwrap();
    let (near, far) = socket_pair().unwrap();
    let (tell, told) = smol::channel::bounded(1);
    let on_end = Box::new(move |ended: &Ended| tell.try_send(ended.end).unwrap());
    handle.stop();
    handle.open(NewStream { service: "echo".into(), io: Io::tcp(far).unwrap(), on_end }).unwrap();
    let asked = async {
        let (status, ()) = smol::future::zip(handle.status(), driver.run()).await;
        assert!(status.is_none() && handle.totals().is_some());
        assert_eq!(told.recv().await, Ok(End::Local(ResetReason::GOING_AWAY)));
        drop(near);
    };
    smol::block_on(smol::future::or(asked, async {
        smol::Timer::after(Duration::from_secs(30)).await;
        panic!("there is no answer");
    }));
}
