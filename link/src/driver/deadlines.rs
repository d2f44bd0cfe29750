//! Deadlines of a driver: one timer for all of them, set to the first.

use std::task::Context;
use std::time::Duration;

use smol::future::FutureExt;
use umbilical_mux::Instant;

use super::Driver;
use crate::handle::{Event, LinkEnd, SessionEnd};
use crate::keepalive::Verdict;

/// How long the peer may take to answer a `Hello`.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

impl Driver {
    pub(super) fn poll_timer(&mut self, now: Instant) {
        // not due if it went off, on another thread, after `now` was read: then it is to be set again
        if self.timer_at.take().is_none_or(|at| at > now) {
            return;
        }
        let expires = self.session.is_established();
        self.session.handle_timeout(now, &mut self.ports);
        if expires && !self.session.is_established() {
            self.ended.get_or_insert(SessionEnd::Expired);
        }
        if let Some(link) = &mut self.link {
            let busy = self.session.link_estimate().in_flight > 0;
            match self.config.keep_alive.judge(now, link.heard_at, link.pinged_at, busy) {
                Verdict::Fine(_) => {}
                Verdict::Ping => self.ask_for_a_sign(now),
                Verdict::Dead(silence) => self.lose_link(now, LinkEnd::Silent(silence)),
            }
        }
        if self.next_link.as_ref().is_some_and(|link| now.micros_since(link.up_at) >= micros(HELLO_WITHIN)) {
            self.next_link = None;
            self.tell(Event::LinkFailed(LinkEnd::NoHello));
        }
        if self.lease.end_if_due(&mut self.session, now) {
            self.link.iter_mut().for_each(|link| link.socket.give_back());
        }
    }

    /// Asks for a sign of life, which has a time to come.
    pub(super) fn ask_for_a_sign(&mut self, now: Instant) {
        if let Some(link) = &mut self.link {
            (link.pinged_at, link.writable) = (Some(now), true);
            self.session.probe();
        }
    }

