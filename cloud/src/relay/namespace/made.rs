//! The part of the registry that changes at run time: hybrid connections that are made and taken away again.
//!
//! One that the configuration names too is as the configuration says for as long as it says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use umbilical_relay_protocol::management::{Description, Settings};
use umbilical_relay_protocol::{Close, entity_key};

use super::{Entity, Found, Namespace, State};
use crate::relay::config::MAX_HYBRID_CONNECTIONS;
use crate::relay::signal::Signal;
use crate::relay::store::{Maker, Record};

/// Why a hybrid connection is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmade {
    /// There is one.
    Exists,
    /// There are as many as there may be.
    Full,
}

/// Who says what a hybrid connection is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is none.
    Absent,
    /// The configuration, also if it was made before that.
    Configured,
    /// Whoever has made it.
    Made(Record),
}

impl Namespace {
    /// Takes in what an earlier process made.
    pub(crate) fn restore(&self, records: Vec<Record>) {
        let mut state = self.lock();
        for record in records {
            state.insert(record);
        }
    }

    /// Adds one. Of those that listeners have made there are never more than `most_on_demand`.
    pub(crate) fn make(&self, record: Record, most_on_demand: usize) -> Result<(), Unmade> {
        let mut state = self.lock();
        if state.entities.contains_key(&entity_key(&record.path)) {
            return Err(Unmade::Exists);
        }
        let on_demand_full = record.made_by == Maker::OnDemand && state.on_demand >= most_on_demand;
        if on_demand_full || state.entities.len() >= MAX_HYBRID_CONNECTIONS {
            return Err(Unmade::Full);
        }
        state.insert(record);
        Ok(())
    }

    /// Changes what is known of one that was made, if there is one.
    pub(crate) fn remake(&self, record: Record) {
        let mut state = self.lock();
        let Some(entity) = state.entities.get_mut(&entity_key(&record.path)) else { return };
        let Some(before) = &mut entity.made else { return };
        if !entity.configured {
            entity.requires_client_authorization = record.requires_client_authorization;
        }
        let change = (before.made_by, record.made_by);
        *before = record;
        match change {
            (Maker::OnDemand, Maker::Management) => state.on_demand -= 1,
            (Maker::Management, Maker::OnDemand) => state.on_demand += 1,
            _ => {}
        }
    }

    /// Takes one away that was made. Its listeners and joins end, unless the configuration has it too.
    pub(crate) fn unmake(&self, path: &str) {
        self.lock().unmake(&entity_key(path));
    }

    /// Who says what the one at exactly this path is.
    pub(crate) fn standing(&self, path: &str) -> Standing {
        match self.lock().entities.get(&entity_key(path)) {
            None => Standing::Absent,
            Some(Entity { configured: false, made: Some(record), .. }) => Standing::Made(record.clone()),
            Some(_) => Standing::Configured,
        }
    }

    /// Takes away those that listeners have made and that have had none for `unused_for`. Returns their paths.
    pub(crate) fn take_unused(&self, unused_for: Duration) -> Vec<String> {
        let mut state = self.lock();
        let unused = |entity: &&Entity| {
            let on_demand = entity.made.as_ref().is_some_and(|record| record.made_by == Maker::OnDemand);
            on_demand && !entity.configured && entity.listeners.is_empty() && entity.idle_since.elapsed() >= unused_for
        };
        let unused: Vec<_> = state.entities.values().filter(unused).map(|entity| entity.path.to_string()).collect();
        for path in &unused {
            state.unmake(&entity_key(path));
        }
        unused
    }

    /// Whom a token for exactly this path is to be judged by, whether anything is there or not.
    pub(crate) fn prospect(&self, path: &str) -> Found {
        let (state, key) = (self.lock(), entity_key(path));
        state.found(&key).unwrap_or_else(|| Found {
            path: path.trim_matches('/').into(),
            rules: Arc::default(),
            namespace_rules: Arc::clone(&state.rules),
            issuers: Arc::clone(&state.issuers),
            requires_client_authorization: true,
            removed: Signal::new(),
            key,
        })
    }

