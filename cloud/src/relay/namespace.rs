//! Which hybrid connections there are, who may use them, and who is listening at each.
//!
//! Owns the registry. Leaves to others: what a token proves (`authorize`), talking to listeners (`listen`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol::channel::{Receiver, Sender, bounded};
use umbilical_relay_protocol::{Close, MAX_LISTENERS, Rejection, Rule, entity_key, find_entity};

use super::affinity::Affinity;
use super::config::RelayConfig;
use super::issuers::Issuers;
use super::signal::Signal;

/// Messages that may wait for a listener. One that is this far behind is passed over.
const MAX_QUEUED: usize = 64;

#[derive(Default)]
pub(crate) struct Namespace {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Arc<[Rule]>,
    issuers: Arc<Issuers>,
    entities: HashMap<String, Entity>,
    next_serial: u64,
}

struct Entity {
    path: Arc<str>,
    rules: Arc<[Rule]>,
    requires_client_authorization: bool,
    removed: Signal,
    /// Raised, and replaced by a new one, when a listener registers.
    arrived: Signal,
    listeners: Vec<Listener>,
}

/// What a request path turned out to be about.
#[derive(Clone)]
pub(crate) struct Found {
    /// The entity's path as configured: its name in logs and messages.
    pub(crate) path: Arc<str>,
    pub(crate) rules: Arc<[Rule]>,
    pub(crate) namespace_rules: Arc<[Rule]>,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) requires_client_authorization: bool,
    /// Raised when the entity is taken out of the configuration.
    pub(crate) removed: Signal,
    key: String,
}

/// A listener as others see it.
#[derive(Clone)]
pub(crate) struct Listener {
    /// Unlike any other's in this process.
    pub(crate) serial: u64,
    /// The name it goes by.
    pub(crate) id: Arc<str>,
    /// Scheme, host and port it is to dial.
    pub(crate) origin: Arc<str>,
    /// For its control channel.
    pub(crate) notices: Sender<Notice>,
    /// Raised when its control channel is gone.
    pub(crate) gone: Signal,
    closing: Sender<Close>,
}

/// What a listener is told on its control channel: a text message and, right behind it with nothing in between, a binary
/// one if there is a body.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) body: Option<Vec<u8>>,
}

/// Why nobody was picked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unpicked {
    /// There are no listeners.
    Nobody,
    /// There are, and the sender wants none of them.
    Excluded,
    /// All that are left have been passed over.
    PassedOver,
}

/// A listener's own end: it is registered for as long as this lives.
pub(crate) struct Registration {
    namespace: Arc<Namespace>,
    key: String,
    pub(crate) serial: u64,
    /// What to write to the control channel.
    pub(crate) notices: Receiver<Notice>,
    gone: Signal,
    /// Why the channel is to be closed.
    pub(crate) closing: Receiver<Close>,
    /// Whether an older connection of the same listener had to go.
    pub(crate) took_over: bool,
}

impl Namespace {
    /// Takes over a configuration. Entities that stay keep their listeners; those of entities that go are closed.
    pub(crate) fn configure(&self, config: &RelayConfig) {
        let mut state = self.lock();
        let mut old = std::mem::take(&mut state.entities);
        state.rules = config.rules.as_slice().into();
        state.issuers = Arc::new(Issuers::new(&config.issuers, config.deadlines.keys, &state.issuers));
        for entity in &config.hybrid_connections {
            let key = entity_key(&entity.path);
            let known = state.entities.remove(&key).or_else(|| old.remove(&key));
            let (removed, arrived, listeners) = known.map_or_else(
                || (Signal::new(), Signal::new(), Vec::new()),
                |entity| (entity.removed, entity.arrived, entity.listeners),
            );
            let entity = Entity {
                path: entity.path.trim_matches('/').into(),
                rules: entity.rules.as_slice().into(),
                requires_client_authorization: entity.requires_client_authorization,
                removed,
                arrived,
                listeners,
            };
            state.entities.insert(key, entity);
        }
        for entity in old.into_values() {
            entity.removed.raise();
            for listener in entity.listeners {
                listener.close(Close::entity_deleted());
            }
        }
    }

