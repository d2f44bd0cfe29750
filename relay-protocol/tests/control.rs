//! Messages on the control channel: what is sent, what is understood, what is refused and in which words.

use umbilical_relay_protocol::{
    Accept, ControlError, Headers, ListenerMessage, MAX_MESSAGE_BYTES, RelayMessage, RemoteEndpoint, Request, Response,
};

fn headers(lines: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in lines {
        headers.push(name, value).expect("a valid header");
    }
    headers
}

fn response(text: &str) -> Response {
    match ListenerMessage::parse(text).expect("a message") {
        ListenerMessage::Response(response) => response,
        other => panic!("{other:?}"),
    }
}

fn accept(text: &str) -> Accept {
    match RelayMessage::parse(text).expect("a message") {
        RelayMessage::Accept(accept) => accept,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_accept_message() {
    let text = r#"{"accept":{
        "address":"wss://g1.example/$hc/hyco/sub?foo=bar&sb-hc-action=accept&sb-hc-id=GUID_G0_G1",
        "id":"GUID_G0_G1",
        "connectHeaders":{"Host":"ns.example","Sec-WebSocket-Key":"AQ==","Sec-WebSocket-Version":"13",
                          "Sec-WebSocket-Protocol":"umbilical.v1, other"},
        "remoteEndpoint":{"address":"10.0.0.1","port":1234},
        "fromTheFuture":[1,2]}}"#;
    let accept = accept(text);
    assert_eq!(accept.address, "wss://g1.example/$hc/hyco/sub?foo=bar&sb-hc-action=accept&sb-hc-id=GUID_G0_G1");
    assert_eq!(accept.id, "GUID_G0_G1");
    assert_eq!(accept.connect_headers.get("sec-websocket-key"), Some("AQ=="));
    assert_eq!(accept.remote, Some(RemoteEndpoint { address: "10.0.0.1".to_owned(), port: 1234 }));
    assert_eq!(accept.subprotocols().collect::<Vec<_>>(), ["umbilical.v1", "other"]);
}

