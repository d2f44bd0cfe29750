//! Promise: a configuration that is wrong is refused with the file, the line and what was expected; what is odd is told;
//! the example has every key and works.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use umbilical_cloud::config::{Auth, Config, ListenerKind, RelayChoice, Transport};
use umbilical_cloud::relay::config::{Deadlines, KeySource};
use umbilical_relay_protocol::{RelayUrl, Right};

/// A folder with the files that a configuration names.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        folder.write("relay.pem", &certificate.pem());
        folder.write("relay.key", &key.serialize_pem());
        folder.write("send.key", "key of send\n");
        folder.write("listen.key", "key of listen\n");
        folder.write("old.key", "old key\n");
        folder.write("empty", " \n");
        folder.write("keys.json", KEYS);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// `@name` in the text stands for a file of this folder.
    fn load(&self, text: &str) -> Result<(Config, Vec<String>), String> {
        self.write("cloud.toml", &text.replace('@', &format!("{}/", self.0.path().display())));
        let (config, warnings) =
            Config::load(&self.path("cloud.toml")).map_err(|error| self.relative(&error.to_string()))?;
        Ok((config, warnings.iter().map(|warning| self.relative(&warning.to_string())).collect()))
    }

    fn relative(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "@")
    }
}

const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

const ISSUERS: &str = r#"
[relay.issuers.entra]
issuer = "https://login.microsoftonline.com/T/v2.0"
jwks-url = "https://login.microsoftonline.com:8443/T/keys?p=1"
ca-file = "@relay.pem"
proxy = "none"
[[relay.issuers.entra.grants]]
subject = "object"
rights = ["listen"]
hybrid-connections = ["d1/"]
[relay.issuers.local]
issuer = "local"
jwks-file = "@keys.json"
audience = "api://relay"
"#;

const RELAY: &str = r#"
[relay]
listen = "127.0.0.1:8443"
certificate-file = "@relay.pem"
key-file = "@relay.key"
[relay.keys.operator]
secret-file = "@send.key"
rights = ["send"]
[relay.hybrid-connections.d1.keys.listen]
secret-file = "@listen.key"
rights = ["listen"]
"#;

const ELSEWHERE: &str = r#"
[gateway]
relay = "wss://relay.example.net:8443"
ca-file = "@relay.pem"
proxy = "none"
[gateway.auth]
key-name = "send"
key-file = "@send.key"
"#;

const EXPOSE: &str = r#"
[[gateway.expose]]
listen = "127.0.0.1:2222"
device = "d1"
service = "ssh"
"#;

