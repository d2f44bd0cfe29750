//! Issuers of bearer tokens that this relay trusts, with the keys they are known to have.
//!
//! Owns: the cache of fetched keys. A token that names an unknown key makes them be fetched again, at most once a minute
//! per issuer, whatever strangers send; keys are a day old at most, so that a revoked one is forgotten. While an issuer
//! cannot be reached, the keys it had stay good. Leaves to others: fetching (`key_server`), judging
//! (`umbilical_relay_protocol::Issuer`).

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use log::{info, warn};
use smol::lock::Mutex;
use umbilical_relay_protocol::{BearerToken, Grant, Issuer, KeySet, Right, TokenError};

use super::config::{KeySource, TrustedIssuer};
use super::key_server;

/// Fetched keys that are older are fetched again before they are used.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Every issuer that is trusted.
#[derive(Default)]
pub(crate) struct Issuers {
    trusted: Vec<Trusted>,
    /// From one attempt to fetch an issuer's keys to the next.
    pause: Duration,
}

struct Trusted {
    issuer: Issuer,
    source: KeySource,
    fetched: Arc<Fetched>,
}

/// Keys of a server, by whichever configuration they were fetched.
#[derive(Default)]
struct Fetched {
    current: RwLock<(Arc<KeySet>, Option<Instant>)>,
    /// When a fetch was last begun. Locked for as long as it takes.
    attempted: Mutex<Option<Instant>>,
}

impl Issuers {
    /// What a configuration says, with the keys that `old` has fetched from the same places.
    pub(crate) fn new(configured: &[TrustedIssuer], pause: Duration, old: &Self) -> Self {
        let trusted = configured.iter().map(|TrustedIssuer { issuer, keys }| Trusted {
            issuer: issuer.clone(),
            source: keys.clone(),
            fetched: old.fetched_from(keys).unwrap_or_default(),
        });
        Self { trusted: trusted.collect(), pause }
    }

    /// Decides whether the bearer token `text` allows `wanted` at `path`, at `now_unix` seconds. Takes as long as fetching
    /// keys does, if there is a need to.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn authorize(
        &self,
        text: &str,
        wanted: Right,
        path: &str,
        now_unix: u64,
    ) -> Result<Grant, TokenError> {
        let token = BearerToken::parse(text)?;
        let Some(trusted) = self.trusted.iter().find(|trusted| trusted.issuer.issuer == token.issuer()) else {
            return Err(token.unknown_issuer());
        };
        let keys = trusted.keys_for(&token, self.pause).await;
        trusted.issuer.authorize(&token, wanted, path, &keys, now_unix)
    }

    fn fetched_from(&self, source: &KeySource) -> Option<Arc<Fetched>> {
        let KeySource::Server(server) = source else { return None };
        let same = |trusted: &&Trusted| matches!(&trusted.source, KeySource::Server(old) if old.url == server.url);
        self.trusted.iter().find(same).map(|trusted| Arc::clone(&trusted.fetched))
    }
}

impl Trusted {
    async fn keys_for(&self, token: &BearerToken, pause: Duration) -> Arc<KeySet> {
        let server = match &self.source {
            KeySource::Fixed(keys) => return Arc::clone(keys),
            KeySource::Server(server) => server,
        };
        if let Some(keys) = self.fetched.good_for(token) {
            return keys;
        }
        let mut attempted = self.fetched.attempted.lock().await;
        // whoever had the lock before may have fetched what is wanted here
        let known = self.fetched.good_for(token);
        if known.is_none() && attempted.is_none_or(|at| at.elapsed() >= pause) {
            *attempted = Some(Instant::now());
            match key_server::fetch(server).await {
                Ok(keys) => {
                    info!("{} keys of issuer {} fetched from {}", keys.len(), self.issuer.name, server.url);
                    self.fetched.replace(keys);
                }
                Err(error) => warn!("no keys of issuer {} from {}: {error}", self.issuer.name, server.url),
            }
        }
        known.unwrap_or_else(|| self.fetched.all())
    }
}

impl Fetched {
    /// The keys, if they are young enough and one of them is the token's.
    fn good_for(&self, token: &BearerToken) -> Option<Arc<KeySet>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let young = current.1.is_some_and(|at| at.elapsed() < MAX_AGE);
        (young && token.key_is_known(&current.0)).then(|| Arc::clone(&current.0))
    }

    fn all(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn replace(&self, keys: KeySet) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(keys), Some(Instant::now()));
    }
}
