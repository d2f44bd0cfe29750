//! Proxy URLs, and what the environment says about them.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use umbilical_link::dial::Target;
use umbilical_link::proxy::{Proxy, ProxySettings, ProxyUrlError};

fn target(host: &str, port: u16, tls: bool) -> Target {
    Target { host: host.into(), port, tls }
}

/// What is used for wss://`host`:443 when the environment holds these.
fn chosen(variables: &[(&str, &str)], host: &str) -> Option<String> {
    let settings = ProxySettings::from_environment(|name| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    });
    settings.unwrap().proxy_for(&target(host, 443, true)).map(ToString::to_string)
}

#[test]
fn urls_are_read() {
    for (url, shown) in [
        ("http://proxy.corp:3128", "http://proxy.corp:3128"),
        ("http://proxy.corp:3128/", "http://proxy.corp:3128"),
        (" HTTP://proxy.corp ", "http://proxy.corp:80"),
        ("proxy.corp:3128", "http://proxy.corp:3128"),
        ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ("http://[fd00::1]", "http://[fd00::1]:80"),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("http://user:pass@proxy.corp:3128", "http://user:***@proxy.corp:3128"),
        ("http://user@proxy.corp:3128", "http://user:***@proxy.corp:3128"),
        ("http://corp%5Cuser:p%40ss@proxy.corp:3128", "http://corp\\\\user:***@proxy.corp:3128"),
        ("http://user:p@ss@proxy.corp:3128", "http://user:***@proxy.corp:3128"),
    ] {
        let proxy = Proxy::parse(url).unwrap();
        assert_eq!(proxy.to_string(), shown, "{url}");
        assert_eq!(format!("{proxy:?}"), format!("Proxy({shown})"));
    }
}

#[test]
fn urls_that_are_none_are_refused_without_showing_a_password() {
    for (url, kind) in [
        ("https://u:secret@proxy.corp:3128", "scheme"),
        ("socks5://u:secret@proxy.corp:1080", "scheme"),
        ("", "place"),
        ("http://", "place"),
        ("http://u:secret@", "place"),
        ("http://u:secret@:3128", "place"),
        ("http://u:secret@proxy.corp:0", "place"),
        ("http://u:secret@proxy.corp:65536", "place"),
        ("http://u:secret@proxy.corp:port", "place"),
        ("http://u:secret@proxy.corp:", "place"),
        ("http://u:secret@proxy corp:1", "place"),
        ("http://u:secret@proxy.corp:1/path", "place"),
        ("http://u:secret@fd00::1:3128", "place"),
        ("http://u:secret@[fd00::1:3128", "place"),
        ("http://u:secret@[fd00::1]3128", "place"),
        ("http://u:secret%ff@proxy.corp:3128", "credentials"),
        ("http://u:secret%0d%0aX:y@proxy.corp:3128", "credentials"),
        ("http://u%3A:secret@proxy.corp:3128", "credentials"),
    ] {
        let error = Proxy::parse(url).unwrap_err();
        let found = match error {
            ProxyUrlError::Scheme { .. } => "scheme",
            ProxyUrlError::Place { .. } => "place",
            ProxyUrlError::Credentials => "credentials",
            _ => "another",
        };
        assert_eq!(found, kind, "{url}: {error}");
        assert!(!error.to_string().contains("secret") && !format!("{error:?}").contains("secret"), "{url}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*|(http://)?[a-z0-9:@%\\[\\]./]*") {
        if let Ok(proxy) = Proxy::parse(&text) {
            prop_assert!(!proxy.host.is_empty() && proxy.port > 0);
        }
    }
}

#[test]
fn the_environment_is_read_as_by_other_programs() {
    let proxy = "http://proxy.corp:3128";
    let some = Some(proxy.to_owned());
    assert_eq!(chosen(&[], "relay.example.net"), None);
    assert_eq!(chosen(&[("HTTPS_PROXY", proxy)], "relay.example.net"), some);
    assert_eq!(chosen(&[("https_proxy", proxy), ("HTTPS_PROXY", "http://other:1")], "relay.example.net"), some);
    assert_eq!(chosen(&[("https_proxy", ""), ("HTTPS_PROXY", proxy)], "relay.example.net"), some);
    assert_eq!(chosen(&[("HTTP_PROXY", proxy), ("http_proxy", proxy)], "relay.example.net"), None);

    let except = |list: &str, host: &str| chosen(&[("https_proxy", proxy), ("NO_PROXY", list)], host).is_none();
    for (list, host, direct) in [
        ("*", "relay.example.net", true),
        ("example.net", "relay.example.net", true),
        ("example.net", "example.net", true),
        ("example.net", "EXAMPLE.NET.", true),
        (".example.net", "example.net", true),
        ("*.example.net", "relay.example.net", true),
        ("Example.Net", "relay.example.net", true),
        ("example.net", "notexample.net", false),
        ("relay.example.net", "example.net", false),
        ("other.test, example.net", "relay.example.net", true),
        ("other.test example.net", "relay.example.net", true),
        (",, ,", "relay.example.net", false),
        ("example.net:443", "relay.example.net", true),
        ("example.net:8443", "relay.example.net", false),
        ("10.0.0.0/8", "10.1.2.3", true),
        ("10.0.0.0/8", "11.1.2.3", false),
        ("10.0.0.0/8", "10.example.net", false),
        ("10.1.2.3", "10.1.2.3", true),
        ("10.1.2.3:443", "10.1.2.3", true),
        ("10.1.2.3:80", "10.1.2.3", false),
        ("10.1.2.3", "10.1.2.30", false),
        ("fd00::/8", "fd12::1", true),
        ("[fd12::1]", "fd12::1", true),
        ("[fd12::1]:443", "fd12:0::1", true),
        ("[fd12::1]:80", "fd12::1", false),
        ("fd12::1", "fd12::1", true),
        ("127.0.0.1", "::ffff:127.0.0.1", true),
        ("10.0.0.0/99", "10.1.2.3", false),
    ] {
        assert_eq!(except(list, host), direct, "NO_PROXY={list:?} for {host}");
    }
    assert_eq!(chosen(&[("https_proxy", proxy), ("no_proxy", "a.test"), ("NO_PROXY", "*")], "b.test"), some);
}

#[test]
fn a_broken_variable_is_an_error_and_not_a_direct_connection() {
    let settings = ProxySettings::from_environment(|name| (name == "HTTPS_PROXY").then(|| "socks5://proxy:1".into()));
    assert_eq!(settings.unwrap_err(), ProxyUrlError::Scheme { scheme: "socks5".into() });
}

#[test]
fn a_configured_proxy_is_for_everything_and_the_environments_is_for_tls() {
    let proxy = Proxy::parse("http://proxy.corp:3128").unwrap();
    let configured = ProxySettings::always(proxy.clone());
    let environment =
        ProxySettings::from_environment(|name| (name == "https_proxy").then(|| "proxy.corp:3128".into())).unwrap();
    for (tls, by_environment) in [(true, Some(&proxy)), (false, None)] {
        let target = target("relay.example.net", 443, tls);
        assert_eq!(configured.proxy_for(&target), Some(&proxy));
        assert_eq!(environment.proxy_for(&target), by_environment);
        assert_eq!(ProxySettings::direct().proxy_for(&target), None);
    }
}
