//! A connection string is read as Microsoft's clients read it, and no fault of one shows its secrets.

use proptest::prelude::*;
use umbilical_relay_protocol::{AddressError, ConnectionString, ConnectionStringError, Credential};

const PORTAL: &str = "Endpoint=sb://Contoso.servicebus.windows.net/;SharedAccessKeyName=listen;\
                      SharedAccessKey=bm90IGEgcmVhbCBrZXk=;EntityPath=site/gateway-0042";

fn parse(text: &str) -> ConnectionString {
    ConnectionString::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn key_of(string: &ConnectionString) -> (&str, &[u8]) {
    match string.credential() {
        Credential::SharedKey { name, key } => (name, key.as_bytes()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_portals_own_is_taken() {
    let string = parse(PORTAL);
    assert_eq!(string.url().to_string(), "wss://contoso.servicebus.windows.net/site/gateway-0042");
    assert_eq!(key_of(&string), ("listen", &b"bm90IGEgcmVhbCBrZXk="[..]));
}

#[test]
fn names_have_no_case_and_parts_no_order() {
    let string =
        parse(" ; sharedaccesskey = k== ;ENDPOINT=sb://h:9443; SharedAccessKeyName=n;OperationTimeout=00:01:00;\n");
    assert_eq!((string.url().host(), string.url().port(), string.url().path()), ("h", 9443, ""));
    assert_eq!(key_of(&string), ("n", &b"k=="[..]));
}

#[test]
fn a_ready_token_and_an_identity_are_taken() {
    let token = "SharedAccessSignature sr=http%3A%2F%2Fh%2F&sig=c2ln%3D&se=1&skn=k";
    let string = parse(&format!("Endpoint=sb://h/;SharedAccessSignature={token}"));
    assert!(matches!(string.credential(), Credential::Token(text) if text == token));
    for kind in ["Managed Identity", "managedidentity"] {
        let string = parse(&format!("Endpoint=sb://h/;Authentication={kind}"));
        assert!(matches!(string.credential(), Credential::ManagedIdentity));
    }
    assert!(matches!(parse("Endpoint=sb://h/").credential(), Credential::None));
}

#[test]
fn each_fault_is_named() {
    use ConnectionStringError as E;
    for (text, expected) in [
        ("", E::Missing("Endpoint")),
        ("top-secret", E::NoName),
        ("Endpoint=sb://h;Colour=red", E::Unknown("Colour".into())),
        ("Endpoint=sb://h;c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0=x", E::Unknown("...".into())),
        ("Endpoint=sb://h;se/cret=x", E::Unknown("...".into())),
        ("Endpoint=sb://h;endpoint=sb://h", E::Twice("Endpoint")),
        ("Endpoint=", E::Value("Endpoint")),
        ("Endpoint=sb://h;EntityPath=a\nb", E::Value("EntityPath")),
        ("Endpoint=https://h", E::Endpoint(AddressError::Scheme)),
        ("Endpoint=sb://h/hyco", E::EndpointPath),
        ("Endpoint=sb://h;SharedAccessKeyName=n", E::Missing("SharedAccessKey")),
        ("Endpoint=sb://h;SharedAccessKey=k", E::Missing("SharedAccessKeyName")),
        ("Endpoint=sb://h;SharedAccessKeyName=n;SharedAccessKey=k;SharedAccessSignature=s", E::Several),
        ("Endpoint=sb://h;SharedAccessKeyName=n;SharedAccessSignature=s", E::Several),
        ("Endpoint=sb://h;SharedAccessSignature=s;Authentication=Managed Identity", E::Several),
        ("Endpoint=sb://h;Authentication=password", E::Value("Authentication")),
    ] {
        let error = ConnectionString::parse(text).expect_err(text);
        assert_eq!(error, expected, "{text}");
        assert!(!error.to_string().contains("secret") && error.to_string().starts_with("the connection string "));
    }
}

#[test]
fn nothing_shows_a_secret() {
    let shown = format!("{:?}", parse(PORTAL));
    assert!(shown.contains("listen") && !shown.contains("bm90"), "{shown}");
    let shown = format!("{:?}", parse("Endpoint=sb://h;SharedAccessSignature=top-secret"));
    assert!(!shown.contains("top-secret"), "{shown}");
}

/// A value as it may stand in a connection string.
fn value() -> impl Strategy<Value = String> {
    "[!-:<-~ü]([ -:<-~ü]{0,30}[!-:<-~ü])?"
}

proptest! {
    #[test]
    fn what_is_put_in_comes_out(
        host in "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,8}){0,3}",
        port in prop::option::of(1_u16..),
        path in "[a-z0-9._-]{1,12}(/[a-z0-9._-]{1,12}){0,3}",
        (name, key) in (value(), value()),
        order in Just([0_usize, 1, 2, 3]).prop_shuffle(),
        upper in any::<bool>(),
    ) {
        let authority = port.map_or(host.clone(), |port| format!("{host}:{port}"));
        let parts = [
            ("Endpoint", format!("sb://{authority}/")),
            ("SharedAccessKeyName", name.clone()),
            ("SharedAccessKey", key.clone()),
            ("EntityPath", path.clone()),
        ];
        let text: String = order.iter().map(|&index| {
            let (field, value) = &parts[index];
            if upper { format!("{}={value};", field.to_uppercase()) } else { format!("{field}={value};") }
        }).collect();
        let string = parse(&text);
        prop_assert_eq!(string.url().host(), host);
        prop_assert_eq!(string.url().port(), port.unwrap_or(443));
        prop_assert_eq!(string.url().path(), path);
        prop_assert_eq!(key_of(&string), (name.as_str(), key.as_bytes()));
    }

    #[test]
    fn no_text_makes_it_panic_or_show_a_value(text in "[Ee]ndpoint=sb://h;([ -~]{0,20}[;=]){0,6}SharedAccessKey=hush-hush[;=]?[ -~]{0,10}") {
        let shown = match ConnectionString::parse(&text) {
            Ok(string) => format!("{string:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!shown.contains("hush"), "{}", shown);
    }

    #[test]
    fn anything_at_all_is_read_or_refused(text in any::<String>()) {
        let _ = ConnectionString::parse(&text);
    }
}
