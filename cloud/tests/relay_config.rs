//! Promise: what `cloud.toml` says of hybrid connections that are made at run time becomes what the relay does, and what is
//! wrong with it has a line and says what was expected.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use umbilical_cloud::config::Config;
use umbilical_cloud::connect::Route;

const ON_DEMAND: &str = r#"
[relay]
listen = "127.0.0.1:8443"
state-directory = "/var/lib/umbilical"
[relay.on-demand]
pattern = "Gateway-*"
max = 50
remove-after = "36h"
requires-client-authorization = false
[relay.keys.operator]
secret-file = "@operator.key"
rights = ["listen"]
[gateway]
[[gateway.expose]]
listen = "127.0.0.1:2222"
device = "gateway-0042"
service = "ssh"
"#;

/// `@name` in the text stands for a file of the folder.
fn load(text: &str) -> Result<(Config, Vec<String>), String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("operator.key"), "key").unwrap();
    fs::set_permissions(folder.path().join("operator.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let place = format!("{}/", folder.path().display());
    let file = folder.path().join("cloud.toml");
    let loaded = Config::parse(&file, &text.replace('@', &place));
    let (config, warnings) = loaded.map_err(|error| error.to_string().replace(&place, "@"))?;
    Ok((config, warnings.iter().map(ToString::to_string).collect()))
}

#[test]
fn it_becomes_what_it_says() {
    let (config, warnings) = load(ON_DEMAND).unwrap();
    assert_eq!(warnings, [] as [String; 0]);
    let relay = config.relay.unwrap().config;
    assert_eq!(relay.state_directory, Some(PathBuf::from("/var/lib/umbilical")));
    let on_demand = relay.on_demand.unwrap();
    assert!(on_demand.pattern.matches("gateway-7") && !on_demand.pattern.matches("other"));
    assert_eq!((on_demand.most, on_demand.remove_after), (50, Duration::from_secs(36 * 3600)));
    assert!(!on_demand.requires_client_authorization);
}

#[test]
fn a_gateway_exposes_devices_that_are_still_to_come() {
    // by the pattern, or by the management API
    load(&ON_DEMAND.replace("state-directory = \"/var/lib/umbilical\"\n", "")).unwrap();
    let others = ON_DEMAND.replace("device = \"gateway-0042\"", "device = \"other\"");
    load(&others).unwrap();
    let error = load(&others.replace("state-directory = \"/var/lib/umbilical\"\n", "")).unwrap_err();
    assert!(error.contains("`gateway.expose.device`: expected a device of [relay.hybrid-connections]"), "{error}");
}

#[test]
fn who_needs_no_token_on_the_way_to_a_device_that_is_still_to_come_needs_no_key_either() {
    let route = |text: &str, device: &str| {
        let (config, _) = load(text).unwrap();
        Route::by_config(&config, device, "ssh").map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(route(ON_DEMAND, "gateway-7"), Ok(()));
    let error = route(&ON_DEMAND.replace("requires-client-authorization = false", ""), "gateway-7").unwrap_err();
    assert!(error.contains("\"send\""), "{error}");
    // of what the management API makes, nobody knows
    let error = route(ON_DEMAND, "other").unwrap_err();
    assert!(error.contains("\"send\""), "{error}");
    let error = route(&ON_DEMAND.replace("state-directory = \"/var/lib/umbilical\"\n", ""), "other").unwrap_err();
    assert!(error.contains("other"), "{error}");
}

#[test]
fn what_is_wrong_is_told() {
    for (from, to, expected) in [
        ("Gateway-*", "$hc/*", "@cloud.toml:6: `relay.on-demand.pattern`: expected names of devices, with * for any"),
        ("pattern = \"Gateway-*\"\n", "", "@cloud.toml:5: missing field `pattern`"),
        ("max = 50", "max = 0", "@cloud.toml:7: `relay.on-demand.max`: expected a number from 1 to 10000"),
        ("max = 50", "max = 10001", "`relay.on-demand.max`: expected a number from 1 to 10000, found \"10001\""),
        ("36h", "0d", "@cloud.toml:8: `relay.on-demand.remove-after`: expected a duration from 1s"),
        ("36h", "a month", "@cloud.toml:8: expected a duration such as \"30d\" or \"12h\""),
        ("max = 50", "most = 50", "@cloud.toml:7: unknown field `most`, expected one of `pattern`, `max`"),
        ("\"/var/lib/umbilical\"", "7", "@cloud.toml:4: invalid type: integer `7`"),
    ] {
        assert!(ON_DEMAND.contains(from), "{from:?} is not in the text");
        let error = load(&ON_DEMAND.replacen(from, to, 1)).expect_err(expected);
        assert!(error.contains(expected), "expected {expected}\n   found {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_pattern_that_nobody_may_use_is_told() {
    let (_, warnings) = load(&ON_DEMAND.replace("[\"listen\"]", "[\"send\"]")).unwrap();
    let [warning] = &warnings[..] else { panic!("one warning: {warnings:?}") };
    assert!(warning.contains("no device makes \"gateway-*\"") && warning.contains("[relay.keys.NAME]"), "{warning}");
}
