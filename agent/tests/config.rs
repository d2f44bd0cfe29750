//! What a configuration may say, and what is said about one that may not.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use umbilical_agent::config::{
    Auth, Config, Foreign, Http, HttpAddress, KeepAliveFrame, Memory, ProxyChoice, Session, StatusSocket, Target,
    Warning, Welcome,
};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agent.toml");

/// A configuration without defaults, three lines long.
const LEAST: &str = "relay.url = 'wss://relay/x'\nrelay.auth.token-file = '/run/token'\n\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("agent.toml"), text).map_err(|error| error.to_string())
}

fn parse_error(text: &str) -> String {
    parse(text).expect_err(text)
}

#[test]
fn the_example_is_a_configuration() {
    let config = parse(&fs::read_to_string(EXAMPLE).unwrap()).unwrap();
    assert_eq!(config.relays[0].url.to_string(), "wss://relay.example.net/gateway-0042");
    let key_file = PathBuf::from("/run/credentials/umbilical-agent.service/key");
    assert_eq!(config.relays[0].auth, Auth::SharedKey { name: "listen".into(), file: key_file });
    assert_eq!(config.services["ssh"].target, Target::Tcp { host: "127.0.0.1".into(), port: 22 });
    assert_eq!(config.services["ssh"].max_streams, None);
    assert_eq!(config.services["docker"].target, Target::Unix("/run/docker.sock".into()));
    assert_eq!(config.services["docker"].max_streams, Some(4));
    assert_eq!(config.services["snmp"].target, Target::Udp { host: "127.0.0.1".into(), port: 161 });
}

#[test]
fn what_the_example_comments_out_is_the_default() {
    let text = fs::read_to_string(EXAMPLE).unwrap();
    let examples_only = [
        "#[[relays]]",
        "#url",
        "#auth",
        "#standby-after",
        "#connection-string-file",
        "#ca-file",
        "#proxy",
        "#keep-alive-frame",
        "#token-file",
        "#token-command",
        "#managed-identity",
        "#metadata-endpoint",
        "#plain-service",
        "#socket",
    ];
    const DEFAULTS: usize = 12;
    let mut defaults = 0;
    let spelt_out: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') && !examples_only.iter().any(|only| line.starts_with(only)) => {
                defaults += 1;
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(defaults, DEFAULTS, "a key with a default was added or taken away");
    assert_eq!(parse(&spelt_out), parse(&text));
    let config = parse(LEAST).unwrap();
    assert_eq!((config.memory, config.session), (Memory::default(), Session::default()));
    assert_eq!(config.foreign, Foreign { welcome: Welcome::Refused, connections: 8 });
    assert_eq!((&config.relays[0].proxy, config.http), (&ProxyChoice::Environment, None));
    assert_eq!(config.status, StatusSocket::Default);
}

#[test]
fn the_example_has_every_key() {
    let text = fs::read_to_string(EXAMPLE).unwrap();
    let tables = ["", "relay.", "relay.auth.", "services.x.", "foreign.", "http.", "memory.", "session.", "status."];
    let in_tables = tables
        .map(|table| (table, format!("{table}no-such-key = 1\nservices.x.target = 'unix:/x'\n{LEAST}")))
        .into_iter()
        .chain([("relays.", "[[relays]]\nno-such-key = 1\n".to_owned())]);
    for (table, text_with_it) in in_tables {
        let error = parse_error(&text_with_it);
        let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
        for key in expected.split([',', ' ']).filter(|word| !word.is_empty() && *word != "or") {
            let shown =
                [format!("\n{key} = "), format!("\n#{key} = "), format!("\n[{table}{key}"), format!("\n#[[{key}]]")];
            assert!(shown.iter().any(|form| text.contains(form)), "{key} is not in the example");
        }
    }
}

