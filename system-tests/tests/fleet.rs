//! Promise: two thousand devices that lose their relay at the same moment are all back soon after it is, none of them tries
//! over and over, and the relay is not kept busy by their return.
//!
//! The devices are the agent's own listeners, without services, in this process; the relay is the real one.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    cell::Cell,
    fmt::Write as _,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use smol::LocalExecutor;
use umbilical_agent::{
    clock::Clock,
    config::{self, Auth, ProxyChoice},
    credentials::Credentials,
    health::Health,
    listener::{Answer, Asked, LOOK_AGAIN, Listener, Serve},
    presence::Presence,
    stop::stop,
};
use umbilical_link::{
    dial::Dialer,
    proxy::ProxySettings,
    tls::{Roots, client_config},
};
use umbilical_relay_protocol::{Accept, RelayUrl};
use umbilical_system_tests::{
    deployment::{Deployment, OPERATOR_KEY, Setup, Topology},
    limits, wait,
};

const DEVICES: usize = 2_000;
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// The relay is away for as long as a service manager may take to start it again.
const AWAY: Duration = Duration::from_secs(3);
/// They were switched on one after the other, so no more than this many connect at once before the relay is killed.
const AT_FIRST_AT_ONCE: usize = 50;
/// Between two looks at the relay's processor time.
const LOOK: Duration = Duration::from_millis(500);

/// Devices with a control channel.
static CONNECTED: AtomicUsize = AtomicUsize::new(0);
/// Which device failed when: a channel that was lost, or an attempt that came to nothing.
static FAILURES: Mutex<Vec<(usize, Instant)>> = Mutex::new(Vec::new());

thread_local! {
    /// The device that is doing something.
    static AT_WORK: Cell<usize> = const { Cell::new(0) };
}

#[test]
fn two_thousand_devices_come_back_to_a_relay_that_was_killed() {
    limits::raise_open_files(8_192);
    let deployment = Setup::new(Topology::Apart).write();
    name_devices(&deployment);
    let mut relay = deployment.start_relay();
    wait::for_listener(deployment.relay, wait::SOON);
    connect_devices(&deployment);
    all_connected("at first");
    FAILURES.lock().unwrap().clear();

    let killed = Instant::now();
    relay.signal(Signal::SIGKILL);
    relay.ended(wait::SOON);
    thread::sleep(AWAY);
    let (started, relay) = (Instant::now(), deployment.start_relay());
    let mut busy = Vec::new();
    wait::for_some_of(
        || format!("{DEVICES} devices, {} are back", CONNECTED.load(Ordering::Relaxed)),
        BACK_WITHIN,
        || {
            let (since, before) = (Instant::now(), relay.processor_time());
            thread::sleep(LOOK);
            busy.push((relay.processor_time() - before).as_secs_f64() / since.elapsed().as_secs_f64());
            (CONNECTED.load(Ordering::Relaxed) == DEVICES).then_some(())
        },
    );
    println!(
        "all {DEVICES} were back {:?} after the relay was started, {:?} after it was killed",
        started.elapsed(),
        killed.elapsed()
    );
    println!("processors that the relay kept busy, every {LOOK:?}: {busy:.1?}; {:?} in all", relay.processor_time());

    let failures = FAILURES.lock().unwrap();
    let mut of_each = vec![0; DEVICES];
    for (device, _) in failures.iter() {
        of_each[*device] += 1;
    }
    let most = of_each.iter().copied().max().unwrap();
    // the first is the loss itself
    println!("devices by attempts until they were back:{}", histogram(of_each.iter().copied()));
    let seconds = failures.iter().map(|(_, at)| (*at - killed).as_secs());
    println!("losses and failed attempts by seconds since the kill:{}", histogram(seconds));
    assert!(of_each.iter().all(|failures| *failures > 0), "somebody did not lose its relay");
    assert!(most <= 12, "somebody tried {most} times");
}

