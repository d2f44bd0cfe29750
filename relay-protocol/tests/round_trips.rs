//! What this crate writes it reads back as it was, and no text at all makes it panic.

use proptest::prelude::*;
use umbilical_relay_protocol::{
    Accept, Action, Headers, HttpTarget, ListenerMessage, RelayMessage, RelayUrl, RemoteEndpoint, Rendezvous, Request,
    RequestHead, RequestTarget, Response, SasToken, find_entity, request_address, user_query,
};

/// Text that is anything, or looks enough like the real thing to get past the first checks.
fn any_text() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "wss://",
        "sb://",
        "[",
        "]",
        "::1",
        "host",
        ":",
        "443",
        "/",
        "$hc",
        "hyco",
        "?",
        "&",
        "=",
        "%",
        "%2",
        "%zz",
        "%ff",
        "+",
        "sb-hc-",
        "sb-hc-action=",
        "accept",
        "listen",
        "sb-hc-statusCode=",
        "statusCode=",
        "sb-hc-token=",
        "SharedAccessSignature",
        " ",
        "sr=",
        "sig=",
        "se=",
        "skn=",
        "18446744073709551616",
        "ü",
        "\u{0}",
        "\r\n",
        "{",
        "}",
        "\"",
        "accept",
        "\"response\":",
        "\"request\":",
        "\"body\":",
        "null",
        "[]",
        "{}",
        "-1e400",
        ",",
    ]);
    prop_oneof![any::<String>(), prop::collection::vec(words, 0..40).prop_map(|words| words.concat())]
}

fn header_lines() -> impl Strategy<Value = Headers> {
    // distinct names: a JSON object has no order, and holds each name once
    prop::collection::btree_map("[a-z][a-z0-9-]{0,12}", "[!-~ü]([ -~]{0,20}[!-~])?", 0..6).prop_map(|lines| {
        let mut headers = Headers::default();
        for (name, value) in lines {
            headers.push(&name, &value).expect("a valid header");
        }
        headers
    })
}

