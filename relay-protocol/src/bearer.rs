//! Bearer tokens: JSON Web Tokens (RFC 7519) that an issuer such as Microsoft Entra ID makes for somebody.
//!
//! ```text
//! [Bearer ]base64url(header).base64url(claims).base64url(signature)      JWS compact form, RFC 7515 section 3.1
//! header  {"alg":"RS256"|"ES256","kid":..}
//! claims  {"iss":..,"aud":..,"exp":..,"nbf":..,"sub":..,"oid":..,"roles":[..]}
//! ```
//!
//! Microsoft's .NET clients send the bare token, others put `Bearer ` in front. What a good token allows is in
//! [`crate::Issuer`].

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use crate::key_set::{Algorithm, KeySet};
use crate::token::TokenError;

const SCHEME: &str = "Bearer";

/// Characters of a stranger's text that are kept for an error.
const MAX_SHOWN: usize = 100;

/// A bearer token that was parsed, not yet verified. `Debug` shows whose it is and nothing that could be used.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken {
    /// Header and claims as they were signed.
    signed: String,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: Option<String>,
    issuer: String,
    audiences: Vec<String>,
    expires: u64,
    not_before: u64,
    /// `oid`, which names the same identity to everybody, and `sub`.
    subjects: Vec<String>,
    roles: Vec<String>,
}

impl BearerToken {
    /// The token itself, if `text` has the form of a bearer token: with the scheme word, or one word of three parts.
    #[must_use]
    pub fn recognize(text: &str) -> Option<&str> {
        let text = text.trim();
        match text.split_once(char::is_whitespace) {
            Some((scheme, token)) => scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim()),
            None => (text.bytes().filter(|byte| *byte == b'.').count() == 2).then_some(text),
        }
    }

    /// Parses a token as it stands in a header, or in a query after that was decoded, with or without `Bearer `.
    ///
    /// # Errors
    /// [`TokenError::NotSas`] if it has not that form, [`TokenError::Malformed`] with the part or claim that is missing or
    /// unreadable, [`TokenError::Algorithm`] for any but RS256 and ES256.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let token = Self::recognize(text).ok_or(TokenError::NotSas)?;
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed("signature"))?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed("claims"))?;
        let header = object(header).ok_or(TokenError::Malformed("header"))?;
        let claims = object(claims).ok_or(TokenError::Malformed("claims"))?;
        // what must be understood, and is not (RFC 7515, section 4.1.11)
        if header.contains_key("crit") {
            return Err(TokenError::Malformed("crit"));
        }
        let name = text_of(&header, "alg")?.ok_or(TokenError::Malformed("alg"))?;
        let algorithm = Algorithm::parse(name).ok_or_else(|| TokenError::Algorithm { algorithm: shown(name) })?;
        let owned = |name| Ok::<_, TokenError>(text_of(&claims, name)?.map(str::to_owned));
        Ok(Self {
            signature: BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| TokenError::Malformed("signature"))?,
            algorithm,
            key_id: text_of(&header, "kid")?.map(str::to_owned),
            issuer: owned("iss")?.ok_or(TokenError::Malformed("iss"))?,
            audiences: texts_of(&claims, "aud")?,
            expires: seconds_of(&claims, "exp")?.ok_or(TokenError::Malformed("exp"))?,
            not_before: seconds_of(&claims, "nbf")?.unwrap_or(0),
            subjects: owned("oid")?.into_iter().chain(owned("sub")?).collect(),
            roles: texts_of(&claims, "roles")?,
            signed: signed.to_owned(),
        })
    }

    /// Who claims to have made it (`iss`).
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether `keys` has a key that the token may be signed with. If not, the set may be out of date.
    #[must_use]
    pub fn key_is_known(&self, keys: &KeySet) -> bool {
        keys.knows(self.key_id.as_deref(), self.algorithm)
    }

    /// Whether the token was signed with one of `keys`.
    #[must_use]
    pub fn verify(&self, keys: &KeySet) -> bool {
        keys.verify(self.key_id.as_deref(), self.algorithm, self.signed.as_bytes(), &self.signature)
    }

    /// When the token ends, in Unix seconds. It is no longer good in that very second.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// When the token begins, in Unix seconds: good from that second on.
    pub(crate) fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Whether it was made for `audience`, with or without a slash at the end.
    #[must_use]
    pub fn is_for(&self, audience: &str) -> bool {
        let audience = audience.trim_end_matches('/');
        self.audiences.iter().any(|named| named.trim_end_matches('/') == audience)
    }

    /// The audiences it was made for, for an error.
    pub(crate) fn shown_audience(&self) -> String {
        shown(&self.audiences.join(", "))
    }

    /// The name of its key, for an error.
    pub(crate) fn shown_key_id(&self) -> String {
        shown(self.key_id.as_deref().unwrap_or_default())
    }

    /// That nobody here trusts its issuer.
    #[must_use]
    pub fn unknown_issuer(&self) -> TokenError {
        TokenError::UnknownIssuer { issuer: shown(&self.issuer) }
    }

    /// Whose it is, for logs and errors: its object id, else its subject, else nothing.
    #[must_use]
    pub fn subject(&self) -> String {
        shown(self.subjects.first().map_or("", String::as_str))
    }

    /// Whether it is `subject`'s, by object id or subject, compared exactly.
    #[must_use]
    pub fn is_of(&self, subject: &str) -> bool {
        self.subjects.iter().any(|named| named == subject)
    }

    /// The application roles it carries.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(String::as_str)
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken")
            .field("issuer", &self.issuer)
            .field("subjects", &self.subjects)
            .field("roles", &self.roles)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let json = BASE64URL_NOPAD.decode(part.as_bytes()).ok()?;
    match serde_json::from_slice(&json) {
        Ok(Value::Object(members)) => Some(members),
        _ => None,
    }
}

/// A member that is not there is `None`, one that is no text is malformed.
fn text_of<'m>(members: &'m Map<String, Value>, name: &'static str) -> Result<Option<&'m str>, TokenError> {
    let value = members.get(name).filter(|value| !value.is_null());
    value.map(|value| value.as_str().ok_or(TokenError::Malformed(name))).transpose()
}

/// One text or an array of them.
fn texts_of(members: &Map<String, Value>, name: &'static str) -> Result<Vec<String>, TokenError> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(texts)) => {
            let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().ok_or(TokenError::Malformed(name))
        }
        Some(_) => Err(TokenError::Malformed(name)),
    }
}

fn seconds_of(members: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenError> {
    let value = members.get(name).filter(|value| !value.is_null());
    value.map(|value| value.as_u64().ok_or(TokenError::Malformed(name))).transpose()
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}
