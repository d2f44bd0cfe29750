//! Making hybrid connections and taking them away at run time, in the namespace and on the disk.
//!
//! Whoever asks for a change is answered when it is on the disk, if there is a state directory; what cannot be kept is
//! undone. Listeners that come make those whose names match a pattern; what they made and no longer use is taken away
//! again. Leaves to others: the registry (`namespace`), the file (`store`), who may ask (`management`, `authorize`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::{info, warn};
use smol::Timer;
use smol::future::or;
use smol::lock::RwLock;
use umbilical_relay_protocol::management::Settings;
use umbilical_relay_protocol::{Rejection, RequestTarget, is_entity_path};

use super::namespace::{Namespace, Standing, Unmade};
use super::store::{Maker, Record, Store, StoreError};
use super::{Shared, authorize};
use crate::http::RequestHead;

/// The longest time between two looks for what is no longer used.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The shortest.
const SHORTEST_REST: Duration = Duration::from_millis(10);

/// Where the state is kept, and whose turn it is.
#[derive(Default)]
pub(crate) struct Provisioning {
    store: Option<Store>,
    /// Read by who makes something: side by side, so that it goes to the disk together. Written by who changes or takes
    /// away: then nothing else moves, and disk and namespace see the same order.
    turn: RwLock<()>,
}

impl Provisioning {
    /// Opens the state directory, if there is one, and takes what is in it into `namespace`.
    ///
    /// # Errors
    /// It cannot be used.
    pub(crate) fn open(directory: Option<&Path>, namespace: &Namespace) -> Result<Self, StoreError> {
        let Some(directory) = directory else { return Ok(Self::default()) };
        let (store, records) = Store::open(directory)?;
        if !records.is_empty() {
            info!("{} hybrid connections from {}", records.len(), directory.display());
        }
        namespace.restore(records);
        Ok(Self { store: Some(store), turn: RwLock::new(()) })
    }