fn remote() -> impl Strategy<Value = Option<RemoteEndpoint>> {
    prop::option::of((any::<std::net::IpAddr>(), any::<u16>()))
        .prop_map(|remote| remote.map(|(address, port)| RemoteEndpoint { address: address.to_string(), port }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_decoder_panic(text in any_text()) {
        if let Ok(url) = RelayUrl::parse(&text) {
            prop_assert_eq!(RelayUrl::parse(&url.to_string()).unwrap(), url);
        }
        if let Ok(rendezvous) = Rendezvous::parse(&text) {
            prop_assert!(rendezvous.path_and_query().starts_with('/') && text.ends_with(&rendezvous.path_and_query()[1..]));
        }
        if let Ok(target) = RequestTarget::parse(&text) {
            find_entity(target.path(), |_| None::<()>);
        }
        if let Ok(target) = HttpTarget::parse(&text) {
            find_entity(target.path(), |_| None::<()>);
        }
        if let Ok(token) = SasToken::parse(&text) {
            prop_assert!(!token.verify(b"key"));
            let _ = token.covers(&["host"], &text);
        }
        let _ = RelayMessage::parse(&text);
        let _ = ListenerMessage::parse(&text);
    }

    #[test]
    fn an_accept_address_leads_back_to_its_sender(
        path in "[a-zA-Z0-9%/+ü.-]{0,40}", query in "[a-z&=%+ü.-]{0,20}(sb-hc-[a-z]{0,3}=?[a-z&=]{0,20}){0,2}", secret in any::<String>()
    ) {
        let sender = RequestTarget::parse(&format!("/$hc/{path}?{query}")).unwrap();
        let address = sender.accept_address("wss://relay.example:8443", &[("sb-hc-id", &secret)]);
        let rendezvous = Rendezvous::parse(&address).unwrap();
        let accept = RequestTarget::parse(rendezvous.path_and_query()).unwrap();
        prop_assert_eq!(accept.action(), Action::Accept);
        prop_assert_eq!(accept.id(), Some(secret.as_str()));
        prop_assert_eq!(accept.raw_path(), sender.raw_path());
        prop_assert_eq!(accept.user_query(), sender.user_query());
        prop_assert_eq!(accept.refusal(), None);
    }

    #[test]
    fn what_a_listener_gets_to_know_of_a_request_holds_nothing_of_the_protocol(
        path in "/[a-zA-Z0-9%/+ü.-]{0,40}", query in "([a-z&=%+ü.-]{0,20}(&[sS][bB]-hc-[a-z]{0,3}=?[a-z&=]{0,20})?){0,3}"
    ) {
        let target = HttpTarget::parse(&format!("{path}?{query}")).unwrap();
        let rest = target.request_target().strip_prefix(path.as_str()).unwrap();
        let (left, again) = (user_query(&query), HttpTarget::parse(target.request_target()).unwrap());
        prop_assert_eq!(rest, if left.is_empty() { String::new() } else { format!("?{left}") });
        prop_assert_eq!(again.request_target(), target.request_target());
        let none_of_it = rest.split(['?', '&']).all(|pair| !pair.contains('=') || !pair.to_lowercase().starts_with("sb-hc-"));
        prop_assert!(none_of_it, "{}", rest);
    }

    #[test]
    fn a_request_address_names_its_entity_and_its_secret(path in "[^/](.{0,30}[^/])?", secret in any::<String>()) {
        let address = request_address("wss://relay.example", &path, &[("sb-hc-rendezvous", &secret)]);
        let target = RequestTarget::parse(Rendezvous::parse(&address).unwrap().path_and_query()).unwrap();
        prop_assert_eq!((target.action(), target.path()), (Action::Request, path.as_str()));
        prop_assert_eq!(target.param("sb-hc-rendezvous"), Some(secret.as_str()));
    }

    #[test]
    fn a_refusal_arrives_as_it_was_meant(status: u16, description in any::<String>(), query in "[a-zA-Z=&]{0,30}") {
        let rendezvous = Rendezvous::parse(&format!("wss://relay.example/$hc/hyco?{query}&sb-hc-action=accept")).unwrap();
        let target = RequestTarget::parse(&rendezvous.rejection_target(status, &description)).unwrap();
        let refusal = target.refusal().unwrap();
        prop_assert_eq!((refusal.status, &refusal.description), (status, &description));
    }

    #[test]
    fn a_relay_url_names_the_entity_it_was_made_for(path in "[^/](.{0,30}[^/])?", id in any::<String>()) {
        let url = RelayUrl::parse("sb://ns.example").unwrap().with_path(&path);
        prop_assert_eq!(url.path(), &path);
        prop_assert_eq!(&RelayUrl::parse(&url.to_string()).unwrap(), &url);
        let target = RequestTarget::parse(&url.listen_target(&id)).unwrap();
        prop_assert_eq!((target.action(), target.path(), target.id()), (Action::Listen, path.as_str(), Some(id.as_str())));
        prop_assert_eq!(RequestTarget::parse(&url.connect_target(&id)).unwrap().action(), Action::Connect);
    }

    #[test]
    fn a_signed_token_is_good_for_what_it_was_signed_for(
        path in "[a-z][a-z0-9 /.%ü-]{0,20}[a-z]", key_name in any::<String>(), key in ".{1,40}", expires: u64
    ) {
        let url = RelayUrl::parse("wss://relay.example:8443").unwrap().with_path(&path);
        let text = SasToken::sign(&url.resource(), &key_name, key.as_bytes(), expires);
        let token = SasToken::parse(&text).unwrap();
        prop_assert!(token.verify(key.as_bytes()));
        let another = format!("{}x", key);
        prop_assert!(!token.verify(another.as_bytes()));
        prop_assert_eq!((token.key_name(), token.expires()), (key_name.as_str(), expires));
        prop_assert!(token.covers(&["relay.example"], &path));
        let suffixed = format!("{}/suffix", path);
        let sibling = format!("{}x", path);
        prop_assert!(token.covers(&[], &suffixed));
        prop_assert!(!token.covers(&[], &sibling));
    }

    #[test]
    fn relay_messages_arrive_as_they_were(
        address in "wss://[a-z]{1,10}/[ -~]{0,20}", id in ".{1,20}", headers in header_lines(), remote in remote(), body: bool,
        fetch: bool, on_control_channel: bool
    ) {
        let accept = RelayMessage::Accept(Accept {
            address: address.clone(), id: id.clone(), connect_headers: headers.clone(), remote: remote.clone(),
        });
        let request = RelayMessage::Request(if fetch { Request::Fetch { address } } else {
            Request::Head(RequestHead {
                address: on_control_channel.then_some(address), id, request_target: "/hyco?ü".to_owned(),
                method: "PATCH".to_owned(), remote, headers, body,
            })
        });
        for message in [accept, request] {
            prop_assert_eq!(RelayMessage::parse(&message.to_json().unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn listener_messages_arrive_as_they_were(
        request_id in ".{1,20}", status in 100..=999u16, reason in prop::option::of("[!-~]([ -~]{0,30}[!-~])?"),
        headers in header_lines(), body: bool, token in ".{1,80}"
    ) {
        let response = ListenerMessage::Response(Response { request_id, status, reason, headers, body });
        for message in [response, ListenerMessage::RenewToken { token }] {
            prop_assert_eq!(ListenerMessage::parse(&message.to_json().unwrap()).unwrap(), message);
        }
    }
}
