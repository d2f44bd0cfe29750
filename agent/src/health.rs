//! How the agent is doing: at which relays it listens, and why not at the others.
//!
//! Owns: what is known of that, and the words for it: one line for the service manager, one screen for people. Leaves to others:
//! finding out (`listener`, `relays`, `supervisor`), telling (`service_manager`).

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    time::Duration,
};

use event_listener::{Event, EventListener};

use crate::{log::one_line, sys::boot_time};

/// What is known of the whole agent.
#[derive(Debug, Default)]
pub struct Health {
    relays: RefCell<Vec<Rc<Standing>>>,
    /// Why the last reload changed nothing.
    refused: RefCell<Option<String>>,
    stopping: Cell<bool>,
    control_channels: Rc<Cell<u64>>,
    changed: Rc<Event>,
}

/// How the device stands with one relay.
#[derive(Debug)]
pub struct Standing {
    relay: String,
    place: RefCell<Place>,
    since: Cell<Duration>,
    control_channels: Rc<Cell<u64>>,
    changed: Rc<Event>,
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On its way, for the first time.
    Connecting,
    /// Its control channel is open.
    Listening,
    /// There is no control channel, for this reason.
    Away(String),
    /// It is not wanted while another relay is there.
    InReserve,
}

impl Health {
    /// The standing with a new relay, which counts when it is among [`Health::stand`]'s.
    #[must_use]
    pub fn standing(&self, relay: &impl fmt::Display) -> Rc<Standing> {
        Rc::new(Standing {
            relay: relay.to_string(),
            place: RefCell::new(Place::Connecting),
            since: Cell::new(boot_time()),
            control_channels: Rc::clone(&self.control_channels),
            changed: Rc::clone(&self.changed),
        })
    }

    /// These are the relays from now on.
    pub fn stand(&self, relays: Vec<Rc<Standing>>) {
        *self.relays.borrow_mut() = relays;
        self.changed.notify(usize::MAX);
    }

    /// What became of the last reload: `None` if it was taken over, else why not.
    pub fn reloaded(&self, refused: Option<String>) {
        *self.refused.borrow_mut() = refused;
        self.changed.notify(usize::MAX);
    }

    /// The agent was asked to stop.
    pub fn stopping(&self) {
        self.stopping.set(true);
        self.changed.notify(usize::MAX);
    }

    /// How many control channels have come up since the start.
    #[must_use]
    pub fn control_channels(&self) -> u64 {
        self.control_channels.get()
    }

    /// Whether the device can be reached: it listens at one relay at least, and was not asked to stop.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.stopping.get() && self.listening() > 0
    }

    /// Hears of the next change, of those from this call on.
    #[must_use]
    pub fn news(&self) -> EventListener {
        self.changed.listen()
    }

    /// The state in a few words, without a line end.
    #[must_use]
    pub fn line(&self) -> String {
        one_line(format_args!("{}", Line(self)))
    }

    /// The standing with each relay and what else an operator should know, a line each.
    #[must_use]
    pub fn screen(&self) -> String {
        let now = boot_time();
        let relays = self.relays.borrow();
        let mut screen = String::with_capacity(128 * relays.len());
        for standing in &**relays {
            let lasting = Lasting(now.saturating_sub(standing.since.get()));
            let place = standing.place.borrow();
            let (state, why) = match &*place {
                Place::Connecting => ("connecting", None),
                Place::Listening => ("listening", None),
                Place::Away(why) => ("not connected", Some(why)),
                Place::InReserve => ("in reserve", None),
            };
            push(&mut screen, format_args!("{}: {state} for {lasting}", standing.relay));
            if let Some(why) = why {
                push(&mut screen, format_args!("    {why}"));
            }
        }
        if let Some(refused) = &*self.refused.borrow() {
            push(&mut screen, format_args!("the last reload changed nothing: {refused}"));
        }
        screen
    }

    fn listening(&self) -> usize {
        self.relays.borrow().iter().filter(|standing| *standing.place.borrow() == Place::Listening).count()
    }
}

