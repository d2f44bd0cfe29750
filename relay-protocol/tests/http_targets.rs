//! Plain HTTP requests: what is the entity's, what is the protocol's, and what the listener gets to know.

use umbilical_relay_protocol::{
    Action, AddressError, HttpTarget, Rendezvous, RequestTarget, find_entity, request_address,
};

#[test]
fn a_request_keeps_its_path_and_the_application_s_query() {
    // target, path, what the listener gets
    let table = [
        ("/hyco", "hyco", "/hyco"),
        ("/hyco/", "hyco", "/hyco/"),
        ("/hyco/sub/p%C3%A4th?a=1", "hyco/sub/päth", "/hyco/sub/p%C3%A4th?a=1"),
        ("/hyco?sb-hc-token=x", "hyco", "/hyco"),
        ("/hyco?", "hyco", "/hyco"),
        ("/hyco?a=1&sb-hc-token=x&sb-hc-id=y", "hyco", "/hyco?a=1"),
        ("/hyco?SB-HC-Token=x&a=%2f&", "hyco", "/hyco?a=%2f&"),
        ("/hyco?&&&", "hyco", "/hyco?&&&"),
        ("/hyco?&foo=bar", "hyco", "/hyco?&foo=bar"),
        ("/hyco?sb-hc-undefined", "hyco", "/hyco?sb-hc-undefined"),
        ("/hyco?sb-hc-token=", "hyco", "/hyco"),
        ("*", "*", "*"),
        ("/", "", "/"),
    ];
    for (text, path, passed_on) in table {
        let target = HttpTarget::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((target.path(), target.request_target()), (path, passed_on), "{text}");
    }
}

#[test]
fn token_and_id_are_decoded_once() {
    let target = HttpTarget::parse("/hyco?sb-hc-token=SharedAccessSignature%20sr%3Da%252Fb&Sb-Hc-Id=a+b").unwrap();
    assert_eq!(target.token(), Some("SharedAccessSignature sr=a%2Fb"));
    assert_eq!(target.id(), Some("a b"));
    assert_eq!(HttpTarget::parse("/hyco?sb-hc-token").unwrap().token(), None);
    assert!(!format!("{target:?}").contains("Shared"), "{target:?}");
}

#[test]
fn characters_that_break_a_request_line_are_refused() {
    for (text, char) in [("/a b", ' '), ("/a\r\nb", '\r'), ("/a#b", '#'), ("/a?\u{0}", '\0')] {
        assert_eq!(HttpTarget::parse(text), Err(AddressError::Character(char)), "{text:?}");
    }
}

#[test]
fn a_request_address_leads_back_to_the_relay() {
    let address =
        request_address("wss://relay.example:8443/", "plant 1/ü", &[("sb-hc-id", "id_G1"), ("sb-hc-x", "&=")]);
    assert_eq!(
        address,
        "wss://relay.example:8443/$hc/plant%201/%C3%BC?sb-hc-action=request&sb-hc-id=id_G1&sb-hc-x=%26%3D"
    );
    let rendezvous = Rendezvous::parse(&address).unwrap();
    let target = RequestTarget::parse(rendezvous.path_and_query()).unwrap();
    assert_eq!((target.action(), target.path(), target.id()), (Action::Request, "plant 1/ü", Some("id_G1")));
    assert_eq!((target.param("sb-hc-x"), target.user_query()), (Some("&="), ""));
}

#[test]
fn the_entity_of_a_request_is_found_as_that_of_a_websocket() {
    let target = HttpTarget::parse("/Plant/Line%201/status?x").unwrap();
    let found = find_entity(target.path(), |key| (key == "plant/line 1").then_some(()));
    assert_eq!(found, Some(((), "status")));
}
