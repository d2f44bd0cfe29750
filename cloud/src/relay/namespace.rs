//! Which hybrid connections there are, who may use them, and who is listening at each.
//!
//! Owns the registry: what is configured here, the hybrid connections that are made at run time in `made`, the listeners in
//! `listeners`. Leaves to others: what a token proves (`authorize`), talking to listeners (`listen`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use umbilical_relay_protocol::{Close, Rule, entity_key, find_entity};

use super::authorize;
use super::config::RelayConfig;
use super::issuers::Issuers;
use super::signal::Signal;
use super::store::Record;

mod listeners;
mod made;

pub(crate) use listeners::{Listener, Notice, Registration, Unpicked};
pub(crate) use made::{Standing, Unmade};

#[derive(Default)]
pub(crate) struct Namespace {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Arc<[Rule]>,
    issuers: Arc<Issuers>,
    entities: HashMap<String, Entity>,
    /// How many of them listeners have made.
    on_demand: usize,
    /// Raised by the first listener at a path that nothing is at yet, for those who wait for it.
    awaited: HashMap<String, Signal>,
    next_serial: u64,
}

struct Entity {
    path: Arc<str>,
    rules: Arc<[Rule]>,
    requires_client_authorization: bool,
    /// Whether the configuration names it.
    configured: bool,
    /// Set if it was made at run time.
    made: Option<Record>,
    /// In Unix seconds; of one that the configuration names alone, since when it does.
    created_at: u64,
    /// When its last listener left, or else when it came to be.
    idle_since: Instant,
    /// Since when a listener may be on its way: one was lost that did not say goodbye, or the entity is new here, as all are
    /// to a relay that has just started.
    missed_since: Option<Instant>,
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
    /// Raised when the entity is taken out of the configuration, or away.
    pub(crate) removed: Signal,
    key: String,
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
            let mut known = known.unwrap_or_else(|| Entity::new(state.awaited.remove(&key)));
            known.path = entity.path.trim_matches('/').into();
            known.rules = entity.rules.as_slice().into();
            known.requires_client_authorization = entity.requires_client_authorization;
            known.configured = true;
            state.entities.insert(key, known);
        }
        for (key, mut entity) in old {
            let Some(record) = &entity.made else {
                state.end(&key, entity, &Close::entity_deleted());
                continue;
            };
            entity.path = record.path.as_str().into();
            entity.rules = Arc::default();
            entity.requires_client_authorization = record.requires_client_authorization;
            entity.configured = false;
            state.entities.insert(key, entity);
        }
    }

    /// The entity that `path` is about and the rest of the path.
    pub(crate) fn find<'p>(&self, path: &'p str) -> Option<(Found, &'p str)> {
        let state = self.lock();
        find_entity(path, |key| state.found(key))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn found(&self, key: &str) -> Option<Found> {
        let entity = self.entities.get(key)?;
        Some(Found {
            path: Arc::clone(&entity.path),
            rules: Arc::clone(&entity.rules),
            namespace_rules: Arc::clone(&self.rules),
            issuers: Arc::clone(&self.issuers),
            requires_client_authorization: entity.requires_client_authorization,
            removed: entity.removed.clone(),
            key: key.to_owned(),
        })
    }

    /// Tells everybody at an entity that it is no more.
    fn end(&mut self, key: &str, entity: Entity, close: &Close) {
        entity.removed.raise();
        for listener in entity.listeners {
            listener.close(close.clone());
        }
        if entity.arrived.is_awaited() {
            self.awaited.insert(key.to_owned(), entity.arrived);
        }
    }
}

impl Entity {
    /// Nothing yet, but what those who wait for it are told by.
    fn new(arrived: Option<Signal>) -> Self {
        Self {
            path: "".into(),
            rules: Arc::default(),
            requires_client_authorization: true,
            configured: false,
            made: None,
            created_at: authorize::now_unix(),
            idle_since: Instant::now(),
            missed_since: Some(Instant::now()),
            removed: Signal::new(),
            arrived: arrived.unwrap_or_default(),
            listeners: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::affinity::Affinity;
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
    fn a_new_configuration_spares_who_is_still_in_it() {
        let namespace = namespace(&["a", "b"]);
        let (a, b) = (found(&namespace, "a"), found(&namespace, "b"));
        let register = |entity: &Found, id: &str| namespace.register(entity, id, "", "127.0.0.1:1".parse().unwrap());
        let stays = register(&a, "1").ok().unwrap();
        let goes = register(&b, "1").ok().unwrap();
        configure(&namespace, &["A", "c"]);
        assert!(stays.closing.is_empty() && !a.removed.is_raised());
        assert_eq!(goes.closing.try_recv().unwrap(), Close::entity_deleted());
        assert!(b.removed.is_raised());
        assert_eq!(register(&b, "2").err().unwrap().status(), 503);
        assert_eq!(namespace.pick(&a, &Affinity::default(), &[], 0).unwrap().serial, stays.serial);
    }
}
