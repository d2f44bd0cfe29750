//! Shared access signatures: tokens that the holder of a key makes for itself.
//!
//! ```text
//! SharedAccessSignature sr={resource}&sig={signature}&se={expires}&skn={key name}
//! signature = base64(HMAC-SHA256(key, resource "\n" expires)), over the fields as they stand in the token
//! ```
//!
//! `resource` is a percent-encoded URI, `expires` decimal Unix seconds. The key is used as the text it is shown as; it
//! looks like base64, but nobody decodes it. Clients disagree on how to spell a resource, see [`SasToken::covers`].

use std::error::Error;
use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD};
use ring::hmac;

use crate::address::MARKER;
use crate::authorization::Right;
use crate::percent;

/// The header that carries a token in handshakes and HTTP requests.
pub const AUTHORIZATION_HEADER: &str = "ServiceBusAuthorization";

const SCHEME: &str = "SharedAccessSignature";

/// A shared access signature that was parsed, not yet verified. `Debug` leaves the signature out.
#[derive(Clone, PartialEq, Eq)]
pub struct SasToken {
    resource: String,
    expires_text: String,
    expires: u64,
    signature: Vec<u8>,
    key_name: String,
}

impl SasToken {
    /// Makes a token for `resource` (see [`crate::RelayUrl::resource`]) that is good until `expires`, in Unix seconds.
    #[must_use]
    pub fn sign(resource: &str, key_name: &str, key: &[u8], expires: u64) -> String {
        let resource = percent::encode(resource);
        let signature = hmac::sign(&hmac_key(key), string_to_sign(&resource, &expires.to_string()).as_bytes());
        let signature = percent::encode(&BASE64.encode(signature.as_ref()));
        format!("{SCHEME} sr={resource}&sig={signature}&se={expires}&skn={}", percent::encode(key_name))
    }

    /// Parses a token as it stands in a header, or in a query after that was decoded. Fields come in any order, their
    /// names in any case, unknown ones are ignored.
    ///
    /// # Errors
    /// [`TokenError::NotSas`] without the scheme word, [`TokenError::Malformed`] with the field that is missing, there
    /// twice, or unreadable.
    pub fn parse(token: &str) -> Result<Self, TokenError> {
        let (scheme, fields) = token.trim().split_once(char::is_whitespace).ok_or(TokenError::NotSas)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(TokenError::NotSas);
        }
        let [mut resource, mut signature, mut expires, mut key_name] = [None; 4];
        for (name, value) in fields.trim_start().split('&').filter_map(|field| field.split_once('=')) {
            let (name, field) = match name.to_ascii_lowercase().as_str() {
                "sr" => ("sr", &mut resource),
                "sig" => ("sig", &mut signature),
                "se" => ("se", &mut expires),
                "skn" => ("skn", &mut key_name),
                _ => continue,
            };
            if field.replace(value).is_some() {
                return Err(TokenError::Malformed(name));
            }
        }
        let resource = resource.ok_or(TokenError::Malformed("sr"))?;
        let signature = percent::decode(signature.ok_or(TokenError::Malformed("sig"))?);
        let signature = BASE64.decode(signature.as_bytes()).or_else(|_| BASE64_NOPAD.decode(signature.as_bytes()));
        let expires_text = expires.ok_or(TokenError::Malformed("se"))?;
        let digits = expires_text.bytes().all(|byte| byte.is_ascii_digit());
        Ok(Self {
            resource: resource.to_owned(),
            signature: signature.map_err(|_| TokenError::Malformed("sig"))?,
            expires: expires_text.parse().ok().filter(|_| digits).ok_or(TokenError::Malformed("se"))?,
            expires_text: expires_text.to_owned(),
            key_name: percent::decode_form(key_name.ok_or(TokenError::Malformed("skn"))?).into_owned(),
        })
    }

    /// Whether the token was signed with `key`. Takes the same time for every wrong signature of the right length.
    #[must_use]
    pub fn verify(&self, key: &[u8]) -> bool {
        let signed = string_to_sign(&self.resource, &self.expires_text);
        hmac::verify(&hmac_key(key), signed.as_bytes(), &self.signature).is_ok()
    }

    /// When the token ends, in Unix seconds. It is no longer good in that very second.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// Name of the key that it claims to be signed with, decoded.
    #[must_use]
    pub fn key_name(&self) -> &str {
        &self.key_name
    }

    /// The resource it is for, decoded, as the client spelt it.
    #[must_use]
    pub fn resource(&self) -> String {
        percent::decode_form(&self.resource).into_owned()
    }

    /// Whether the token is for `path` or for something above it. `path` is the requested one, suffix included, as
    /// [`crate::RequestTarget::path`] gives it: Node's senders sign for the suffix as well.
    ///
    /// Every client spells a resource its own way, so scheme, port, query, slashes at the ends, a leading `$hc/` and
    /// ASCII case are ignored. The token's path must be `path` or a prefix of it in whole segments; an empty one
    /// is the whole namespace. If `hosts` is not empty, the token's host must be one of them; a relay that is reached
    /// by several names and addresses passes none and relies on its keys being its own.
    #[must_use]
    pub fn covers(&self, hosts: &[&str], path: &str) -> bool {
        let resource = self.resource();
        let (host, signed) = split_resource(&resource);
        let host_fits = hosts.is_empty() || hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
        // clients that sign a URI have its path escaped twice; for the others decoding again changes nothing
        host_fits && is_above(&percent::decode(signed), path)
    }
}

