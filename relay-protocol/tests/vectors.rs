//! What the vendor's clients were recorded to send is understood. See `vectors/README.md`.

use umbilical_relay_protocol::{
    AUTHORIZATION_HEADER, Action, Headers, Key, ListenerMessage, RequestTarget, Right, Rule, SasToken, authorize,
    find_entity,
};

const KEY: &str = "wKcaQ0y3pJ5nT8vB1xZf7sLd2mRg9hUe4iOa6kNqXyM=";
const EXPIRES: u64 = 1_795_474_975;

/// Target and headers of a recorded request.
fn request(head: &str) -> (RequestTarget, Headers) {
    let (line, rest) = head.split_once('\n').expect("a request line");
    let target = line.strip_prefix("GET ").and_then(|line| line.strip_suffix(" HTTP/1.1")).expect("a GET");
    let mut headers = Headers::default();
    for (name, value) in rest.lines().map(|line| line.split_once(": ").expect("a header")) {
        headers.push(name, value).expect("a valid header");
    }
    (RequestTarget::parse(target).expect("a request target"), headers)
}

fn rule(name: &str, right: Right) -> Rule {
    Rule {
        name: name.to_owned(),
        primary: Key::new(KEY).expect("a key"),
        secondary: None,
        rights: [right].into_iter().collect(),
    }
}

#[test]
fn hyco_ws_listener_handshake() {
    let (target, headers) = request(include_str!("vectors/hyco-ws-listen.http"));
    assert_eq!((target.action(), target.path()), (Action::Listen, "hyco"));
    assert_eq!((target.token(), target.id(), target.user_query()), (None, None, ""));
    assert_eq!(headers.get("sec-websocket-key"), Some("MTMtMTc5NTQ3MTM3NTAwMA=="));
    let token = headers.get(AUTHORIZATION_HEADER).unwrap();
    let grant = authorize(token, Right::Listen, "hyco", &[rule("listen", Right::Listen)], &[], EXPIRES - 1).unwrap();
    assert_eq!((grant.key_name.as_str(), grant.expires), ("listen", EXPIRES));
}

#[test]
fn hyco_ws_sender_handshake() {
    let (target, headers) = request(include_str!("vectors/hyco-ws-connect.http"));
    assert_eq!((target.action(), target.path(), target.user_query()), (Action::Connect, "hyco/sub/path", "foo=bar"));
    assert_eq!(target.token(), headers.get(AUTHORIZATION_HEADER));
    let token = target.token().unwrap();
    authorize(token, Right::Send, target.path(), &[rule("send", Right::Send)], &[], EXPIRES - 1).unwrap();
    let (entity, suffix) = find_entity(target.path(), |key| (key == "hyco").then_some(7)).unwrap();
    assert_eq!((entity, suffix), (7, "sub/path"));
    let address = target.accept_address("wss://g1.example:443", &[("sb-hc-id", "5e1f_G0_G1"), ("sb-hc-secret", "a+b")]);
    assert_eq!(
        address,
        "wss://g1.example:443/$hc/hyco/sub/path?foo=bar&sb-hc-action=accept&sb-hc-id=5e1f_G0_G1&sb-hc-secret=a%2Bb"
    );
}

#[test]
fn hyco_https_responses() {
    let parse = |text| match ListenerMessage::parse(text).unwrap() {
        ListenerMessage::Response(response) => response,
        other => panic!("{other:?}"),
    };
    let text = parse(include_str!("vectors/hyco-https-text.json"));
    assert_eq!((text.request_id.as_str(), text.status), ("00000000-0000-0000-0000-000000000000_G1", 200));
    assert_eq!((text.reason.as_deref(), text.body), (Some("OK"), true));
    assert_eq!(text.headers.get("Content-Type"), Some("text/plain"));
    let number = parse(include_str!("vectors/hyco-https-number.json"));
    assert_eq!((number.headers.get("X-Num"), number.headers.get("Set-Cookie")), (Some("5"), Some("a=1")));
    let none = parse(include_str!("vectors/hyco-https-no-content.json"));
    assert_eq!((none.status, none.body, none.headers), (204, false, Headers::default()));
}

