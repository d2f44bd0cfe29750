//! Promise: a database behind the tunnel loses no transaction: many small round trips, and a connection for each.

use umbilical_system_tests::{
    deployment::{Setup, Topology},
    programs::postgresql::{Postgresql, Transacted},
    tunnel::Tunnel,
};

#[test]
fn ten_clients_transact_without_a_failure() {
    for topology in [Topology::Embedded, Topology::Apart] {
        let (postgresql, tunnel) = tunnel(topology);
        let address = tunnel.exposure("sql");
        postgresql.fill(address, 5);
        let transacted = postgresql.transact(address, 10, &["--transactions=200"]);
        assert_eq!(transacted, Transacted { processed: 2_000, failed: 0 }, "{topology:?}");
    }
}

#[test]
fn each_transaction_may_have_a_connection_of_its_own() {
    let (postgresql, tunnel) = tunnel(Topology::Embedded);
    postgresql.fill(postgresql.address, 1);
    let transacted =
        postgresql.transact(tunnel.exposure("sql"), 10, &["--connect", "--select-only", "--transactions=50"]);
    assert_eq!(transacted, Transacted { processed: 500, failed: 0 });
}

fn tunnel(topology: Topology) -> (Postgresql, Tunnel) {
    let postgresql = Postgresql::start();
    let tunnel = Tunnel::start(Setup::new(topology).service("sql", postgresql.address));
    (postgresql, tunnel)
}