#[test]
fn every_value_arrives_where_it_belongs() {
    let config = parse(
        r#"
        [relay]
        url = "sb://relay.example.net/site/gateway"
        ca-file = "/ca.pem"
        proxy = "none"
        keep-alive = "metered"
        keep-alive-frame = "ping"
        auth = { token-command = ["/bin/fetch", "-x"] }
        [services."plc.1"]
        target = "tcp:[::1]:502"
        [services.snmp]
        target = "udp:snmp.local:161"
        idle-timeout = "5m"
        [foreign]
        plain-service = "plc.1"
        connections = 3
        [http]
        target = "unix:/run/web.sock"
        max-requests = 3
        timeout = "5s"
        [memory]
        replay = 32768
        receive = "1M"
        streams = 3
        sessions = 1
        [session]
        resume-for = "5m"
        drain-for = "0s"
        "#,
    )
    .unwrap();
    assert_eq!(config.relays[0].url.path(), "site/gateway");
    assert_eq!(config.relays[0].ca_file, Some("/ca.pem".into()));
    assert_eq!(config.relays[0].proxy, ProxyChoice::None);
    assert_eq!(config.relays[0].keep_alive.as_secs(), 210);
    assert_eq!(config.relays[0].keep_alive_frame, Some(KeepAliveFrame::Ping));
    assert_eq!(
        config.relays[0].auth,
        Auth::TokenCommand { program: "/bin/fetch".into(), arguments: vec!["-x".into()] }
    );
    assert_eq!(config.services["plc.1"].target, Target::Tcp { host: "::1".into(), port: 502 });
    assert_eq!(config.services["snmp"].target, Target::Udp { host: "snmp.local".into(), port: 161 });
    assert_eq!(config.services["snmp"].idle_timeout, Duration::from_secs(300));
    assert_eq!(config.services["plc.1"].idle_timeout, Duration::from_secs(60));
    assert_eq!(config.foreign, Foreign { welcome: Welcome::Plain("plc.1".into()), connections: 3 });
    let target = Target::Unix("/run/web.sock".into());
    assert_eq!(config.http, Some(Http { target, max_requests: 3, timeout: Duration::from_secs(5) }));
    assert_eq!(config.memory, Memory { replay: 32 * 1024, receive: 1024 * 1024, streams: 3, sessions: 1 });
    assert_eq!((config.session.resume_for.as_secs(), config.session.drain_for.as_secs()), (300, 0));
}

