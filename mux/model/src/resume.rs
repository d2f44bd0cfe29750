//! The model: who may do what next, and what must hold whatever was done.

use stateright::{Model, Property};

use crate::link::{BACK, Link, Message, THERE};
use crate::side::{AGENT, GATEWAY, Side, Verdict};

/// How much may happen. The state space is finite because each of these is used up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Records that each side writes.
    pub records: u8,
    /// Links cut without a word.
    pub cuts: u8,
    /// Times that the gateway dials though it has a link or waits for one, or gives up waiting.
    pub takeovers: u8,
    /// Times that a side without a link gives the session up, or the agent restarts.
    pub losses: u8,
}

impl Bounds {
    /// Links that may have to be dialled: one to begin with; another for each that is cut, dialled without need or given
    /// up, or lost to a restart; and one for each of those whose late `Hello` makes the agent leave a good one.
    fn most_links(&self) -> u8 {
        1 + self.cuts + 2 * self.takeovers + 2 * self.losses
    }
}

/// A mistake that an implementation could make, to see that it would be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The gateway goes on reading the link before while it waits for the answer on the next.
    ReadsOn,
    /// The agent still takes what comes over a link before the newest.
    TakesOld,
    /// A new link goes on where the one before stopped, as if what was sent had arrived.
    SendsOn,
    /// A new link begins with the oldest record that was not acknowledged, whatever the peer says it has.
    ResendsAll,
    /// Acknowledgements count as records.
    CountsAcks,
    /// Two sides that both hold a state go on, whichever it is.
    ComparesFlags,
    /// The agent begins anew when a link takes the place of one that it has not lost.
    BeginsAnew,
    /// The agent wants no link of a session that it knows.
    RefusesResumption,
    /// An acknowledgement counts one record too many.
    AcknowledgesMore,
    /// The gateway never notices that its link is gone.
    NeverRedials,
}

/// The model checker's view of a session.
#[derive(Clone, Copy, Debug)]
pub struct Resume {
    /// How much may happen.
    pub bounds: Bounds,
    /// What is done wrongly.
    pub bug: Option<Bug>,
}

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The gateway and the agent.
    pub sides: [Side; 2],
    /// Links that somebody may still hear of.
    pub links: Vec<Link>,
    /// The link on which the gateway waits for an answer.
    pub dialling: Option<u8>,
    /// The number of the last link.
    pub last: u8,
    /// What is left of the bounds.
    pub cuts: u8,
    /// See [`cuts`](Self::cuts).
    pub takeovers: u8,
    /// See [`cuts`](Self::cuts).
    pub losses: u8,
    /// A state may be dropped: a side forgot, or the gateway never heard that it had begun.
    pub excused: bool,
    /// One was without that.
    pub broken: bool,
    /// A side accused the other.
    pub accused: bool,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A side writes its next record, or sends one again.
    Send(usize),
    /// A side acknowledges without a record.
    Acknowledge(usize),
    /// The gateway dials.
    Dial,
    /// The gateway waits no longer for the answer to its `Hello`.
    GiveUpDial,
    /// The next message of that link and way arrives.
    Deliver(u8, usize),
    /// That link is cut.
    Cut(u8),
    /// A side notices that its link is gone.
    Notice(usize),
    /// A side without a link gives the session up.
    Expire(usize),
    /// The agent restarts: its links close, it knows nothing.
    Restart,
}

