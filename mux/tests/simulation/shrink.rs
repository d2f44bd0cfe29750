//! A failing scenario made as small as it goes: what is left is what it takes.

use std::fmt::Write;

use crate::run::Failure;
use crate::scenario::Scenario;

/// The smallest scenario found that fails as `scenario` does, and how it fails. `play` gives the failure, if there is one.
///
/// What comes after the failure goes first, then ever smaller parts of the rest, until nothing more can be left out
/// (Zeller and Hildebrandt's ddmin, 2002, without its restarts).
pub fn shrink(
    scenario: &Scenario,
    failure: Failure,
    mut play: impl FnMut(&Scenario) -> Option<Failure>,
) -> (Scenario, Failure) {
    let (mut least, mut failure) = (scenario.clone(), failure);
    let mut size = least.events.len().max(1);
    loop {
        let mut from = 0;
        let before = least.events.len();
        while from < least.events.len() {
            let mut fewer = least.clone();
            fewer.events.drain(from..(from + size).min(least.events.len()));
            match play(&fewer).filter(|other| other.kind() == failure.kind()) {
                Some(other) => (least, failure) = (fewer, other),
                None => from += size,
            }
        }
        if size == 1 && least.events.len() == before {
            return (least, failure);
        }
        size = (size / 2).max(1);
    }
}

/// All that is worth knowing of a failure, and how to see it again.
pub fn report(scenario: &Scenario, least: &Scenario, failure: &Failure) -> String {
    let seed = scenario.seed;
    let mut text =
        format!("{}\n\nwith these {} of {} events, ", failure.what, least.events.len(), scenario.events.len());
    let _ = write!(text, "after {} steps, at {:.6} s:\n{least}", failure.steps, failure.at_us as f64 / 1e6);
    text.push_str("\nthe last messages before:\n");
    for line in &failure.trace {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(text, "\nagain: UMBILICAL_SIM_SEED={seed} cargo test -p umbilical-mux --test simulation whatever");
    text
}
