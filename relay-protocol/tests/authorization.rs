//! A token is good or there is one clear reason why not.

use umbilical_relay_protocol::{Grant, Key, Rejection, RelayUrl, Right, Rights, Rule, SasToken, TokenError, authorize};

const NOW: u64 = 1_795_471_375;

fn rule(name: &str, primary: &str, secondary: Option<&str>, rights: &[Right]) -> Rule {
    let key = |text| Key::new(text).expect("a key");
    Rule {
        name: name.to_owned(),
        primary: key(primary),
        secondary: secondary.map(key),
        rights: rights.iter().copied().collect(),
    }
}

fn token(path: &str, key_name: &str, key: &str, expires: u64) -> String {
    let url = RelayUrl::parse("wss://relay.example:8443").expect("a URL").with_path(path);
    SasToken::sign(&url.resource(), key_name, key.as_bytes(), expires)
}

#[test]
fn the_decision() {
    use Right::{Listen, Manage, Send};
    let entity = [rule("device", "one", Some("two"), &[Listen])];
    let namespace = [rule("root", "three", None, &[Manage]), rule("device", "four", None, &[Send])];
    let ask = |token: &str, right, path| authorize(token, right, path, &entity, &namespace, NOW);
    let good = |key_name: &str, expires| Ok(Grant { key_name: key_name.to_owned(), expires });
    let later = NOW + 60;

    assert_eq!(ask(&token("hyco", "device", "one", later), Listen, "hyco"), good("device", later));
    assert_eq!(ask(&token("hyco", "device", "two", later), Listen, "hyco"), good("device", later), "secondary key");
    assert_eq!(ask(&token("hyco", "device", "two", later), Listen, "hyco/suffix"), good("device", later));
    assert_eq!(ask(&token("", "root", "three", NOW + 1), Listen, "hyco"), good("root", NOW + 1), "manage includes all");
    assert_eq!(ask(&token("", "root", "three", later), Send, "hyco"), good("root", later));
    assert_eq!(ask(&token("", "root", "three", later), Manage, "hyco"), good("root", later));
    assert_eq!(
        ask(&token("hyco", "device", "four", later), Send, "hyco"),
        good("device", later),
        "same name, namespace"
    );

    let device = || "device".to_owned();
    let missing = |wanted| Err(TokenError::MissingRight { key_name: device(), wanted });
    assert_eq!(ask(&token("hyco", "device", "one", later), Send, "hyco"), missing(Send));
    assert_eq!(ask(&token("hyco", "device", "four", later), Listen, "hyco"), missing(Listen));
    assert_eq!(ask(&token("hyco", "device", "one", later), Manage, "hyco"), missing(Manage));
    assert_eq!(
        ask(&token("hyco", "nobody", "one", later), Listen, "hyco"),
        Err(TokenError::UnknownKeyName { key_name: "nobody".to_owned() })
    );
    assert_eq!(
        ask(&token("hyco", "device", "three", later), Listen, "hyco"),
        Err(TokenError::InvalidSignature { key_name: device() }),
        "the key of another rule"
    );
    assert_eq!(
        ask(&token("hyco", "device", "one", NOW), Listen, "hyco"),
        Err(TokenError::Expired { seconds_ago: 0, expires: NOW }),
        "over in the very second"
    );
    assert_eq!(
        ask(&token("hyco", "device", "one", NOW - 90), Listen, "hyco"),
        Err(TokenError::Expired { seconds_ago: 90, expires: NOW - 90 })
    );
    assert_eq!(
        ask(&token("other", "device", "one", later), Listen, "hyco"),
        Err(TokenError::WrongPath { signed_for: "http://relay.example/other/".to_owned(), wanted: "hyco".to_owned() })
    );
}

#[test]
fn of_two_rules_with_one_name_and_one_key_the_entity_s_counts() {
    let entity = [rule("device", "one", None, &[Right::Listen])];
    let namespace = [rule("device", "one", None, &[Right::Send])];
    let token = token("hyco", "device", "one", NOW + 60);
    assert!(authorize(&token, Right::Listen, "hyco", &entity, &namespace, NOW).is_ok());
    let missing = TokenError::MissingRight { key_name: "device".to_owned(), wanted: Right::Send };
    assert_eq!(authorize(&token, Right::Send, "hyco", &entity, &namespace, NOW), Err(missing));
}

#[test]
fn a_signature_without_padding_is_read_too() {
    let token = token("hyco", "device", "one", NOW);
    assert!(token.contains("%3D&se="));
    assert!(SasToken::parse(&token.replace("%3D&se=", "&se=")).unwrap().verify(b"one"));
}

