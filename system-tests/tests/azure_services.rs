//! Promise: the services that Azure's reference architecture for a relay keeps on premises - blobs, queues and tables of a
//! storage account, a SQL database - are used from the cloud as if they were there, all through one WebSocket of one agent.

use std::thread;

use umbilical_system_tests::{
    deployment::{Setup, Topology},
    files::{self, Folder},
    programs::{
        azurite::{Azurite, Storage, use_storage},
        postgresql::{Postgresql, Transacted},
    },
    tunnel::Tunnel,
};

const MIB: u64 = 1 << 20;

#[test]
fn blobs_queues_tables_and_a_database_share_one_websocket() {
    let (azurite, postgresql) = (Azurite::start(), Postgresql::start());
    let tunnel = Tunnel::start(
        Setup::new(Topology::Apart)
            .service("blob", azurite.blob)
            .service("queue", azurite.queue)
            .service("table", azurite.table)
            .service("sql", postgresql.address),
    );
    let folder = Folder::new();
    let file = folder.path("measurements");
    files::make_random(&file, 200 * MIB);
    postgresql.fill(postgresql.address, 1);
    let storage = [(Storage::Blob, "blob"), (Storage::Queue, "queue"), (Storage::Table, "table")];
    thread::scope(|scope| {
        for (storage, service) in storage {
            let (address, file) = (tunnel.exposure(service), &file);
            scope.spawn(move || use_storage(storage, address, file));
        }
        let transacted = postgresql.transact(tunnel.exposure("sql"), 4, &["--transactions=200"]);
        assert_eq!(transacted, Transacted { processed: 800, failed: 0 });
        // While all of them are at work: the control channel, and one WebSocket for everything else.
        assert_eq!(tunnel.agent.connections_to(tunnel.deployment.relay), 2);
    });
}
