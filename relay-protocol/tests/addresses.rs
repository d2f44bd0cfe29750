//! Addresses: what operators write, what relays send, what clients ask for.

use umbilical_relay_protocol::{
    Action, AddressError, MAX_ENTITY_PATH, RelayUrl, Rendezvous, RequestTarget, application_target, entity_key,
    find_entity, user_query,
};

#[test]
fn relay_urls_in_every_shape() {
    // url, host, port, tls, path, authority, resource
    let table = [
        ("wss://Relay.example", "relay.example", 443, true, "", "relay.example", "http://relay.example/"),
        (
            "wss://relay.example:8443/plant-1/gateway-0042/",
            "relay.example",
            8443,
            true,
            "plant-1/gateway-0042",
            "relay.example:8443",
            "http://relay.example/plant-1/gateway-0042/",
        ),
        ("SB://ns.example/hyco", "ns.example", 443, true, "hyco", "ns.example", "http://ns.example/hyco/"),
        ("ws://127.0.0.1/hyco", "127.0.0.1", 80, false, "hyco", "127.0.0.1", "http://127.0.0.1/hyco/"),
        ("ws://127.0.0.1:443", "127.0.0.1", 443, false, "", "127.0.0.1:443", "http://127.0.0.1/"),
        (
            "wss://[2001:db8::1]:9443/hyco",
            "2001:db8::1",
            9443,
            true,
            "hyco",
            "[2001:db8::1]:9443",
            "http://[2001:db8::1]/hyco/",
        ),
        ("wss://[::1]", "::1", 443, true, "", "[::1]", "http://[::1]/"),
        (
            "wss://ns.example/$hc/my%20hyco",
            "ns.example",
            443,
            true,
            "my hyco",
            "ns.example",
            "http://ns.example/my%20hyco/",
        ),
        ("wss://ns.example/$hc", "ns.example", 443, true, "", "ns.example", "http://ns.example/"),
        ("  wss://ns.example:/hyco\n", "ns.example", 443, true, "hyco", "ns.example", "http://ns.example/hyco/"),
    ];
    for (text, host, port, tls, path, authority, resource) in table {
        let url = RelayUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((url.host(), url.port(), url.tls(), url.path()), (host, port, tls, path), "{text}");
        assert_eq!((url.authority().as_str(), url.resource().as_str()), (authority, resource), "{text}");
    }
}

