//! A bearer token is good or there is one clear reason why not.

#![allow(clippy::unwrap_used)]

use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use umbilical_relay_protocol::{
    BearerToken, Grant, Issuer, KeySet, KeySetError, RELAY_AUDIENCE, Rejection, Right, SubjectGrant, TokenError,
};

const NOW: u64 = 1_795_471_375;
const ISSUER: &str = "https://login.microsoftonline.com/9c1f/v2.0";
const OBJECT: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";

/// The examples of RFC 7515, appendix A.2 and A.3: the same claims by either algorithm.
const RFC_CLAIMS: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC_RS256: (&str, &str) = (
    "eyJhbGciOiJSUzI1NiJ9",
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZ\
     cAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-e\
     OkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
);
const RFC_ES256: (&str, &str) =
    ("eyJhbGciOiJFUzI1NiJ9", "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q");
const RFC_KEYS: &str = r#"{"keys":[
    {"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
    {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}
]}"#;

/// An issuer's key, and what it publishes.
struct Signer {
    key: EcdsaKeyPair,
    id: &'static str,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self { key, id }
    }

    fn public(&self) -> Value {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
        json!({"kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y})
    }

    fn keys(&self) -> KeySet {
        KeySet::parse(&json!({"keys": [self.public()]}).to_string()).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"alg": "ES256", "typ": "JWT", "kid": self.id}), claims)
    }

    fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

