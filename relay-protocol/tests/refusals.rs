//! Refused handshakes and closed sockets: statuses, codes and texts.

use umbilical_relay_protocol::{AddressError, Close, Rejection, TokenError};

const GUID: &str = "1f2e3d4c-0000-4000-8000-0123456789ab";

#[test]
fn every_known_refusal_has_its_status_and_text() {
    let table = [
        (
            Rejection::bad_address(&AddressError::NotWebSocket),
            400,
            "The path of a WebSocket request must begin with /$hc/",
        ),
        (Rejection::token_missing(), 401, "MissingToken"),
        (Rejection::endpoint_not_found("hyco"), 404, "Endpoint does not exist: 'hyco'"),
        (Rejection::no_listener("hyco"), 404, "There are no listeners connected for the endpoint 'hyco'"),
        (Rejection::no_listener_for_request("hyco"), 502, "There are no listeners connected for the endpoint 'hyco'"),
        (Rejection::listeners_excluded(), 404, "None of the connected listeners meet the AllowedListeners"),
        (Rejection::too_many_listeners("hyco"), 403, "MaximumListenersPerEndpoint"),
        (Rejection::rendezvous_unknown(), 403, "rendezvous"),
        (Rejection::refusal_taken(), 410, "Gone"),
        (Rejection::headers_too_large(), 431, "too large"),
        (Rejection::internal(), 500, "failed"),
        (Rejection::busy(), 503, "busy"),
        (Rejection::listener_timeout("hyco"), 504, "'hyco' did not answer in time"),
    ];
    for (rejection, status, text) in table {
        assert_eq!(rejection.status(), status, "{rejection}");
        assert!(rejection.reason().contains(text), "{rejection}");
    }
}

#[test]
fn a_listener_s_words_reach_the_sender() {
    let table = [(404, 404), (599, 599), (600, 599), (999, 599), (100, 400), (200, 400), (0, 400)];
    for (given, status) in table {
        assert_eq!(Rejection::by_listener(given, "no such service").to_string(), format!("{status} no such service"));
    }
    assert_eq!(Rejection::by_listener(400, " ").reason(), "Rejected by user code");
}

#[test]
fn no_reason_breaks_out_of_its_line() {
    let rejection = Rejection::endpoint_not_found("a\r\nSet-Cookie: x\r\n\r\n<html>\u{85}ü\u{0}");
    assert_eq!(rejection.reason(), "Endpoint does not exist: 'a  Set-Cookie: x    <html> ? '");
    let long = Rejection::endpoint_not_found(&"x".repeat(100_000)).tracked(GUID, "relay", 0);
    assert!(long.reason().len() <= 512 && long.reason().ends_with("Timestamp:1970-01-01T00:00:00"), "{long}");
}

#[test]
fn a_refusal_can_be_found_in_the_relay_s_log() {
    let rejection = Rejection::endpoint_not_found("hyco").tracked(GUID, "relay.example:hyco", 1_495_139_526);
    assert_eq!(
        rejection.to_string(),
        format!(
            "404 Endpoint does not exist: 'hyco'. TrackingId:{GUID}_G0, SystemTracker:relay.example:hyco, \
             Timestamp:2017-05-18T20:32:06"
        )
    );
    assert_eq!(rejection.message(), "Endpoint does not exist: 'hyco'");
    assert_eq!(rejection.tracking_id(), Some(format!("{GUID}_G0").as_str()));
    let bare = Rejection::new(503, "Service Unavailable");
    assert_eq!((bare.message(), bare.tracking_id()), ("Service Unavailable", None));
}

#[test]
fn timestamps() {
    // seconds as `date --utc --date=... +%s` gives them
    let table = [
        (951_782_400, "2000-02-29T00:00:00"),
        (951_868_799, "2000-02-29T23:59:59"),
        (951_868_800, "2000-03-01T00:00:00"),
        (4_107_542_400, "2100-03-01T00:00:00"),
        (1_735_689_599, "2024-12-31T23:59:59"),
        (1_735_689_600, "2025-01-01T00:00:00"),
    ];
    for (seconds, text) in table {
        let reason = Rejection::busy().tracked(GUID, "r", seconds).reason().to_owned();
        assert!(reason.ends_with(&format!("Timestamp:{text}")), "{seconds}: {reason}");
    }
    assert!(Rejection::busy().tracked(GUID, "r", u64::MAX).reason().contains("Timestamp:"));
}

#[test]
fn close_codes() {
    let table = [
        (Close::normal(), 1000),
        (Close::entity_deleted(), 1001),
        (Close::other_side_gone(), 1001),
        (Close::going_away(), 1001),
        (Close::protocol_error(&"x"), 1002),
        (Close::token_expired(), 1008),
        (Close::renewal_refused(&TokenError::Malformed("se")), 1008),
        (Close::internal(), 1011),
    ];
    for (close, code) in table {
        assert_eq!(close.code(), code, "{close}");
        assert!(!close.reason().is_empty() && close.reason().len() <= 123, "{close}");
    }
    assert_eq!(Close::new(1011, "NameRenewalFailed").meaning(), "the relay's daily reconnect");
    assert_eq!(Close::new(1000, "").to_string(), "1000 (closed)");
    assert_eq!(Close::new(1008, "a\nb").to_string(), "1008 (the token expired or its renewal was refused): \"a\\nb\"");
}

#[test]
fn a_close_reason_is_cut_between_characters() {
    assert_eq!(Close::new(1000, &"ü".repeat(100)).reason(), "ü".repeat(61));
    assert_eq!(Close::new(1000, &"x".repeat(123)).reason().len(), 123);
    assert_eq!(Close::new(1000, &"x".repeat(124)).reason().len(), 123);
}
