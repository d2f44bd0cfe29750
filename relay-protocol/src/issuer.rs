//! Who may do what by a bearer token: an issuer that is trusted, and what its roles and identities are granted.
//!
//! A token's `roles` hold for the whole namespace: `Listener`, `Sender` and `Owner`, also as `Azure Relay Listener` and
//! so on, in any case. On Azure, rights hang on an identity and are not in its token; here they are a [`SubjectGrant`].

use crate::authorization::{Grant, Right, Rights};
use crate::bearer::BearerToken;
use crate::key_set::KeySet;
use crate::token::{TokenError, is_above};

/// The audience of tokens for Azure Relay.
pub const RELAY_AUDIENCE: &str = "https://relay.azure.net/";

/// What the roles' names may begin with.
const ROLE_PREFIX: &str = "azure relay ";

/// A maker of bearer tokens that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// What it is called here, in logs.
    pub name: String,
    /// What it calls itself in its tokens (`iss`), compared exactly.
    pub issuer: String,
    /// Whom its tokens must be made for (`aud`), a slash at the end or not. See [`RELAY_AUDIENCE`].
    pub audience: String,
    /// What some of its identities may do, beyond the roles in their tokens.
    pub grants: Vec<SubjectGrant>,
}

/// What one identity may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectGrant {
    /// Its object id (`oid`) or subject (`sub`), compared exactly.
    pub subject: String,
    /// What it may do.
    pub rights: Rights,
    /// At which hybrid connections, and all that is below them in whole segments, ignoring ASCII case. Empty for all.
    pub paths: Vec<String>,
}

impl Issuer {
    /// Decides whether `token`, whose issuer this must be, allows `wanted` at `path`, at `now_unix` seconds by `keys`.
    ///
    /// # Errors
    /// The first of these that applies: another issuer, signed with none of the keys, invalid signature, expired, not yet
    /// valid, made for another audience, right missing.
    pub fn authorize(
        &self,
        token: &BearerToken,
        wanted: Right,
        path: &str,
        keys: &KeySet,
        now_unix: u64,
    ) -> Result<Grant, TokenError> {
        if token.issuer() != self.issuer {
            return Err(token.unknown_issuer());
        }
        if !token.key_is_known(keys) {
            return Err(TokenError::UnknownSigningKey { issuer: self.issuer.clone(), key_id: token.shown_key_id() });
        }
        if !token.verify(keys) {
            return Err(TokenError::InvalidBearerSignature { issuer: self.issuer.clone() });
        }
        let expires = token.expires();
        if expires <= now_unix {
            return Err(TokenError::BearerExpired { seconds_ago: now_unix - expires, expires });
        }
        if token.not_before() > now_unix {
            let not_before = token.not_before();
            return Err(TokenError::NotYetValid { seconds: not_before - now_unix, not_before });
        }
        if !token.is_for(&self.audience) {
            return Err(TokenError::WrongAudience { made_for: token.shown_audience(), wanted: self.audience.clone() });
        }
        if !self.allows(token, wanted, path) {
            return Err(TokenError::MissingRole { subject: token.subject(), wanted });
        }
        Ok(Grant { key_name: format!("{}/{}", self.name, token.subject()), expires })
    }

    fn allows(&self, token: &BearerToken, wanted: Right, path: &str) -> bool {
        let by_role: Rights = token.roles().filter_map(role_right).collect();
        let grants = self.grants.iter().filter(|grant| token.is_of(&grant.subject) && grant.holds_at(path));
        by_role.allow(wanted) || grants.into_iter().any(|grant| grant.rights.allow(wanted))
    }
}

impl SubjectGrant {
    fn holds_at(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|granted| is_above(granted, path))
    }
}

fn role_right(role: &str) -> Option<Right> {
    let role = role.to_ascii_lowercase();
    match role.strip_prefix(ROLE_PREFIX).unwrap_or(&role) {
        "listener" => Some(Right::Listen),
        "sender" => Some(Right::Send),
        "owner" => Some(Right::Manage),
        _ => None,
    }
}