fn part(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": RELAY_AUDIENCE, "exp": NOW + 60, "nbf": NOW, "oid": OBJECT, "sub": "pairwise", "roles": ["Listener"],
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn issuer() -> Issuer {
    Issuer { name: "entra".into(), issuer: ISSUER.into(), audience: RELAY_AUDIENCE.into(), grants: Vec::new() }
}

fn ask(issuer: &Issuer, token: &str, wanted: Right, path: &str, keys: &KeySet) -> Result<Grant, TokenError> {
    issuer.authorize(&BearerToken::parse(token)?, wanted, path, keys, NOW)
}

#[test]
fn the_examples_of_rfc_7515_verify_and_nothing_else_with_them() {
    let keys = KeySet::parse(RFC_KEYS).unwrap();
    assert_eq!(keys.len(), 2);
    for (header, signature) in [RFC_RS256, RFC_ES256] {
        let token = BearerToken::parse(&format!("{header}.{RFC_CLAIMS}.{signature}")).unwrap();
        assert_eq!((token.issuer(), token.expires()), ("joe", 1_300_819_380));
        assert!(token.verify(&keys), "{header}");
        let other = format!("{}A{}", &signature[..21], &signature[22..]);
        assert!(!BearerToken::parse(&format!("{header}.{RFC_CLAIMS}.{other}")).unwrap().verify(&keys), "{header}");
    }
    // one algorithm's key does not check the other one's signature
    for (header, signature) in [(RFC_RS256.0, RFC_ES256.1), (RFC_ES256.0, RFC_RS256.1)] {
        assert!(!BearerToken::parse(&format!("{header}.{RFC_CLAIMS}.{signature}")).unwrap().verify(&keys));
    }
}

#[test]
fn a_good_token_with_and_without_its_scheme_word() {
    let signer = Signer::new("k1");
    let token = signer.sign(&claims(&json!({})));
    let good = Ok(Grant { key_name: format!("entra/{OBJECT}"), expires: NOW + 60 });
    for spelling in [token.clone(), format!("Bearer {token}"), format!("bearer   {token} ")] {
        assert_eq!(ask(&issuer(), &spelling, Right::Listen, "hyco", &signer.keys()), good, "{spelling}");
    }
}

#[test]
fn roles_are_rights_for_the_whole_namespace() {
    let signer = Signer::new("k1");
    let may = |roles: Value, wanted| {
        let token = signer.sign(&claims(&json!({ "roles": roles })));
        ask(&issuer(), &token, wanted, "any/path", &signer.keys()).is_ok()
    };
    for (roles, rights) in [
        (json!(["Listener"]), [true, false, false]),
        (json!(["Azure Relay Listener"]), [true, false, false]),
        (json!("azure relay SENDER"), [false, true, false]),
        (json!(["Reader", "Sender", "Listener"]), [true, true, false]),
        (json!(["Owner"]), [true, true, true]),
        (json!(["Azure Relay Owner"]), [true, true, true]),
        (json!(["Relay Owner", "Listeners", ""]), [false, false, false]),
        (json!([]), [false, false, false]),
        (Value::Null, [false, false, false]),
    ] {
        let got = [Right::Listen, Right::Send, Right::Manage].map(|right| may(roles.clone(), right));
        assert_eq!(got, rights, "{roles}");
    }
}

#[test]
fn an_identity_is_granted_what_the_configuration_says_and_where() {
    let signer = Signer::new("k1");
    let grant = |subject: &str, right, paths: &[&str]| SubjectGrant {
        subject: subject.into(),
        rights: [right].into_iter().collect(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    let issuer = Issuer {
        grants: vec![grant(OBJECT, Right::Listen, &["Plant/7", "other"]), grant("pairwise", Right::Send, &[])],
        ..issuer()
    };
    let token = signer.sign(&claims(&json!({"roles": null})));
    let may = |wanted, path| ask(&issuer, &token, wanted, path, &signer.keys());
    for (path, granted) in [
        ("plant/7", true),
        ("plant/7/deeper", true),
        ("OTHER", true),
        ("plant/77", false),
        ("plant", false),
        ("", false),
    ] {
        assert_eq!(may(Right::Listen, path).is_ok(), granted, "{path}");
        assert!(may(Right::Send, path).is_ok(), "{path}");
        assert_eq!(
            may(Right::Manage, path),
            Err(TokenError::MissingRole { subject: OBJECT.into(), wanted: Right::Manage })
        );
    }
    let stranger = signer.sign(&claims(&json!({"roles": null, "oid": OBJECT.to_uppercase(), "sub": "PAIRWISE"})));
    assert!(ask(&issuer, &stranger, Right::Send, "hyco", &signer.keys()).is_err(), "identities are exact");
}

#[test]
fn every_fault_has_its_reason() {
    let (signer, other) = (Signer::new("k1"), Signer::new("k1"));
    let named = || ISSUER.to_owned();
    for (token, error) in [
        (
            signer.sign(&claims(&json!({"iss": "https://evil.example"}))),
            TokenError::UnknownIssuer { issuer: "https://evil.example".into() },
        ),
        (
            signer.sign(&claims(&json!({"iss": format!("{ISSUER}/")}))),
            TokenError::UnknownIssuer { issuer: format!("{ISSUER}/") },
        ),
        (
            Signer::new("k2").sign(&claims(&json!({}))),
            TokenError::UnknownSigningKey { issuer: named(), key_id: "k2".into() },
        ),
        (other.sign(&claims(&json!({}))), TokenError::InvalidBearerSignature { issuer: named() }),
        (signer.sign(&claims(&json!({"exp": NOW}))), TokenError::BearerExpired { seconds_ago: 0, expires: NOW }),
        (
            signer.sign(&claims(&json!({"exp": NOW - 90}))),
            TokenError::BearerExpired { seconds_ago: 90, expires: NOW - 90 },
        ),
        (signer.sign(&claims(&json!({"nbf": NOW + 1}))), TokenError::NotYetValid { seconds: 1, not_before: NOW + 1 }),
        (
            signer.sign(&claims(&json!({"aud": ["https://vault.azure.net", "x"]}))),
            TokenError::WrongAudience { made_for: "https://vault.azure.net, x".into(), wanted: RELAY_AUDIENCE.into() },
        ),
        (
            signer.sign(&claims(&json!({"aud": null}))),
            TokenError::WrongAudience { made_for: String::new(), wanted: RELAY_AUDIENCE.into() },
        ),
    ] {
        assert_eq!(ask(&issuer(), &token, Right::Listen, "hyco", &signer.keys()), Err(error.clone()));
        assert_eq!(Rejection::token_refused(&error).status(), 401, "{error}");
    }
    let missing = TokenError::MissingRole { subject: OBJECT.into(), wanted: Right::Send };
    let token = signer.sign(&claims(&json!({})));
    assert_eq!(ask(&issuer(), &token, Right::Send, "hyco", &signer.keys()), Err(missing.clone()));
    assert_eq!(Rejection::token_refused(&missing).status(), 403);
}

#[test]
fn the_audience_with_and_without_its_slash_alone_or_among_others() {
    let signer = Signer::new("k1");
    for audience in
        [json!("https://relay.azure.net"), json!("https://relay.azure.net/"), json!(["x", "https://relay.azure.net//"])]
    {
        let token = signer.sign(&claims(&json!({ "aud": audience })));
        assert!(ask(&issuer(), &token, Right::Listen, "hyco", &signer.keys()).is_ok(), "{audience}");
    }
}

#[test]
fn what_was_signed_cannot_be_changed() {
    let signer = Signer::new("k1");
    let token = signer.sign(&claims(&json!({})));
    let (header, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let forged = format!("{header}.{}.{signature}", part(&claims(&json!({"roles": ["Owner"]}))));
    assert_eq!(
        ask(&issuer(), &forged, Right::Manage, "hyco", &signer.keys()),
        Err(TokenError::InvalidBearerSignature { issuer: ISSUER.into() })
    );
}

#[test]
fn what_is_no_token() {
    let (signer, good) = (Signer::new("k1"), claims(&json!({})));
    let with_header = |header: Value| signer.sign_with(&header, &good);
    let malformed = |what| TokenError::Malformed(what);
    let algorithm = |algorithm: &str| TokenError::Algorithm { algorithm: algorithm.into() };
    for (token, error) in [
        (String::new(), TokenError::NotSas),
        ("nonsense".into(), TokenError::NotSas),
        ("a.b".into(), TokenError::NotSas),
        ("a.b.c.d".into(), TokenError::NotSas),
        ("Basic dXNlcjpwYXNz".into(), TokenError::NotSas),
        ("Bearer".into(), TokenError::NotSas),
        ("Bearer ".into(), TokenError::NotSas),
        ("Bearer x".into(), malformed("signature")),
        ("Bearer a.b".into(), malformed("claims")),
        ("..".into(), malformed("header")),
        ("!.e30.".into(), malformed("header")),
        ("W10.e30.".into(), malformed("header")),
        ("e30.W10.".into(), malformed("claims")),
        ("e30.e30.".into(), malformed("alg")),
        (format!("{}.{}.=", part(&json!({"alg": "ES256"})), part(&good)), malformed("signature")),
        (with_header(json!({"alg": "none"})), algorithm("none")),
        (with_header(json!({"alg": "HS256"})), algorithm("HS256")),
        (with_header(json!({"alg": "es256"})), algorithm("es256")),
        (with_header(json!({"alg": "ES256", "kid": 5})), malformed("kid")),
        (with_header(json!({"alg": "ES256", "crit": ["b64"], "b64": false})), malformed("crit")),
        (signer.sign(&claims(&json!({"exp": null}))), malformed("exp")),
        (signer.sign(&claims(&json!({"exp": -1}))), malformed("exp")),
        (signer.sign(&claims(&json!({"exp": "1795471375"}))), malformed("exp")),
        (signer.sign(&claims(&json!({"nbf": []}))), malformed("nbf")),
        (signer.sign(&claims(&json!({"iss": null}))), malformed("iss")),
        (signer.sign(&claims(&json!({"aud": {}}))), malformed("aud")),
        (signer.sign(&claims(&json!({"roles": [1]}))), malformed("roles")),
        (signer.sign(&claims(&json!({"oid": 1}))), malformed("oid")),
    ] {
        assert_eq!(BearerToken::parse(&token), Err(error.clone()), "{token}");
        assert_eq!(Rejection::token_refused(&error).status(), 401);
    }
}

#[test]
fn a_token_that_names_no_key_is_tried_with_all_of_its_kind() {
    let (one, two) = (Signer::new("k1"), Signer::new("k2"));
    let keys = KeySet::parse(&json!({"keys": [one.public(), two.public()]}).to_string()).unwrap();
    let token = two.sign_with(&json!({"alg": "ES256"}), &claims(&json!({})));
    assert!(ask(&issuer(), &token, Right::Listen, "hyco", &keys).is_ok());
    assert!(!BearerToken::parse(&token).unwrap().key_is_known(&KeySet::default()));
}

#[test]
fn key_sets_keep_what_is_of_use_and_name_what_is_broken() {
    let public = Signer::new("k1").public();
    let with = |member: &str, value: Value| {
        let mut key = public.clone();
        key[member] = value;
        KeySet::parse(&json!({"keys": [key]}).to_string())
    };
    let mixed = json!({"keys": [
        {"kty": "oct", "k": "AAAA"}, {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}, {"kty": "EC", "crv": "P-384"}, 7, public,
        {"kty": "RSA", "use": "enc"}, {"kty": "RSA", "alg": "PS256", "n": "AAAA", "e": "AQAB"},
    ]});
    assert_eq!(KeySet::parse(&mixed.to_string()).unwrap().len(), 1);
    let broken = |member| Err(KeySetError::Key { at: 0, member });
    assert_eq!(with("x", json!("AAAA")), broken("x"));
    assert_eq!(with("y", json!("?")), broken("y"));
    assert_eq!(with("y", Value::Null), broken("y"));
    assert_eq!(with("use", json!("enc")), Err(KeySetError::NoneUsable));
    assert_eq!(KeySet::parse(r#"{"keys":[{"kty":"RSA","n":"AAAA"}]}"#), broken("e"));
    assert_eq!(KeySet::parse(r#"{"keys":[]}"#), Err(KeySetError::NoneUsable));
    assert_eq!(KeySet::parse(r#"{"keys":{}}"#), Err(KeySetError::NoKeys));
    assert_eq!(KeySet::parse("[]"), Err(KeySetError::NoKeys));
    assert!(matches!(KeySet::parse("<html>"), Err(KeySetError::NotJson(_))));
    let many = json!({"keys": vec![public; 101]});
    assert_eq!(KeySet::parse(&many.to_string()), Err(KeySetError::TooMany(101)));
}

#[test]
fn an_rsa_key_too_short_to_be_safe_verifies_nothing() {
    let keys = KeySet::parse(r#"{"keys":[{"kty":"RSA","n":"8AAB","e":"AQAB"}]}"#).unwrap();
    let token = BearerToken::parse(&format!("{}.{RFC_CLAIMS}.{}", RFC_RS256.0, RFC_RS256.1)).unwrap();
    assert!(token.key_is_known(&keys) && !token.verify(&keys));
}

#[test]
fn nothing_that_could_be_used_is_shown() {
    let signer = Signer::new("k1");
    let text = signer.sign(&claims(&json!({})));
    let (signed, signature) = text.rsplit_once('.').unwrap();
    let shown = format!("{:?}", BearerToken::parse(&text).unwrap());
    assert!(shown.contains(OBJECT) && !shown.contains(signature) && !shown.contains(signed), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_claims_make_the_parser_panic_and_only_good_ones_pass(
        header in "[{]?(\"(alg|kid|crit)\":(\"ES256\"|\"none\"|7|null),?){0,3}[}]?", body in any::<String>(), tail in "[A-Za-z0-9_-]{0,90}"
    ) {
        let text = format!("{}.{}.{tail}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(body.as_bytes()));
        let _ = BearerToken::parse(&text);
        let _ = BearerToken::parse(&body);
        let _ = KeySet::parse(&body);
    }

    #[test]
    fn a_token_is_good_within_its_time_and_never_outside(begin in 0..100u64, length in 0..100u64, now in 0..250u64) {
        let signer = Signer::new("k1");
        let end = begin + length;
        let token = BearerToken::parse(&signer.sign(&claims(&json!({"nbf": begin, "exp": end})))).unwrap();
        let outcome = issuer().authorize(&token, Right::Listen, "hyco", &signer.keys(), now);
        prop_assert_eq!(outcome.is_ok(), begin <= now && now < end);
    }
}
