//! Two sessions and an intruder under random streams, ports that are slow or fail, and links that are late, narrow, stalled,
//! cut after any byte, taken over, and overtaken by newer ones. What must hold is in `support/invariant.rs`.
//!
//! | file | owns |
//! | --- | --- |
//! | `scenario` | what happens in a run, as data; from a seed |
//! | `run` | playing a scenario |
//! | `watch` | whether everything that can move does |
//! | `intruder` | the third party |
//! | `shrink` | a failing scenario made small, and told |
//! | `planted` | for each invariant, a bug that breaks it |
//! | `flapping` | a day of a link that comes and goes |
//!
//! `UMBILICAL_SIM_STEPS` sets how many steps are taken in all; `UMBILICAL_SIM_SEED` repeats one run. A step is a message that
//! arrives or a deadline that comes.
#![allow(unreachable_pub, reason = "a test is no library")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers of the tests are small")]

mod flapping;
mod intruder;
mod planted;
mod run;
mod scenario;
mod shrink;
#[path = "../support/mod.rs"]
mod support;
mod watch;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use run::{Outcome, play};
use scenario::Scenario;
use shrink::{report, shrink};

/// Half a minute's worth on two cores.
const STEPS: u64 = 10_000_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, it is {text:?}")))
}

/// Plays the run of that seed; if it fails, tells what it takes.
fn run(seed: u64) -> Result<Outcome, String> {
    let scenario = Scenario::from_seed(seed);
    play(&scenario, |_| {}).map_err(|failure| {
        let (least, failure) = shrink(&scenario, failure, |fewer| play(fewer, |_| {}).err());
        let traced = play(&least, |pair| pair.trace = Some(VecDeque::new())).err();
        report(&scenario, &least, &traced.unwrap_or(failure))
    })
}

#[test]
fn whatever_happens_nothing_is_lost_and_nothing_stands_still() {
    if let Some(seed) = number("UMBILICAL_SIM_SEED") {
        run(seed).unwrap_or_else(|report| panic!("{report}"));
        return;
    }
    let steps = number("UMBILICAL_SIM_STEPS").unwrap_or(STEPS);
    let (next, done, failed) = (AtomicU64::new(0), Mutex::new(Outcome::default()), Mutex::new(None));
    let work = || {
        while done.lock().expect("nobody panics").steps < steps && failed.lock().expect("nobody panics").is_none() {
            match run(next.fetch_add(1, Ordering::Relaxed)) {
                Ok(outcome) => done.lock().expect("nobody panics").add(&outcome),
                Err(report) => *failed.lock().expect("nobody panics") = Some(report),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    if let Some(report) = failed.into_inner().expect("nobody panics") {
        panic!("{report}");
    }
    let (runs, done) = (next.into_inner(), done.into_inner().expect("nobody panics"));
    let Outcome { closed, resent, late, .. } = done;
    assert!(closed > 5 * runs && resent > 20 * runs && late > runs / 2, "{runs} runs simulate nothing: {done:?}");
}

#[test]
fn a_seed_always_makes_the_same_run() {
    for seed in [3, 14, 159] {
        assert_eq!(run(seed), run(seed));
    }
}
