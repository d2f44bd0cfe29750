//! Who may do what: shared access policies, and the decision whether a token is good for a request.

use std::fmt;

use crate::token::{SasToken, TokenError};

/// A shared access key. It is never shown.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl Key {
    /// Takes the key as the text it is given out as (not decoded), without white space around it. `None` if nothing is
    /// left: what an empty key signs, anybody can sign.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.as_bytes().to_vec()))
    }

    /// For [`SasToken::sign`] and [`SasToken::verify`].
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a rule may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To register listeners.
    Listen,
    /// To connect to listeners.
    Send,
    /// To change the relay's entities. Includes the other two.
    Manage,
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    listen: bool,
    send: bool,
    manage: bool,
}

impl Rights {
    /// Whether `right` is among them, by itself or as part of [`Right::Manage`].
    #[must_use]
    pub fn allow(self, right: Right) -> bool {
        self.manage
            || match right {
                Right::Listen => self.listen,
                Right::Send => self.send,
                Right::Manage => false,
            }
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        let mut set = Self::default();
        for right in rights {
            match right {
                Right::Listen => set.listen = true,
                Right::Send => set.send = true,
                Right::Manage => set.manage = true,
            }
        }
        set
    }
}

/// A shared access policy: who holds one of the keys has the rights. Two keys, so that one can be changed while the
/// other is in use.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Key name in tokens (`skn`), compared exactly.
    pub name: String,
    /// Tried first.
    pub primary: Key,
    /// Tried second.
    pub secondary: Option<Key>,
    /// What holders may do.
    pub rights: Rights,
}

/// What a good token grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Name of the rule that it was signed with; of a bearer token the issuer's name and the owner's, `entra/1b4e..`.
    pub key_name: String,
    /// Until when, in Unix seconds.
    pub expires: u64,
}

/// Decides whether `token` allows `wanted` at `path` (see [`SasToken::covers`]), at `now_unix` seconds.
///
/// The rules of the entity are asked before those of the namespace; where both have one of the token's key name, the
/// one counts whose key signed the token. The host in the token is not looked at, see [`SasToken::covers`].
///
/// # Errors
/// The first of these that applies: not a shared access signature, unknown key name, invalid signature, expired, made
/// for another path, right missing.
pub fn authorize(
    token: &str,
    wanted: Right,
    path: &str,
    entity_rules: &[Rule],
    namespace_rules: &[Rule],
    now_unix: u64,
) -> Result<Grant, TokenError> {
    let token = SasToken::parse(token)?;
    let mut named = entity_rules.iter().chain(namespace_rules).filter(|rule| rule.name == token.key_name()).peekable();
    if named.peek().is_none() {
        return Err(TokenError::UnknownKeyName { key_name: token.key_name().to_owned() });
    }
    let signed_with = |key: &Key| token.verify(key.as_bytes());
    let Some(rule) = named.find(|rule| signed_with(&rule.primary) || rule.secondary.as_ref().is_some_and(signed_with))
    else {
        return Err(TokenError::InvalidSignature { key_name: token.key_name().to_owned() });
    };
    if token.expires() <= now_unix {
        return Err(TokenError::Expired { seconds_ago: now_unix - token.expires(), expires: token.expires() });
    }
    if !token.covers(&[], path) {
        return Err(TokenError::WrongPath { signed_for: token.resource(), wanted: path.to_owned() });
    }
    if !rule.rights.allow(wanted) {
        return Err(TokenError::MissingRight { key_name: token.key_name().to_owned(), wanted });
    }
    Ok(Grant { key_name: token.key_name().to_owned(), expires: token.expires() })
}