#[test]
fn what_is_signed_cannot_be_changed() {
    let rules = [rule("device", "one", None, &[Right::Listen])];
    let token = token("hyco", "device", "one", NOW + 60);
    let forged = [
        token.replace("hyco", "hxco"),
        token.replace(&format!("se={}", NOW + 60), &format!("se={}", NOW + 61)),
        token.replace(&format!("se={}", NOW + 60), &format!("se=0{}", NOW + 60)),
        token.replace("%2F%2Frelay", "%2f%2frelay"),
    ];
    for forged in forged {
        assert_ne!(forged, token);
        let error = authorize(&forged, Right::Listen, "hxco", &rules, &[], NOW).unwrap_err();
        assert_eq!(error, TokenError::InvalidSignature { key_name: "device".to_owned() }, "{forged}");
    }
}

#[test]
fn what_is_no_token() {
    let table = [
        ("", TokenError::NotSas),
        ("SharedAccessSignature", TokenError::NotSas),
        ("SharedAccessSignature ", TokenError::NotSas),
        ("Bearer eyJhbGciOi", TokenError::NotSas),
        ("eyJhbGciOi.e30.x", TokenError::NotSas),
        ("SharedAccessSignature nothing", TokenError::Malformed("sr")),
        ("SharedAccessSignature sr=x&se=1&skn=k", TokenError::Malformed("sig")),
        ("SharedAccessSignature sr=x&sig=AAAA&skn=k", TokenError::Malformed("se")),
        ("SharedAccessSignature sr=x&sig=AAAA&se=1", TokenError::Malformed("skn")),
        ("SharedAccessSignature sr=x&sig=A*&se=1&skn=k", TokenError::Malformed("sig")),
        ("SharedAccessSignature sr=x&sig=AAAA&se=&skn=k", TokenError::Malformed("se")),
        ("SharedAccessSignature sr=x&sig=AAAA&se=%2B1&skn=k", TokenError::Malformed("se")),
        ("SharedAccessSignature sr=x&sig=AAAA&se=+1&skn=k", TokenError::Malformed("se")),
        ("SharedAccessSignature sr=x&sig=AAAA&se=1.5&skn=k", TokenError::Malformed("se")),
        ("SharedAccessSignature sr=x&sig=AAAA&se=18446744073709551616&skn=k", TokenError::Malformed("se")),
        ("SharedAccessSignature sr=x&sr=y&sig=AAAA&se=1&skn=k", TokenError::Malformed("sr")),
        ("SharedAccessSignature sr=x&sig=AAAA&se=1&skn=k&SKN=l", TokenError::Malformed("skn")),
    ];
    for (text, error) in table {
        assert_eq!(SasToken::parse(text), Err(error), "{text}");
    }
    let short = SasToken::parse("SharedAccessSignature sr=x&sig=AAAA&se=1&skn=k").unwrap();
    assert!(!short.verify(b"k"), "a signature of the wrong length is wrong");
}

#[test]
fn refusals_tell_an_operator_what_to_do() {
    let name = || "device".to_owned();
    let table = [
        (TokenError::NotSas, 401, "sr=..&sig="),
        (TokenError::NotSas, 401, "JSON Web Token"),
        (TokenError::Malformed("se"), 401, "`se`"),
        (TokenError::UnknownKeyName { key_name: name() }, 401, "no rule of that name"),
        (TokenError::InvalidSignature { key_name: name() }, 401, "The token has an invalid signature"),
        (
            TokenError::Expired { seconds_ago: 90, expires: 5 },
            401,
            "expired 90 s ago (se=5): renew it, or check the clock",
        ),
        (
            TokenError::WrongPath { signed_for: "a".to_owned(), wanted: "b".to_owned() },
            403,
            "is for \"a\" and does not cover \"b\"",
        ),
        (
            TokenError::MissingRight { key_name: name(), wanted: Right::Send },
            403,
            "\"device\" does not have the right Send",
        ),
    ];
    for (error, status, text) in table {
        let rejection = Rejection::token_refused(&error);
        assert_eq!(rejection.status(), status, "{error}");
        assert!(rejection.reason().contains(text), "{rejection}");
    }
}

#[test]
fn rights() {
    let send: Rights = [Right::Send].into_iter().collect();
    assert!(send.allow(Right::Send) && !send.allow(Right::Listen) && !send.allow(Right::Manage));
    assert!(!Rights::default().allow(Right::Listen));
}

