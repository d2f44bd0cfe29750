//! A machine that has an identity in Entra ID needs no key: its metadata service gives out tokens.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod support;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use smol::future;
use socket2::{Domain, Socket, Type};
use support::{
    files::{Directory, text},
    program::Program,
    service::{Service, ServiceRequest},
    soon,
    world::World,
};
use umbilical_agent::{config::HttpAddress, credentials::MetadataService};
use umbilical_relay_protocol::ListenerMessage;

const NOW: u64 = 1_800_000_000;
const PATH_OF_TOKENS: &str = "/metadata/identity/oauth2/token";
const AUDIENCE: &str = "resource=https%3A%2F%2Frelay.azure.net%2F";

fn address(service: &Service, path: &str) -> HttpAddress {
    HttpAddress::parse(&format!("http://127.0.0.1:{}{path}", service.port())).unwrap()
}

/// What the agent makes of what a service says to its one request.
fn outcome_of(response: &[u8]) -> Result<(String, Option<u64>), String> {
    let service = Service::new();
    let metadata = MetadataService::find(Some(&address(&service, ""))).unwrap();
    let answer = async {
        service.request().await.send(response).await;
    };
    let (outcome, ()) = smol::block_on(future::zip(metadata.fetch(None, NOW), answer));
    outcome.map_err(|error| error.to_string())
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn refusal(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn it_asks_as_azure_wants_to_be_asked() {
    let service = Service::new();
    let metadata = MetadataService::find(Some(&address(&service, ""))).unwrap();
    for (client_id, expected) in [
        (None, format!("GET {PATH_OF_TOKENS}?api-version=2018-02-01&{AUDIENCE} HTTP/1.1")),
        (Some("a b&c"), format!("GET {PATH_OF_TOKENS}?api-version=2018-02-01&{AUDIENCE}&client_id=a%20b%26c HTTP/1.1")),
    ] {
        let answer = async {
            let request = service.request().await;
            assert_eq!(request.line(), expected);
            assert_eq!(request.header("Metadata"), Some("true"));
            assert_eq!(request.header("Host"), Some(format!("127.0.0.1:{}", service.port()).as_str()));
            request.answer("200 OK", "", r#"{"access_token":"eyJ.e30.c2ln","expires_on":"1800003600"}"#).await;
        };
        let (outcome, ()) = smol::block_on(future::zip(metadata.fetch(client_id, NOW), answer));
        assert_eq!(outcome.unwrap(), ("eyJ.e30.c2ln".to_owned(), Some(NOW + 3600)));
    }
}

#[test]
fn the_end_of_a_token_is_known_in_each_of_its_spellings() {
    for (fields, expected) in [
        (r#""expires_on":"1800003600","expires_in":"1""#, Some(NOW + 3600)),
        (r#""expires_on":1800003600"#, Some(NOW + 3600)),
        (r#""expires_in":"86399""#, Some(NOW + 86_399)),
        (r#""expires_in":10"#, Some(NOW + 10)),
        (r#""token_type":"Bearer""#, None),
        (r#""expires_on":"soon""#, None),
    ] {
        let outcome = outcome_of(&ok(&format!(r#"{{"access_token":"t",{fields}}}"#)));
        assert_eq!(outcome, Ok(("t".to_owned(), expected)), "{fields}");
    }
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{\"access_toke\r\n7\r\nn\":\"t\"}\r\n0\r\n\r\n";
    assert_eq!(outcome_of(chunked), Ok(("t".to_owned(), None)));
}

#[test]
fn each_fault_has_its_words() {
    for (response, words) in [
        (
            refusal(r#"{"error":"invalid_request","error_description":"Identity not found"}"#),
            "gives no token: 400 Identity not found; check that this machine has the managed identity",
        ),
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n".to_vec(), "429 Too Many Requests"),
        (ok("{}"), "answered without an access_token"),
        (ok("[1"), "answered without an access_token"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), "nonsense: the response is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n".to_vec(),
            "a chunk's size is no hexadecimal number",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec(), "ended before the response did"),
        (ok(&"x".repeat(40_000)), "nonsense: the response is longer than 32768 bytes"),
        // a challenge where none belongs is a refusal
        (
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=/etc/passwd\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
            "401 Unauthorized",
        ),
    ] {
        let error = outcome_of(&response).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_machine_without_a_metadata_service_is_told_what_it_needs() {
    // bound and not listened at: nobody else gets the port meanwhile
    let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    closed.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = closed.local_addr().unwrap().as_socket().unwrap().port();
    let closed_address = HttpAddress::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    let error =
        smol::block_on(MetadataService::find(Some(&closed_address)).unwrap().fetch(None, NOW)).unwrap_err().to_string();
    assert!(error.contains("can't ask the metadata service at http://127.0.0.1:"), "{error}");
    assert!(error.ends_with("needs a machine of Azure, or one that is connected to Azure Arc"), "{error}");
}

/// A metadata service of Arc, and the directory that its challenges must keep to.
struct Arc {
    files: Directory,
    service: Service,
    metadata: MetadataService,
}

impl Arc {
    fn new() -> Arc {
        let (files, service) = (Directory::new(), Service::new());
        std::fs::create_dir(files.path("tokens")).unwrap();
        let metadata = MetadataService::arc(address(&service, PATH_OF_TOKENS), files.path("tokens"));
        Arc { files, service, metadata }
    }

    async fn challenge(&self, realm: &str) -> ServiceRequest {
        let request = self.service.request().await;
        assert_eq!(request.line(), format!("GET {PATH_OF_TOKENS}?api-version=2020-06-01&{AUDIENCE} HTTP/1.1"));
        assert_eq!((request.header("Metadata"), request.header("Authorization")), (Some("true"), None));
        request.answer("401 Unauthorized", &format!("WWW-Authenticate: {realm}\r\n"), "").await;
        self.service.request().await
    }

    fn refusal(&self, challenge: &str) -> String {
        let challenged = async {
            self.challenge(challenge).await;
            unreachable!("no second request may come");
        };
        smol::block_on(soon("a refusal", future::or(self.metadata.fetch(None, NOW), challenged)))
            .unwrap_err()
            .to_string()
    }
}

#[test]
fn arcs_challenge_is_answered_with_the_content_of_the_file_it_names() {
    let arc = Arc::new();
    let secret = arc.files.write("tokens/a.key", "s3cret\n");
    for realm in [format!("Basic realm={}", secret.display()), format!("basic Realm=\"{}\"", secret.display())] {
        let answer = async {
            let request = arc.challenge(&realm).await;
            assert_eq!(request.header("Authorization"), Some("Basic s3cret"));
            request.answer("200 OK", "", r#"{"access_token":"t","expires_on":"1800000001"}"#).await;
        };
        let (outcome, ()) = smol::block_on(future::zip(arc.metadata.fetch(None, NOW), answer));
        assert_eq!(outcome.unwrap(), ("t".to_owned(), Some(NOW + 1)));
    }
}

#[test]
fn no_other_file_is_ever_sent() {
    let arc = Arc::new();
    let outside = arc.files.write("outside.key", "top-secret");
    let link = arc.files.path("tokens/link.key");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let other_kind = arc.files.write("tokens/a.pem", "top-secret");
    let roundabout = arc.files.path("tokens/../outside.key");
    let challenge = |file: &Path| format!("Basic realm={}", file.display());
    for file in [Path::new("/etc/passwd"), &outside, &link, &other_kind, &roundabout] {
        let error = arc.refusal(&challenge(file));
        assert!(error.contains("which is no key in ") && error.ends_with(": refused"), "{error}");
    }
    let absent = arc.refusal(&challenge(&arc.files.path("tokens/absent.key")));
    assert!(absent.contains("No such file") && absent.ends_with("must be in the group himds"), "{absent}");
    let long = arc.files.write("tokens/long.key", &"x".repeat(4097));
    let broken = arc.files.write("tokens/broken.key", "a\r\nHost: b");
    for file in [long, broken] {
        assert!(arc.refusal(&challenge(&file)).contains("can't prove to the metadata service"));
    }
    for nonsense in ["Basic", "Bearer realm=/x", "Basic charset=x"] {
        assert!(arc.refusal(nonsense).contains("does not name a file"), "{nonsense}");
    }
}

#[test]
fn arc_has_no_identities_to_choose_from() {
    let arc = Arc::new();
    let error = smol::block_on(arc.metadata.fetch(Some("id"), NOW)).unwrap_err().to_string();
    assert!(error.ends_with("use `managed-identity = true`"), "{error}");
}

/// The program with this identity in place of a key.
fn start(world: &World, auth: &str, environment: &[(&str, &str)]) -> Program {
    let file: PathBuf = world.files.path("agent.toml");
    let configuration = std::fs::read_to_string(&file).unwrap();
    let others = configuration.lines().filter(|line| !line.starts_with("relay.auth"));
    let others: String = others.map(|line| format!("{line}\n")).collect();
    world.files.write("agent.toml", &format!("{others}relay.auth = {{ {auth} }}\n"));
    Program::start(&["--config", text(&file)], environment)
}

#[test]
fn an_agent_listens_with_its_identity_and_renews_its_token() {
    let service = Service::new();
    let auth = format!("managed-identity = true, metadata-endpoint = 'http://127.0.0.1:{}'", service.port());
    World::prepare("", async |world| {
        let agent = start(world, &auth, &[]);
        let give = async |token: &str, seconds: u64| {
            let end = support::relay::now() + seconds;
            let body = format!(r#"{{"access_token":"{token}","expires_on":"{end}"}}"#);
            service.request().await.answer("200 OK", "", &body).await;
        };
        give("first", 2).await;
        let mut control = world.relay.listener_with("first").await;
        give("second", 3600).await;
        let ListenerMessage::RenewToken { token } = control.message().await else { panic!("no renewal") };
        assert_eq!(token, "second");
        agent.signal("TERM");
        let said = agent.end().1;
        assert!(!said.contains("first") && !said.contains("second"), "{said}");
    });
}

#[test]
fn an_agent_finds_arc_by_its_environment() {
    let service = Service::new();
    let endpoint = format!("http://127.0.0.1:{}{PATH_OF_TOKENS}", service.port());
    World::prepare("", async |world| {
        let environment = [("IDENTITY_ENDPOINT", endpoint.as_str()), ("IMDS_ENDPOINT", "http://127.0.0.1:1")];
        let mut agent = start(world, "managed-identity = true", &environment);
        let request = service.request().await;
        assert!(request.line().contains("api-version=2020-06-01"), "{}", request.line());
        request.answer("401 Unauthorized", "WWW-Authenticate: Basic realm=/etc/hostname\r\n", "").await;
        let line = agent.says("no token for ws://");
        let expected = "wants the content of /etc/hostname, which is no key in /var/opt/azcmagent/tokens: refused";
        assert!(line.contains(expected), "{line}");
        agent.signal("TERM");
        agent.end();
        let mut agent = start(world, "managed-identity = true", &[("IDENTITY_ENDPOINT", "nowhere"), environment[1]]);
        agent.says("IDENTITY_ENDPOINT in the environment: expected http://HOST[:PORT]/PATH, found \"nowhere\"");
    });
}