/// Name, token, and a path it does not cover. Those of Node are recorded, the others computed with Python's `hmac` in
/// the spelling of the client named.
const TOKENS: [(&str, &str, &str); 8] = [
    (
        ".NET: no port, trailing slash",
        "SharedAccessSignature sr=http%3A%2F%2Fns.servicebus.windows.net%2Fhyco%2F&sig=yhafJOKv9yJybiv106zKk3YkhKmrJjgMzx7oEhel5aA%3D&se=1795474975&skn=listen",
        "hyco2",
    ),
    (
        "hyco-ws: port kept, no slash",
        "SharedAccessSignature sr=http%3A%2F%2Fns.servicebus.windows.net%3A443%2Fhyco&sig=nE1oB%2FHIGGl%2FZbVQ2mF%2F2IXa7SF9aWq172OrVwseDiU%3D&se=1795474975&skn=RootManageSharedAccessKey",
        "hyc",
    ),
    (
        "hyco-ws: other port",
        "SharedAccessSignature sr=http%3A%2F%2Flocalhost%3A41055%2Fhyco&sig=lyIEwonD9kcYik3gdEi9yUA8uqvXRvdB9jTffgh1GCE%3D&se=1795474975&skn=listen",
        "other/hyco",
    ),
    (
        "protocol guide: escapes in lower case, trailing slash",
        "SharedAccessSignature sr=http%3a%2f%2fns.servicebus.windows.net%2fhyco%2f&sig=LbwYPpqq2TUnJ8dCERYQEIPpVbsU1rBXv5St2TIaeiw%3d&se=1795474975&skn=listen",
        "",
    ),
    (
        "Python sample: no slash, raw slash in the signature",
        "SharedAccessSignature sr=http%3A%2F%2Fns.servicebus.windows.net%2Fhyco&sig=BkaRbONe%2BuL/AyHlsvH/1EDXlNcvYyBjI6V3ly%2BeCeI%3D&se=1795474978&skn=listen",
        "hycos/hyco",
    ),
    (
        "other order, signature not encoded",
        "SharedAccessSignature se=1795474978&skn=listen&sr=http%3A%2F%2Fns.servicebus.windows.net%2Fhyco&sig=BkaRbONe+uL/AyHlsvH/1EDXlNcvYyBjI6V3ly+eCeI=",
        "x",
    ),
    (
        "names and scheme in another case",
        "sharedaccesssignature  SR=http%3A%2F%2Fns.servicebus.windows.net%2Fhyco&SIG=BkaRbONe+uL/AyHlsvH/1EDXlNcvYyBjI6V3ly+eCeI=&Se=1795474978&Skn=listen",
        "x",
    ),
    (
        "hyco-ws sender: signed with the suffix",
        "SharedAccessSignature sr=http%3A%2F%2Fns.servicebus.windows.net%3A443%2Fhyco%2Fsub%2Fpath&sig=gty7tL5BJ63eSGstbmLsclmFDbDBPMR0%2BoZJDYBqeIA%3D&se=1795474975&skn=RootManageSharedAccessKey",
        "hyco/sub",
    ),
];

#[test]
fn tokens_in_every_known_spelling() {
    for (client, token, not_covered) in TOKENS {
        let token = SasToken::parse(token).unwrap_or_else(|error| panic!("{client}: {error}"));
        assert!(token.verify(KEY.as_bytes()), "{client}: signature");
        assert!(!token.verify(b"another key"), "{client}: any key will do");
        for path in ["hyco/sub/path", "HYCO/sub/Path/", "/hyco/sub/path/deeper"] {
            assert!(token.covers(&[], path), "{client}: does not cover {path}");
        }
        assert!(!token.covers(&[], not_covered), "{client}: covers {not_covered}");
        assert!(token.covers(&["localhost", "NS.servicebus.windows.net"], "hyco/sub/path"), "{client}: host");
        assert!(!token.covers(&["other.example"], "hyco/sub/path"), "{client}: any host will do");
    }
}

#[test]
fn a_token_for_the_namespace_covers_every_entity() {
    let token = "SharedAccessSignature sr=sb%3A%2F%2Fns.servicebus.windows.net%2F&sig=CGIcPIvFHRHQY9oqgWeQi1UG3BuOO2XyhAAr4CMDhbI%3D&se=1795474975&skn=listen";
    let token = SasToken::parse(token).unwrap();
    assert!(token.verify(KEY.as_bytes()));
    for path in ["", "hyco", "any/thing"] {
        assert!(token.covers(&[], path), "{path}");
    }
}

#[test]
fn a_path_escaped_twice_is_the_same_path() {
    let token = "SharedAccessSignature sr=http%3A%2F%2Fns.servicebus.windows.net%2Fmy%2520hyco%2F&sig=eGLAHnsZyoD9mP0rbT4XqhbE3uvj9I8MSBVPUt3Vkas%3D&se=1795474975&skn=listen";
    let token = SasToken::parse(token).unwrap();
    assert!(token.verify(KEY.as_bytes()));
    assert!(token.covers(&[], "my hyco"));
}

#[test]
fn the_python_sample_s_token_in_a_query() {
    let target = "/$hc/hyco?sb-hc-action=connect&sb-hc-token=SharedAccessSignature%20sr%3Dhttp%253A%252F%252Fns.servicebus.windows.net%252Fhyco%26sig%3DBkaRbONe%252BuL/AyHlsvH/1EDXlNcvYyBjI6V3ly%252BeCeI%253D%26se%3D1795474978%26skn%3Dlisten";
    let target = RequestTarget::parse(target).unwrap();
    assert_eq!(target.token(), Some(TOKENS[4].1));
    // .NET's form encoding writes the space as a plus
    let plus = RequestTarget::parse("/$hc/hyco?sb-hc-token=SharedAccessSignature+sr%3Dx%2526sig").unwrap();
    assert_eq!(plus.token(), Some("SharedAccessSignature sr=x%26sig"));
}

#[test]
fn we_sign_as_dotnet_does() {
    let url = umbilical_relay_protocol::RelayUrl::parse("sb://NS.servicebus.windows.net/hyco").unwrap();
    assert_eq!(SasToken::sign(&url.resource(), "listen", KEY.as_bytes(), EXPIRES), TOKENS[0].1);
}
