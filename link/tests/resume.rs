//! Real drivers whose links are cut, fall silent, cross and are taken over: a stream loses nothing, and nobody else gets in.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that cannot go on fails")]

mod support;

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{LocalExecutor, future};
use support::session::{Cable, Echo, SHAPE, ThenIt, config, open, socket_pair, websocket};
use umbilical_link::driver::close_code;
use umbilical_link::upgrade::Role;
use umbilical_link::websocket::Incoming;
use umbilical_link::{Driver, Event, Handle, LinkEnd, NewLink, NoServices, SessionEnd, WebSocket};
use umbilical_mux::{Hello, MAX_HELLO, Resumption, SessionId, Side, Violation};

/// A gateway and an agent, each with its driver.
struct Ends {
    executor: Rc<LocalExecutor<'static>>,
    gateway: Handle,
    agent: Handle,
}

impl Ends {
    /// A link through a cable. The agent hears of it if the `Hello` gets through.
    async fn connect(&self, carries: [u64; 2], then: ThenIt) -> Cable {
        let ((near, one), (other, far)) = (socket_pair().unwrap(), socket_pair().unwrap());
        let cable = Cable::new(&self.executor, [one, other], carries, then);
        self.gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
        let mut socket = websocket(far, Role::Client, false);
        if let Ok(message) = socket.next_message().await {
            self.agent.link(NewLink { socket, hello: Some(Hello::decode(&message).unwrap()) }).unwrap();
        }
        cable
    }

    /// The same without a limit, when both sides use it.
    async fn link_up(&self) {
        self.connect(WHOLE, ThenIt::Breaks).await.task.detach();
        Self::event(&self.gateway, link_up).await;
    }

    /// A stream that says `length` bytes and checks that they come back, and the end after them.
    fn transfer(&self, length: usize) -> smol::Task<()> {
        let socket = open(&self.gateway, "echo");
        self.executor.spawn(async move {
            let data: Vec<u8> = (0..length).map(|at| (at / 251) as u8 ^ at as u8).collect();
            let mut answer = Vec::new();
            let (mut reader, mut writer) = (&socket, &socket);
            let write = async {
                writer.write_all(&data).await.unwrap();
                socket.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
            };
            future::zip(write, reader.read_to_end(&mut answer)).await.1.unwrap();
            assert!(answer == data, "{} bytes of {length} came back, or others", answer.len());
        })
    }

    /// The first event of a driver that `wanted` makes something of.
    async fn event<T>(handle: &Handle, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            let event = handle.event().await.expect("the driver runs");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }
}

fn run(test: impl AsyncFnOnce(Ends)) {
    let executor = Rc::new(LocalExecutor::new());
    let (gateway, to_gateway) = Driver::new(config(Side::Gateway, SHAPE), NoServices).unwrap();
    let (agent, to_agent) = Driver::new(config(Side::Agent, SHAPE), Echo).unwrap();
    executor.spawn(gateway.run()).detach();
    executor.spawn(agent.run()).detach();
    let ends = Ends { executor: Rc::clone(&executor), gateway: to_gateway, agent: to_agent };
    support::run(executor.run(test(ends)));
}

const WHOLE: [u64; 2] = [u64::MAX; 2];

fn refusal(event: &Event) -> Option<Violation> {
    match event {
        Event::LinkFailed(LinkEnd::Refused(violation)) => Some(*violation),
        _ => None,
    }
}

fn link_up(event: &Event) -> Option<(u32, Resumption)> {
    match event {
        Event::LinkUp { number, resumption } => Some((*number, *resumption)),
        _ => None,
    }
}

/// What was read on a link until its peer closed it: the code.
async fn close_code_of(mut socket: WebSocket) -> u16 {
    poll_fn(|cx| {
        loop {
            match std::task::ready!(socket.poll_incoming(cx)).expect("a goodbye") {
                Incoming::Closed(code, _) => return code.into(),
                Incoming::Message(_) | Incoming::Pong => {}
            }
        }
    })
    .await
}

async fn say(socket: &mut WebSocket, hello: Hello) {
    poll_fn(|cx| socket.send(cx, hello.encode(&mut [0; MAX_HELLO]), &[]).into()).await.unwrap();
    poll_fn(|cx| socket.poll_ready(cx)).await.unwrap();
}