impl fmt::Debug for SasToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SasToken")
            .field("resource", &self.resource())
            .field("key_name", &self.key_name)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// Neither a shared access signature nor, where one is taken, a bearer token.
    NotSas,
    /// The named field, part or claim is missing, there twice, or unreadable.
    Malformed(&'static str),
    /// No rule of this name, neither of the entity nor of the namespace.
    UnknownKeyName {
        /// The name in the token.
        key_name: String,
    },
    /// Signed with neither key of the rule.
    InvalidSignature {
        /// The name in the token.
        key_name: String,
    },
    /// No longer good.
    Expired {
        /// For how long, in seconds.
        seconds_ago: u64,
        /// Since when, in Unix seconds.
        expires: u64,
    },
    /// Made for something else.
    WrongPath {
        /// The token's resource.
        signed_for: String,
        /// The path it was used on.
        wanted: String,
    },
    /// The key does not have the right.
    MissingRight {
        /// Name of the rule.
        key_name: String,
        /// What it lacks.
        wanted: Right,
    },
    /// A bearer token of an issuer that is not trusted here.
    UnknownIssuer {
        /// What the issuer calls itself.
        issuer: String,
    },
    /// A bearer token that is signed in a way that is not taken.
    Algorithm {
        /// The name in the token.
        algorithm: String,
    },
    /// A bearer token signed with a key that its issuer is not known to have.
    UnknownSigningKey {
        /// The issuer.
        issuer: String,
        /// The key's name in the token, empty if it names none.
        key_id: String,
    },
    /// A bearer token that its issuer has not signed.
    InvalidBearerSignature {
        /// The issuer.
        issuer: String,
    },
    /// A bearer token that is no longer good.
    BearerExpired {
        /// For how long, in seconds.
        seconds_ago: u64,
        /// Since when, in Unix seconds.
        expires: u64,
    },
    /// A bearer token that is not good yet.
    NotYetValid {
        /// For how long, in seconds.
        seconds: u64,
        /// From when on, in Unix seconds.
        not_before: u64,
    },
    /// A bearer token made for somebody else.
    WrongAudience {
        /// For whom.
        made_for: String,
        /// For whom it should be.
        wanted: String,
    },
    /// A bearer token whose owner has the right neither by a role nor by a grant.
    MissingRole {
        /// The owner.
        subject: String,
        /// What it lacks.
        wanted: Right,
    },
}