#[test]
fn the_example_loads_and_shows_the_defaults() {
    let folder = Folder::new();
    let example = include_str!("../examples/cloud.toml");
    folder.write("operator.key", "x");
    folder.write("gateway-0042.key", "y");
    folder.write("operator.old.key", "z");
    let (config, warnings) = folder.load(&example.replace("/etc/umbilical/", "@")).unwrap();
    assert_eq!(warnings, [] as [String; 0]);

    // what is optional and shows its default changes nothing
    let all = example.replace("/etc/umbilical/", "@");
    let all = [
        "public-url",
        "max-connections = 20000",
        "response-timeout",
        "secondary-file",
        "state-directory",
        "[relay.on-demand]",
        "pattern",
        "max = 10000",
        "remove-after",
        "[relay.issuers.entra]",
        "issuer =",
        "jwks-url",
        "audience",
        "[[relay.issuers.entra.grants]]",
        "subject",
        "rights = [\"listen\"]",
        "hybrid-connections = [",
        "requires-client-authorization",
        "keep-alive",
        "resume-for",
        "drain-for",
        "replay",
        "receive",
        "streams",
        "max-connections = 100",
        "plain = false",
        "azbridge = ",
        "max-connections = 32",
        "idle-timeout",
    ]
    .iter()
    .fold(all, |text, key| {
        let shown = format!("\n#{key}");
        assert!(text.contains(&shown), "{key} is not in the example");
        text.replace(&shown, &format!("\n{key}"))
    });
    let (full, _) = folder.load(&all).unwrap();
    let (one, other) = (config.gateway.unwrap(), full.gateway.unwrap());
    assert_eq!((one.shape, one.resume_for, one.drain_for), (other.shape, other.resume_for, other.drain_for));
    assert_eq!(one.keep_alive, other.keep_alive);
    assert_eq!(one.exposures[1], other.exposures[1]);
    let (one, other) = (config.relay.unwrap().config, full.relay.unwrap().config);
    assert_eq!((one.limits, one.deadlines), (other.limits, other.deadlines));
    assert_eq!((one.issuers.len(), other.issuers[0].issuer.grants.len()), (0, 1));
    let on_demand = other.on_demand.unwrap();
    assert_eq!((on_demand.most, on_demand.remove_after), (10_000, Duration::from_secs(30 * 24 * 3600)));
    assert!(one.on_demand.is_none() && one.state_directory.is_none() && on_demand.requires_client_authorization);
    assert_eq!(
        one.hybrid_connections[0].requires_client_authorization,
        other.hybrid_connections[0].requires_client_authorization
    );
    assert_eq!((one.public_origin, other.public_origin.as_deref()), (None, Some("wss://relay.example.net")));
    assert!(other.rules[0].secondary.is_some());
    assert_eq!(full.admin, Some("127.0.0.1:9090".parse().unwrap()));
}

#[test]
fn a_device_at_its_own_pace_need_not_be_asked() {
    let folder = Folder::new();
    let agent = "[relay]\nurl = 'wss://h/d1'\n[relay.auth]\nkey-name = 'listen'\nkey-file = '@listen.key'\n";
    for keep_alive in ["", "keep-alive = 'metered'\n"] {
        let agent = agent.replace("[relay]\n", &format!("[relay]\n{keep_alive}"));
        folder.write("agent.toml", &agent.replace('@', &format!("{}/", folder.0.path().display())));
        let (agent, _) = umbilical_agent::config::Config::load(&folder.path("agent.toml")).unwrap();
        let (cloud, _) = folder.load(&format!("{RELAY}[gateway]\n{keep_alive}")).unwrap();
        let gateway = cloud.gateway.unwrap().keep_alive;
        assert!(agent.keep_alive() < gateway && agent.keep_alive() < Deadlines::default().quiet);
        assert!(gateway < Duration::from_secs(240), "a load balancer would forget the link first");
    }
}