impl Model for Resume {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Bounds { cuts, takeovers, losses, .. } = self.bounds;
        vec![State {
            sides: [Side::default(), Side::default()],
            links: Vec::new(),
            dialling: None,
            last: 0,
            cuts,
            takeovers,
            losses,
            excused: false,
            broken: false,
            accused: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !self.is_sound(state) {
            return; // what follows tells nothing more
        }
        for (index, side) in state.sides.iter().enumerate() {
            if side.link.is_some() && (side.has_unsent() || side.said < self.bounds.records) {
                actions.push(Action::Send(index));
            } else if side.link.is_some() && side.owes && side.asked {
                actions.push(Action::Acknowledge(index));
            }
            if side.link.is_some_and(|link| self.notices(state, index, link)) {
                actions.push(Action::Notice(index));
            }
            if side.link.is_none() && side.began != 0 && state.losses > 0 {
                actions.push(Action::Expire(index));
            }
        }
        if state.sides[GATEWAY].link.is_none() && state.dialling.is_none() || state.takeovers > 0 {
            actions.push(Action::Dial);
        }
        if let Some(dialled) = state.dialling
            && (state.takeovers > 0 || state.link(dialled).is_none_or(|link| link.is_over_for(GATEWAY)))
        {
            actions.push(Action::GiveUpDial);
        }
        for link in &state.links {
            for way in [THERE, BACK] {
                if !link.ways[way].is_empty() && !self.is_unread(state, link.number, way) {
                    actions.push(Action::Deliver(link.number, way));
                }
            }
            if state.cuts > 0 && !link.cut {
                actions.push(Action::Cut(link.number));
            }
        }
        if state.losses > 0 && state.sides[AGENT].began != 0 {
            actions.push(Action::Restart);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send(side) => {
                let message = state.sides[side].next_record();
                state.push(side, message);
            }
            Action::Acknowledge(side) => {
                let message = state.sides[side].next_ack(self.bug);
                state.push(side, message);
            }
            Action::Dial => state.dial(),
            Action::GiveUpDial => {
                let dialled = state.dialling.take()?;
                if state.link(dialled).is_some_and(|link| !link.is_over_for(GATEWAY)) {
                    state.takeovers -= 1;
                }
                state.close(dialled, GATEWAY);
            }
            Action::Deliver(link, way) => self.deliver(&mut state, link, way)?,
            Action::Cut(link) => {
                state.cuts -= 1;
                state.link_mut(link)?.cut();
            }
            Action::Notice(side) => {
                let link = state.sides[side].link.take()?;
                state.close(link, side);
            }
            Action::Expire(side) => {
                state.losses -= 1;
                state.excused = true;
                state.sides[side].forget();
            }
            Action::Restart => {
                state.losses -= 1;
                state.excused = true;
                let Side { said, delivered, .. } = std::mem::take(&mut state.sides[AGENT]);
                state.sides[AGENT] = Side { said, said_before: said, delivered, ..Side::default() };
                state.links.iter_mut().filter(|link| link.greeted).for_each(|link| link.close(AGENT));
            }
        }
        state.clear_away();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every record once and in order", |_, state: &State| state.is_in_order()),
            Property::always("no state is dropped without a reason", |_, state: &State| !state.broken),
            Property::always("neither side accuses the other", |_, state: &State| !state.accused),
            Property::always("the gateway dials no more than links are lost", Self::dials_enough),
            Property::always("where nothing more happens, all has arrived", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || !model.is_sound(state) || state.has_arrived(model.bounds.records)
            }),
            Property::sometimes("all arrives after every cut", |model: &Self, state: &State| {
                state.cuts == 0 && !state.excused && state.has_arrived(model.bounds.records)
            }),
        ]
    }
}

impl Resume {
    fn dials_enough(&self, state: &State) -> bool {
        state.last <= self.bounds.most_links()
    }

    fn is_sound(&self, state: &State) -> bool {
        state.is_in_order() && !state.broken && !state.accused && self.dials_enough(state)
    }

    /// What comes back on the gateway's link is not read while it waits for the answer on the next.
    fn is_unread(&self, state: &State, link: u8, way: usize) -> bool {
        let waits = state.dialling.is_some_and(|dialled| dialled != link);
        way == BACK && waits && state.sides[GATEWAY].link == Some(link) && self.bug != Some(Bug::ReadsOn)
    }

    fn notices(&self, state: &State, side: usize, link: u8) -> bool {
        if self.bug == Some(Bug::NeverRedials) && side == GATEWAY {
            return false;
        }
        state.link(link).is_none_or(|link| link.is_over_for(side)) && !self.is_unread(state, link, 1 - side)
    }

