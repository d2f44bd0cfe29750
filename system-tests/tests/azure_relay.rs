//! Promise: agent and gateway run on Azure Relay, which differs from ours in what `azure_stand_in` says: other hosts, no
//! pings, silence that is not forgiven, tokens that end, a cut a day.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddrV4, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use umbilical_link::{
    dial::{Dialer, Target},
    proxy::{Proxy, ProxySettings},
    tls::{self, DefaultTimeProvider, Roots},
    upgrade::{UpgradeError, UpgradeRequest, Upgraded, upgrade},
};
use umbilical_relay_protocol::{AUTHORIZATION_HEADER, Rendezvous, SasToken};
use umbilical_system_tests::{
    azure_stand_in::{AzureStandIn, GATEWAY_HOST, Kind, NAMESPACE, Seen, Terms},
    deployment::{AGENT_KEY, DEVICE, Deployment, Setup, Topology, new_key},
    echo,
    process::Process,
    tunnel::{LISTENING, Tunnel},
    wait,
};

/// Longer than the shortest interval, which the tests run at, and all that follows on it.
const A_WHILE: Duration = Duration::from_secs(40);

#[test]
fn silence_is_broken_in_time_and_never_by_a_ping() {
    let foreign = |azbridge| {
        let deployment = impatient(session().plain("echo").write());
        if azbridge {
            deployment.edit_file("agent.toml", "plain-service = \"echo\"", "azbridge = true");
            deployment.edit_file("cloud.toml", "plain = true", "azbridge = \"echo\"");
        }
        let (azure, tunnel) = start_deployment(deployment, Terms::default());
        outlives_its_silence(&azure, &tunnel, |seen| seen.join_pongs >= 2 * ENOUGH && seen.channel_pongs >= ENOUGH);
        assert_eq!(azure.seen().joins, 2, "one for each client");
    };
    at_once([
        ("session", &|| {
            let (azure, tunnel) = start(session(), Terms::default());
            outlives_its_silence(&azure, &tunnel, |seen| seen.channel_pongs >= ENOUGH);
            assert_eq!((azure.seen().joins, azure.seen().join_pongs), (1, 0), "a session has signs of its own");
        }),
        ("plain", &|| foreign(false)),
        ("azbridge", &|| foreign(true)),
        ("what the service seems to say of pings is not believed", &|| {
            let says = "Umbilical-Keep-Alive: ping\r\nUmbilical-Mask: zero\r\n";
            let (azure, tunnel) = start(session(), Terms { says, ..Terms::default() });
            outlives_its_silence(&azure, &tunnel, |seen| seen.channel_pongs >= ENOUGH);
        }),
    ]);
}

/// Pongs of one end by which it has been silent for longer than the service forgives.
const ENOUGH: usize = 2;

fn outlives_its_silence(azure: &AzureStandIn, tunnel: &Tunnel, long_enough: impl Fn(&Seen) -> bool) {
    let mut idle = Client::connect(tunnel.exposure("echo"));
    idle.echo(b"before");
    smol::block_on(echo::exchange(tunnel.exposure("echo"), 7, 1_000_000)).unwrap();
    azure.until("signs of life", A_WHILE, long_enough);
    idle.echo(b"after");
    let seen = azure.seen();
    assert_eq!((seen.pings, &seen.forgotten[..], seen.channels), (0, &[][..], 1));
}

#[test]
fn an_operator_can_not_ask_for_pings_there() {
    let deployment = session().write();
    deployment.edit_file("agent.toml", "[relay.auth]", "keep-alive-frame = \"ping\"\n[relay.auth]");
    let said = deployment.agent_command().arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("`relay.keep-alive-frame`: expected \"pong\" for Azure's relay"), "{said}");
}

