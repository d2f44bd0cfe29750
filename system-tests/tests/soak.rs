//! Promise: who uses the tunnel does not notice that the path beneath it breaks, again and again. One shell, one database client
//! and one copy of 2 GiB live through a hundred cuts, a relay that is killed, and a minute without any network; and no process
//! has grown by it.
//!
//! One round takes six minutes. `UMBILICAL_SOAK_ROUNDS=10` takes an hour, `UMBILICAL_SOAK_SEED` repeats a run's faults.

use std::{
    env,
    fmt::{self, Write as _},
    io::{Read, Write},
    net::{SocketAddrV4, TcpStream},
    process::ChildStdin,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use umbilical_system_tests::{
    deployment::{Setup, Topology},
    echo,
    fault_proxy::{FaultProxy, Toward, Weather},
    files::{self, Folder},
    process::{Process, run},
    programs::{
        postgresql::Postgresql,
        sshd::{Remote, Sshd},
    },
    tunnel::Tunnel,
    wait,
};

const CUTS: usize = 100;
const OUTAGE: Duration = Duration::from_secs(60);
/// A stream that waits longer for its link than this is worth a line.
const LONG: Duration = Duration::from_secs(2);
/// As long as a round, or nearly.
const TRANSACTING: Duration = Duration::from_secs(270);
const COPIED: u64 = 2 << 30;
/// A second's worth of a copy: as long as it takes to cut a hundred times, and as long as there is no network and longer.
const CUT_KILOBITS: &str = "96000";
const AWAY_KILOBITS: &str = "320000";
const COPIED_WITHIN: Duration = Duration::from_secs(600);
/// Long enough for whatever notices a dead connection by its silence, and shorter than `resume-for`.
const MOVES_WITHIN: Duration = Duration::from_secs(50);
/// What a process may have grown by while nothing grows: allocators round up.
const GROWTH: u64 = 2 << 20;

#[test]
fn a_shell_a_database_and_copies_outlive_cuts_a_killed_relay_and_a_minute_without_network() {
    let rounds: usize = number("UMBILICAL_SOAK_ROUNDS").unwrap_or(1);
    let seed: u64 = number("UMBILICAL_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("UMBILICAL_SOAK_SEED={seed}");
    let (sshd, postgresql) = (&Sshd::start(), Postgresql::start());
    postgresql.fill(postgresql.address, 5);
    let services = [("ssh", sshd.address), ("sql", postgresql.address), ("echo", echo::start())];
    let mut world = World::start(&services, Rng::with_seed(seed));
    let (ssh, sql) = (world.tunnel.exposure("ssh"), world.tunnel.exposure("sql"));
    // once, so that every process has what it keeps
    let mut stream = Echoing::open(world.tunnel.exposure("echo"));
    stream.moves_again();
    let before = world.open_files();

    let mut shell = Shell::open(sshd, ssh);
    shell.answers(wait::SOON);
    let mut waits = Vec::new();
    for _ in 0..rounds {
        thread::scope(|scope| {
            let transacting = scope.spawn(|| {
                let options = [&format!("--time={}", TRANSACTING.as_secs()), "--rate=200"];
                postgresql.transact_within(TRANSACTING + MOVES_WITHIN, sql, 4, &options)
            });

            let file = Copy::of(COPIED, CUT_KILOBITS);
            let copying = scope.spawn(move || file.run(sshd, ssh, Remote::Target));
            let mut memory = Memory::default();
            for _ in 0..CUTS {
                let fault = world.fault();
                let wait = stream.moves_again();
                if wait > LONG {
                    println!("{wait:?} after {fault:?}");
                    for p in world.processes() {
                        let o = p.output();
                        let l: Vec<_> = o.lines().collect();
                        println!("----");
                        for x in &l[l.len().saturating_sub(60)..] {
                            println!("{x}");
                        }
                    }
                }
                waits.push(wait);
                memory.sample(&world);
                thread::sleep(Duration::from_millis(world.rng.u64(500..2_000)));
            }
            assert!(!copying.is_finished(), "the copy was over before it had been cut {CUTS} times");
            shell.answers(MOVES_WITHIN);
            println!("{}", memory.assert_flat(&world));
            let file = copying.join().expect("scp goes through");
            file.assert_whole();

            let file = Copy::of(COPIED, AWAY_KILOBITS);
            let copying = scope.spawn(move || file.run(sshd, ssh, Remote::Source));
            let carried = world.agents_path.carried();
            wait::for_some("the next copy to be on its way", wait::SOON, || {
                (world.agents_path.carried() > carried + (16 << 20)).then_some(())
            });
            world.tunnel.restart_relay();
            println!("the relay was killed and started: a stream moves again within {:?}", stream.moves_again());
            shell.answers(MOVES_WITHIN);
            world.outage();
            println!("after {OUTAGE:?} without network a stream moves again within {:?}", stream.moves_again());
            shell.answers(MOVES_WITHIN);
            copying.join().expect("scp goes through").assert_whole();

            let transacted = transacting.join().expect("pgbench goes through");
            println!("{transacted:?}");
            assert!(transacted.processed > 0 && transacted.failed == 0, "{transacted:?}");
        });
    }
    println!("from a cut until a stream moves: {}", Waits(waits));
    shell.exits();
    let as_before = || world.open_files().iter().zip(&before).all(|(now, before)| now <= before).then_some(());
    let what =
        || format!("agent, relay and gateway to have no more files open than {before:?}: {:?}", world.open_files());
    wait::for_some_of(what, wait::SOON, as_before);
}

/// Whose connections were cut.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Both,
    Agents,
    Gateways,
    /// One direction of them.
    AgentsHalf(Toward),
}

/// The tunnel, with a proxy on each side of the relay.
struct World {
    tunnel: Tunnel,
    agents_path: FaultProxy,
    gateways_path: FaultProxy,
    rng: Rng,
}

impl World {
    fn start(services: &[(&str, SocketAddrV4)], rng: Rng) -> World {
        let setup = Setup::new(Topology::Apart);
        let deployment = services.iter().fold(setup, |setup, (name, target)| setup.service(name, *target)).write();
        let (agents_path, gateways_path) = (FaultProxy::start(deployment.relay), FaultProxy::start(deployment.relay));
        deployment.agent_dials(agents_path.address);
        deployment.gateway_dials(gateways_path.address);
        let tunnel = Tunnel::start_deployment(deployment);
        World { tunnel, agents_path, gateways_path, rng }
    }

    /// Cuts something, and lets the path be another afterwards.
    fn fault(&mut self) -> Fault {
        let fault = match self.rng.u32(0..10) {
            0..5 => Fault::Both,
            5..7 => Fault::Agents,
            7..9 => Fault::Gateways,
            _ => Fault::AgentsHalf(if self.rng.bool() { Toward::Relay } else { Toward::Dialler }),
        };
        let (agents, gateways) = (&self.agents_path, &self.gateways_path);
        let cut = match fault {
            Fault::Both => agents.reset() + gateways.reset(),
            Fault::Agents => agents.reset(),
            Fault::Gateways => gateways.reset(),
            Fault::AgentsHalf(toward) => agents.half_close(toward),
        };
        assert!(cut > 0, "there was nothing to be cut");
        let milliseconds = if self.rng.u8(0..4) == 0 { self.rng.u64(1..20) } else { 0 };
        let bytes_per_second = (self.rng.u8(0..8) == 0).then(|| self.rng.u32(16 << 20..64 << 20));
        let weather = Weather { delay: Duration::from_millis(milliseconds), bytes_per_second, stalled: false };
        for path in [&self.agents_path, &self.gateways_path] {
            path.set(weather);
        }
        fault
    }

    /// Connections that were there lead nowhere any more, others do not come about.
    fn outage(&self) {
        for path in [&self.agents_path, &self.gateways_path] {
            path.set(Weather { stalled: true, ..Weather::default() });
            path.vanish();
        }
        thread::sleep(OUTAGE);
        for path in [&self.agents_path, &self.gateways_path] {
            path.set(Weather::default());
        }
    }

    fn processes(&self) -> [&Process; 3] {
        [&self.tunnel.agent, &self.tunnel.cloud[0], &self.tunnel.cloud[1]]
    }

    fn open_files(&self) -> [usize; 3] {
        self.processes().map(Process::open_files)
    }
}

/// The resident memory of agent, relay and gateway in the course of time, in bytes.
#[derive(Default)]
struct Memory([Vec<u64>; 3]);

impl Memory {
    fn sample(&mut self, world: &World) {
        for (samples, process) in self.0.iter_mut().zip(world.processes()) {
            samples.push(process.resident_bytes());
        }
    }

    /// What there is at the end is what there was when everything had been used. Returns both, for a person.
    fn assert_flat(&self, world: &World) -> String {
        let (peak, budget) = (world.tunnel.agent.peak_resident_bytes(), world.tunnel.memory_budget_bytes());
        assert!(peak <= budget, "the agent had {peak} bytes resident and announced {budget}");
        let mut told = String::from("bytes resident in the second and in the last quarter of the cuts:");
        for (name, samples) in ["agent", "relay", "gateway"].iter().zip(&self.0) {
            let quarter = samples.len() / 4;
            let (early, late) = (median(&samples[quarter..2 * quarter]), median(&samples[samples.len() - quarter..]));
            assert!(late <= early + GROWTH, "{name} has grown: {samples:?}");
            let _ = write!(told, " {name} {early} and {late};");
        }
        told
    }
}

/// A shell on a terminal of the device.
struct Shell {
    ssh: Process,
    input: ChildStdin,
    asked: u64,
}

impl Shell {
    fn open(sshd: &Sshd, address: SocketAddrV4) -> Shell {
        let mut ssh = sshd.ssh(address);
        let (ssh, input) = Process::start_with_input("ssh", ssh.args(["-tt", "/bin/sh"]));
        Shell { ssh, input, asked: 0 }
    }

    /// It is still there, and knows how often it was asked.
    fn answers(&mut self, within: Duration) {
        self.asked += 1;
        self.input.write_all(b"asked=$((asked + 1)); echo \"asked: $asked.\"\n").expect("ssh takes what is typed");
        self.ssh.line_with(&[&format!("asked: {}.", self.asked)], within);
    }

    fn exits(mut self) {
        self.input.write_all(b"exit 7\n").expect("ssh takes what is typed");
        assert_eq!(self.ssh.ended(wait::SOON).code(), Some(7));
    }
}

/// A stream that is open all the time.
struct Echoing(TcpStream, u64);

impl Echoing {
    fn open(address: SocketAddrV4) -> Echoing {
        let stream = TcpStream::connect(address).expect("the exposure is open");
        stream.set_read_timeout(Some(MOVES_WITHIN)).expect("that is a duration");
        Echoing(stream, 0)
    }

    /// How long it takes from now until what is said now has come back.
    fn moves_again(&mut self) -> Duration {
        let since = Instant::now();
        self.1 += 1;
        self.0.write_all(&self.1.to_be_bytes()).expect("the stream is open");
        let mut answer = [0; 8];
        self.0.read_exact(&mut answer).unwrap_or_else(|error| panic!("after {:?}: {error}", since.elapsed()));
        assert_eq!(u64::from_be_bytes(answer), self.1, "what came back");
        since.elapsed()
    }
}

/// A file to be copied, as slowly as it takes for faults to meet it.
struct Copy {
    folder: Folder,
    hash: String,
    kilobits_per_second: &'static str,
}

impl Copy {
    fn of(length: u64, kilobits_per_second: &'static str) -> Copy {
        let folder = Folder::new();
        files::make_random(&folder.path("original"), length);
        let hash = files::sha256(&folder.path("original"));
        Copy { folder, hash, kilobits_per_second }
    }

    fn run(self, sshd: &Sshd, address: SocketAddrV4, remote: Remote) -> Copy {
        let (from, to) = (self.folder.path("original"), self.folder.path("arrived"));
        let mut scp = sshd.scp_with(&["-l", self.kilobits_per_second], address, &from, &to, remote);
        run("scp", &mut scp, COPIED_WITHIN);
        self
    }

    fn assert_whole(&self) {
        assert_eq!(files::sha256(&self.folder.path("arrived")), self.hash);
    }
}

/// How long things took.
struct Waits(Vec<Duration>);

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
        write!(f, "{} times, p50 {:?}, p99 {:?}, at most {:?}", sorted.len(), at(50), at(99), at(100))
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}