    /// Where the state is.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::directory)
    }

    /// Makes the hybrid connection at `path` because somebody who may has asked for it.
    ///
    /// # Errors
    /// Such a name may not be, there is one, there are too many, or it cannot be kept.
    pub(crate) async fn create(&self, namespace: &Namespace, path: &str, settings: Settings) -> Result<(), Rejection> {
        self.keeper()?;
        if !is_entity_path(path) {
            let text = "The path must be 1 to 260 letters, digits, '.', '_' and '-', in segments joined by '/', \
                        the last of them not Listeners";
            return Err(Rejection::new(400, text));
        }
        let _turn = self.turn.read().await;
        let now = authorize::now_unix();
        let record = record(path, Maker::Management, settings, now, now);
        namespace.make(record.clone(), usize::MAX).map_err(|unmade| refusal(unmade, path))?;
        self.keep(namespace, record).await
    }

    /// Changes the settings of the one at `path`. From then on it is not taken away when it is unused.
    ///
    /// # Errors
    /// There is none, the configuration has it, or it cannot be kept.
    pub(crate) async fn update(&self, namespace: &Namespace, path: &str, settings: Settings) -> Result<(), Rejection> {
        let store = self.keeper()?;
        let _turn = self.turn.write().await;
        let before = changeable(namespace, path)?;
        let now = authorize::now_unix();
        let record = record(&before.path, Maker::Management, settings, before.created_at, now);
        store.put(record.clone()).await.map_err(|_| not_kept())?;
        namespace.remake(record);
        Ok(())
    }

    /// Takes the one at `path` away, and all listeners and joins with it.
    ///
    /// # Errors
    /// There is none, the configuration has it, or that cannot be kept.
    pub(crate) async fn delete(&self, namespace: &Namespace, path: &str) -> Result<(), Rejection> {
        let store = self.keeper()?;
        let _turn = self.turn.write().await;
        let before = changeable(namespace, path)?;
        store.remove(&[before.path]).await.map_err(|_| not_kept())?;
        namespace.unmake(path);
        Ok(())
    }

    /// Makes the hybrid connection that a listener asks for and that is not there, if its name matches the pattern and its
    /// token is one for all of the namespace or for this path.
    ///
    /// # Errors
    /// What the listener is to be answered.
    pub(crate) async fn on_demand(
        &self,
        shared: &Shared,
        head: &RequestHead,
        target: &RequestTarget,
    ) -> Result<(), Rejection> {
        let (namespace, path) = (&shared.namespace, target.path());
        let wanted = shared.on_demand().filter(|on_demand| on_demand.pattern.matches(path) && is_entity_path(path));
        let on_demand = wanted.ok_or_else(|| Rejection::endpoint_not_found(path))?;
        let grant = authorize::listener(&namespace.prospect(path), head, target).await?;
        let _turn = self.turn.read().await;
        let now = authorize::now_unix();
        let settings =
            Settings { requires_client_authorization: on_demand.requires_client_authorization, user_metadata: None };
        let record = record(path, Maker::OnDemand, settings, now, now);
        match namespace.make(record.clone(), on_demand.most) {
            Ok(()) => {}
            // two listeners have come at once
            Err(Unmade::Exists) => return Ok(()),
            Err(Unmade::Full) => return Err(refusal(Unmade::Full, path)),
        }
        self.keep(namespace, record).await?;
        info!("hybrid connection {path} made for its first listener, key {}", grant.key_name);
        Ok(())
    }

    /// Takes away what listeners made and no longer use, until the relay stops.
    pub(crate) async fn sweep(shared: Arc<Shared>) {
        while !shared.stopping.is_raised() {
            let unused_for = shared.on_demand().map(|on_demand| on_demand.remove_after);
            if let Some(unused_for) = unused_for {
                shared.provisioning.remove_unused(&shared.namespace, unused_for).await;
            }
            let rest = unused_for.map_or(LONGEST_REST, |unused_for| unused_for / 4).clamp(SHORTEST_REST, LONGEST_REST);
            or(shared.stopping.raised(), async { _ = Timer::after(rest).await }).await;
        }
    }

    async fn remove_unused(&self, namespace: &Namespace, unused_for: Duration) {
        let _turn = self.turn.write().await;
        let unused = namespace.take_unused(unused_for);
        for path in &unused {
            info!("hybrid connection {path} removed, it has had no listener for {unused_for:?}");
        }
        if let Some(store) = self.store.as_ref().filter(|_| !unused.is_empty())
            && store.remove(&unused).await.is_err()
        {
            warn!("{} removed hybrid connections will be there again after a restart", unused.len());
        }
    }

    /// Brings what has just been made to the disk, or takes it away again.
    async fn keep(&self, namespace: &Namespace, record: Record) -> Result<(), Rejection> {
        let Some(store) = &self.store else { return Ok(()) };
        let path = record.path.clone();
        store.put(record).await.map_err(|_| {
            namespace.unmake(&path);
            not_kept()
        })
    }

    fn keeper(&self) -> Result<&Store, Rejection> {
        let none =
            || Rejection::new(501, "Nothing can be changed here: the relay has no `state-directory` to keep it in");
        self.store.as_ref().ok_or_else(none)
    }
}

fn record(path: &str, made_by: Maker, settings: Settings, created_at: u64, updated_at: u64) -> Record {
    Record {
        path: path.to_owned(),
        made_by,
        requires_client_authorization: settings.requires_client_authorization,
        user_metadata: settings.user_metadata,
        created_at,
        updated_at,
    }
}

/// The record of the one at `path`, if it can be changed here.
fn changeable(namespace: &Namespace, path: &str) -> Result<Record, Rejection> {
    match namespace.standing(path) {
        Standing::Made(record) => Ok(record),
        Standing::Configured => {
            Err(Rejection::new(409, &format!("'{path}' is defined by the relay's configuration, change it there")))
        }
        Standing::Absent => Err(Rejection::endpoint_not_found(path)),
    }
}

fn refusal(unmade: Unmade, path: &str) -> Rejection {
    match unmade {
        Unmade::Exists => Rejection::new(409, &format!("'{path}' exists already")),
        // not 404, which would stop official listeners for good
        Unmade::Full => {
            let text =
                format!("QuotaExceeded: '{path}' is not made, there are as many hybrid connections as there may be");
            Rejection::new(403, &text)
        }
    }
}

/// 503 and not 500: it is worth another try when the operator has seen to the disk.
fn not_kept() -> Rejection {
    Rejection::new(503, "The relay cannot write its state, try again later")
}