#[test]
fn a_connection_that_was_forgotten_is_noticed_and_another_takes_its_place() {
    let link = |kind| {
        let (azure, tunnel) = start(session(), Terms::default());
        let mut open = Client::connect(tunnel.exposure("echo"));
        open.echo(b"before");
        let address = azure.seen().address;
        assert_eq!(azure.forget(kind), 1);
        // nobody says anything: it is the silence that is noticed, by who dials
        let seen = azure.until("another link", A_WHILE, |seen| seen.joins == 2);
        open.echo(b"after");
        assert_eq!(azure.seen().channels, 1);
        assert_ne!(seen.address, address);
        assert!(!seen.refusals.iter().any(|text| text.starts_with("403")), "an address was used twice");
    };
    at_once([
        ("control channel", &|| {
            let (azure, tunnel) = start(session(), Terms::default());
            let mut open = Client::connect(tunnel.exposure("echo"));
            open.echo(b"before");
            let before = Instant::now();
            assert_eq!(azure.forget(Kind::Channel), 1);
            tunnel.agent.line_with(&["lost the control channel"], A_WHILE);
            azure.until("another control channel", A_WHILE, |seen| seen.channels == 2);
            assert!(before.elapsed() < INTERVAL + ANSWER + SLACK, "took {:?}", before.elapsed());
            // its link is another connection
            open.echo(b"after");
            assert_eq!(azure.seen().joins, 1);
        }),
        ("control channel of an agent that slept", &|| {
            let (azure, tunnel) = start(session(), Terms::default());
            tunnel.agent.signal(Signal::SIGSTOP);
            azure.until("the channel forgotten", A_WHILE, |seen| seen.forgotten.contains(&Kind::Channel));
            tunnel.agent.signal(Signal::SIGCONT);
            azure.until("another control channel", A_WHILE, |seen| seen.channels == 2);
            wait::for_some("an echo", A_WHILE, || Client::connect(tunnel.exposure("echo")).try_echo(b"after").ok());
            assert_eq!(azure.seen().pings, 0);
        }),
        ("link at the agent's end", &|| link(Kind::Listener)),
        ("link at the gateway's end", &|| link(Kind::Sender)),
        ("foreign connection at the agent's end", &|| {
            let deployment = impatient(session().plain("echo").write());
            let azure = AzureStandIn::start(&deployment, Terms::default());
            let _gateway = deployment.start_cloud();
            let agent = Process::start("agent", deployment.agent_command().env("UMBILICAL_LOG", "debug"));
            agent.line_with(LISTENING, wait::SOON);
            wait::for_listener(deployment.exposure("echo"), wait::SOON);
            let _open = opened(deployment.exposure("echo"));
            assert_eq!(azure.forget(Kind::Listener), 1);
            agent.line_with(&["bridge to echo ended", "nothing sent was acknowledged"], A_WHILE);
            opened(deployment.exposure("echo"));
        }),
        ("foreign connection at the gateway's end", &|| {
            let (azure, tunnel) = start(session().plain("echo"), Terms::default());
            let mut open = opened(tunnel.exposure("echo"));
            assert_eq!(azure.forget(Kind::Sender), 1);
            open.must_end();
            opened(tunnel.exposure("echo"));
        }),
    ]);
}

#[test]
fn the_daily_cut_is_not_noticed_by_streams() {
    let (azure, tunnel) = start(session(), Terms::default());
    let mut open = Client::connect(tunnel.exposure("echo"));
    for day in 1..=3 {
        open.echo(b"before");
        azure.cut_channels();
        azure.until("another control channel", wait::SOON, |seen| seen.channels == day + 1);
    }
    tunnel.agent.line_with(&["1011", "NameRenewalFailed", "daily"], wait::SOON);
    open.echo(b"after");
    assert_eq!(azure.seen().joins, 1);
}

#[test]
fn a_token_is_renewed_before_it_ends_or_its_channel_ends_with_it() {
    let deployment = impatient(session().write());
    let azure = AzureStandIn::start(&deployment, Terms::default());
    let token = |seconds| {
        let key = fs::read_to_string(deployment.path(AGENT_KEY)).unwrap();
        let resource = format!("http://{NAMESPACE}/{DEVICE}");
        let token = SasToken::sign(&resource, "listen", key.as_bytes(), now() + seconds);
        deployment.write_file("token", &token);
    };
    let key_file = format!("key-file = \"{}\"", deployment.path(AGENT_KEY));
    deployment.edit_file("agent.toml", "key-name = \"listen\"\n", "");
    let command = format!("token-command = [\"cat\", \"{}\"]", deployment.path("token"));
    deployment.edit_file("agent.toml", &key_file, &command);
    // it may have to be built first
    let mut command = deployment.agent_command();
    token(8);
    let agent = Process::start("agent", &mut command);
    agent.line_with(LISTENING, wait::SOON);
    let first = Instant::now();
    // in time, and beyond the end of the first one
    token(16);
    azure.until("a renewal", A_WHILE, |seen| seen.renewals == 1);
    assert!(first.elapsed() < Duration::from_secs(8), "took {:?}", first.elapsed());
    // no other comes: the channel ends with this one, and no earlier
    agent.line_with(&["1008", "The security token has expired", "authorization policy is violated"], A_WHILE);
    assert!(first.elapsed() > Duration::from_secs(9), "after {:?}", first.elapsed());
    agent.line_with(&["401 ExpiredToken: The token is expired. TrackingId:"], A_WHILE);
    token(3600);
    assert_eq!(azure.seen().channels, 1);
}

#[test]
fn refusals_are_told_in_the_services_words() {
    let deployment = impatient(session().write());
    let azure = AzureStandIn::start(&deployment, Terms::default());
    let _gateway = deployment.start_cloud();
    wait::for_listener(deployment.exposure("echo"), wait::SOON);
    Client::connect(deployment.exposure("echo")).must_end();
    azure.until("a refusal", wait::SOON, |seen| {
        seen.refusals.iter().any(|text| text.starts_with("404 There are no listeners connected for the endpoint."))
    });
    deployment.write_file(AGENT_KEY, &new_key());
    let agent = deployment.start_agent();
    let line = agent.line_with(&["401 InvalidSignature: The token has an invalid signature. TrackingId:"], wait::SOON);
    assert!(line.contains(AGENT_KEY) && line.contains("next try in"), "{line}");
    deployment.edit_file("agent.toml", &format!("/{DEVICE}\""), "/nobody\"");
    let agent = deployment.start_agent();
    let line = agent.line_with(&["404 Endpoint does not exist: 'nobody'. TrackingId:"], wait::SOON);
    assert!(line.contains("check that the relay has a hybrid connection"), "{line}");
}

