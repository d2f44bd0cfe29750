//! PostgreSQL: a cluster made for one test, and `pgbench`.

use std::{
    fs,
    net::SocketAddrV4,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    sys::signal::Signal,
    unistd::{User, getuid},
};
use tempfile::TempDir;

use super::{find, text};
use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// A running server with one database, `postgres`, that trusts whoever comes by loopback.
pub struct Postgresql {
    /// Where it listens.
    pub address: SocketAddrV4,
    programs: PathBuf,
    // Before the folder: fields are dropped in this order, and the server must have stopped when its files go.
    _process: Process,
    _folder: TempDir,
}

impl Postgresql {
    /// Makes a cluster, starts it and waits until it takes connections.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Postgresql {
        let programs = newest_programs();
        let folder = TempDir::new().expect("a temporary folder");
        let owner = unprivileged_user();
        if let Some(owner) = &owner {
            chown(folder.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))
                .expect("root may give a folder away");
        }
        let cluster = folder.path().join("cluster");
        let as_owner = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(folder.path()).env("LC_ALL", "C");
            if let Some(owner) = &owner {
                command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
            }
            command
        };
        let mut initdb = as_owner("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--pgdata", text(&cluster)]);
        process::run("initdb", &mut initdb, Duration::from_secs(60));

        let address = ports::free();
        let mut server = as_owner("postgres");
        server.args(["-D", text(&cluster), "-p", &address.port().to_string()]);
        let listen = format!("listen_addresses={}", address.ip());
        for setting in [listen.as_str(), "unix_socket_directories=", "fsync=off", "max_connections=100"] {
            server.args(["-c", setting]);
        }
        // SIGTERM would wait for its clients to leave.
        let process = Process::start("postgres", &mut server).stopped_by(Signal::SIGINT);
        process.line_with(&["ready to accept connections"], wait::SOON);
        Postgresql { address, programs, _process: process, _folder: folder }
    }

    /// Fills pgbench's tables, `scale` times 100,000 rows, by way of `address`.
    ///
    /// # Panics
    /// `pgbench` fails.
    pub fn fill(&self, address: SocketAddrV4, scale: usize) {
        let mut pgbench = self.pgbench(address);
        pgbench.args(["--initialize", "--quiet", "--scale", &scale.to_string()]);
        process::run("pgbench --initialize", &mut pgbench, Duration::from_secs(120));
    }

    /// Runs pgbench's transactions by way of `address`, `clients` at once, as `options` say.
    ///
    /// # Panics
    /// `pgbench` fails, or says something unknown.
    pub fn transact(&self, address: SocketAddrV4, clients: usize, options: &[&str]) -> Transacted {
        self.transact_within(Duration::from_secs(120), address, clients, options)
    }

    /// The same, if it may take longer than two minutes.
    ///
    /// # Panics
    /// As there, or it takes longer than `within`.
    pub fn transact_within(
        &self,
        within: Duration,
        address: SocketAddrV4,
        clients: usize,
        options: &[&str],
    ) -> Transacted {
        let mut pgbench = self.pgbench(address);
        pgbench.args(["--no-vacuum", "--jobs", "2", "--client", &clients.to_string()]).args(options);
        let output = process::run("pgbench", &mut pgbench, within);
        let figure = |name: &str| {
            output
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().split([' ', '/']).next()?.parse().ok())
                .unwrap_or_else(|| panic!("pgbench did not say {name:?}:\n{output}"))
        };
        Transacted {
            processed: figure("number of transactions actually processed:"),
            failed: figure("number of failed transactions:"),
        }
    }

    fn pgbench(&self, address: SocketAddrV4) -> Command {
        let mut pgbench = Command::new(self.programs.join("pgbench"));
        pgbench.args(["--username=postgres", "--host", &address.ip().to_string()]);
        pgbench.args(["--port", &address.port().to_string()]).env("PGDATABASE", "postgres").env("LC_ALL", "C");
        pgbench
    }
}

/// What `pgbench` counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Transacted {
    /// Transactions that were carried out.
    pub processed: u64,
    /// Transactions that failed.
    pub failed: u64,
}

/// PostgreSQL refuses to run as root; its package brings a user for that.
fn unprivileged_user() -> Option<User> {
    getuid().is_root().then(|| {
        User::from_name("postgres").ok().flatten().expect("the user postgres, which the package postgresql makes")
    })
}

/// The folder of the newest version installed; on other systems than Debian the programs are on `PATH`.
fn newest_programs() -> PathBuf {
    fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|folder| folder.join("initdb").is_file() && folder.join("pgbench").is_file())
        .max_by_key(|folder| folder.parent().and_then(Path::file_name)?.to_str()?.parse::<u32>().ok())
        .unwrap_or_else(|| find("initdb").parent().expect("a program lies in a folder").to_path_buf())
}
