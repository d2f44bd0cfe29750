//! Promise: a device behind a company's HTTP proxy gets out with a user name and a password, and is told when they are wrong.

use umbilical_system_tests::{
    deployment::{Setup, Topology},
    echo,
    programs::tinyproxy::{PASSWORD, Tinyproxy, USER},
    tunnel::Tunnel,
    wait,
};

#[test]
fn the_link_goes_through_a_connect_proxy_with_a_password() {
    let proxy = Tinyproxy::start();
    let setup = Setup::new(Topology::Embedded)
        .service("echo", echo::start())
        .proxy(&format!("http://{USER}:{PASSWORD}@{}", proxy.address));
    let tunnel = Tunnel::start(setup);
    smol::block_on(echo::exchange(tunnel.exposure("echo"), 1, 10_000_000)).unwrap();

    // Control channel and rendezvous, both by the proxy, which was told the relay's name and not an address.
    let relay = format!("CONNECT localhost:{}", tunnel.deployment.relay.port());
    wait::for_some("two requests in the proxy's log", wait::SOON, || {
        (proxy.process.output().matches(&relay).count() >= 2).then_some(())
    });
    assert!(!tunnel.agent.output().contains(PASSWORD), "the proxy's password is in the agent's log");
}

#[test]
fn a_wrong_password_is_named_as_such() {
    let proxy = Tinyproxy::start();
    let setup = Setup::new(Topology::Embedded)
        .service("echo", echo::start())
        .proxy(&format!("http://{USER}:wrong-password@{}", proxy.address));
    let deployment = setup.write();
    let _cloud = deployment.start_cloud();
    let agent = deployment.start_agent();
    let line = agent.line_with(&["proxy", "password"], wait::SOON);
    assert!(line.contains(&proxy.address.to_string()), "which proxy? {line}");
    assert!(!agent.output().contains("wrong-password"), "the proxy's password is in the agent's log");
}