#[test]
fn relay_urls_that_are_none() {
    let table = [
        ("", AddressError::Scheme),
        ("relay.example", AddressError::Scheme),
        ("https://relay.example", AddressError::Scheme),
        ("wss:relay.example", AddressError::Scheme),
        ("wss://", AddressError::Host),
        ("wss:///hyco", AddressError::Host),
        ("wss://:443/hyco", AddressError::Host),
        ("wss://relay..example:x", AddressError::Port),
        ("wss://relay.example:0", AddressError::Port),
        ("wss://relay.example:+1", AddressError::Port),
        ("wss://relay.example:65536", AddressError::Port),
        ("wss://a:b:c", AddressError::Port),
        ("wss://[::1", AddressError::Host),
        ("wss://[::1]x", AddressError::Host),
        ("wss://[relay]", AddressError::Host),
        ("wss://::1/hyco", AddressError::Host),
        ("wss://relay_[x]", AddressError::Host),
        ("wss://grünkohl.example", AddressError::Host),
        ("wss://user:password@relay.example", AddressError::UserInformation),
        ("wss://relay.example/hyco?x=1", AddressError::Query),
        ("wss://relay.example?x=1", AddressError::Query),
        ("wss://relay.example/a b", AddressError::Character(' ')),
        ("wss://relay.example/a\r\nX: y", AddressError::Character('\r')),
        ("wss://relay.example/#a", AddressError::Character('#')),
    ];
    for (text, error) in table {
        assert_eq!(RelayUrl::parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn targets_that_clients_dial() {
    let url = RelayUrl::parse("sb://ns.example").unwrap().with_path("/plant 1/gateway-0042/");
    assert_eq!(url.listen_target("a-b_G0"), "/$hc/plant%201/gateway-0042?sb-hc-action=listen&sb-hc-id=a-b_G0");
    assert_eq!(url.connect_target("x&y"), "/$hc/plant%201/gateway-0042?sb-hc-action=connect&sb-hc-id=x%26y");
    let target = RequestTarget::parse(&url.connect_target("x&y")).unwrap();
    assert_eq!((target.path(), target.id()), ("plant 1/gateway-0042", Some("x&y")));
}

#[test]
fn a_rendezvous_is_dialled_byte_for_byte() {
    let address = "wss://g63-prod-xxx-001-sb.servicebus.windows.net:443/$hc/hyco/sub%2Fpath?a=%c3%bc+&&sb-hc-action=accept&sb-hc-id=1_G0";
    let rendezvous = Rendezvous::parse(address).unwrap();
    assert_eq!(rendezvous.host(), "g63-prod-xxx-001-sb.servicebus.windows.net");
    assert_eq!((rendezvous.port(), rendezvous.tls()), (443, true));
    let target = "/$hc/hyco/sub%2Fpath?a=%c3%bc+&&sb-hc-action=accept&sb-hc-id=1_G0";
    assert_eq!(rendezvous.path_and_query(), target);
    let refused = rendezvous.rejection_target(401, "Status Description & more");
    assert_eq!(refused, format!("{target}&sb-hc-statusCode=401&sb-hc-statusDescription=Status+Description+%26+more"));
    let refusal = RequestTarget::parse(&refused).unwrap();
    let refusal = refusal.refusal().unwrap();
    assert_eq!((refusal.status, refusal.description.as_str()), (401, "Status Description & more"));
}

#[test]
fn a_rendezvous_without_a_path_or_query() {
    let rendezvous = Rendezvous::parse("ws://localhost:9001").unwrap();
    assert_eq!((rendezvous.path_and_query(), rendezvous.authority().as_str()), ("/", "localhost:9001"));
    assert_eq!(rendezvous.rejection_target(404, ""), "/?sb-hc-statusCode=404&sb-hc-statusDescription=");
    assert_eq!(Rendezvous::parse("ws://localhost:9001?a").unwrap().path_and_query(), "/?a");
    assert_eq!(Rendezvous::parse("wss://h/a\nb"), Err(AddressError::Character('\n')));
    assert_eq!(Rendezvous::parse("ftp://h/"), Err(AddressError::Scheme));
}

#[test]
fn what_a_request_asks_for() {
    let action = |target: &str| RequestTarget::parse(target).map(|target| target.action());
    assert_eq!(action("/$hc/hyco"), Ok(Action::Connect), "a missing action means connect");
    assert_eq!(action("/$hc/hyco?sb-hc-token=x"), Ok(Action::Connect));
    assert_eq!(action("/$hc/hyco?sb-hc-action=connect"), Ok(Action::Connect));
    assert_eq!(action("/$hc/hyco?a=b&SB-HC-Action=Listen"), Ok(Action::Listen));
    assert_eq!(action("/%24hc/hyco?sb-hc-action=accept"), Ok(Action::Accept));
    assert_eq!(action("/$hc/hyco?sb-hc-action=request&sb-hc-action=listen"), Ok(Action::Request), "the first counts");
    assert_eq!(action("/$hc?sb-hc-action=listen"), Ok(Action::Listen), "the namespace itself");
    assert_eq!(action("/$hc/hyco?sb-hc-action=dance"), Err(AddressError::Action("dance".to_owned())));
    assert_eq!(action("/$hc/hyco?sb-hc-action="), Err(AddressError::Action(String::new())));
    assert_eq!(action("/hyco"), Err(AddressError::NotWebSocket));
    assert_eq!(action("/$hcx/hyco"), Err(AddressError::NotWebSocket));
    assert_eq!(action("$hc/hyco"), Err(AddressError::NotWebSocket));
    assert_eq!(action(""), Err(AddressError::NotWebSocket));
    assert_eq!(action("/$hc/hyco\u{0}"), Err(AddressError::Character('\0')));
}

#[test]
fn an_accept_address_keeps_suffix_and_query_as_they_came() {
    let target =
        RequestTarget::parse("/$hc/Hyco/sub%2fX/?sb-hc-token=secret&&a=%c3%BC&sb-hc-bare&b=+&sb-hc-id=mine&").unwrap();
    assert_eq!(target.path(), "Hyco/sub/X");
    let address = target.accept_address("wss://relay.example/", &[("sb-hc-id", "1_G0_G1")]);
    assert_eq!(
        address,
        "wss://relay.example/$hc/Hyco/sub%2fX/?&a=%c3%BC&sb-hc-bare&b=+&&sb-hc-action=accept&sb-hc-id=1_G0_G1"
    );
    let back = RequestTarget::parse(Rendezvous::parse(&address).unwrap().path_and_query()).unwrap();
    assert_eq!((back.action(), back.id(), back.raw_path()), (Action::Accept, Some("1_G0_G1"), target.raw_path()));
    assert_eq!(back.user_query(), target.user_query());
    let plain = RequestTarget::parse("/$hc/hyco").unwrap().accept_address("ws://h:1", &[]);
    assert_eq!(plain, "ws://h:1/$hc/hyco?sb-hc-action=accept");
}

#[test]
fn refusals_in_both_spellings() {
    let refusal = |target: &str| {
        let target = RequestTarget::parse(target).unwrap();
        target.refusal().map(|refusal| (refusal.status, refusal.description.clone()))
    };
    let accept = "/$hc/hyco?sb-hc-action=accept&sb-hc-id=1";
    assert_eq!(refusal(accept), None);
    for prefix in ["", "sb-hc-"] {
        let text = format!("{accept}&{prefix}statusCode=404&{prefix}statusDescription=Not+here%21");
        assert_eq!(refusal(&text), Some((404, "Not here!".to_owned())));
        assert_eq!(refusal(&format!("{accept}&{prefix}statusCode=502")), Some((502, String::new())));
    }
    assert_eq!(refusal(&format!("{accept}&sb-hc-statusCode=teapot")), Some((400, String::new())));
    assert_eq!(refusal(&format!("{accept}&sb-hc-statusCode=99999")), Some((400, String::new())));
    assert_eq!(refusal(&format!("{accept}&sb-hc-statusDescription=x")), None);
    assert_eq!(refusal("/$hc/hyco?sb-hc-action=accept&statusCode=500&sb-hc-id=1"), None, "in front of our parameters");
}

#[test]
fn a_sender_s_query_cannot_refuse_its_own_connection() {
    let sender = RequestTarget::parse("/$hc/hyco?statusCode=500&statusDescription=x&sb-hc-statusCode=500").unwrap();
    assert_eq!(sender.refusal(), None);
    let address = sender.accept_address("wss://relay.example", &[("sb-hc-id", "1")]);
    let accept = RequestTarget::parse(Rendezvous::parse(&address).unwrap().path_and_query()).unwrap();
    assert_eq!((accept.action(), accept.refusal()), (Action::Accept, None));
    assert_eq!(accept.user_query(), "statusCode=500&statusDescription=x");
}

#[test]
fn only_the_protocol_s_own_parameters_are_taken_out_of_a_query() {
    let unchanged = [
        "",
        "&&&",
        "&",
        "a=1&a=2",
        "a=1&a=2&",
        "&foo=bar",
        "foo=bar&",
        "&custom&value&",
        "&&value&&",
        "CustomValue",
        "sb-hc-undefined",
        "+",
        "%2B",
        "%c3%bc=%C3%BC",
        "a='b'&c=\"d\"&e=<f>",
        "=",
        "=sb-hc-id=1",
        "xsb-hc-id=1",
        "sb-hc",
        "sb-hc=1",
        "ü=sb-hc-id",
    ];
    for query in unchanged {
        assert_eq!(user_query(query), query);
    }
    let table = [
        ("sb-hc-id=1", ""),
        ("sb-hc-undefined=true", ""),
        ("sb-hc-whatever=", ""),
        ("SB-Hc-Token=x", ""),
        ("sb-hc-=x", ""),
        ("sb-hc-id=1&custom=value", "custom=value"),
        ("custom=value&sb-hc-id=1", "custom=value"),
        ("a=1&sb-hc-id=1&b=2", "a=1&b=2"),
        ("sb-hc-whatever=&foo=bar", "foo=bar"),
        ("&sb-hc-id=1&", "&"),
        ("sb-hc-a&sb-hc-b=1", "sb-hc-a"),
    ];
    for (query, left) in table {
        assert_eq!(user_query(query), left, "{query}");
        let target = RequestTarget::parse(&format!("/$hc/hyco?{query}")).unwrap();
        assert_eq!(target.user_query(), left, "{query}");
    }
}

#[test]
fn the_longest_registered_prefix_is_the_entity() {
    let entities = ["hyco", "hyco/sub", "plant/1/gateway"];
    let find = |path: &'static str| {
        find_entity(path, |key| entities.iter().position(|name| *name == key))
            .map(|(at, suffix)| (entities[at], suffix))
    };
    assert_eq!(find("hyco"), Some(("hyco", "")));
    assert_eq!(find("/HYCO/"), Some(("hyco", "")));
    assert_eq!(find("hyco/Other"), Some(("hyco", "Other")));
    assert_eq!(find("hyco/sub"), Some(("hyco/sub", "")));
    assert_eq!(find("hyco/sub/Path/x"), Some(("hyco/sub", "Path/x")));
    assert_eq!(find("hyco/subway"), Some(("hyco", "subway")));
    assert_eq!(find("hycos"), None);
    assert_eq!(find("plant/1"), None);
    assert_eq!(find(""), None);
    assert_eq!(entity_key("/Plant/1/Gateway/"), "plant/1/gateway");
}

#[test]
fn a_hostile_path_costs_a_bounded_number_of_lookups() {
    let path = "a/".repeat(16_000);
    let mut lookups = 0;
    let found = find_entity(&path, |key| -> Option<()> {
        lookups += 1;
        assert!(key.len() <= MAX_ENTITY_PATH);
        None
    });
    assert_eq!((found, lookups), (None, MAX_ENTITY_PATH / 2));
    let longest = "b".repeat(MAX_ENTITY_PATH);
    assert_eq!(find_entity(&longest, |key| (key == longest).then_some(())), Some(((), "")));
}

#[test]
fn no_secret_of_an_address_is_shown() {
    let shown = format!(
        "{:?} {:?}",
        RequestTarget::parse("/$hc/hyco?sb-hc-token=topsecret&x=topsecret&sb-hc-nonce=topsecret").unwrap(),
        Rendezvous::parse("wss://h/$hc/hyco?sb-hc-id=topsecret").unwrap()
    );
    assert!(shown.contains("hyco") && !shown.contains("topsecret"), "{shown}");
}

#[test]
fn errors_say_what_to_write_instead() {
    for (text, advice) in [
        ("https://relay.example", "wss://"),
        ("wss://relay.example:port", "1 to 65535"),
        ("wss://relay.example?q", "without"),
        ("wss://relay.example/a b", "escape"),
        ("wss://grün", "punycode"),
    ] {
        let error = RelayUrl::parse(text).unwrap_err().to_string();
        assert!(error.contains(advice), "{text}: {error}");
    }
    assert!(RequestTarget::parse("/hyco").unwrap_err().to_string().contains("/$hc/"));
}

#[test]
fn an_application_does_not_see_the_path_of_its_entity() {
    for (target, entity, expected) in [
        ("/hyco", "hyco", ("/hyco", "/")),
        ("/hyco/", "hyco", ("/hyco", "/")),
        ("/Hyco/a/b?c=/d", "hyco", ("/Hyco", "/a/b?c=/d")),
        ("/hyco?a", "hyco", ("/hyco", "/?a")),
        ("/site/gateway%2d1/x%2Fy", "site/gateway-1", ("/site/gateway%2d1", "/x%2Fy")),
        ("/hyco//a", "hyco", ("/hyco", "//a")),
        ("/hyco2/a", "hyco", ("", "/hyco2/a")),
        ("/site", "site/gateway", ("", "/site")),
        ("*", "hyco", ("", "*")),
        ("", "hyco", ("", "")),
    ] {
        let (prefix, rest) = application_target(target, entity);
        assert_eq!((prefix, rest.as_str()), expected, "{target} at {entity}");
    }
}

#[test]
fn azures_relays_are_known_by_their_names() {
    let is_azure = |url: &str| RelayUrl::parse(url).unwrap().is_azure();
    assert!(is_azure("sb://contoso.servicebus.windows.net/site"));
    assert!(is_azure("wss://CONTOSO.ServiceBus.Windows.NET:443/site"));
    assert!(
        is_azure("sb://contoso.servicebus.usgovcloudapi.net") && is_azure("sb://contoso.servicebus.chinacloudapi.cn")
    );
    for url in ["wss://servicebus.windows.net", "wss://contoso.servicebus.windows.net.example", "ws://localhost"] {
        assert!(!is_azure(url), "{url}");
    }
}
