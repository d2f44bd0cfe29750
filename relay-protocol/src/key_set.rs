//! The public keys of a token issuer: a JSON Web Key Set (RFC 7517), as issuers publish it.
//!
//! ```text
//! {"keys":[{"kty":"RSA","kid":..,"use":"sig","n":..,"e":..},
//!          {"kty":"EC","crv":"P-256","kid":..,"x":..,"y":..}, ..]}
//! ```
//!
//! Keys for other algorithms or purposes are passed over: a set is shared by everybody who trusts the issuer. Leaves to
//! others: where a set comes from and how old it may be.

use std::error::Error;
use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

/// The most keys in one set. Issuers have two to ten.
pub const MAX_KEYS: usize = 100;

/// Bytes of a coordinate on the curve P-256.
const P256_BYTES: usize = 32;

/// How a bearer token is signed (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }
}

/// The keys of an issuer with which it signs tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<PublicKey>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct PublicKey {
    id: Option<String>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point, uncompressed.
    P256(Vec<u8>),
}

impl KeySet {
    /// Parses a JSON Web Key Set.
    ///
    /// # Errors
    /// Not JSON, no `keys`, more than [`MAX_KEYS`] of them, one that is of a kind that is used here and broken, or none
    /// of such a kind.
    pub fn parse(json: &str) -> Result<Self, KeySetError> {
        let set: Value = serde_json::from_str(json).map_err(|error| KeySetError::NotJson(error.to_string()))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(keys.len()));
        }
        let usable = keys.iter().enumerate().filter_map(|(at, key)| {
            PublicKey::parse(key.as_object()?).map_err(|member| KeySetError::Key { at, member }).transpose()
        });
        let usable = usable.collect::<Result<Vec<_>, _>>()?;
        if usable.is_empty() { Err(KeySetError::NoneUsable) } else { Ok(Self(usable)) }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none, as before the first time that a set was fetched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key that a token names, or any if it names none, is in the set and of the token's kind. If not, the set
    /// may be out of date.
    pub(crate) fn knows(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        self.candidates(id, algorithm).next().is_some()
    }

    /// Whether one of those keys has signed `message`.
    pub(crate) fn verify(&self, id: Option<&str>, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.candidates(id, algorithm).any(|key| key.material.verify(message, signature))
    }

    fn candidates<'s>(&'s self, id: Option<&'s str>, algorithm: Algorithm) -> impl Iterator<Item = &'s PublicKey> {
        self.0.iter().filter(move |key| {
            let named = id.is_none() || key.id.is_none() || key.id.as_deref() == id;
            named && key.material.algorithm() == algorithm
        })
    }
}

impl PublicKey {
    /// `None` for a key that is not for signatures of a kind that is used here; the member that is broken.
    fn parse(key: &Map<String, Value>) -> Result<Option<Self>, &'static str> {
        let text = |member| key.get(member).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return Ok(None);
        }
        let bytes = |member| {
            let decoded =
                text(member).and_then(|value| BASE64URL_NOPAD.decode(value.trim_end_matches('=').as_bytes()).ok());
            decoded.filter(|bytes| !bytes.is_empty()).ok_or(member)
        };
        let (material, algorithm) = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => (Material::Rsa { n: bytes("n")?, e: bytes("e")? }, "RS256"),
            (Some("EC"), Some("P-256")) => {
                let coordinate =
                    |member| bytes(member).and_then(|b| if b.len() == P256_BYTES { Ok(b) } else { Err(member) });
                (Material::P256([vec![4], coordinate("x")?, coordinate("y")?].concat()), "ES256")
            }
            _ => return Ok(None),
        };
        if text("alg").is_some_and(|named| named != algorithm) {
            return Ok(None);
        }
        Ok(Some(Self { id: text("kid").map(str::to_owned), material }))
    }
}

impl Material {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
        }
    }
}

/// Why a text is no key set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySetError {
    /// No JSON, in the parser's words.
    NotJson(String),
    /// No array `keys`.
    NoKeys,
    /// More than [`MAX_KEYS`].
    TooMany(usize),
    /// A member of the key at this place, counted from 0, is missing or unreadable.
    Key {
        /// Which key.
        at: usize,
        /// Which member.
        member: &'static str,
    },
    /// None is for RS256 or ES256.
    NoneUsable,
}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(error) => write!(f, "the key set is not JSON: {error}"),
            Self::NoKeys => f.write_str("the key set has no array `keys`, expected a JSON Web Key Set"),
            Self::TooMany(found) => write!(f, "the key set has {found} keys, at most {MAX_KEYS} are taken"),
            Self::Key { at, member } => {
                write!(f, "key {at} of the key set: `{member}` is missing, or not base64url of the right length")
            }
            Self::NoneUsable => f.write_str("the key set has no key for RS256 or ES256 signatures"),
        }
    }
}

impl Error for KeySetError {}
