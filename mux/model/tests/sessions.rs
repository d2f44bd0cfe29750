//! Real sessions do what the model says: each path that the checker explores is walked with two of them, and what they hold
//! in the end is what the model's two sides hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use stateright::{Checker, Model, Path};
use umbilical_mux::{
    Config, End, Hello, Instant, MAX_HELLO, MIN_RECORD, MIN_REPLAY, Mode, Ports, Read, ResetReason, Resumption,
    Session, SessionId, Shape, Slot, Storage, StreamState, Write,
};
use umbilical_resume_model::{AGENT, Action, BACK, Bounds, Bug, GATEWAY, Resume, Side, State, THERE};

const SHAPE: Shape = Shape { streams: 4, replay: MIN_REPLAY, receive: 4_096 };

/// Ports of one end: its own stream says labels, a byte each; what the other says is kept.
#[derive(Default)]
struct Labels {
    own: Option<Slot>,
    says: VecDeque<u8>,
    delivered: Vec<u8>,
}

impl Ports for Labels {
    fn service(&self, _: Slot) -> &str {
        "labels"
    }

    fn accept(&mut self, _: Slot, _: &str, _: Mode) -> Result<(), ResetReason> {
        Ok(())
    }

    fn read(&mut self, slot: Slot, buffer: &mut [u8]) -> Read {
        match self.says.front().filter(|_| self.own == Some(slot)) {
            Some(label) => {
                buffer[0] = *label;
                self.says.pop_front();
                Read::Data(1)
            }
            None => Read::Pending,
        }
    }

    fn write(&mut self, _: Slot, chunks: &[&[u8]]) -> Write {
        self.delivered.extend(chunks.iter().copied().flatten());
        Write::Taken(chunks.iter().map(|chunk| chunk.len()).sum())
    }

    fn finish(&mut self, _: Slot) {}

    fn release(&mut self, slot: Slot, _: End) {
        self.own.take_if(|own| *own == slot);
    }
}

struct Host {
    session: Session<Vec<u8>, Vec<StreamState>>,
    ports: Labels,
}

impl Host {
    fn new(side: usize) -> Self {
        let side = if side == GATEWAY { umbilical_mux::Side::Gateway } else { umbilical_mux::Side::Agent };
        let storage = Storage {
            replay: vec![0; SHAPE.replay],
            receive: vec![0; SHAPE.receive_memory()],
            streams: vec![StreamState::EMPTY; usize::from(SHAPE.streams)],
        };
        let config = Config {
            side,
            id: SessionId([5; 16]),
            shape: SHAPE,
            record: MIN_RECORD,
            resume_for_ms: u64::MAX / 2_000,
            features: 0,
        };
        Self { session: Session::new(config, storage).expect("a good shape"), ports: Labels::default() }
    }

    fn hello(&mut self, link: u8) -> Vec<u8> {
        self.session.hello(link.into()).encode(&mut [0; MAX_HELLO]).to_vec()
    }
}

/// Two real sessions and what is under way between them.
struct World {
    hosts: [Host; 2],
    links: BTreeMap<u8, [VecDeque<Vec<u8>>; 2]>,
    now: Instant,
}

/// What the sessions do otherwise than the model.
type Differs = Result<(), String>;

fn require(holds: bool, what: impl FnOnce() -> String) -> Differs {
    if holds { Ok(()) } else { Err(what()) }
}

impl World {
    fn new() -> Self {
        let hosts = [GATEWAY, AGENT].map(Host::new);
        Self { hosts, links: BTreeMap::new(), now: Instant::from_micros(1_000_000) }
    }

    /// Does what the model did between the two states.
    fn does(&mut self, action: Action, before: &State, after: &State) -> Differs {
        match action {
            Action::Send(side) => {
                let (was, is) = (&before.sides[side], &after.sides[side]);
                if is.said > was.said {
                    self.say(side, is.said);
                }
                self.poll(side, was, true)?;
            }
            Action::Acknowledge(side) => {
                self.now = self.now.after_millis(20);
                self.poll(side, &before.sides[side], false)?;
            }
            Action::Dial => {
                let hello = self.hosts[GATEWAY].hello(after.last);
                self.push(after.last, THERE, hello);
            }
            Action::Deliver(link, way) => self.deliver(link, way, before, after)?,
            Action::Notice(side) => self.hosts[side].session.handle_link_lost(self.now),
            Action::Expire(side) => {
                let Host { session, ports } = &mut self.hosts[side];
                session.abandon(ports, ResetReason::RESUME_EXPIRED);
            }
            Action::Restart => {
                let delivered = std::mem::take(&mut self.hosts[AGENT].ports.delivered);
                self.hosts[AGENT] = Host::new(AGENT);
                self.hosts[AGENT].ports.delivered = delivered;
            }
            Action::Cut(_) | Action::GiveUpDial => {}
        }
        self.lose_what_is_lost(after)
    }

    /// The next record of `side` has a new label, in a stream of its own.
    fn say(&mut self, side: usize, label: u8) {
        let Host { session, ports } = &mut self.hosts[side];
        let slot = *ports.own.get_or_insert_with(|| session.open(self.now, Mode::Stream).expect("room"));
        ports.says.push_back(label);
        session.handle_readable(slot);
    }

    fn poll(&mut self, side: usize, was: &Side, record: bool) -> Differs {
        let Host { session, ports } = &mut self.hosts[side];
        let message = session.poll_message(self.now, ports).ok_or("it has nothing to say")?;
        require(record != message.record.is_empty(), || format!("a record of {} bytes", message.record.len()))?;
        let bytes = [&message.prefix, message.record].concat();
        if let Some(link) = was.link {
            self.push(link, side, bytes);
        }
        Ok(())
    }