    fn deliver(&self, state: &mut State, number: u8, way: usize) -> Option<()> {
        let dialled = state.dialling == Some(number);
        let link = state.link_mut(number)?;
        let message = link.ways[way].remove(0);
        let first = if way == THERE { !std::mem::replace(&mut link.greeted, true) } else { dialled };
        let side = if way == THERE { AGENT } else { GATEWAY };
        if let (true, Message::Hello { received, resumes }) = (first, &message) {
            self.greet(state, side, number, (*received, *resumes));
        } else if state.sides[side].link == Some(number) || self.bug == Some(Bug::TakesOld) && way == THERE {
            state.accused |= state.sides[side].handle_message(&message, self.bug).is_err();
        }
        Some(())
    }

    /// The first message of a link: the agent answers or closes it, the gateway takes the answer or closes it.
    fn greet(&self, state: &mut State, side: usize, number: u8, hello: (u8, u8)) {
        if side == GATEWAY {
            state.dialling = None;
        } else if state.sides[GATEWAY].number == 0 {
            // A gateway that never heard an answer knows of no session to go on with.
            state.excused |= state.sides[AGENT].began != 0;
        }
        let before = state.sides[side].link;
        match state.sides[side].handle_hello(side, number, hello, self.bug) {
            Verdict::Refused => return state.close(number, side),
            Verdict::Fresh { dropped } => state.broken |= dropped && !state.excused,
            Verdict::Resumed => {}
        }
        if let Some(before) = before
            && self.bug != Some(Bug::TakesOld)
        {
            state.close(before, side);
        }
        if side == AGENT {
            let answer = state.sides[AGENT].hello(AGENT, number);
            state.push(AGENT, answer);
        }
    }
}

impl State {
    /// The link of that number, if somebody may still hear of it.
    #[must_use]
    pub fn link(&self, number: u8) -> Option<&Link> {
        self.links.iter().find(|link| link.number == number)
    }

    fn link_mut(&mut self, number: u8) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.number == number)
    }

    fn close(&mut self, link: u8, side: usize) {
        if let Some(link) = self.link_mut(link) {
            link.close(side);
        }
    }

    /// Hands a message to the link of `side`.
    fn push(&mut self, side: usize, message: Message) {
        let number = self.sides[side].link;
        if let Some(link) = self.links.iter_mut().find(|link| Some(link.number) == number) {
            link.push(side, message);
        }
    }

    fn dial(&mut self) {
        let needed = self.sides[GATEWAY].link.is_none() && self.dialling.is_none();
        self.takeovers -= u8::from(!needed);
        if let Some(given_up) = self.dialling {
            self.close(given_up, GATEWAY);
        }
        self.last += 1;
        let mut link = Link::new(self.last);
        link.push(THERE, self.sides[GATEWAY].hello(GATEWAY, self.last));
        self.links.push(link);
        self.dialling = Some(self.last);
    }

    /// Forgets links that nobody will hear of again.
    fn clear_away(&mut self) {
        let used = [self.sides[GATEWAY].link, self.sides[AGENT].link, self.dialling];
        self.links.retain(|link| used.contains(&Some(link.number)) || link.ways.iter().any(|way| !way.is_empty()));
    }

    /// Nothing was delivered twice or too early, and sides that hold the same state agree on it.
    fn is_in_order(&self) -> bool {
        (0..2).all(|index| {
            let (from, to) = (&self.sides[1 - index], &self.sides[index]);
            if !to.delivered.is_sorted_by(|earlier, later| earlier < later) {
                return false;
            }
            if to.began == 0 || to.began != from.began {
                return true;
            }
            let Some(start) = to.delivered.len().checked_sub(usize::from(to.received)) else { return false };
            to.delivered[start..].iter().copied().eq(from.said_before + 1..=from.said_before + to.received)
                && from.said_before + to.received <= from.said
        })
    }

    /// Both sides are on one link, have said all, and know that it arrived.
    fn has_arrived(&self, records: u8) -> bool {
        let [gateway, agent] = &self.sides;
        let linked = gateway.link.is_some() && gateway.link == agent.link;
        let told = |from: &Side, to: &Side| {
            from.said == records && from.kept.is_empty() && from.said_before + to.received == records
        };
        linked && told(gateway, agent) && told(agent, gateway)
    }
}