    /// Wakes the task when the first of its deadlines comes. A timer that is set to an earlier one stays.
    pub(super) fn set_timer(&mut self, now: Instant) {
        let keep_alive = self.link.as_ref().map(|link| {
            let busy = self.session.link_estimate().in_flight > 0;
            match self.config.keep_alive.judge(now, link.heard_at, link.pinged_at, busy) {
                Verdict::Fine(until) => until,
                Verdict::Ping | Verdict::Dead(_) => now,
            }
        });
        let hello = self.next_link.as_ref().map(|link| link.up_at.after_micros(micros(HELLO_WITHIN)));
        let lease = self.lease.ends_at(&self.session, now);
        let deadlines = [self.session.next_timeout(), keep_alive, hello, lease, self.drain_until];
        let Some(next) = deadlines.into_iter().flatten().min() else { return };
        if self.timer_at.is_some_and(|at| at <= next) {
            return;
        }
        self.timer_at = Some(next);
        self.timer.set_at(self.clock.system_time_of(next));
        if self.timer.poll(&mut Context::from_waker(&self.wakers.timer)).is_ready() {
            self.wakers.timer.wake_by_ref();
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use smol::{Async, LocalExecutor, Timer, future};
    use umbilical_mux::{Config, End, Hello, MAX_RECORD, ResetReason, SessionId, Shape, Side};

    use super::*;
    use crate::driver::DriverConfig;
    use crate::handle::{NewLink, NewStream};
    use crate::keepalive::KeepAlive;
    use crate::port::{Io, OnEnd};
    use crate::ports::NoServices;
    use crate::transport::Transport;
    use crate::upgrade::{Role, Upgraded};
    use crate::websocket::WebSocket;

    fn driver(side: Side) -> (Driver, crate::Handle) {
        let shape = Shape { streams: 8, replay: 64 * 1024, receive: 64 * 1024 };
        let session =
            Config { side, id: SessionId([7; 16]), shape, record: MAX_RECORD, resume_for_ms: 10_000, features: 0 };
        let keep_alive = KeepAlive::default();
        let config = DriverConfig { session, name: "test".into(), keep_alive };
        Driver::new(config, NoServices).unwrap()
    }

    fn sockets() -> [Async<TcpStream>; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        [near, far].map(|socket| Async::new(socket).unwrap())
    }

    fn websockets() -> [WebSocket; 2] {
        let [near, far] = sockets();
        [(near, Role::Client), (far, Role::Server)].map(|(socket, role)| {
            WebSocket::new(Upgraded {
                transport: Transport::Plain(socket),
                leftover: Vec::new(),
                role,
                subprotocol: None,
                date: None,
                zero_mask: false,
                answers_pings: false,
            })
        })
    }

    async fn join(gateway: &crate::Handle, agent: &crate::Handle) {
        let [near, mut far] = websockets();
        gateway.link(NewLink { socket: near, hello: None }).unwrap();
        let hello = Hello::decode(&far.next_message().await.unwrap()).unwrap();
        agent.link(NewLink { socket: far, hello: Some(hello) }).unwrap();
    }

    #[test]
    fn a_timer_that_goes_off_just_after_a_look_at_the_clock_is_set_again() {
        let (mut driver, _handle) = driver(Side::Gateway);
        let now = driver.clock.now();
        driver.take_woken(now);
        driver.drain_until = Some(now.after_micros(1_000));
        driver.set_timer(now);
        smol::block_on(&mut driver.timer);
        driver.poll_timer(now);
        driver.set_timer(now);
        assert!(driver.take_woken(now), "it never goes off again");
    }

    #[test]
    fn a_session_without_link_and_streams_takes_no_leave() {
        let (agent, to_agent) = driver(Side::Agent);
        let executor = LocalExecutor::new();
        executor.spawn(agent.run()).detach();
        let leave = executor.run(async {
            to_agent.go_away(Duration::from_secs(3_600));
            assert!(matches!(to_agent.event().await, Some(Event::Ended(SessionEnd::Stopped))));
        });
        smol::block_on(future::or(leave, async {
            Timer::after(Duration::from_secs(30)).await;
            panic!("it waits for a link to say goodbye on");
        }));
    }

    fn end_lease(driver: &mut Driver) {
        let now = driver.clock.now();
        let at = driver.lease.ends_at(&driver.session, now).unwrap();
        assert!(!driver.lease.end_if_due(&mut driver.session, now), "at once");
        assert!(driver.lease.end_if_due(&mut driver.session, at), "it is quiet");
    }

    #[test]
    fn a_session_without_memory_takes_the_stream_that_its_peer_opens() {
        let (mut agent, to_agent) = driver(Side::Agent);
        end_lease(&mut agent);
        let (gateway, to_gateway) = driver(Side::Gateway);
        let executor = LocalExecutor::new();
        executor.spawn(gateway.run()).detach();
        executor.spawn(agent.run()).detach();
        let asked = executor.run(async {
            join(&to_gateway, &to_agent).await;
            let [_client, socket] = sockets();
            let (ended, end) = smol::channel::bounded(1);
            let on_end: OnEnd = Box::new(move |end| ended.try_send(end.end).unwrap());
            to_gateway.open(NewStream { service: "ghost".into(), io: Io::Tcp(socket), on_end }).unwrap();
            assert_eq!(end.recv().await.unwrap(), End::Reset(ResetReason::NOT_ALLOWED), "as it says who has memory");
        });
        smol::block_on(future::or(asked, async {
            Timer::after(Duration::from_secs(30)).await;
            panic!("nobody answers");
        }));
    }

    #[test]
    fn a_session_without_memory_takes_leave_at_once() {
        let (mut gateway, to_gateway) = driver(Side::Gateway);
        end_lease(&mut gateway);
        let (agent, to_agent) = driver(Side::Agent);
        let executor = LocalExecutor::new();
        executor.spawn(gateway.run()).detach();
        executor.spawn(agent.run()).detach();
        let leave = executor.run(async {
            join(&to_gateway, &to_agent).await;
            assert!(matches!(to_gateway.event().await, Some(Event::LinkUp { .. })));
            to_gateway.go_away(Duration::from_secs(3_600));
            assert!(matches!(to_gateway.event().await, Some(Event::Ended(SessionEnd::Stopped))));
            assert!(matches!(to_agent.event().await, Some(Event::LinkUp { .. })));
            assert!(matches!(to_agent.event().await, Some(Event::PeerGoingAway)));
        });
        smol::block_on(future::or(leave, async {
            Timer::after(Duration::from_secs(30)).await;
            panic!("it waits for its streams, and there are none");
        }));
    }
}