    /// The entity that `path` is about and the rest of the path.
    pub(crate) fn find<'p>(&self, path: &'p str) -> Option<(Found, &'p str)> {
        let state = self.lock();
        find_entity(path, |key| {
            let entity = state.entities.get(key)?;
            Some(Found {
                path: Arc::clone(&entity.path),
                rules: Arc::clone(&entity.rules),
                namespace_rules: Arc::clone(&state.rules),
                issuers: Arc::clone(&state.issuers),
                requires_client_authorization: entity.requires_client_authorization,
                removed: entity.removed.clone(),
                key: key.to_owned(),
            })
        })
    }

    /// How many listeners there are at the entity that `path` is about.
    pub(crate) fn listeners(&self, path: &str) -> usize {
        let state = self.lock();
        find_entity(path, |key| Some(state.entities.get(key)?.listeners.len())).map_or(0, |(count, _)| count)
    }

    /// The next listener's arrival at the entity that `path` is about.
    pub(crate) fn arrival(&self, path: &str) -> Option<Signal> {
        let state = self.lock();
        find_entity(path, |key| Some(state.entities.get(key)?.arrived.clone())).map(|(arrived, _)| arrived)
    }

    /// Registers a listener under `id`. An older connection of the same id is closed: the newest is the one that the
    /// listener itself believes in.
    ///
    /// # Errors
    /// The entity has gone meanwhile, or has [`MAX_LISTENERS`] others.
    pub(crate) fn register(
        self: &Arc<Self>,
        entity: &Found,
        id: &str,
        origin: &str,
    ) -> Result<Registration, Rejection> {
        let mut state = self.lock();
        state.next_serial += 1;
        let serial = state.next_serial;
        let Some(known) = state.entities.get_mut(&entity.key) else {
            return Err(Rejection::endpoint_not_found(&entity.path));
        };
        let older = known.listeners.iter().position(|listener| listener.id.eq_ignore_ascii_case(id));
        if older.is_none() && known.listeners.len() >= MAX_LISTENERS {
            return Err(Rejection::too_many_listeners(&entity.path));
        }
        if let Some(older) = older {
            known
                .listeners
                .swap_remove(older)
                .close(Close::new(1001, "Replaced by a newer connection of this listener"));
        }
        let (notices_in, notices) = bounded(MAX_QUEUED);
        let gone = Signal::new();
        let (closing_in, closing) = bounded(1);
        known.listeners.push(Listener {
            serial,
            id: id.into(),
            origin: origin.into(),
            notices: notices_in,
            gone: gone.clone(),
            closing: closing_in,
        });
        std::mem::replace(&mut known.arrived, Signal::new()).raise();
        Ok(Registration {
            namespace: Arc::clone(self),
            key: entity.key.clone(),
            serial,
            notices,
            gone,
            closing,
            took_over: older.is_some(),
        })
    }

    /// One of the entity's listeners that will do, chosen by `random`, that is not in `passed_over`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn pick(
        &self,
        entity: &Found,
        affinity: &Affinity,
        passed_over: &[u64],
        random: u32,
    ) -> Result<Listener, Unpicked> {
        let state = self.lock();
        let listeners = state.entities.get(&entity.key).map_or(&[][..], |entity| &entity.listeners);
        let admitted = || listeners.iter().filter(|listener| affinity.admits(&listener.id));
        let candidates = || admitted().filter(|listener| !passed_over.contains(&listener.serial));
        let chosen = (random as usize).checked_rem(candidates().count()).and_then(|nth| candidates().nth(nth));
        chosen.cloned().ok_or_else(|| match () {
            () if listeners.is_empty() => Unpicked::Nobody,
            () if admitted().next().is_none() => Unpicked::Excluded,
            () => Unpicked::PassedOver,
        })
    }

    /// Tells every listener why its channel ends.
    pub(crate) fn close_all(&self, close: &Close) {
        for entity in self.lock().entities.values() {
            for listener in &entity.listeners {
                listener.close(close.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// The first reason counts.
    fn close(&self, close: Close) {
        let _ = self.closing.try_send(close);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.gone.raise();
        if let Some(entity) = self.namespace.lock().entities.get_mut(&self.key) {
            entity.listeners.retain(|listener| listener.serial != self.serial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::HybridConnection;
    use super::*;

    fn entity(path: &str) -> HybridConnection {
        HybridConnection { path: path.into(), rules: Vec::new(), requires_client_authorization: true }
    }

    fn namespace(paths: &[&str]) -> Arc<Namespace> {
        let namespace = Arc::new(Namespace::default());
        configure(&namespace, paths);
        namespace
    }

    fn configure(namespace: &Namespace, paths: &[&str]) {
        let hybrid_connections = paths.iter().map(|path| entity(path)).collect();
        namespace.configure(&RelayConfig { hybrid_connections, ..RelayConfig::default() });
    }

    fn found(namespace: &Namespace, path: &str) -> Found {
        namespace.find(path).unwrap().0
    }

    fn pick(namespace: &Namespace, entity: &Found, passed_over: &[u64], random: u32) -> Result<Listener, Unpicked> {
        namespace.pick(entity, &Affinity::default(), passed_over, random)
    }

    #[test]
    fn the_longest_registered_path_wins_in_any_case() {
        let namespace = namespace(&["Plant", "/plant/Line 2/"]);
        let find = |path| namespace.find(path).map(|(found, suffix)| (found.path.to_string(), suffix.to_owned()));
        assert_eq!(find("PLANT/line 2/x/Y"), Some(("plant/Line 2".into(), "x/Y".into())));
        assert_eq!(find("plant/line 22"), Some(("Plant".into(), "line 22".into())));
        assert_eq!(find("plantation"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn the_26th_listener_is_refused_until_one_leaves() {
        let namespace = namespace(&["a"]);
        let a = found(&namespace, "a");
        let mut registrations: Vec<_> =
            (0..MAX_LISTENERS).map(|n| namespace.register(&a, &n.to_string(), "").ok().unwrap()).collect();
        let refused = namespace.register(&a, "one more", "").err().unwrap();
        assert_eq!(refused.status(), 403);
        assert!(refused.reason().contains("MaximumListenersPerEndpoint"), "{refused}");
        registrations.pop();
        assert!(namespace.register(&a, "one more", "").is_ok());
    }

    #[test]
    fn the_newest_connection_of_a_listener_takes_its_place() {
        let namespace = namespace(&["a"]);
        let a = found(&namespace, "a");
        let old = namespace.register(&a, "me", "old").ok().unwrap();
        let new = namespace.register(&a, "ME", "new").ok().unwrap();
        assert_eq!(old.closing.try_recv().unwrap().code(), 1001);
        assert!(new.took_over && new.closing.is_empty());
        drop(old);
        assert_eq!(&*pick(&namespace, &a, &[], 0).unwrap().origin, "new");
    }

    #[test]
    fn every_listener_has_its_turn_and_those_passed_over_have_none() {
        let namespace = namespace(&["a"]);
        let a = found(&namespace, "a");
        let registrations: Vec<_> = ["x", "y", "z"].map(|id| namespace.register(&a, id, "").ok().unwrap()).into();
        let picked = |passed_over: &[u64]| {
            let mut ids: Vec<_> = (0..30)
                .filter_map(|random| pick(&namespace, &a, passed_over, random).ok())
                .map(|one| one.id.to_string())
                .collect();
            ids.sort();
            ids
        };
        assert_eq!(picked(&[]), [vec!["x"; 10], vec!["y"; 10], vec!["z"; 10]].concat());
        assert_eq!(picked(&[registrations[1].serial]), [vec!["x"; 15], vec!["z"; 15]].concat());
        let all = registrations.iter().map(|registration| registration.serial).collect::<Vec<_>>();
        assert_eq!(pick(&namespace, &a, &all, 0).err(), Some(Unpicked::PassedOver));
        drop(registrations);
        assert_eq!(pick(&namespace, &a, &[], 0).err(), Some(Unpicked::Nobody));
    }

    #[test]
    fn a_new_configuration_spares_who_is_still_in_it() {
        let namespace = namespace(&["a", "b"]);
        let (a, b) = (found(&namespace, "a"), found(&namespace, "b"));
        let stays = namespace.register(&a, "1", "").ok().unwrap();
        let goes = namespace.register(&b, "1", "").ok().unwrap();
        configure(&namespace, &["A", "c"]);
        assert!(stays.closing.is_empty() && !a.removed.is_raised());
        assert_eq!(goes.closing.try_recv().unwrap(), Close::entity_deleted());
        assert!(b.removed.is_raised());
        assert_eq!(namespace.register(&b, "2", "").err().unwrap().status(), 404);
        assert_eq!(pick(&namespace, &a, &[], 0).unwrap().serial, stays.serial);
    }
}