#[test]
fn a_connection_may_break_after_any_byte() {
    let mut all = [0; 2];
    run(async |ends| {
        let cable = ends.connect(WHOLE, ThenIt::Breaks).await;
        ends.transfer(100).await;
        ends.gateway.stop();
        cable.task.await;
        all = [cable.carried[0].get(), cable.carried[1].get()];
    });
    assert!(all.iter().all(|bytes| *bytes > 150), "{all:?} bytes are not worth cutting");
    let there = (1..all[0]).map(|bytes| [bytes, u64::MAX]);
    let back = (1..all[1]).map(|bytes| [u64::MAX, bytes]);
    for carries in there.chain(back) {
        run(async |ends| {
            let mut transfer = ends.transfer(100);
            let cable = ends.connect(carries, ThenIt::Breaks).await;
            // The last bytes are acknowledgements, which the transfer does not wait for.
            let cut = async {
                cable.task.await;
                true
            };
            let done = async {
                (&mut transfer).await;
                false
            };
            if future::or(cut, done).await {
                ends.connect(WHOLE, ThenIt::Breaks).await.task.detach();
                transfer.await;
            }
        });
    }
}

#[test]
fn a_link_that_fell_silent_is_taken_over_at_once() {
    for carries in [[300_000, u64::MAX], [u64::MAX, 300_000], [300_000, 300_000]] {
        run(async |ends| {
            let silent = ends.connect(carries, ThenIt::FallsSilent).await;
            let transfer = ends.transfer(2_000_000);
            while silent.carried.iter().zip(carries).all(|(carried, carries)| carried.get() < carries) {
                future::yield_now().await;
            }
            ends.connect(WHOLE, ThenIt::Breaks).await.task.detach();
            transfer.await;
            let (number, resumption) = Ends::event(&ends.gateway, |event| link_up(event).filter(|up| up.0 == 2)).await;
            assert!(matches!(resumption, Resumption::Resumed { .. }), "link {number}: {resumption:?}");
        });
    }
}

/// Each is dialled before the one before is answered, and the agent hears of the last one first.
#[test]
fn links_may_cross_within_a_round_trip() {
    run(async |ends| {
        ends.link_up().await;
        let transfer = ends.transfer(3_000_000);
        for _ in 0..5 {
            let mut links = Vec::new();
            for _ in 0..4 {
                let (near, far) = socket_pair().unwrap();
                ends.gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
                let mut socket = websocket(far, Role::Client, false);
                let hello = Hello::decode(&socket.next_message().await.unwrap()).unwrap();
                links.push(NewLink { socket, hello: Some(hello) });
            }
            let newest = links.pop().unwrap();
            let number = newest.hello.unwrap().link;
            ends.agent.link(newest).unwrap();
            for late in links.into_iter().rev() {
                let late_number = late.hello.unwrap().link;
                ends.agent.link(late).unwrap();
                let refused = Ends::event(&ends.agent, refusal).await;
                assert_eq!(refused, Violation::StaleLink(late_number));
            }
            let (_, resumption) = Ends::event(&ends.gateway, |event| link_up(event).filter(|up| up.0 == number)).await;
            assert!(matches!(resumption, Resumption::Resumed { .. }), "link {number}: {resumption:?}");
        }
        transfer.await;
    });
}

/// The gateway says on a new link what it has received and reads no more of the old one; when the new one comes to nothing
/// it goes on where it was.
#[test]
fn a_dial_that_comes_to_nothing_leaves_the_link_in_use() {
    run(async |ends| {
        ends.link_up().await;
        let transfer = ends.transfer(3_000_000);
        for _ in 0..10 {
            let (near, far) = socket_pair().unwrap();
            ends.gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
            let mut socket = websocket(far, Role::Client, false);
            socket.next_message().await.unwrap();
            drop(socket);
            Ends::event(&ends.gateway, |event| matches!(event, Event::LinkFailed(_)).then_some(())).await;
        }
        transfer.await;
        assert_eq!(ends.gateway.status().await.unwrap().link_number, 1);
    });
}

#[test]
fn a_session_that_drains_goes_on_over_the_next_link_until_its_streams_are_done() {
    for by_gateway in [true, false] {
        run(async |ends| {
            let cable = ends.connect([400_000, u64::MAX], ThenIt::Breaks).await;
            let transfer = ends.transfer(1_000_000);
            while cable.carried[0].get() < 100_000 {
                future::yield_now().await;
            }
            let (goes, stays) = if by_gateway { (&ends.gateway, &ends.agent) } else { (&ends.agent, &ends.gateway) };
            goes.go_away(Duration::from_secs(50));
            cable.task.await;
            ends.connect(WHOLE, ThenIt::Breaks).await.task.detach();
            transfer.await;
            let end = Ends::event(goes, |event| if let Event::Ended(end) = event { Some(*end) } else { None }).await;
            assert_eq!(end, SessionEnd::Stopped);
            Ends::event(stays, |event| matches!(event, Event::PeerGoingAway).then_some(())).await;
            let code = Ends::event(stays, |event| match event {
                Event::LinkLost(LinkEnd::Closed(code, _)) => Some(*code),
                _ => None,
            });
            assert_eq!(code.await, close_code::GOING_AWAY);
        });
    }
}