#[test]
fn keys_are_the_text_they_are_shown_as_and_never_shown() {
    let key = Key::new(" a2V5\n").unwrap();
    assert_eq!(key.as_bytes(), b"a2V5");
    assert!(Key::new(" \n").is_none(), "an empty key signs nothing");
    let rule = rule("device", "topsecret", Some("topsecret"), &[Right::Listen]);
    let token = token("hyco", "device", "topsecret", NOW);
    let signature = token.split("sig=").nth(1).and_then(|rest| rest.get(..20)).unwrap();
    let shown = format!("{rule:?} {:?}", SasToken::parse(&token).unwrap());
    assert!(shown.contains("device") && !shown.contains("topsecret") && !shown.contains(signature), "{shown}");
}

#[test]
fn a_key_name_that_is_not_encoded_is_found_too() {
    let token = token("hyco", "my key", "one", NOW + 60);
    assert!(token.ends_with("skn=my%20key"));
    for spelling in ["my%20key", "my+key", "my key"] {
        let token = token.replace("my%20key", spelling);
        assert_eq!(SasToken::parse(&token).unwrap().key_name(), "my key", "{spelling}");
    }
}

/// What each client signs for, with its own spelling of escapes: the string is signed as it stands.
#[test]
fn every_known_client_s_spelling_of_the_resource_is_taken() {
    let (key, expires) = ("one", NOW + 60);
    let signed = |resource: &str| {
        use ring::hmac::{HMAC_SHA256, Key, sign};
        let signature = sign(&Key::new(HMAC_SHA256, key.as_bytes()), format!("{resource}\n{expires}").as_bytes());
        let signature = data_encoding::BASE64.encode(signature.as_ref()).replace('+', "%2B").replace('=', "%3D");
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expires}&skn=device")
    };
    let rules = [rule("device", key, None, &[Right::Listen, Right::Send])];
    let covered =
        |resource: &str, path: &str| authorize(&signed(resource), Right::Send, path, &rules, &[], NOW).is_ok();
    let table = [
        (".NET", "http%3A%2F%2Fns.example%2Fhyco%2F", "hyco"),
        (".NET keeps the case of the path", "http%3A%2F%2Fns.example%2FHyCo%2F", "hyco"),
        ("hyco-ws, hyco-https", "http%3A%2F%2Fns.servicebus.windows.net%3A443%2Fhyco", "hyco"),
        ("hyco-ws with a port of one's own", "http%3A%2F%2Flocalhost%3A9001%2Fhyco", "hyco"),
        ("hyco-ws, the sender's suffix in it", "http%3A%2F%2Flocalhost%3A9001%2Fhyco%2Fsub%2Fpath", "hyco/sub/path"),
        ("hyco-ws on IPv6", "http%3A%2F%2F%5B%3A%3A1%5D%3A9001%2Fhyco", "hyco"),
        ("the Python sample", "http%3A%2F%2Fns.example%2Fhyco", "hyco"),
        ("the protocol guide", "http%3a%2f%2fns.example%2fhyco%2f", "hyco"),
        ("PHP's lower case, no slash", "http%3a%2f%2fns.example%2fhyco", "hyco/sub"),
        ("the whole namespace", "sb%3A%2F%2Fns.servicebus.windows.net%2F", "hyco/sub"),
        ("the whole namespace, bare", "http%3A%2F%2Fns.servicebus.windows.net", "hyco"),
        ("with the marker", "https%3A%2F%2Fns.example%2F%24hc%2Fhyco", "hyco"),
        ("another scheme", "amqp%3A%2F%2Fns.example%2Fhyco", "hyco"),
        ("an entity with a slash", "http%3A%2F%2Fns.example%2Fplant%2Fline%2F", "plant/line"),
        ("what is above the entity", "http%3A%2F%2Fns.example%2Fplant%2F", "plant/line"),
    ];
    for (client, resource, path) in table {
        assert!(covered(resource, path), "{client}: {resource} does not cover {path}");
    }
    for (resource, path) in [
        ("http%3A%2F%2Fns.example%2Fhyco%2F", "hyco2"),
        ("http%3A%2F%2Fns.example%2Fhyco2", "hyco"),
        ("http%3A%2F%2Fns.example%2Fhyco%2Fsub", "hyco"),
        ("http%3A%2F%2Fns.example%2Fplant", "plants/line"),
        ("http%3A%2F%2Fns.example%2Fhyco%3Fhyco2", "hyco2"),
    ] {
        assert!(!covered(resource, path), "{resource} covers {path}");
    }
}