#[test]
fn only_the_address_of_an_accept_message_is_needed() {
    for remote in ["null", "5", "{}", r#"{"address":"10.0.0.1"}"#, r#"{"address":"10.0.0.1","port":70000}"#] {
        let accept = accept(&format!(r#"{{"accept":{{"address":"wss://h/?a","remoteEndpoint":{remote}}}}}"#));
        assert_eq!(
            (accept.address.as_str(), accept.id.as_str(), accept.remote.clone()),
            ("wss://h/?a", "", None),
            "{remote}"
        );
        assert_eq!(accept.subprotocols().count(), 0);
    }
}

#[test]
fn what_official_listeners_cannot_do_without_is_sent() {
    let message = RelayMessage::Accept(Accept {
        address: "wss://h/$hc/hyco?sb-hc-action=accept&sb-hc-id=1".to_owned(),
        id: "1".to_owned(),
        connect_headers: headers(&[
            ("Sec-WebSocket-Key", "AQ=="),
            ("X-A", "1"),
            ("X-None", ""),
            ("x-none", ""),
            ("x-a", ""),
            ("x-a", "2"),
        ]),
        remote: Some(RemoteEndpoint { address: "::1".to_owned(), port: 5 }),
    });
    let text = message.to_json().unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({"accept": {
        "address": "wss://h/$hc/hyco?sb-hc-action=accept&sb-hc-id=1",
        "id": "1",
        "connectHeaders": {"Sec-WebSocket-Key": "AQ==", "X-A": "1, 2", "X-None": ""},
        "remoteEndpoint": {"address": "::1", "port": 5},
    }});
    assert_eq!(json, expected);
}

#[test]
fn a_request_is_whole_or_to_be_fetched() {
    let whole = r#"{"request":{"address":"wss://h/?a","id":"42_G10","requestTarget":"/hyco/sub?a=1","method":"GET",
        "remoteEndpoint":{"address":"10.0.0.1","port":1234},
        "requestHeaders":{"User-Agent":"curl","Via":"1.1 ns.example"},"body":false}}"#;
    let RelayMessage::Request(Request::Head(head)) = RelayMessage::parse(whole).unwrap() else { panic!("not whole") };
    assert_eq!((head.address.as_deref(), head.id.as_str()), (Some("wss://h/?a"), "42_G10"));
    assert_eq!((head.request_target.as_str(), head.method.as_str(), head.body), ("/hyco/sub?a=1", "GET", false));
    assert_eq!(head.headers.get("via"), Some("1.1 ns.example"));

    let fetch = RelayMessage::Request(Request::Fetch { address: "wss://h/?a".to_owned() });
    assert_eq!(RelayMessage::parse(r#"{"request":{"address":"wss://h/?a"}}"#).unwrap(), fetch);
    assert_eq!(fetch.to_json().unwrap(), r#"{"request":{"address":"wss://h/?a"}}"#, "neither method nor body");

    let on_a_rendezvous = r#"{"request":{"id":"1","requestTarget":"/hyco","method":"POST","body":true}}"#;
    let RelayMessage::Request(Request::Head(head)) = RelayMessage::parse(on_a_rendezvous).unwrap() else {
        panic!("not whole")
    };
    assert_eq!((head.address, head.remote, head.body), (None, None, true));
}

#[test]
fn responses_as_loose_as_clients_send_them() {
    let minimal = response(r#"{"response":{"requestId":"1","statusCode":204}}"#);
    assert_eq!((minimal.status, minimal.reason, minimal.body), (204, None, false));
    assert_eq!(minimal.headers, Headers::default());
    let guide = response(r#"{"response":{"requestId":"1","statusCode":"200","responseHeaders":null,"body":true}}"#);
    assert_eq!((guide.status, guide.body), (200, true), "a status as a string");
    let loose = response(
        r#"{"response":{"requestId":"1","statusCode":450,"statusDescription":"Über\r\nX: y",
        "responseHeaders":{"a":5,"b":true,"c":null,"d":"x\r\nSet-Cookie: evil","Set-Cookie":["a=1","b=2"]}}}"#,
    );
    assert_eq!(loose.reason.as_deref(), Some("?ber  X: y"));
    assert_eq!(
        (loose.headers.get("A"), loose.headers.get("B"), loose.headers.get("c")),
        (Some("5"), Some("true"), None)
    );
    assert_eq!(loose.headers.get("d"), Some("x  Set-Cookie: evil"), "no second header out of a value");
    assert_eq!(loose.headers.all("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
}

#[test]
fn a_response_with_two_cookies_keeps_them_apart() {
    let message = ListenerMessage::Response(Response {
        request_id: "1".to_owned(),
        status: 200,
        reason: Some("OK".to_owned()),
        headers: headers(&[("Set-Cookie", "a=1, x"), ("X", "y"), ("Set-Cookie", "b=2")]),
        body: true,
    });
    let text = message.to_json().unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap(),
        serde_json::json!({"response": {"requestId": "1", "statusCode": 200, "statusDescription": "OK",
            "responseHeaders": {"Set-Cookie": ["a=1, x", "b=2"], "X": "y"}, "body": true}})
    );
    assert_eq!(response(&text).headers.all("Set-Cookie").collect::<Vec<_>>(), ["a=1, x", "b=2"]);
}

#[test]
fn renewing_a_token() {
    let message = ListenerMessage::RenewToken { token: "SharedAccessSignature sr=a%2fb&sig=topsecret".to_owned() };
    let text = message.to_json().unwrap();
    assert_eq!(text, r#"{"renewToken":{"token":"SharedAccessSignature sr=a%2fb&sig=topsecret"}}"#, "not encoded again");
    assert_eq!(ListenerMessage::parse(&text).unwrap(), message);
    assert!(!format!("{message:?}").contains("topsecret"));
}

#[test]
fn unknown_commands_are_named_not_refused() {
    let fault = r#"{"injectFault":{"delay":"00:01:00"}}"#;
    assert_eq!(ListenerMessage::parse(fault).unwrap(), ListenerMessage::Unknown("injectFault".to_owned()));
    assert_eq!(RelayMessage::parse(fault).unwrap(), RelayMessage::Unknown("injectFault".to_owned()));
}

#[test]
fn errors_name_the_field() {
    let listener = |text| ListenerMessage::parse(text).unwrap_err().to_string();
    let relay = |text| RelayMessage::parse(text).unwrap_err().to_string();
    for (error, words) in [
        (relay(r#"{"accept":5}"#), "`accept` must be an object"),
        (relay(r#"{"accept":{}}"#), "`accept.address` must be a string that is not empty"),
        (relay(r#"{"accept":{"address":""}}"#), "`accept.address` must be a string that is not empty"),
        (relay(r#"{"accept":{"address":5}}"#), "`accept.address` must be a string"),
        (relay(r#"{"accept":{"address":"a","connectHeaders":[]}}"#), "`accept.connectHeaders` must be an object"),
        (relay(r#"{"accept":{"address":"a","connectHeaders":{"a b":"c"}}}"#), "`accept` has a header \"a b\""),
        (relay(r#"{"accept":{"address":"a","connectHeaders":{"x":{"y":1}}}}"#), "`accept` has a header \"x\""),
        (relay(r#"{"request":{}}"#), "`request.address` must be"),
        (relay(r#"{"request":{"body":true}}"#), "`request.id` must be"),
        (
            relay(r#"{"request":{"id":"1","requestTarget":"/a b","method":"GET"}}"#),
            "`request.requestTarget` must be a request target",
        ),
        (
            relay(r#"{"request":{"id":"1","requestTarget":"/a","method":"GET\r\n"}}"#),
            "`request.method` must be an HTTP method",
        ),
        (
            relay(r#"{"request":{"id":"1","requestTarget":"/a","method":"GET","body":"yes"}}"#),
            "`request.body` must be true or false",
        ),
        (listener(r#"{"response":{"statusCode":200}}"#), "`response.requestId` must be"),
        (listener(r#"{"response":{"requestId":"1"}}"#), "`response.statusCode` must be a number from 100 to 999"),
        (
            listener(r#"{"response":{"requestId":"1","statusCode":99}}"#),
            "`response.statusCode` must be a number from 100",
        ),
        (
            listener(r#"{"response":{"requestId":"1","statusCode":"x"}}"#),
            "`response.statusCode` must be a number from 100",
        ),
        (
            listener(r#"{"response":{"requestId":"1","statusCode":1e99}}"#),
            "`response.statusCode` must be a number from 100",
        ),
        (listener(r#"{"renewToken":{}}"#), "`renewToken.token` must be"),
        (listener(""), "control message is not JSON"),
        (listener("{"), "control message is not JSON"),
        (listener("[]"), "not a JSON object with a command"),
        (listener("{}"), "not a JSON object with a command"),
    ] {
        assert!(error.starts_with(words) || error.contains(words), "{error:?} lacks {words:?}");
    }
}

#[test]
fn neither_side_exceeds_the_other_s_buffer() {
    let message = |length: usize| ListenerMessage::RenewToken { token: "x".repeat(length) };
    let frame = message(1).to_json().unwrap().len() - 1;
    let longest = message(MAX_MESSAGE_BYTES - frame).to_json().unwrap();
    assert_eq!(longest.len(), 65_535);
    assert!(ListenerMessage::parse(&longest).is_ok());
    let too_long = message(MAX_MESSAGE_BYTES - frame + 1).to_json();
    assert!(matches!(too_long, Err(ControlError::TooLong { bytes: 65_536 })), "{too_long:?}");
    let padded = format!("{longest} ");
    assert!(matches!(RelayMessage::parse(&padded), Err(ControlError::TooLong { bytes: 65_536 })));
}

#[test]
fn nesting_is_bounded() {
    let deep = format!(r#"{{"accept":{}"#, "[".repeat(60_000));
    assert!(matches!(RelayMessage::parse(&deep), Err(ControlError::Json(_))));
}

#[test]
fn no_secret_of_a_message_is_shown() {
    let shown = format!(
        "{:?} {:?} {:?}",
        RelayMessage::parse(
            r#"{"accept":{"address":"wss://h/?topsecret","id":"seen","connectHeaders":{"Cookie":"topsecret"}}}"#
        )
        .unwrap(),
        RelayMessage::parse(r#"{"request":{"address":"wss://h/?topsecret"}}"#).unwrap(),
        RelayMessage::parse(r#"{"request":{"id":"1","requestTarget":"/a?topsecret","method":"GET"}}"#).unwrap(),
    );
    assert!(shown.contains("seen") && shown.contains("Cookie") && !shown.contains("topsecret"), "{shown}");
}

#[test]
fn headers_are_safe_to_write() {
    let mut headers = headers(&[("0", "a digit is a name"), ("X", " trimmed\t"), ("x", "a\0b\u{7f}c\td")]);
    assert_eq!(headers.all("X").collect::<Vec<_>>(), ["trimmed", "a b c\td"]);
    for name in ["", "a b", "a:", "a\n", "ü"] {
        assert!(headers.push(name, "x").is_err(), "{name:?}");
    }
    headers.remove("x");
    assert_eq!(headers.iter().collect::<Vec<_>>(), [("0", "a digit is a name")]);
}
