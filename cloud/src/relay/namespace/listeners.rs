//! Who is listening at each hybrid connection: registering, picking one for a sender, telling all that it is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender, bounded};
use umbilical_relay_protocol::management::ListenerDescription;
use umbilical_relay_protocol::{Close, MAX_LISTENERS, Rejection, entity_key, find_entity};

use super::{Found, Namespace};
use crate::deadline;
use crate::relay::affinity::Affinity;
use crate::relay::authorize;
use crate::relay::signal::Signal;

/// Messages that may wait for a listener. One that is this far behind is passed over.
const MAX_QUEUED: usize = 64;

/// A listener as others see it.
#[derive(Clone)]
pub(crate) struct Listener {
    /// Unlike any other's in this process.
    pub(crate) serial: u64,
    /// The name it goes by.
    pub(crate) id: Arc<str>,
    /// Scheme, host and port it is to dial.
    pub(crate) origin: Arc<str>,
    /// Where it has connected from.
    remote: SocketAddr,
    /// In Unix seconds.
    connected_at: u64,
    /// For its control channel.
    pub(crate) notices: Sender<Notice>,
    /// Raised when its control channel is gone.
    pub(crate) gone: Signal,
    /// Raised when its control channel is lost, not left, or superseded: what was said on it last may not have arrived.
    pub(crate) lost: Signal,
    /// Raised when a newer connection of the same listener has taken its place: the path of this one is probably dead.
    pub(crate) superseded: Signal,
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
    lost: Signal,
    /// Why the channel is to be closed.
    pub(crate) closing: Receiver<Close>,
    /// Whether an older connection of the same listener had to go.
    pub(crate) took_over: bool,
}

impl Namespace {
    /// How many listeners there are at the entity that `path` is about.
    pub(crate) fn listeners(&self, path: &str) -> usize {
        let state = self.lock();
        find_entity(path, |key| Some(state.entities.get(key)?.listeners.len())).map_or(0, |(count, _)| count)
    }

    /// The next listener's arrival at the entity that `path` is about.
    pub(crate) fn arrival(&self, path: &str) -> Signal {
        let mut state = self.lock();
        if let Some((arrived, _)) = find_entity(path, |key| Some(state.entities.get(key)?.arrived.clone())) {
            return arrived;
        }
        // now and then those are forgotten whom nobody waits for any more
        if state.awaited.len().is_power_of_two() {
            state.awaited.retain(|_, arrived| arrived.is_awaited());
        }
        state.awaited.entry(entity_key(path)).or_default().clone()
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
        remote: SocketAddr,
    ) -> Result<Registration, Rejection> {
        let mut state = self.lock();
        state.next_serial += 1;
        let serial = state.next_serial;
        let Some(known) = state.entities.get_mut(&entity.key) else {
            // it may be made again; if not, the next attempt is told. 404 would stop official listeners for good
            return Err(Rejection::busy());
        };
        let older = known.listeners.iter().position(|listener| listener.id.eq_ignore_ascii_case(id));
        if older.is_none() && known.listeners.len() >= MAX_LISTENERS {
            return Err(Rejection::too_many_listeners(&entity.path));
        }
        if let Some(older) = older {
            let older = known.listeners.swap_remove(older);
            older.superseded.raise();
            older.lost.raise();
            older.close(Close::superseded());
        }
        let (notices_in, notices) = bounded(MAX_QUEUED);
        let (gone, lost) = (Signal::new(), Signal::new());
        let (closing_in, closing) = bounded(1);
        known.listeners.push(Listener {
            serial,
            id: id.into(),
            origin: origin.into(),
            remote,
            connected_at: authorize::now_unix(),
            notices: notices_in,
            gone: gone.clone(),
            lost: lost.clone(),
            superseded: Signal::new(),
            closing: closing_in,
        });
        known.missed_since = None;
        std::mem::take(&mut known.arrived).raise();
        Ok(Registration {
            namespace: Arc::clone(self),
            key: entity.key.clone(),
            serial,
            notices,
            gone,
            lost,
            closing,
            took_over: older.is_some(),
        })
    }

