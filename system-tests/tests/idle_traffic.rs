//! Promise: what an idle device costs in a day, TLS included. The bytes of its keep-alive exchanges are counted on the wire, at
//! the shortest interval there is; a day has so many of them at the usual one, and at that of `keep-alive = "metered"`.
//! None of them is a line in a log.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    fs,
    time::{Duration, Instant},
};

use umbilical_relay_protocol::{ListenerMessage, SasToken};
use umbilical_system_tests::{
    counted::{Counted, Exchange},
    deployment::{AGENT_KEY, DEVICE, Deployment, Setup, Topology},
    echo,
    tunnel::LISTENING,
    wait,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const INTERVAL: Duration = Duration::from_secs(5);
/// By default, and metered.
const INTERVALS: [(Duration, usize); 2] =
    [(Duration::from_secs(60), 200 * 1024), (Duration::from_secs(210), 60 * 1024)];

/// A token is good for an hour, and renewed five minutes before its end.
const RENEWAL: Duration = Duration::from_secs(55 * 60);
/// Header and mask of a WebSocket message, header and tag of a TLS record.
const FRAMING: usize = 8 + 22;

#[test]
fn an_idle_day_is_within_its_budget() {
    let deployment = Setup::new(Topology::Embedded).service("echo", echo::start()).write();
    let counted = Counted::new(deployment.relay);
    let (direct, way) = (deployment.relay.port(), counted.address.port());
    deployment.edit_file("agent.toml", &format!("localhost:{direct}"), &format!("localhost:{way}"));
    deployment.edit_file("agent.toml", "[relay.auth]", "keep-alive = \"5s\"\n[relay.auth]");
    let cloud = deployment.start_cloud();
    // a connection in vain would be one that nothing is exchanged on
    wait::for_listener(deployment.relay, wait::SOON);
    let agent = deployment.start_agent();
    agent.line_with(LISTENING, wait::SOON);
    cloud[0].line_with(&["link 1 up"], wait::SOON);
    smol::block_on(echo::exchange(deployment.exposure("echo"), 7, 1_000_000)).unwrap();

    // what a session has to say behind its last stream is no keep-alive
    let idle = Instant::now() + Duration::from_secs(2);
    let more_than = |number: usize| {
        wait::for_some("keep-alive exchanges on two connections", wait::SOON * 2, || {
            let connections = counted.connections();
            let exchanges: Vec<_> = connections.iter().map(|connection| connection.exchanges(idle)).collect();
            exchanges.iter().all(|exchanges| exchanges.len() > number).then_some(exchanges)
        })
    };
    more_than(0);
    let said = [agent.output(), cloud[0].output()];
    let exchanges = more_than(3);
    assert_eq!([agent.output(), cloud[0].output()], said, "nothing happens, and it is logged");
    let [channel, link] = &exchanges[..] else { panic!("expected a control channel and a link, got {exchanges:?}") };
    let (channel, link) = (bytes_of_one(channel), bytes_of_one(link));
    let renewals = times_a_day(RENEWAL) * renewal_bytes(&deployment);

    for (interval, budget) in INTERVALS {
        let day = times_a_day(interval) * (channel + link) + renewals;
        let text = format!(
            "{day} bytes a day at {} s: {channel} on the control channel and {link} on the link each time, {renewals} for tokens",
            interval.as_secs()
        );
        assert!(day <= budget, "{text}; the budget is {budget}");
    }
}

/// Bytes of a whole exchange, of which there is one in each interval and nothing else.
fn bytes_of_one(exchanges: &[Exchange]) -> usize {
    // the last may not be whole
    let whole = &exchanges[..exchanges.len() - 1];
    for pair in whole.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause > INTERVAL - Duration::from_millis(100), "an exchange {pause:?} after the last one");
    }
    whole.iter().map(|exchange| exchange.bytes).max().expect("three at least")
}

fn times_a_day(interval: Duration) -> usize {
    usize::try_from(DAY.as_secs().div_ceil(interval.as_secs())).expect("a few thousand")
}

fn renewal_bytes(deployment: &Deployment) -> usize {
    let key = fs::read_to_string(deployment.path(AGENT_KEY)).unwrap();
    let resource = format!("http://a-relay-with-a-long-name.servicebus.windows.net/{DEVICE}/");
    let token = SasToken::sign(&resource, "listen", key.trim().as_bytes(), 4_000_000_000);
    ListenerMessage::RenewToken { token }.to_json().unwrap().len() + FRAMING
}