#[test]
fn each_fault_is_one_line_with_its_place_and_what_is_expected() {
    /// One of several relays.
    const RELAYS: &str = "[[relays]]\nurl = 'wss://h/n'\nauth.token-file = 't'";

    const AUTH: &str = "key-name with key-file, or token-file, or token-command, or managed-identity";
    let with = |lines: &str| format!("{LEAST}{lines}");
    let faults = [
        // what is not TOML
        ("relay = [".to_owned(), "agent.toml:1: not valid TOML: unclosed array, expected `]`".to_owned()),
        (with("a = 1\na = 2"), "agent.toml:5: not valid TOML: duplicate key".to_owned()),
        // keys
        (String::new(), "agent.toml: `relay` is missing, expected a table with url and auth, or with connection-string-file".to_owned()),
        (
            with("[memmory]"),
            "agent.toml:4: unknown key `memmory` at the top level, expected relay, relays, services, foreign, http, memory, session or status".to_owned(),
        ),
        (
            with("[services.ssh]\ntarget = 'tcp:a:1'\nmax-stream = 1"),
            "agent.toml:6: unknown key `max-stream` in [services.ssh], expected target, max-streams or idle-timeout".to_owned(),
        ),
        (
            with("[services.ssh]\n"),
            "agent.toml:4: `services.ssh.target` is missing, expected ".to_owned() + Target::EXPECTED,
        ),
        (
            "[relay]\nauth.token-file = 'x'".to_owned(),
            "agent.toml:1: `relay.url` is missing, expected wss://HOST/NAME or sb://NAMESPACE.servicebus.windows.net/NAME"
                .to_owned(),
        ),
        (
            "[relay]\nurl = 'wss://h/n'".to_owned(),
            format!("agent.toml:1: `relay.auth` is missing, expected {AUTH}"),
        ),
        // several relays
        ("relays = []".to_owned(), "agent.toml: `relays[0]` is missing, expected a table with url and auth, or with connection-string-file".to_owned()),
        ("relays = [1]".to_owned(), "agent.toml:1: `relays[0]`: expected a table, found 1".to_owned()),
        ("relays = 1".to_owned(), "agent.toml:1: `relays`: expected an array of tables, found 1".to_owned()),
        (with("[[relays]]\n"), "agent.toml:1: `relay`: expected [relay] for one relay, or [[relays]] for several, found both".to_owned()),
        (
            format!("{RELAYS}\nstandby-after = '10s'"),
            "agent.toml:1: `relays[0]`: expected one relay at least without `standby-after`, found reserves only".to_owned(),
        ),
        (
            format!("{RELAYS}\n{RELAYS}"),
            "agent.toml:4: `relays[1]`: expected a hybrid connection that is listened at only once, found wss://h/n".to_owned(),
        ),
        (
            (0..9).map(|number| RELAYS.replace("h/n", &format!("h/n{number}")) + "\n").collect(),
            "agent.toml:25: `relays[8]`: expected not more than 8 relays, found 9 of them".to_owned(),
        ),
        // types
        (with("[services.ssh]\ntarget = 22"), target_error("22")),
        ("relay = 1".to_owned(), "agent.toml:1: `relay`: expected a table, found 1".to_owned()),
        (with("[memory]\nstreams = '64'"), memory_error("streams", "a number from 1 to 4096", "\"64\"")),
        (with("[memory]\nstreams = 1.5"), memory_error("streams", "a number from 1 to 4096", "1.5")),
        (with("[memory]\nstreams = true"), memory_error("streams", "a number from 1 to 4096", "true")),
        (with("[memory]\nstreams = [1]"), memory_error("streams", "a number from 1 to 4096", "an array")),
        (with("[memory]\nstreams = {}"), memory_error("streams", "a number from 1 to 4096", "a table")),
        (with("[memory]\nstreams = 1979-05-27"), memory_error("streams", "a number from 1 to 4096", "a date")),
        // ranges
        (with("[memory]\nstreams = 0"), memory_error("streams", "a number from 1 to 4096", "0")),
        (with("[memory]\nsessions = 65"), memory_error("sessions", "a number from 1 to 64", "65")),
        (
            with("[memory]\nreplay = '256Q'"),
            memory_error("replay", "a size from 16K to 64M, such as \"256K\"", "\"256Q\""),
        ),
        (
            with("[memory]\nreceive = '15K'"),
            memory_error("receive", "a size from 16K to 15M, such as \"256K\"", "\"15K\""),
        ),
        (
            with("[memory]\nstreams = 100\nreceive = '16K'"),
            "agent.toml:4: `memory`: expected `receive` of at least 512 bytes for each of the `streams`, found 16384 bytes \
             for 100 streams"
                .to_owned(),
        ),
        (
            with("[session]\nresume-for = 120"),
            "agent.toml:5: `session.resume-for`: expected a duration up to 24h, such as \"120s\", \"2m\" or \"1h\", found 120"
                .to_owned(),
        ),
        (
            with("[session]\ndrain-for = '25h'"),
            "agent.toml:5: `session.drain-for`: expected a duration up to 24h, such as \"120s\", \"2m\" or \"1h\", found \
             \"25h\""
                .to_owned(),
        ),
        // http
        (
            with("[http]\nmax-requests = 4"),
            "agent.toml:4: `http.target` is missing, expected tcp:HOST:PORT or unix:/PATH".to_owned(),
        ),
        (
            with("[http]\ntarget = 'unix:/x'\nmax-requests = 65"),
            "agent.toml:6: `http.max-requests`: expected a number from 1 to 64, found 65".to_owned(),
        ),
        (
            with("[http]\ntarget = 'unix:/x'\ntimeout = '2h'"),
            "agent.toml:6: `http.timeout`: expected 1s to 1h, such as \"55s\", found \"2h\"".to_owned(),
        ),
        // targets
        (with("[services.ssh]\ntarget = 'localhost:22'"), target_error("\"localhost:22\"")),
        (with("[services.ssh]\ntarget = 'udp:127.0.0.1'"), target_error("\"udp:127.0.0.1\"")),
        (
            with("[services.snmp]\ntarget = 'udp:127.0.0.1:161'\nidle-timeout = '0s'"),
            "agent.toml:6: `services.snmp.idle-timeout`: expected 1s to 24h, such as \"60s\", found \"0s\"".to_owned(),
        ),
        (
            with("[services.ssh]\ntarget = 'tcp:[::1]:22'\nidle-timeout = '60s'"),
            "agent.toml:6: `services.ssh.idle-timeout`: expected a udp: target beside it, found tcp:[::1]:22".to_owned(),
        ),
        (
            with("[http]\ntarget = 'udp:127.0.0.1:80'"),
            "agent.toml:5: `http.target`: expected tcp:HOST:PORT or unix:/PATH, found \"udp:127.0.0.1:80\"".to_owned(),
        ),
        (with("[services.ssh]\ntarget = \"tcp:\\u0007\\n\""), target_error("\"tcp:\\u{7}\\n\"")),
        (
            with(&format!("[services.ssh]\ntarget = '{}'", "y".repeat(100))),
            target_error(&format!("\"{}...\"", "y".repeat(60))),
        ),
        (
            with("services.'s s h' = {}"),
            "agent.toml:4: `services`: expected a name of 1 to 64 letters, digits, `-`, `_` or `.`, found \"s s h\"".to_owned(),
        ),
        // foreign senders
        (
            with("[foreign]\nplain-service = 'ssh'"),
            "agent.toml:5: `foreign.plain-service`: expected the NAME of a [services.NAME] with a tcp: or unix: target, found \"ssh\"".to_owned(),
        ),
        (
            with("[foreign]\nplain-service = 'x'\n[services.x]\ntarget = 'udp:a:1'"),
            "agent.toml:5: `foreign.plain-service`: expected the NAME of a [services.NAME] with a tcp: or unix: target, found \"x\"".to_owned(),
        ),
        (
            with("[foreign]\nplain-service = 'x'\nazbridge = true\n[services.x]\ntarget = 'tcp:a:1'"),
            "agent.toml:4: `foreign`: expected plain-service or azbridge, found both of them".to_owned(),
        ),
        (
            with("[foreign]\nazbridge = 'yes'"),
            "agent.toml:5: `foreign.azbridge`: expected true or false, found \"yes\"".to_owned(),
        ),
        (
            with("[foreign]\nconnections = 0"),
            "agent.toml:5: `foreign.connections`: expected a number from 1 to 1024, found 0".to_owned(),
        ),
        // the relay
        (
            "relay.url = 'https://relay/x'".to_owned(),
            "agent.toml:1: `relay.url`: expected wss://HOST/NAME or sb://NAMESPACE.servicebus.windows.net/NAME, found \
             \"https://relay/x\""
                .to_owned(),
        ),
        (
            "relay.url = 'wss://relay/'".to_owned(),
            "agent.toml:1: `relay.url`: expected wss://HOST/NAME or sb://NAMESPACE.servicebus.windows.net/NAME, found \
             \"wss://relay/\""
                .to_owned(),
        ),
        (
            "relay.url = 'wss://h/n'\nrelay.keep-alive = '4m'".to_owned(),
            "agent.toml:2: `relay.keep-alive`: expected 5s to 230s, such as \"60s\", or \"metered\", found \"4m\"".to_owned(),
        ),
        (
            "relay.url = 'wss://h/n'\nrelay.keep-alive-frame = 'text'".to_owned(),
            "agent.toml:2: `relay.keep-alive-frame`: expected \"pong\" or \"ping\", found \"text\"".to_owned(),
        ),
        (
            "relay.url = 'sb://Contoso.ServiceBus.Windows.net/n'\nrelay.keep-alive-frame = 'ping'".to_owned(),
            "agent.toml:2: `relay.keep-alive-frame`: expected \"pong\" for Azure's relay, which is reported to drop listeners \
             that send pings, found \"ping\""
                .to_owned(),
        ),
        (
            "relay.url = 'wss://h/n'\nrelay.proxy = 'socks5://me:hunter2@proxy:1080'".to_owned(),
            "agent.toml:2: `relay.proxy`: expected http://[USER:PASSWORD@]HOST:PORT or \"none\", found \
             \"socks5://***@proxy:1080\""
                .to_owned(),
        ),
        // the ways to prove oneself
        (
            "[relay]\nurl = 'wss://h/n'\n[relay.auth]".to_owned(),
            format!("agent.toml:3: `relay.auth`: expected {AUTH}, found none of them"),
        ),
        (
            "[relay]\nurl = 'wss://h/n'\n[relay.auth]\nkey-name = 'k'\ntoken-file = 'f'".to_owned(),
            format!("agent.toml:3: `relay.auth`: expected {AUTH}, found more than one of them"),
        ),
        (
            "[relay]\nurl = 'wss://h/n'\n[relay.auth]\nkey-name = 'k'".to_owned(),
            "agent.toml:3: `relay.auth.key-file` is missing, expected the path of the file that holds the key".to_owned(),
        ),
        (
            "[relay]\nurl = 'wss://h/n'\n[relay.auth]\nkey-name = ''\nkey-file = 'f'".to_owned(),
            "agent.toml:4: `relay.auth.key-name`: expected the name of a shared access key, found \"\"".to_owned(),
        ),
        (
            "[relay]\nurl = 'wss://h/n'\n[relay.auth]\ntoken-command = 'fetch'".to_owned(),
            "agent.toml:4: `relay.auth.token-command`: expected a list of a program and its arguments, found \"fetch\""
                .to_owned(),
        ),
        (
            "[relay]\nurl = 'wss://h/n'\n[relay.auth]\ntoken-command = []".to_owned(),
            "agent.toml:4: `relay.auth.token-command`: expected a list of a program and its arguments, found an array"
                .to_owned(),
        ),
        (
            with_identity("managed-identity = false"),
            "agent.toml:3: `relay.auth.managed-identity`: expected true, or the client id of an identity, found false"
                .to_owned(),
        ),
        (
            with_identity("metadata-endpoint = 'http://h'"),
            "agent.toml:2: `relay.auth.managed-identity` is missing, expected true, or the client id of an identity"
                .to_owned(),
        ),
        (
            with_identity("managed-identity = true\nmetadata-endpoint = 'https://h'"),
            "agent.toml:4: `relay.auth.metadata-endpoint`: expected http://HOST[:PORT][/PATH], found \"https://h\"".to_owned(),
        ),
        (
            with_identity("managed-identity = true\ntoken-file = 'f'"),
            format!("agent.toml:2: `relay.auth`: expected {AUTH}, found more than one of them"),
        ),
    ];
    for (text, expected) in faults {
        assert_eq!(parse_error(&text), expected, "{text}");
    }
}