    /// Waits for a listener that may be on its way, for at most `patience` from when it was missed.
    pub(crate) async fn listener_on_its_way(&self, entity: &Found, patience: Duration) {
        let missed = self.lock().entities.get(&entity.key).and_then(|known| {
            let since = known.missed_since.filter(|_| known.listeners.is_empty())?;
            Some((known.arrived.clone(), since + patience))
        });
        if let Some((arrived, until)) = missed {
            deadline::until(until, arrived.raised()).await;
        }
    }

    /// Waits until there is a listener, for as long as it takes.
    pub(crate) async fn any_listener(&self, entity: &Found) {
        let awaited = match self.lock().entities.get(&entity.key) {
            Some(known) if known.listeners.is_empty() => known.arrived.clone(),
            _ => return,
        };
        awaited.raised().await;
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

    /// The listeners at exactly this path.
    pub(crate) fn describe_listeners(&self, path: &str) -> Option<Vec<ListenerDescription>> {
        let state = self.lock();
        let listeners = &state.entities.get(&entity_key(path))?.listeners;
        let described = listeners.iter().map(|listener| ListenerDescription {
            id: listener.id.to_string(),
            remote: listener.remote.to_string(),
            connected_at: listener.connected_at,
        });
        Some(described.collect())
    }

    /// Tells every listener why its channel ends.
    pub(crate) fn close_all(&self, close: &Close) {
        for entity in self.lock().entities.values() {
            for listener in &entity.listeners {
                listener.close(close.clone());
            }
        }
    }
}

impl Listener {
    /// The first reason counts.
    pub(super) fn close(&self, close: Close) {
        let _ = self.closing.try_send(close);
    }
}

impl Registration {
    /// Ends it as one whose listener has not said goodbye: it is probably about to come back.
    pub(crate) fn lost(self) {
        self.lost.raise();
        if let Some(entity) = self.namespace.lock().entities.get_mut(&self.key) {
            entity.missed_since = Some(Instant::now());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.gone.raise();
        if let Some(entity) = self.namespace.lock().entities.get_mut(&self.key) {
            entity.listeners.retain(|listener| listener.serial != self.serial);
            entity.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::config::{HybridConnection, RelayConfig};

    const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn namespace_of_a() -> (Arc<Namespace>, Found) {
        let namespace = Arc::new(Namespace::default());
        let a = HybridConnection { path: "a".into(), rules: Vec::new(), requires_client_authorization: true };
        namespace.configure(&RelayConfig { hybrid_connections: vec![a], ..RelayConfig::default() });
        let a = namespace.find("a").unwrap().0;
        (namespace, a)
    }

    fn pick(namespace: &Namespace, entity: &Found, passed_over: &[u64], random: u32) -> Result<Listener, Unpicked> {
        namespace.pick(entity, &Affinity::default(), passed_over, random)
    }

    #[test]
    fn the_26th_listener_is_refused_until_one_leaves() {
        let (namespace, a) = namespace_of_a();
        let mut registrations: Vec<_> =
            (0..MAX_LISTENERS).map(|n| namespace.register(&a, &n.to_string(), "", PEER).ok().unwrap()).collect();
        let refused = namespace.register(&a, "one more", "", PEER).err().unwrap();
        assert_eq!(refused.status(), 403);
        assert!(refused.reason().contains("MaximumListenersPerEndpoint"), "{refused}");
        registrations.pop();
        assert!(namespace.register(&a, "one more", "", PEER).is_ok());
    }

    #[test]
    fn the_newest_connection_of_a_listener_takes_its_place() {
        let (namespace, a) = namespace_of_a();
        let old = namespace.register(&a, "me", "old", PEER).ok().unwrap();
        let new = namespace.register(&a, "ME", "new", PEER).ok().unwrap();
        assert_eq!(old.closing.try_recv().unwrap().code(), 1001);
        assert!(new.took_over && new.closing.is_empty());
        drop(old);
        assert_eq!(&*pick(&namespace, &a, &[], 0).unwrap().origin, "new");
    }

    #[test]
    fn every_listener_has_its_turn_and_those_passed_over_have_none() {
        let (namespace, a) = namespace_of_a();
        let registrations: Vec<_> = ["x", "y", "z"].map(|id| namespace.register(&a, id, "", PEER).ok().unwrap()).into();
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
}