#[test]
fn both_halves_become_what_they_say() {
    let folder = Folder::new();
    let text = format!(
        "{}[relay.hybrid-connections.'site/d2']\nrequires-client-authorization = false\n\
         [gateway]\nkeep-alive = 'metered'\nresume-for = '5m'\ndrain-for = '30s'\n[gateway.memory]\nreplay = '2M'\nreceive = 65536\nstreams = 16\n\
         {EXPOSE}allow = ['10.0.0.0/8', '::1']\nmax-connections = 3\n\
         [[gateway.expose]]\nlisten = '127.0.0.1:1'\ndevice = 'd1'\nservice = 'x'\nplain = true\n\
         [[gateway.expose]]\nlisten = '127.0.0.1:2'\ndevice = 'd1'\nservice = 'x'\nplain = false\nazbridge = 'Some port'\n\
         [[gateway.expose]]\nlisten = 'udp:127.0.0.1:2222'\ndevice = 'd1'\nservice = 'x'\nazbridge = '161U'\nidle-timeout = '5m'\n\
         [[gateway.expose]]\nlisten = 'udp:127.0.0.1:2'\ndevice = 'd1'\nservice = 'x'\nmax-connections = 4096\n",
        RELAY.replace("[relay]\n", "[relay]\nresponse-timeout = '5m'\n")
    );
    let (config, warnings) = folder.load(&text).unwrap();
    assert_eq!(
        warnings,
        [
            "no key has the right to listen at \"site/d2\"; add [relay.hybrid-connections.\"site/d2\".keys.NAME] for its device"
        ]
    );
    let relay = config.relay.unwrap();
    assert_eq!(relay.config.endpoints[0].address, SocketAddr::from(([127, 0, 0, 1], 8443)));
    assert!(relay.config.endpoints[0].tls.is_some());
    assert_eq!(relay.config.deadlines.response, Duration::from_secs(300));
    assert!(!relay.hybrid_connection("SITE/d2").unwrap().requires_client_authorization);
    let rule = relay.rule_with(Right::Send, "d1").unwrap();
    assert_eq!((rule.name.as_str(), rule.primary.as_bytes()), ("operator", b"key of send".as_slice()));
    assert_eq!(relay.rule_with(Right::Listen, "d1").unwrap().name, "listen");
    assert!(relay.rule_with(Right::Listen, "site/d2").is_none());
    let gateway = config.gateway.unwrap();
    assert!(matches!(gateway.relay, RelayChoice::Embedded));
    assert_eq!(gateway.keep_alive, Duration::from_secs(225));
    assert_eq!((gateway.resume_for, gateway.drain_for), (Duration::from_secs(300), Duration::from_secs(30)));
    assert_eq!((gateway.shape.replay, gateway.shape.receive, gateway.shape.streams), (2 << 20, 65536, 16));
    let exposure = &gateway.exposures[0];
    assert_eq!((&*exposure.device, &*exposure.service, exposure.max_connections), ("d1", "ssh", Some(3)));
    let listeners: Vec<_> = gateway.exposures.iter().map(|exposure| exposure.listener.clone()).collect();
    let azbridge = ListenerKind::Azbridge("Some port".into());
    let datagrams = ListenerKind::Azbridge("161U".into());
    assert_eq!(listeners, [ListenerKind::Agent, ListenerKind::Plain, azbridge, datagrams, ListenerKind::Agent]);
    // a number may be used twice, and who forges addresses is never let in without bound
    let (tcp, udp) = (&gateway.exposures[0], &gateway.exposures[3]);
    assert_eq!((tcp.listen.transport, udp.listen.transport), (Transport::Tcp, Transport::Udp));
    assert_eq!(tcp.listen.address, udp.listen.address);
    assert_eq!((udp.max_connections, udp.idle_timeout), (Some(32), Duration::from_secs(300)));
    let udp = &gateway.exposures[4];
    assert_eq!((udp.max_connections, udp.idle_timeout), (Some(4096), Duration::from_secs(60)));
    let allow = exposure.allow.as_ref().unwrap();
    assert!(allow[0].contains("10.1.2.3".parse().unwrap()) && !allow[1].contains("::2".parse().unwrap()));
}

#[test]
fn a_gateway_alone_knows_how_to_get_to_its_relay() {
    let folder = Folder::new();
    let (config, warnings) = folder.load(&format!("{ELSEWHERE}{EXPOSE}")).unwrap();
    assert_eq!(warnings, [] as [String; 0]);
    assert!(config.relay.is_none());
    let RelayChoice::Remote(remote) = config.gateway.unwrap().relay else { panic!("it is elsewhere") };
    assert_eq!(remote.url, RelayUrl::parse("wss://relay.example.net:8443").unwrap());
    assert!(matches!(remote.auth, Auth::SharedKey { name, file } if name == "send" && file == folder.path("send.key")));
    let token = ELSEWHERE.replace("key-name = \"send\"\nkey-file", "token-file");
    let (config, _) = folder.load(&token).unwrap();
    let RelayChoice::Remote(remote) = config.gateway.unwrap().relay else { panic!("it is elsewhere") };
    assert!(matches!(remote.auth, Auth::TokenFile(file) if file == folder.path("send.key")));
}