#[test]
fn the_stand_in_ends_what_a_ping_comes_on() {
    let deployment = session().write();
    let azure = AzureStandIn::start(&deployment, Terms::default());
    smol::block_on(async {
        use smol::io::{AsyncReadExt, AsyncWriteExt};
        let mut channel = listen(&deployment).await.unwrap().transport;
        channel.write_all(&PING).await.unwrap();
        let ended = channel.read(&mut [0; 16]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    });
    assert_eq!(azure.seen().pings, 1);
}

#[test]
fn the_stand_in_takes_an_address_once_and_for_its_host_only() {
    let (azure, tunnel) = start(session(), Terms::default());
    Client::connect(tunnel.exposure("echo")).echo(b"once");
    let address = azure.seen().address.unwrap();
    let rendezvous = Rendezvous::parse(&address).unwrap();
    assert_eq!(rendezvous.host(), GATEWAY_HOST);
    for (host, status) in [(GATEWAY_HOST, 403), (NAMESPACE, 400)] {
        let again = smol::block_on(dial(&tunnel.deployment, host, rendezvous.path_and_query(), &[]));
        match again {
            Err(UpgradeError::Refused { status: refused, .. }) => assert_eq!(refused, status),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}

/// The shortest that can be configured, and how long an answer may take then.
const INTERVAL: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(5);
/// For redialling, on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(10);

const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

fn session() -> Setup {
    Setup::new(Topology::Azure).service("echo", echo::start())
}

fn start(setup: Setup, terms: Terms) -> (AzureStandIn, Tunnel) {
    start_deployment(impatient(setup.write()), terms)
}

fn start_deployment(deployment: Deployment, terms: Terms) -> (AzureStandIn, Tunnel) {
    let azure = AzureStandIn::start(&deployment, terms);
    (azure, Tunnel::start_deployment(deployment))
}

/// The service's clock runs fast, so must theirs.
fn impatient(deployment: Deployment) -> Deployment {
    deployment.edit_file("agent.toml", "[relay.auth]", "keep-alive = \"5s\"\n[relay.auth]");
    deployment.edit_file("cloud.toml", "[gateway]\n", "[gateway]\nkeep-alive = \"6s\"\n");
    deployment
}

/// A client that has heard its echo.
fn opened(address: SocketAddrV4) -> Client {
    let mut client = Client::connect(address);
    client.echo(b"opened");
    client
}

/// Runs scenarios side by side: most of their time they wait.
fn at_once<const N: usize>(scenarios: [(&str, &(dyn Fn() + Sync)); N]) {
    thread::scope(|scope| {
        for (name, scenario) in scenarios {
            // the name is that of its panic
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, scenario).unwrap();
        }
    });
}

/// A client of an exposure.
struct Client(TcpStream);

impl Client {
    fn connect(address: SocketAddrV4) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(A_WHILE)).unwrap();
        Client(socket)
    }

    fn echo(&mut self, text: &[u8]) {
        self.try_echo(text).unwrap();
    }

    fn try_echo(&mut self, text: &[u8]) -> std::io::Result<()> {
        self.0.write_all(text)?;
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back)?;
        assert_eq!(back, text);
        Ok(())
    }

    /// Waits for its end; nothing may come before it.
    fn must_end(&mut self) {
        match self.0.read(&mut [0; 16]) {
            Ok(0) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("expected the end, got {other:?}"),
        }
    }
}

async fn listen(deployment: &Deployment) -> Result<Upgraded, UpgradeError> {
    let key = fs::read_to_string(deployment.path(AGENT_KEY)).unwrap();
    let token = SasToken::sign(&format!("http://{NAMESPACE}/{DEVICE}"), "listen", key.as_bytes(), now() + 60);
    let target = format!("/$hc/{DEVICE}?sb-hc-action=listen");
    dial(deployment, NAMESPACE, &target, &[(AUTHORIZATION_HEADER, &token)]).await
}

/// Asks the stand-in for a WebSocket.
async fn dial(
    deployment: &Deployment,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Upgraded, UpgradeError> {
    let roots = Roots::File(Path::new(&deployment.path("ca.pem")).to_owned());
    let proxy = Proxy::parse(&format!("http://{}", deployment.relay)).unwrap();
    let dialer = Dialer {
        tls: tls::client_config(&roots, Arc::new(DefaultTimeProvider)).unwrap(),
        proxy: ProxySettings::always(proxy),
    };
    let transport = dialer.dial(&Target { host: host.to_owned(), port: 443, tls: true }).await.unwrap();
    let request = UpgradeRequest { authority: host, target, headers: headers.to_vec(), subprotocol: None };
    upgrade(transport, &request).await
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