    fn push(&mut self, link: u8, way: usize, message: Vec<u8>) {
        self.links.entry(link).or_default()[way].push_back(message);
    }

    fn deliver(&mut self, number: u8, way: usize, before: &State, after: &State) -> Differs {
        let side = if way == THERE { AGENT } else { GATEWAY };
        let (was, is) = (&before.sides[side], &after.sides[side]);
        let link = before.link(number).ok_or("a message of no link")?;
        let message = self.links.entry(number).or_default()[way].pop_front().ok_or("nothing is under way")?;
        let first = if way == THERE { !link.greeted } else { before.dialling == Some(number) };
        let Host { session, ports } = &mut self.hosts[side];
        if !first {
            let taken =
                if was.link == Some(number) { session.handle_message(self.now, &message, ports) } else { Ok(()) };
            return taken.map_err(|violation| violation.to_string());
        }
        let hello = Hello::decode(&message).map_err(|violation| violation.to_string())?;
        let taken = session.handle_hello(self.now, &hello, ports);
        let expected = match is.link == Some(number) {
            false => None,
            true if is.began == number => Some(Resumption::Fresh),
            true => Some(Resumption::Resumed { resent: is.kept.len() as u64 }),
        };
        require(taken.ok() == expected, || format!("the hello led to {taken:?} and not to {expected:?}"))?;
        if side == AGENT && expected.is_some() {
            let answer = self.hosts[AGENT].hello(number);
            self.push(number, BACK, answer);
        }
        Ok(())
    }

    /// What the model lost with its links is lost here too; what is left is the same.
    fn lose_what_is_lost(&mut self, state: &State) -> Differs {
        self.links.retain(|number, _| state.link(*number).is_some());
        for link in &state.links {
            let ways = self.links.entry(link.number).or_default();
            for (queue, model) in ways.iter_mut().zip(&link.ways) {
                queue.truncate(model.len());
                require(queue.len() == model.len(), || format!("{} of {} are under way", queue.len(), model.len()))?;
            }
        }
        Ok(())
    }

    fn is_as(&mut self, state: &State) -> Differs {
        for (index, side) in state.sides.iter().enumerate() {
            let Host { session, ports } = &mut self.hosts[index];
            let dialled = if index == GATEWAY { state.dialling.unwrap_or(side.number) } else { side.number };
            let hello = session.hello(dialled.into());
            let resumes = if index == AGENT && side.began == side.number { 0 } else { side.began };
            let here = (session.is_linked(), session.link_number(), session.is_established());
            let there = (side.link.is_some(), u32::from(side.number), side.began != 0);
            require(here == there, || format!("side {index}: linked, number, established: {here:?}"))?;
            let here = (hello.received, hello.resumes);
            require(here == (side.received.into(), resumes.into()), || format!("side {index}: hello: {here:?}"))?;
            let in_flight = session.link_estimate().in_flight;
            let sent = side.link.is_none() || (in_flight > 0) == (side.sent > 0);
            require(sent, || format!("side {index}: {in_flight} bytes in flight"))?;
            require(ports.delivered == side.delivered, || format!("side {index}: delivered {:?}", ports.delivered))?;
        }
        Ok(())
    }
}

fn walk(path: Path<State, Action>) -> Differs {
    let mut world = World::new();
    let steps = path.into_vec();
    let told = |differs: String| {
        let actions: Vec<_> = steps.iter().filter_map(|(_, action)| *action).collect();
        format!("{differs}, after {actions:?}; the model: {:#?}", steps.last().map(|(state, _)| state))
    };
    for pair in steps.windows(2) {
        if let [(before, Some(action)), (after, _)] = pair {
            world.does(*action, before, after).map_err(told)?;
        }
    }
    steps.last().map_or(Ok(()), |(state, _)| world.is_as(state)).map_err(told)
}

/// Walks every path that the checker takes; how many, and what differs, if anything.
fn compare(model: Resume) -> (usize, Option<String>) {
    let differs = Arc::new(Mutex::new(None));
    let first = Arc::clone(&differs);
    let visit = move |path: Path<State, Action>| {
        if first.lock().expect("nobody panics").is_none()
            && let Err(text) = walk(path)
        {
            first.lock().expect("nobody panics").get_or_insert(text);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let paths = model.checker().threads(threads).visitor(visit).spawn_dfs().join().unique_state_count();
    let differs = differs.lock().expect("nobody panics").take();
    (paths, differs)
}

#[test]
fn sessions_do_what_the_model_says() {
    for (records, cuts, takeovers, losses) in [(2, 2, 0, 0), (2, 1, 1, 0), (2, 1, 0, 1), (1, 1, 1, 1)] {
        let bounds = Bounds { records, cuts, takeovers, losses };
        let (paths, differs) = compare(Resume { bounds, bug: None });
        assert!(paths > 10_000, "{paths} paths are not worth walking");
        assert_eq!(differs, None, "{bounds:?}: {}", differs.as_deref().unwrap_or_default());
    }
}

/// A model of another protocol is told from this one.
#[test]
fn sessions_do_not_what_a_wrong_model_says() {
    let bounds = Bounds { records: 2, cuts: 1, takeovers: 1, losses: 0 };
    for bug in [Bug::SendsOn, Bug::ResendsAll, Bug::CountsAcks] {
        let (_, differs) = compare(Resume { bounds, bug: Some(bug) });
        assert!(differs.is_some(), "{bug:?} is what sessions do");
    }
}