#[test]
fn a_connection_string_stands_for_relay_and_auth() {
    let folder = Folder::new();
    let gateway = format!("[gateway]\nconnection-string-file = '@string'\n{EXPOSE}");
    let load = |string: &str| -> Result<_, String> {
        folder.write("string", string);
        let (config, _) = folder.load(&gateway)?;
        match config.gateway.unwrap().relay {
            RelayChoice::Remote(remote) => Ok(remote),
            RelayChoice::Embedded => panic!("it is elsewhere"),
        }
    };
    let with_key = "Endpoint=sb://ns.example/;SharedAccessKeyName=send;SharedAccessKey=top-secret";
    for string in
        [with_key, &format!("{with_key};EntityPath=D1"), "Endpoint=sb://ns.example;SharedAccessSignature=top-secret"]
    {
        let remote = load(string).unwrap();
        assert_eq!(remote.url, RelayUrl::parse("wss://ns.example").unwrap());
        assert!(matches!(&remote.auth, Auth::ConnectionString(file) if *file == folder.path("string")));
        assert!(!format!("{remote:?}").contains("top-secret"));
    }
    for (string, expected) in [
        (
            "top-secret",
            "@cloud.toml:2: `gateway.connection-string-file`: @string: the connection string has a part without `=`",
        ),
        (
            "Endpoint=sb://ns/;Authentication=Managed Identity",
            "@cloud.toml:2: `gateway.connection-string-file`: @string: the connection string wants a managed identity",
        ),
        (
            &format!("{with_key};EntityPath=d2"),
            "@cloud.toml:6: `gateway.expose.device`: @string: the connection string is for \"d2\" alone (EntityPath), not for \"d1\"",
        ),
    ] {
        let error = load(string).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    folder.write("string", with_key);
    for beside in ["relay = 'wss://h'\n", "auth.token-file = '@send.key'\n"] {
        let error = folder.load(&format!("[gateway]\nconnection-string-file = '@string'\n{beside}")).unwrap_err();
        let expected =
            "@cloud.toml:2: `gateway.connection-string-file`: expected neither `relay` nor [gateway.auth] beside it";
        assert!(error.starts_with(expected), "{error}");
    }
    let absent = folder.load("[gateway]\nconnection-string-file = '@absent'\n").unwrap_err();
    assert!(absent.contains(":2: `gateway.connection-string-file`: cannot read @absent"), "{absent}");
}

#[test]
fn what_is_wrong_has_a_line_and_says_what_was_expected() {
    let folder = Folder::new();
    let both = format!("{RELAY}[gateway]\n{EXPOSE}");
    let elsewhere = format!("{ELSEWHERE}{EXPOSE}");
    for (text, from, to, expected) in [
        (&both, "[relay]", "[relay", "@cloud.toml:2: "),
        (
            &both,
            "certificate-file",
            "certifikate-file",
            "@cloud.toml:4: unknown field `certifikate-file`, expected one of `listen`, `certificate-file`",
        ),
        (
            &both,
            "[gateway]",
            "[gatway]",
            "@cloud.toml:12: unknown field `gatway`, expected one of `relay`, `gateway`, `admin`",
        ),
        (
            &both,
            "127.0.0.1:8443",
            "localhost",
            "@cloud.toml:3: expected ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443, found \"localhost\"",
        ),
        (&both, "\"127.0.0.1:8443\"", "8443", "@cloud.toml:3: invalid type: integer `8443`, expected a string"),
        (&both, "@relay.pem", "@nothing.pem", "@cloud.toml:4: `relay.certificate-file`: cannot read @nothing.pem"),
        (
            &both,
            "key-file = \"@relay.key\"\n",
            "",
            "@cloud.toml:4: `relay.certificate-file`: expected a `key-file` beside it",
        ),
        (
            &both,
            "certificate-file = \"@relay.pem\"\n",
            "",
            "@cloud.toml:4: `relay.key-file`: expected a `certificate-file` beside it",
        ),
        (&both, "@relay.key", "@send.key", "@cloud.toml:4: `relay.certificate-file`: @send.key holds no private key"),
        (
            &both,
            "@send.key",
            "@no.key",
            "@cloud.toml:7: `relay.keys.operator.secret-file`: cannot read @no.key: No such file",
        ),
        (
            &both,
            "@send.key",
            "@empty",
            "@cloud.toml:7: `relay.keys.operator.secret-file`: @empty holds no key, expected one line",
        ),
        (
            &both,
            "@listen.key",
            "@relay.pem",
            "@cloud.toml:10: `relay.hybrid-connections.d1.keys.listen.secret-file`: @relay.pem holds no key",
        ),
        (
            &both,
            "[\"send\"]",
            "[\"sent\"]",
            "@cloud.toml:8: unknown variant `sent`, expected one of `listen`, `send`, `manage`",
        ),
        (
            &both,
            "[\"send\"]",
            "[]",
            "@cloud.toml:8: `relay.keys.operator.rights`: expected some of \"listen\", \"send\" and \"manage\"",
        ),
        (&both, "listen = \"127.0.0.1:8443\"", "", "@cloud.toml:2: missing field `listen`"),
        (
            &both,
            "[relay]",
            "[relay]\npublic-url = 'https://x'",
            "@cloud.toml:3: `relay.public-url`: expected wss://HOST[:PORT] without a path",
        ),
        (
            &both,
            "[relay]",
            "[relay]\nmax-connections = 0",
            "@cloud.toml:3: `relay.max-connections`: expected a number from 1",
        ),
        (
            &both,
            "[relay]",
            "[relay]\nresponse-timeout = '0s'",
            "@cloud.toml:3: `relay.response-timeout`: expected a duration from 1s",
        ),
        (&both, "[relay]", "[relay]\nresponse-timeout = 60", "@cloud.toml:3: "),
        (
            &both,
            "[gateway]",
            "[gateway]\nrelay = 'http://x'",
            "@cloud.toml:13: `gateway.relay`: expected \"embedded\", wss://HOST[:PORT] or sb://",
        ),
        (
            &both,
            "[gateway]",
            "[gateway]\nrelay = 'wss://x/d1'",
            "@cloud.toml:13: `gateway.relay`: expected \"embedded\", wss://HOST[:PORT]",
        ),
        (&both, "[gateway]", "[gateway]\nresume-for = '5 minutes'", "@cloud.toml:13: expected a duration up to 24h"),
        (
            &both,
            "[gateway]",
            "[gateway]\nkeep-alive = '4m'",
            "@cloud.toml:13: `gateway.keep-alive`: expected 5s to 230s",
        ),
        (&both, "[gateway]", "[gateway]\nkeep-alive = 'slow'", "or \"metered\", found \"slow\""),
        (
            &both,
            "[gateway]",
            "[gateway.memory]\nreplay = '1G'",
            "@cloud.toml:13: expected a size such as \"1024K\" or \"1M\", found \"1G\"",
        ),
        (
            &both,
            "[gateway]",
            "[gateway.memory]\nreplay = '8K'",
            "@cloud.toml:12: `gateway.memory`: expected `replay` from 17K to 64M",
        ),
        (
            &both,
            "[gateway]",
            "[gateway.memory]\nreceive = '64K'\nstreams = 129",
            "expected `receive` of 512 bytes for each of the `streams`",
        ),
        (&both, "[gateway]", "[gateway.memory]\nstreams = 0", "expected `streams` from 1 to 32768"),
        (
            &both,
            "\"d1\"",
            "\"d2\"",
            "@cloud.toml:16: `gateway.expose.device`: expected a device of [relay.hybrid-connections], found \"d2\"",
        ),
        (&both, "\"ssh\"", "\"s h\"", "@cloud.toml:17: `gateway.expose.service`: expected a name of 1 to 64 letters"),
        (&both, "service = \"ssh\"", "", "missing field `service`"),
        (
            &both,
            "service =",
            "allow = ['10.0.0.0/64']\nservice =",
            "@cloud.toml:17: expected a network such as 203.0.113.0/24",
        ),
        (
            &both,
            "service =",
            "max-connections = 0\nservice =",
            "`gateway.expose.max-connections`: expected a number from 1",
        ),
        (
            &both,
            "listen = \"127.0.0.1:2222\"",
            "listen = \"udp:2222\"",
            "@cloud.toml:15: expected ADDRESS:PORT, such as 0.0.0.0:443 or [::]:443, or udp:ADDRESS:PORT, found \"udp:2222\"",
        ),
        (
            &both,
            "service =",
            "idle-timeout = '60s'\nservice =",
            "@cloud.toml:17: `gateway.expose.idle-timeout`: expected `listen` of \"udp:ADDRESS:PORT\" beside it, found \"127.0.0.1:2222\"",
        ),
        (
            &both,
            "listen = \"127.0.0.1:2222\"",
            "idle-timeout = '0s'\nlisten = \"udp:127.0.0.1:2222\"",
            "@cloud.toml:15: `gateway.expose.idle-timeout`: expected 1s to 24h, such as \"60s\", found \"0s\"",
        ),
        (
            &both,
            "listen = \"127.0.0.1:2222\"",
            "max-connections = 4097\nlisten = \"udp:127.0.0.1:2222\"",
            "@cloud.toml:15: `gateway.expose.max-connections`: expected a number from 1 to 4096 for a UDP port, found \"4097\"",
        ),
        (
            &both,
            "listen = \"127.0.0.1:2222\"",
            "plain = true\nlisten = \"udp:127.0.0.1:2222\"",
            "@cloud.toml:15: `gateway.expose.plain`: expected `listen` without udp: beside it",
        ),
        (
            &both,
            "service =",
            "plain = true\nazbridge = '22'\nservice =",
            "`gateway.expose.azbridge`: expected no `plain` beside it, they exclude each other, found \"plain = true\"",
        ),
        (
            &both,
            "service =",
            &format!("azbridge = '{}'\nservice =", "x".repeat(256)),
            "`gateway.expose.azbridge`: expected a name of at most 255 bytes",
        ),
        (&both, "service =", "plain = 'yes'\nservice =", "invalid type: string \"yes\", expected a boolean"),
        (
            &both,
            "[gateway]\n",
            "[gateway]\n[[gateway.expose]]\nlisten = '127.0.0.1:2222'\ndevice = 'd1'\nservice = 'x'\n",
            "@cloud.toml:19: `gateway.expose.listen`: expected an address that no other exposure listens on",
        ),
        (
            &elsewhere,
            "wss://relay.example.net:8443",
            "embedded",
            "@cloud.toml:3: `gateway.relay`: expected a [relay] table beside it",
        ),
        (
            &elsewhere,
            "relay = \"wss://relay.example.net:8443\"\n",
            "",
            "@cloud.toml: `gateway.relay`: expected \"embedded\", wss://HOST[:PORT]",
        ),
        (&elsewhere, "@relay.pem", "@nothing.pem", "@cloud.toml:4: `gateway.ca-file`: cannot read @nothing.pem"),
        (
            &elsewhere,
            "\"none\"",
            "\"socks5://user:secret@x\"",
            "@cloud.toml:5: `gateway.proxy`: expected http://[USER:PASSWORD@]HOST:PORT or \"none\", found \"another text\"",
        ),
        (
            &elsewhere,
            "[gateway.auth]\nkey-name = \"send\"\nkey-file = \"@send.key\"\n",
            "",
            "@cloud.toml:3: `gateway.relay`: expected [gateway.auth] beside it",
        ),
        (
            &elsewhere,
            "key-name = \"send\"\n",
            "",
            "@cloud.toml:6: `gateway.auth`: expected key-name and key-file, or token-file",
        ),
        (&elsewhere, "@send.key", "@no.key", "@cloud.toml:8: `gateway.auth.key-file`: cannot read @no.key"),
    ] {
        assert!(text.contains(from), "{from:?} is not in the text");
        let error = folder.load(&text.replacen(from, to, 1)).expect_err(expected);
        assert!(error.contains(expected), "expected {expected}\n   found {error}");
        assert_eq!(error.lines().count(), 1, "one problem, one line: {error}");
        assert!(!error.contains("secret@"), "{error}");
    }
    assert!(folder.load(&both).is_ok() && folder.load(&elsewhere).is_ok());
    let missing = Config::load(Path::new("/nonexistent/cloud.toml")).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/cloud.toml: cannot read the configuration: No such file"), "{missing}");
}

#[test]
fn issuers_become_what_they_say() {
    let folder = Folder::new();
    let (config, warnings) = folder.load(&format!("{RELAY}{ISSUERS}[relay.hybrid-connections.d2]\n")).unwrap();
    assert_eq!(warnings, [] as [String; 0], "who may listen at d2 is the issuers' to say");
    let relay = config.relay.unwrap().config;
    let [entra, local] = &relay.issuers[..] else { panic!("two issuers") };
    let KeySource::Server(server) = &entra.keys else { panic!("a server") };
    assert_eq!(
        (server.target.authority().as_str(), server.path.as_str()),
        ("login.microsoftonline.com:8443", "/T/keys?p=1")
    );
    assert_eq!((entra.issuer.name.as_str(), entra.issuer.audience.as_str()), ("entra", "https://relay.azure.net/"));
    let [grant] = &entra.issuer.grants[..] else { panic!("one grant") };
    assert_eq!((grant.subject.as_str(), &grant.paths[..]), ("object", ["d1".to_owned()].as_slice()));
    assert!(grant.rights.allow(Right::Listen) && !grant.rights.allow(Right::Send));
    assert!(matches!(&local.keys, KeySource::Fixed(keys) if keys.len() == 1));
    assert_eq!((local.issuer.issuer.as_str(), local.issuer.audience.as_str()), ("local", "api://relay"));
}

#[test]
fn what_is_wrong_with_issuers_and_keys_is_told() {
    let folder = Folder::new();
    let issuers = format!("{RELAY}{ISSUERS}");
    let twelve = |n| {
        (0..n).map(|n| format!("[relay.keys.k{n}]\nsecret-file='@send.key'\nrights=['send']\n")).collect::<String>()
    };
    for (from, to, expected) in [
        ("issuer = \"local\"\n", "", "@cloud.toml:22: missing field `issuer`"),
        (
            "issuer = \"local\"",
            "issuer = \"https://login.microsoftonline.com/T/v2.0\"",
            "@cloud.toml:23: `relay.issuers.local.issuer`: expected what the issuer calls itself, and no other table's",
        ),
        (
            "jwks-file = \"@keys.json\"\n",
            "",
            "@cloud.toml:23: `relay.issuers.local.issuer`: expected one of `jwks-file`",
        ),
        (
            "jwks-file =",
            "jwks-url = 'https://x/y'\njwks-file =",
            "`jwks-file` and `jwks-url` beside it, found \"both\"",
        ),
        ("@keys.json", "@no.json", "@cloud.toml:24: `relay.issuers.local.jwks-file`: cannot read @no.json"),
        (
            "@keys.json",
            "@send.key",
            "@cloud.toml:24: `relay.issuers.local.jwks-file`: @send.key: the key set is not JSON",
        ),
        ("jwks-file =", "proxy = 'none'\njwks-file =", "`relay.issuers.local.proxy`: expected a `jwks-url` beside it"),
        (
            "jwks-file =",
            "ca-file = '@relay.pem'\njwks-file =",
            "`relay.issuers.local.ca-file`: expected a `jwks-url` beside",
        ),
        (
            "https://login.microsoftonline.com:8443",
            "http://x",
            "@cloud.toml:15: `relay.issuers.entra.jwks-url`: expected https://HOST",
        ),
        (
            "ca-file = \"@relay.pem\"",
            "ca-file = \"@no.pem\"",
            "@cloud.toml:16: `relay.issuers.entra.ca-file`: cannot read @no.pem",
        ),
        (
            "\"none\"",
            "\"http://u:secret@x y\"",
            "`relay.issuers.entra.proxy`: expected http://[USER:PASSWORD@]HOST:PORT",
        ),
        (
            "\"object\"",
            "\" \"",
            "@cloud.toml:19: `relay.issuers.entra.grants.subject`: expected an object id or subject",
        ),
        (
            "\"d1/\"",
            "\"/\"",
            "@cloud.toml:21: `relay.issuers.entra.grants.hybrid-connections`: expected names of devices",
        ),
        ("[\"d1/\"]", "[]", "expected `hybrid-connections` with names of devices, or none of it for all devices"),
        ("[\"listen\"]\nhybrid", "[]\nhybrid", "@cloud.toml:20: `relay.issuers.entra.grants.rights`: expected some of"),
        ("audience =", "audiences =", "unknown field `audiences`"),
        (
            "[relay.keys.operator]",
            &(twelve(12) + "[relay.keys.operator]"),
            "`relay.keys`: expected 12 keys at most, found \"13\"",
        ),
    ] {
        assert!(issuers.contains(from), "{from:?} is not in the text");
        let (head, tail) = issuers.rsplit_once(from).unwrap();
        let error = folder.load(&format!("{head}{to}{tail}")).expect_err(expected);
        assert!(error.contains(expected), "expected {expected}\n   found {error}");
        assert!(!error.contains("secret@") && error.lines().count() == 1, "{error}");
    }
    folder.load(&issuers.replacen("[relay.keys.operator]", &(twelve(11) + "[relay.keys.operator]"), 1)).unwrap();
}

#[test]
fn what_is_odd_is_told() {
    let folder = Folder::new();
    let warnings = |text: &str| folder.load(text).unwrap().1;
    assert_eq!(warnings(""), ["neither [relay] nor [gateway] is configured: there is nothing to do"]);

    let open = |listen: &str| format!("{ELSEWHERE}{}", EXPOSE.replace("127.0.0.1:2222", listen));
    for public in ["0.0.0.0:2222", "[::]:2222", "203.0.113.1:2222", "[2001:db8::1]:2222"] {
        let warning = format!("everyone who can reach {public} can reach ssh of d1; add `allow` to name who may");
        assert_eq!(warnings(&open(public)), [warning]);
        let datagrams = format!(
            "everyone who can reach udp:{public} can reach ssh of d1, and have it answer somebody else, since UDP's addresses \
             can be forged; add `allow` to name who may"
        );
        assert_eq!(warnings(&open(&format!("udp:{public}"))), [datagrams]);
        assert_eq!(warnings(&format!("{}allow = ['0.0.0.0/0']", open(public))), [] as [String; 0]);
    }
    for private in
        ["127.0.0.1:1", "[::1]:1", "10.0.0.1:1", "192.168.7.1:1", "169.254.1.1:1", "[fd00::1]:1", "[fe80::1]:1"]
    {
        assert_eq!(warnings(&open(private)), [] as [String; 0], "{private}");
    }

    let plain = RELAY.replace("certificate-file = \"@relay.pem\"\nkey-file = \"@relay.key\"\n", "");
    assert_eq!(warnings(&plain), [] as [String; 0]);
    let [warning] = <[String; 1]>::try_from(warnings(&plain.replace("127.0.0.1:8443", "0.0.0.0:80"))).unwrap();
    assert!(warning.starts_with("the relay speaks plain HTTP on 0.0.0.0:80"), "{warning}");

    fs::set_permissions(folder.path("send.key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        warnings(RELAY),
        [
            "`relay.keys.operator.secret-file`: every user of this machine can read @send.key (mode 0644); run: chmod o-rwx @send.key"
        ]
    );
}

#[test]
fn no_secret_is_shown() {
    let folder = Folder::new();
    let (config, _) = folder.load(&format!("{RELAY}[gateway]\n{EXPOSE}")).unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("operator") && !shown.contains("key of"), "{shown}");
}
