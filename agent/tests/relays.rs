//! A device may be reached by several relays, and may keep one in reserve: what is connected by one stays when another goes.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use log::Level;
use smol::{Timer, future};
use std::time::Duration;
use support::{
    logs,
    relay::{Control, Relay},
    world::{Gateway, World},
};
use umbilical_agent::sys::Request;

/// Sends a sender to the device by way of `relay`, and gives its link to `gateway`.
async fn link_by(gateway: &Gateway, relay: &Relay, control: &mut Control) {
    control.accept(&relay.rendezvous("r"), "umbilical.v1").await;
    gateway.link(relay.handshake().await.upgrade().await);
    gateway.link_up().await;
}

fn echo_at(world: &World) -> String {
    format!("services.echo.target = 'tcp:127.0.0.1:{}'\n", world.echo())
}

#[test]
fn it_listens_at_all_relays_and_a_session_moves_from_one_to_another() {
    World::run("", async |world| {
        let mut first = world.relay.listener().await;
        let other = Relay::new();
        let services = echo_at(world);
        world.configure_relays(&[(&world.relay, None), (&other, None)], &services);
        world.request(Request::Reload);
        logs::line(Level::Info, "1 relays new or changed, 0 gone; 1 services new").await;
        let mut second = other.listener().await;
        let gateway = world.gateway(1);
        link_by(&gateway, &world.relay, &mut first).await;
        let stream = gateway.open("echo");
        stream.echo(b"by the first").await;
        // the newest link is the session's, whichever way it came
        link_by(&gateway, &other, &mut second).await;
        stream.echo(b"by the second").await;
        // a relay that is taken out of the configuration takes nothing with it
        world.configure_relays(&[(&other, None)], &services);
        world.request(Request::Reload);
        assert_eq!(first.closed().await, Some(1000));
        stream.echo(b"still by the second").await;
    });
}

#[test]
fn a_reserve_is_taken_when_no_other_relay_is_there_and_left_when_one_is_back() {
    World::run("", async |world| {
        let first = world.relay.listener().await;
        let reserve = Relay::new();
        world.configure_relays(&[(&world.relay, None), (&reserve, Some("standby-after = '1s'"))], &echo_at(world));
        world.request(Request::Reload);
        logs::line(Level::Info, "1 relays new or changed, 0 gone").await;
        let nobody = async {
            reserve.listener().await;
            panic!("the other relay is connected");
        };
        future::or(nobody, async { _ = Timer::after(Duration::from_millis(1_500)).await }).await;

        first.close(1011, "about to restart").await;
        // it comes back for a handshake that is not answered
        let first = world.relay.handshake().await;
        let mut spare = reserve.listener().await;
        logs::line(Level::Warn, "listening at the reserve").await;
        let gateway = world.gateway(1);
        link_by(&gateway, &reserve, &mut spare).await;
        let stream = gateway.open("echo");
        stream.echo(b"by the reserve").await;

        let _first = first.control().await;
        assert_eq!(spare.closed().await, Some(1000));
        logs::line(Level::Info, "leaving the reserve").await;
        stream.echo(b"links stay where they are").await;
    });
}

#[test]
fn an_agent_that_stops_takes_leave_of_all() {
    World::run("", async |world| {
        let mut first = world.relay.listener().await;
        let (other, reserve) = (Relay::new(), Relay::new());
        let relays = [(&world.relay, None), (&other, None), (&reserve, Some("standby-after = '1h'"))];
        world.configure_relays(&relays, &echo_at(world));
        world.request(Request::Reload);
        let mut second = other.listener().await;
        world.request(Request::Stop);
        assert_eq!((first.closed().await, second.closed().await), (Some(1000), Some(1000)));
        logs::line(Level::Info, "stopped").await;
    });
}