/// A hybrid connection for each.
fn name_devices(deployment: &Deployment) {
    let mut toml = std::fs::read_to_string(deployment.path("relay.toml")).unwrap();
    for device in 0..DEVICES {
        let _ = writeln!(toml, "[relay.hybrid-connections.device-of-many-{device}]");
    }
    deployment.write_file("relay.toml", &toml);
}

/// All in one thread, as the agent is.
fn connect_devices(deployment: &Deployment) {
    let ca = Roots::File(deployment.path("ca.pem").into());
    let auth = Auth::SharedKey { name: "operator".into(), file: deployment.path(OPERATOR_KEY).into() };
    let base = RelayUrl::parse(&format!("wss://{}", deployment.relay)).unwrap();
    thread::spawn(move || {
        let executor = LocalExecutor::new();
        let (clock, health) = (Arc::new(Clock::new()), Health::default());
        let tls = client_config(&ca, Arc::<Clock>::clone(&clock)).unwrap();
        let dialer = Rc::new(Dialer { tls, proxy: ProxySettings::direct() });
        let mut batch = Vec::new();
        for device in 0..DEVICES {
            let url = base.with_path(&format!("device-of-many-{device}"));
            let presence = Rc::new(Presence::default());
            let listener = Listener {
                credentials: Credentials::new(&auth, &url),
                standing: health.standing(&url),
                relay: config::Relay {
                    url,
                    ca_file: None,
                    proxy: ProxyChoice::None,
                    auth: auth.clone(),
                    keep_alive: Duration::from_secs(60),
                    keep_alive_frame: None,
                    standby_after: None,
                },
                dialer: Rc::clone(&dialer),
                clock: Arc::clone(&clock),
                id: format!("device-{device}"),
                random: note_failure,
                look_again: LOOK_AGAIN,
                presence: Some(Rc::clone(&presence)),
                doubts: Rc::default(),
            };
            executor.spawn(count(Rc::clone(&presence))).detach();
            batch.push(presence);
            executor
                .spawn(at_work(device, async move {
                    let (_stopper, stop) = stop();
                    listener.run(&Nobody, &Nobody, &stop).await;
                }))
                .detach();
            if batch.len() == AT_FIRST_AT_ONCE {
                let connected = async {
                    for presence in batch.drain(..) {
                        presence.is_back_for(Duration::ZERO).await;
                    }
                };
                smol::block_on(executor.run(connected));
            }
        }
        // it ends with the test process
        smol::block_on(executor.run(std::future::pending::<()>()));
    });
}

fn all_connected(when: &str) {
    let what = || format!("{DEVICES} devices {when}, {} are there", CONNECTED.load(Ordering::Relaxed));
    wait::for_some_of(what, BACK_WITHIN, || (CONNECTED.load(Ordering::Relaxed) == DEVICES).then_some(()));
}

async fn count(presence: Rc<Presence>) {
    loop {
        presence.is_back_for(Duration::ZERO).await;
        CONNECTED.fetch_add(1, Ordering::Relaxed);
        presence.is_missing_for(Duration::ZERO).await;
        CONNECTED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `work` does, `device` does.
async fn at_work(device: usize, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    poll_fn(|cx| {
        AT_WORK.set(device);
        work.as_mut().poll(cx)
    })
    .await;
}

/// A listener asks for randomness after each failure, and only then.
fn note_failure() -> u32 {
    FAILURES.lock().unwrap().push((AT_WORK.get(), Instant::now()));
    fastrand::u32(..)
}

fn histogram<T: Ord + std::fmt::Display>(values: impl Iterator<Item = T>) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0) += 1;
    }
    counts.iter().fold(String::new(), |mut text, (value, count)| {
        let _ = write!(text, " {value}: {count};");
        text
    })
}

/// Whom senders and requests come to that nobody sends.
struct Nobody;

impl Answer for Nobody {
    fn answer(&self, _: Accept) {}

    async fn is_waited_for(&self) -> bool {
        false
    }
}

impl Serve for Nobody {
    fn serve(&self, _: Asked) {}
}