/// Whoever does not know the session's id, or says again what was said before, is closed with 4000; the session's own link
/// and its stream do not notice.
#[test]
fn stale_forged_and_replayed_hellos_are_refused() {
    run(async |ends| {
        let mut said = Vec::new();
        for _ in 0..2 {
            let (near, far) = socket_pair().unwrap();
            ends.gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
            let mut socket = websocket(far, Role::Client, false);
            let hello = Hello::decode(&socket.next_message().await.unwrap()).unwrap();
            said.push(hello);
            ends.agent.link(NewLink { socket, hello: Some(hello) }).unwrap();
            Ends::event(&ends.gateway, link_up).await;
        }
        let transfer = ends.transfer(1_000_000);
        let forged = Hello { session: SessionId([8; 16]), link: 9, ..said[1] };
        let stale = Hello { link: 0, ..said[1] };
        for (hello, violation) in [
            (said[0], Violation::StaleLink(1)),
            (said[1], Violation::StaleLink(2)),
            (stale, Violation::StaleLink(0)),
            (forged, Violation::WrongSession),
        ] {
            let (near, far) = socket_pair().unwrap();
            ends.agent.link(NewLink { socket: websocket(far, Role::Client, false), hello: Some(hello) }).unwrap();
            assert_eq!(close_code_of(websocket(near, Role::Server, false)).await, close_code::VIOLATION);
            assert_eq!(Ends::event(&ends.agent, refusal).await, violation);
        }
        transfer.await;
        assert_eq!(ends.agent.status().await.unwrap().link_number, 2);
    });
}

/// Somebody answers for the agent: with another session, with the number of another link, with an answer of before.
#[test]
fn wrong_answers_are_refused_and_the_next_link_is_as_good() {
    run(async |ends| {
        ends.link_up().await;
        let transfer = ends.transfer(1_000_000);
        let wrong: [fn(Hello) -> (Hello, Violation); 5] = [
            |hello| (Hello { session: SessionId([8; 16]), ..hello }, Violation::WrongSession),
            |hello| (Hello { link: hello.link + 1, ..hello }, Violation::WrongLink(hello.link + 1)),
            |hello| (Hello { link: u32::MAX, ..hello }, Violation::WrongLink(u32::MAX)),
            |hello| (Hello { link: 1, ..hello }, Violation::StaleLink(1)),
            |hello| (Hello { resumes: 77, ..hello }, Violation::StaleLink(hello.link)),
        ];
        for change in wrong {
            let (near, far) = socket_pair().unwrap();
            ends.gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
            let mut socket = websocket(far, Role::Client, false);
            let said = Hello::decode(&socket.next_message().await.unwrap()).unwrap();
            // But for that it is what an agent says that begins anew.
            let (answer, violation) = change(Hello { received: 0, resumes: 0, ..said });
            say(&mut socket, answer).await;
            assert_eq!(close_code_of(socket).await, close_code::VIOLATION);
            assert_eq!(Ends::event(&ends.gateway, refusal).await, violation);
        }
        ends.connect(WHOLE, ThenIt::Breaks).await.task.detach();
        transfer.await;
    });
}

/// A gateway may use its numbers up; it keeps nobody out but itself.
#[test]
fn the_last_link_number_there_is_ends_nothing() {
    run(async |ends| {
        let (near, far) = socket_pair().unwrap();
        ends.gateway.link(NewLink { socket: websocket(near, Role::Server, false), hello: None }).unwrap();
        let mut socket = websocket(far, Role::Client, false);
        let hello = Hello::decode(&socket.next_message().await.unwrap()).unwrap();
        for taken in [true, false] {
            let (_near, far) = socket_pair().unwrap();
            let hello = Some(Hello { link: u32::MAX, ..hello });
            ends.agent.link(NewLink { socket: websocket(far, Role::Client, false), hello }).unwrap();
            if taken {
                Ends::event(&ends.agent, link_up).await;
            } else {
                assert_eq!(Ends::event(&ends.agent, refusal).await, Violation::StaleLink(u32::MAX));
            }
        }
        assert!(ends.agent.status().await.is_some(), "the agent's driver runs");
    });
}