    /// What there is at exactly this path, and its path as it is spelt here.
    pub(crate) fn describe(&self, path: &str) -> Option<(Arc<str>, Description)> {
        self.lock().entities.get(&entity_key(path)).map(Entity::describe)
    }

    /// All there are, by path, without the first `skip`, `top` at most.
    pub(crate) fn list(&self, skip: usize, top: usize) -> Vec<(Arc<str>, Description)> {
        let state = self.lock();
        let mut keys: Vec<_> = state.entities.keys().collect();
        keys.sort_unstable();
        keys.into_iter().skip(skip).take(top).map(|key| state.entities[key].describe()).collect()
    }
}

impl State {
    fn insert(&mut self, record: Record) {
        let key = entity_key(&record.path);
        self.on_demand += usize::from(record.made_by == Maker::OnDemand);
        let entity = Entity {
            path: record.path.as_str().into(),
            rules: Arc::default(),
            requires_client_authorization: record.requires_client_authorization,
            configured: false,
            created_at: record.created_at,
            idle_since: Instant::now(),
            missed_since: Some(Instant::now()),
            removed: Signal::new(),
            arrived: self.awaited.remove(&key).unwrap_or_default(),
            listeners: Vec::new(),
            made: Some(record),
        };
        self.entities.insert(key, entity);
    }

    fn unmake(&mut self, key: &str) {
        let Some(entity) = self.entities.get_mut(key) else { return };
        let Some(record) = entity.made.take() else { return };
        self.on_demand -= usize::from(record.made_by == Maker::OnDemand);
        if !entity.configured
            && let Some(entity) = self.entities.remove(key)
        {
            self.end(key, entity, &Close::entity_deleted());
        }
    }
}