impl Standing {
    /// The listener is there from now on.
    pub fn is(&self, place: Place) {
        let before = self.place.replace(place);
        if std::mem::discriminant(&before) != std::mem::discriminant(&*self.place.borrow()) {
            self.since.set(boot_time());
            if *self.place.borrow() == Place::Listening {
                self.control_channels.set(self.control_channels.get() + 1);
            }
        }
        self.changed.notify(usize::MAX);
    }
}

struct Line<'a>(&'a Health);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let health = self.0;
        if health.stopping.get() {
            return f.write_str("stopping");
        }
        let relays = health.relays.borrow();
        match (health.listening(), &relays[..]) {
            (1, [one]) => write!(f, "listening at {}", one.relay)?,
            (0, relays) => {
                let why = relays.iter().find_map(|standing| match &*standing.place.borrow() {
                    Place::Away(why) => Some(why.clone()),
                    _ => None,
                });
                f.write_str(why.as_deref().unwrap_or("connecting"))?;
            }
            (some, relays) => write!(f, "listening at {some} of {} relays", relays.len())?,
        }
        match &*health.refused.borrow() {
            Some(refused) => write!(f, "; the last reload changed nothing: {refused}"),
            None => Ok(()),
        }
    }
}

fn push(screen: &mut String, line: fmt::Arguments<'_>) {
    screen.push_str(&one_line(line));
    screen.push('\n');
}

/// A time as people say it: its two largest units.
struct Lasting(Duration);

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, _) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, _, _) => write!(f, "{hours} h {} min", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(places: &[Place]) -> Health {
        let health = Health::default();
        let relays = places.iter().enumerate().map(|(number, place)| {
            let standing = health.standing(&format_args!("wss://r{number}/d"));
            standing.is(place.clone());
            standing
        });
        health.stand(relays.collect());
        health
    }

    #[test]
    fn one_relay_that_listens_is_enough() {
        let away = || Place::Away("no route".to_owned());
        for (places, good, line) in [
            (&[Place::Connecting][..], false, "connecting"),
            (&[Place::Listening], true, "listening at wss://r0/d"),
            (&[away()], false, "no route"),
            (&[away(), Place::Listening], true, "listening at 1 of 2 relays"),
            (&[Place::Listening, Place::InReserve], true, "listening at 1 of 2 relays"),
            (&[Place::Connecting, away()], false, "no route"),
        ] {
            let health = with(places);
            assert_eq!((health.is_good(), health.line().as_str()), (good, line), "{places:?}");
            health.stopping();
            assert_eq!((health.is_good(), health.line().as_str()), (false, "stopping"));
        }
    }

    #[test]
    fn a_refused_reload_is_told_until_one_is_taken() {
        let health = with(&[Place::Listening]);
        health.reloaded(Some("agent.toml:4: nonsense".to_owned()));
        assert_eq!(health.line(), "listening at wss://r0/d; the last reload changed nothing: agent.toml:4: nonsense");
        assert!(health.is_good(), "the configuration of before works");
        assert!(health.screen().ends_with("the last reload changed nothing: agent.toml:4: nonsense\n"));
        health.reloaded(None);
        assert_eq!(health.screen(), "wss://r0/d: listening for 0 s\n");
    }

    #[test]
    fn a_relay_cannot_forge_a_line() {
        let health = with(&[Place::Away("403 No\nREADY=1\u{1b}[2J".to_owned())]);
        assert_eq!(health.line(), "403 No\\nREADY=1\\u{1b}[2J");
        assert_eq!(health.screen(), "wss://r0/d: not connected for 0 s\n    403 No\\nREADY=1\\u{1b}[2J\n");
    }

    #[test]
    fn times_have_two_units() {
        let said = |seconds| Lasting(Duration::from_secs(seconds)).to_string();
        assert_eq!([0, 59, 60, 3599].map(said), ["0 s", "59 s", "1 min 0 s", "59 min 59 s"]);
        assert_eq!([3600, 86_399, 86_400, 90_061].map(said), ["1 h 0 min", "23 h 59 min", "1 d 0 h", "1 d 1 h"]);
    }
}
