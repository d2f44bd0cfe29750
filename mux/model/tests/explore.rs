//! Every order of events of two records each way and two cuts; and each planted bug, found.

use stateright::{Checker, Expectation, Model};
use umbilical_resume_model::{Action, Bounds, Bug, Resume};

/// The shortest way to what must never be, if there is one: its name and the events.
fn shortest_failure(model: Resume) -> Option<(&'static str, Vec<Action>)> {
    (2..60).find_map(|depth| {
        let checker = model.checker().target_max_depth(depth).spawn_bfs().join();
        let always = model.properties().into_iter().filter(|property| property.expectation == Expectation::Always);
        always.map(|property| property.name).find_map(|name| Some((name, checker.discovery(name)?.into_actions())))
    })
}

fn assert_sound(bounds: Bounds) {
    let model = Resume { bounds, bug: None };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model.checker().threads(threads).spawn_bfs().join();
    assert!(checker.unique_state_count() > 3_000, "{bounds:?}: this explores nothing");
    for property in model.properties() {
        let found = checker.discovery(property.name).is_some();
        match property.expectation {
            Expectation::Sometimes => assert!(found, "never: {}", property.name),
            _ => assert!(!found, "{bounds:?}: not so: {:?}", shortest_failure(model)),
        }
    }
}

/// Two records each way and two cuts at any moment, and with them what else can happen to a session.
#[test]
fn nothing_is_lost_whatever_the_order_of_events() {
    for (takeovers, losses) in [(0, 0), (1, 1), (2, 0)] {
        assert_sound(Bounds { records: 2, cuts: 2, takeovers, losses });
    }
}

/// More of what happens to links, and less to say.
#[test]
fn nothing_is_lost_with_more_takeovers_and_losses() {
    for (cuts, takeovers, losses) in [(1, 2, 0), (1, 0, 2), (1, 1, 1)] {
        assert_sound(Bounds { records: 1, cuts, takeovers, losses });
    }
}

// The properties, by name: each has a bug that breaks it.
const ORDER: &str = "every record once and in order";
const PEACE: &str = "neither side accuses the other";
const UNBROKEN: &str = "no state is dropped without a reason";
const DIALS: &str = "the gateway dials no more than links are lost";
const ARRIVED: &str = "where nothing more happens, all has arrived";

#[test]
fn each_planted_bug_is_found() {
    let bounds = Bounds { records: 2, cuts: 1, takeovers: 1, losses: 0 };
    for (bug, name, bounds) in [
        (Bug::ReadsOn, ORDER, bounds),
        (Bug::TakesOld, ORDER, bounds),
        (Bug::SendsOn, ORDER, bounds),
        (Bug::ResendsAll, ORDER, bounds),
        (Bug::CountsAcks, ORDER, bounds),
        (Bug::ComparesFlags, ORDER, Bounds { losses: 2, takeovers: 0, ..bounds }),
        (Bug::BeginsAnew, UNBROKEN, bounds),
        (Bug::RefusesResumption, DIALS, bounds),
        (Bug::AcknowledgesMore, PEACE, bounds),
        (Bug::NeverRedials, ARRIVED, bounds),
    ] {
        let (found, actions) = shortest_failure(Resume { bounds, bug: Some(bug) }).expect("the bug is found");
        assert_eq!(found, name, "{bug:?}: {actions:?}");
    }
}