fn with_identity(lines: &str) -> String {
    format!("relay.url = 'wss://h/n'\n[relay.auth]\n{lines}")
}

#[test]
fn an_identity_is_this_machines_own_or_one_by_its_client_id() {
    let auth = |lines: &str| parse(&with_identity(lines)).unwrap().relays.remove(0).auth;
    assert_eq!(auth("managed-identity = true"), Auth::ManagedIdentity { client_id: None, metadata_endpoint: None });
    assert_eq!(
        auth("managed-identity = '0000-11'\nmetadata-endpoint = 'http://localhost:40342'"),
        Auth::ManagedIdentity {
            client_id: Some("0000-11".into()),
            metadata_endpoint: HttpAddress::parse("http://localhost:40342")
        }
    );
}

#[test]
fn a_connection_string_stands_for_url_and_auth() {
    let directory = std::env::temp_dir().join(format!("umbilical-connection-string-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let [file, string] = ["agent.toml", "connection-string"].map(|name| directory.join(name));
    let load = |content: &str, lines: &str| {
        fs::write(&string, content).unwrap();
        fs::set_permissions(&string, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!("[services]\n[relay]\nconnection-string-file = '{}'\n{lines}\n", string.display());
        fs::write(&file, text).unwrap();
        Config::load(&file).map(|(mut config, _)| config.relays.remove(0)).map_err(|error| error.to_string())
    };
    let relay =
        load("Endpoint=sb://ns/;SharedAccessKeyName=k;SharedAccessKey=top-secret=;EntityPath=gateway\n", "").unwrap();
    assert_eq!(relay.url.to_string(), "wss://ns/gateway");
    assert_eq!(relay.auth, Auth::ConnectionString(string.clone()));
    let relay = load("Endpoint=sb://ns/;SharedAccessSignature=top-secret;EntityPath=gateway", "").unwrap();
    assert_eq!(relay.auth, Auth::ConnectionString(string.clone()));
    let relay = load("Endpoint=sb://ns/;Authentication=Managed Identity;EntityPath=gateway", "").unwrap();
    assert_eq!(relay.auth, Auth::ManagedIdentity { client_id: None, metadata_endpoint: None });

    let at = format!("{}:3: `relay.connection-string-file`: {}: ", file.display(), string.display());
    for (content, fault) in [
        ("Endpoint=sb://ns/;SharedAccessKeyName=k;SharedAccessKey=top-secret", "lacks EntityPath"),
        ("Endpoint=sb://ns/;EntityPath=gateway", "lacks SharedAccessKeyName"),
        ("SharedAccessKeyName=k;SharedAccessKey=top-secret", "lacks Endpoint"),
        ("top-secret", "has a part without `=`, expected NAME=VALUE;NAME=VALUE"),
    ] {
        assert_eq!(load(content, "").unwrap_err(), format!("{at}the connection string {fault}"));
    }
    let both = load("Endpoint=sb://ns/", "url = 'wss://h/n'").unwrap_err();
    let expected = "`relay`: expected connection-string-file alone, or url with auth, found both";
    assert_eq!(both, format!("{}:2: {expected}", file.display()));
    load("Endpoint=sb://ns/", "").unwrap_err();
    fs::remove_file(&string).unwrap();
    let absent = Config::load(&file).unwrap_err().to_string();
    assert!(absent.contains(":3: `relay.connection-string-file`: can't read "), "{absent}");
    fs::remove_dir_all(directory).unwrap();
}

fn target_error(found: &str) -> String {
    format!("agent.toml:5: `services.ssh.target`: expected {}, found {found}", Target::EXPECTED)
}

fn memory_error(key: &str, expected: &str, found: &str) -> String {
    format!("agent.toml:5: `memory.{key}`: expected {expected}, found {found}")
}

#[test]
fn files_are_looked_at_when_the_configuration_is_loaded() {
    let directory = std::env::temp_dir().join(format!("umbilical-config-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let [file, key, empty, absent] = ["agent.toml", "key", "empty", "absent"].map(|name| directory.join(name));
    fs::write(&key, "secret").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&empty, "").unwrap();
    let load = |lines: &str| {
        fs::write(&file, format!("[relay]\nurl = 'wss://h/n'\n{lines}\n")).unwrap();
        Config::load(&file).map_err(|error| error.to_string())
    };
    let with_key = |path: &Path| format!("auth.key-name = 'k'\nauth.key-file = '{}'", path.display());
    let at = |line: usize| format!("{}:{line}: ", file.display());
    let gone = "No such file or directory (os error 2)";

    let (_, warnings) = load(&with_key(&key)).unwrap();
    assert_eq!(warnings, [Warning::NoServices]);
    assert_eq!(
        load(&with_key(&absent)).unwrap_err(),
        format!("{}`relay.auth.key-file`: can't read {}: {gone}", at(4), absent.display())
    );
    assert_eq!(
        load(&with_key(&empty)).unwrap_err(),
        format!("{}`relay.auth.key-file`: {} is empty", at(4), empty.display())
    );
    assert_eq!(
        load(&with_key(&directory)).unwrap_err(),
        format!("{}`relay.auth.key-file`: can't read {}: Is a directory (os error 21)", at(4), directory.display())
    );
    assert_eq!(
        load(&format!("ca-file = '{}'\n{}", absent.display(), with_key(&key))).unwrap_err(),
        format!("{}`relay.ca-file`: can't read {}: {gone}", at(3), absent.display())
    );
    assert_eq!(
        load(&format!("auth.token-command = ['{}']", absent.display())).unwrap_err(),
        format!("{}`relay.auth.token-command`: can't read {}: {gone}", at(3), absent.display())
    );

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, warnings) = load(&format!("{}\n[services.s]\ntarget = 'unix:/s'", with_key(&key))).unwrap();
    let [warning] = warnings.try_into().unwrap();
    assert_eq!(
        warning.to_string(),
        format!(
            "`relay.auth.key-file`: every user of this machine can read {0} (mode 0644); run: chmod o-rwx {0}",
            key.display()
        )
    );

    let error = Config::load(&absent).unwrap_err().to_string();
    assert_eq!(error, format!("{}: can't read the configuration: {gone}", absent.display()));
    fs::write(&file, b"\xff").unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    assert_eq!(error, format!("{}: can't read the configuration: stream did not contain valid UTF-8", file.display()));
    fs::remove_dir_all(directory).unwrap();
}