impl TokenError {
    /// HTTP status: 401 if the token proves nothing, 403 if it is good, but not for this.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NotSas
            | Self::Malformed(_)
            | Self::UnknownKeyName { .. }
            | Self::InvalidSignature { .. }
            | Self::Expired { .. }
            | Self::UnknownIssuer { .. }
            | Self::Algorithm { .. }
            | Self::UnknownSigningKey { .. }
            | Self::InvalidBearerSignature { .. }
            | Self::BearerExpired { .. }
            | Self::NotYetValid { .. }
            | Self::WrongAudience { .. } => 401,
            Self::WrongPath { .. } | Self::MissingRight { .. } | Self::MissingRole { .. } => 403,
        }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSas => {
                write!(f, "the token is neither of the form `{SCHEME} sr=..&sig=..&se=..&skn=..` nor a JSON Web Token")
            }
            Self::Malformed(field) => {
                write!(f, "the token is malformed: its `{field}` is missing, there twice, or unreadable")
            }
            Self::UnknownKeyName { key_name } => {
                write!(f, "the token is signed with the key {key_name:?}, and there is no rule of that name here")
            }
            Self::InvalidSignature { key_name } => {
                write!(f, "the token has an invalid signature: it does not match a key of the rule {key_name:?}")
            }
            Self::Expired { seconds_ago, expires } => write!(
                f,
                "the token expired {seconds_ago} s ago (se={expires}): renew it, or check the clock of who made it"
            ),
            Self::WrongPath { signed_for, wanted } => {
                write!(f, "the token is for {signed_for:?} and does not cover {wanted:?}")
            }
            Self::MissingRight { key_name, wanted } => {
                write!(f, "the key {key_name:?} does not have the right {wanted:?}")
            }
            Self::UnknownIssuer { issuer } => {
                write!(f, "the token's issuer {issuer:?} is not trusted here: configure it, exactly in this spelling")
            }
            Self::Algorithm { algorithm } => {
                write!(f, "the token is signed with {algorithm:?}, RS256 and ES256 are taken")
            }
            Self::UnknownSigningKey { issuer, key_id } => {
                write!(f, "the token is signed with the key {key_id:?}, which {issuer:?} is not known to have")
            }
            Self::InvalidBearerSignature { issuer } => {
                write!(f, "the token has an invalid signature: {issuer:?} has not signed it")
            }
            Self::BearerExpired { seconds_ago, expires } => {
                write!(f, "the token expired {seconds_ago} s ago (exp={expires}): get another one")
            }
            Self::NotYetValid { seconds, not_before } => write!(
                f,
                "the token is not valid for another {seconds} s (nbf={not_before}): check the clocks of its issuer and here"
            ),
            Self::WrongAudience { made_for, wanted } => {
                write!(f, "the token is for the audience {made_for:?} and not for {wanted:?}")
            }
            Self::MissingRole { subject, wanted } => {
                write!(f, "the token's owner {subject:?} has neither a role nor a grant with the right {wanted:?} here")
            }
        }
    }
}

impl Error for TokenError {}

fn hmac_key(key: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

fn string_to_sign(encoded_resource: &str, expires: &str) -> String {
    format!("{encoded_resource}\n{expires}")
}

/// Host without port and brackets, and path without query.
fn split_resource(resource: &str) -> (&str, &str) {
    let rest = resource.split_once("://").map_or(resource, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next(),
        None => authority.split(':').next(),
    };
    (host.unwrap_or_default(), path)
}

/// Whether the path `signed` is `path` or a prefix of it in whole segments.
pub(crate) fn is_above(signed: &str, path: &str) -> bool {
    let signed = signed.trim_matches('/');
    let signed = match signed.split_once('/') {
        Some((MARKER, entity)) => entity.trim_matches('/'),
        _ if signed == MARKER => "",
        _ => signed,
    };
    let path = path.trim_matches('/');
    let Some(start) = path.get(..signed.len()) else { return false };
    signed.is_empty()
        || start.eq_ignore_ascii_case(signed) && matches!(path.as_bytes().get(signed.len()), None | Some(b'/'))
}