impl Entity {
    fn describe(&self) -> (Arc<str>, Description) {
        let made = self.made.as_ref();
        let settings = Settings {
            requires_client_authorization: self.requires_client_authorization,
            user_metadata: made.and_then(|record| record.user_metadata.clone()),
        };
        let updated_at = made.map_or(self.created_at, |record| record.updated_at);
        let listeners = self.listeners.len();
        (Arc::clone(&self.path), Description { created_at: self.created_at, updated_at, settings, listeners })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::config::{HybridConnection, RelayConfig};

    fn record(path: &str, made_by: Maker) -> Record {
        Record {
            path: path.into(),
            made_by,
            requires_client_authorization: false,
            user_metadata: None,
            created_at: 5,
            updated_at: 6,
        }
    }

    fn configured(paths: &[&str]) -> RelayConfig {
        let hybrid_connections = paths.iter().map(|path| HybridConnection {
            path: (*path).into(),
            rules: Vec::new(),
            requires_client_authorization: true,
        });
        RelayConfig { hybrid_connections: hybrid_connections.collect(), ..RelayConfig::default() }
    }

    #[test]
    fn what_was_made_stays_when_the_configuration_changes_and_yields_to_it() {
        let namespace = Arc::new(Namespace::default());
        namespace.make(record("Made", Maker::Management), 0).unwrap();
        let found = namespace.find("made").unwrap().0;
        let mut listener = namespace.register(&found, "1", "", "127.0.0.1:1".parse().unwrap()).ok().unwrap();
        for (paths, required) in [(&["other"][..], false), (&["MADE"], true), (&[], false)] {
            namespace.configure(&configured(paths));
            let (found, _) = namespace.find("made").unwrap();
            assert_eq!(found.requires_client_authorization, required, "{paths:?}");
            assert!(listener.closing.is_empty() && !found.removed.is_raised());
            let standing = namespace.standing("made");
            assert_eq!(standing == Standing::Configured, required, "{standing:?}");
        }
        namespace.configure(&configured(&["made"]));
        namespace.unmake("made");
        assert!(namespace.find("made").is_some() && listener.closing.is_empty(), "the configuration has it");
        namespace.configure(&configured(&[]));
        assert!(namespace.find("made").is_none());
        assert_eq!(listener.closing.try_recv().unwrap(), Close::entity_deleted());
        listener.took_over = false;
    }

    #[test]
    fn there_are_never_more_than_there_may_be() {
        let namespace = Namespace::default();
        let on_demand = |path: &str| namespace.make(record(path, Maker::OnDemand), 2);
        assert_eq!([on_demand("a"), on_demand("b"), on_demand("c")], [Ok(()), Ok(()), Err(Unmade::Full)]);
        assert_eq!(on_demand("A"), Err(Unmade::Exists));
        namespace.unmake("a");
        assert_eq!(on_demand("c"), Ok(()));
        namespace.remake(record("c", Maker::Management));
        namespace.remake(record("d", Maker::Management));
        assert_eq!(namespace.standing("d"), Standing::Absent);
        assert_eq!(on_demand("d"), Ok(()));
        for n in namespace.list(0, usize::MAX).len()..MAX_HYBRID_CONNECTIONS {
            namespace.make(record(&n.to_string(), Maker::Management), 0).unwrap();
        }
        assert_eq!(namespace.make(record("one more", Maker::Management), 0), Err(Unmade::Full));
    }

    #[test]
    fn the_unused_are_those_that_listeners_made_and_left() {
        let namespace = Arc::new(Namespace::default());
        namespace.configure(&configured(&["configured"]));
        namespace.make(record("managed", Maker::Management), 9).unwrap();
        namespace.make(record("used", Maker::OnDemand), 9).unwrap();
        namespace.make(record("left", Maker::OnDemand), 9).unwrap();
        let found = namespace.find("used").unwrap().0;
        let listener = namespace.register(&found, "1", "", "127.0.0.1:1".parse().unwrap()).ok().unwrap();
        assert_eq!(namespace.take_unused(Duration::from_secs(3600)), [] as [String; 0]);
        assert_eq!(namespace.take_unused(Duration::ZERO), ["left"]);
        drop(listener);
        assert_eq!(namespace.take_unused(Duration::from_secs(3600)), [] as [String; 0]);
        assert_eq!(namespace.take_unused(Duration::ZERO), ["used"]);
        assert_eq!(namespace.list(0, 9).len(), 2);
    }

    #[test]
    fn who_waits_for_what_is_not_there_yet_hears_of_its_first_listener() {
        let namespace = Arc::new(Namespace::default());
        let register = |path: &str| {
            let found = namespace.find(path).unwrap().0;
            namespace.register(&found, "1", "", "127.0.0.1:1".parse().unwrap()).ok().unwrap()
        };
        let (a, b) = (namespace.arrival("A"), namespace.arrival("b"));
        namespace.make(record("a", Maker::OnDemand), 9).unwrap();
        assert!(!a.is_raised(), "nobody is there yet");
        drop(register("a"));
        assert!(a.is_raised() && !b.is_raised());
        // also when it goes and comes back
        let again = namespace.arrival("a");
        namespace.unmake("a");
        namespace.make(record("a", Maker::OnDemand), 9).unwrap();
        drop(register("a"));
        assert!(again.is_raised());
        namespace.configure(&configured(&["b"]));
        drop(register("b"));
        assert!(b.is_raised());
        // what nobody waits for any more is forgotten
        for n in 0..1000 {
            namespace.arrival(&n.to_string());
        }
        assert!(namespace.lock().awaited.len() <= 2);
    }

    #[test]
    fn lists_are_in_order_and_in_parts() {
        let namespace = Namespace::default();
        for path in ["c", "B", "a"] {
            namespace.make(record(path, Maker::Management), 0).unwrap();
        }
        let paths =
            |skip, top| namespace.list(skip, top).into_iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>();
        assert_eq!(paths(0, 100), ["a", "B", "c"]);
        assert_eq!(paths(1, 1), ["B"]);
        assert_eq!(paths(3, 1), [] as [String; 0]);
    }
}
