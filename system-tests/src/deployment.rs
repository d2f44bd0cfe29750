//! The files of one device and its cloud side: keys, certificates, `agent.toml`, `cloud.toml`.
//!
//! [`Setup`] says what there is, [`Setup::write`] makes the files as an operator would. A test may then change a file
//! before it starts a process, which is how the failures are made.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::Command,
};

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use ring::rand::{SecureRandom, SystemRandom};
use tempfile::TempDir;

use crate::{
    azure_stand_in::{GATEWAY_HOST, NAMESPACE},
    binaries, ports,
    process::Process,
};

/// The name of the device, and so of its hybrid connection.
pub const DEVICE: &str = "device-1";

/// Which processes the cloud side is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Relay and gateway in one process: the rendezvous is handed over in memory.
    Embedded,
    /// A relay and a gateway, each a process: the gateway dials like any other sender.
    Apart,
    /// A gateway that is a process, and Azure's relay: an [`AzureStandIn`](crate::azure_stand_in::AzureStandIn), which the
    /// test starts first. It is the proxy on everybody's way out.
    Azure,
}

/// What there is to be tunnelled, and how.
#[derive(Debug, Clone)]
pub struct Setup {
    topology: Topology,
    services: Vec<(String, SocketAddrV4)>,
    udp_services: Vec<(String, SocketAddrV4)>,
    exposed_only: Vec<String>,
    proxy: Option<String>,
    http: Option<SocketAddrV4>,
    memory: String,
    plain: Option<String>,
}

impl Setup {
    /// Nothing yet.
    pub fn new(topology: Topology) -> Setup {
        let (services, udp_services, exposed_only, memory) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        Setup { topology, services, udp_services, exposed_only, proxy: None, http: None, memory, plain: None }
    }

    /// A service of the device, and an exposure of it.
    #[must_use]
    pub fn service(mut self, name: &str, target: SocketAddrV4) -> Setup {
        self.services.push((name.to_owned(), target));
        self
    }

    /// A UDP service of the device, and a UDP exposure of it: at the number of the TCP service's with the same target, if
    /// there is one.
    #[must_use]
    pub fn udp_service(mut self, name: &str, target: SocketAddrV4) -> Setup {
        self.udp_services.push((name.to_owned(), target));
        self
    }

    /// An exposure of a service that the device does not have (yet).
    #[must_use]
    pub fn exposure(mut self, name: &str) -> Setup {
        self.exposed_only.push(name.to_owned());
        self
    }

    /// The HTTP proxy on the agent's way out.
    #[must_use]
    pub fn proxy(mut self, url: &str) -> Setup {
        self.proxy = Some(url.to_owned());
        self
    }

    /// The device's HTTP service, for requests to the relay.
    #[must_use]
    pub fn http(mut self, target: SocketAddrV4) -> Setup {
        self.http = Some(target);
        self
    }

    /// The lines of the agent's `[memory]`.
    #[must_use]
    pub fn memory(mut self, lines: &str) -> Setup {
        lines.clone_into(&mut self.memory);
        self
    }

    /// No session: the exposures are plain, and the agent's plain service is this one.
    #[must_use]
    pub fn plain(mut self, service: &str) -> Setup {
        self.plain = Some(service.to_owned());
        self
    }

    /// Makes keys, certificates and configuration files in a folder of their own.
    ///
    /// # Panics
    /// A file can't be written.
    pub fn write(self) -> Deployment {
        let folder = TempDir::new().expect("a temporary folder");
        let exposures = self.services.iter().map(|(name, _)| name).chain(&self.exposed_only);
        let exposures: Vec<_> = exposures.map(|name| (name.clone(), ports::free())).collect();
        let beside = |target| self.services.iter().position(|(_, other)| *other == target).map(|at| exposures[at].1);
        let udp_exposures = self.udp_services.iter();
        let udp_exposures =
            udp_exposures.map(|(name, target)| (name.clone(), beside(*target).unwrap_or_else(ports::free))).collect();
        let mut deployment = Deployment { relay: ports::free(), exposures, udp_exposures, setup: self, folder };
        if deployment.setup.topology == Topology::Azure {
            deployment.setup.proxy = Some(format!("http://{}", deployment.relay));
        }
        write_certificates(&deployment);
        for key in [AGENT_KEY, OPERATOR_KEY] {
            deployment.write_file(key, &new_key());
        }
        deployment.write_file("agent.toml", &deployment.agent_toml());
        match deployment.setup.topology {
            Topology::Embedded => {
                let both = deployment.relay_toml() + &deployment.gateway_toml("relay = \"embedded\"\n");
                deployment.write_file("cloud.toml", &both);
            }
            Topology::Apart => {
                deployment.write_file("relay.toml", &deployment.relay_toml());
                deployment.write_file("cloud.toml", &deployment.gateway_toml(&deployment.dialling_toml()));
            }
            Topology::Azure => {
                let proxy = format!("proxy = \"http://{}\"\n", deployment.relay);
                deployment.write_file("cloud.toml", &deployment.gateway_toml(&(proxy + &deployment.dialling_toml())));
            }
        }
        deployment
    }
}

/// The agent's shared access key, in the deployment's folder.
pub const AGENT_KEY: &str = "agent.key";
/// The shared access key of the whole namespace, which the gateway uses.
pub const OPERATOR_KEY: &str = "operator.key";

/// The files, and the addresses they name.
pub struct Deployment {
    /// Where the relay is to listen.
    pub relay: SocketAddrV4,
    exposures: Vec<(String, SocketAddrV4)>,
    udp_exposures: Vec<(String, SocketAddrV4)>,
    setup: Setup,
    folder: TempDir,
}

impl Deployment {
    /// Where the exposure of a service listens.
    ///
    /// # Panics
    /// The setup has no such service.
    pub fn exposure(&self, service: &str) -> SocketAddrV4 {
        let found = self.exposures.iter().chain(&self.udp_exposures).find(|(name, _)| name == service);
        found.unwrap_or_else(|| panic!("{service} is not exposed here")).1
    }

    /// All that the cloud side listens on by TCP.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddrV4> {
        self.exposures.iter().map(|&(_, address)| address).chain([self.relay])
    }

    /// The relay, as agent and gateway call it.
    pub fn relay_url(&self) -> String {
        match self.setup.topology {
            Topology::Embedded | Topology::Apart => format!("wss://localhost:{}", self.relay.port()),
            Topology::Azure => format!("sb://{NAMESPACE}"),
        }
    }

    /// A file of the deployment.
    ///
    /// # Panics
    /// Temporary files have names that are not UTF-8.
    pub fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_str().expect("the folder for temporary files has a name in UTF-8").to_owned()
    }

    /// Replaces a file. It is its owner's only, as an operator would have it.
    ///
    /// # Panics
    /// It can't be written.
    pub fn write_file(&self, name: &str, content: &str) {
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(self.folder.path().join(name));
        let written = opened.and_then(|mut file| file.write_all(content.as_bytes()));
        written.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Changes a text within a file.
    ///
    /// # Panics
    /// The file has no such text.
    pub fn edit_file(&self, name: &str, from: &str, to: &str) {
        self.write_copy(name, name, from, to);
    }

    /// Makes a file as another one is, but for a text within it.
    ///
    /// # Panics
    /// That one has no such text.
    pub fn write_copy(&self, of: &str, name: &str, from: &str, to: &str) {
        let content = fs::read_to_string(self.folder.path().join(of)).unwrap_or_else(|error| panic!("{of}: {error}"));
        assert!(content.contains(from), "{of} has no {from:?}:\n{content}");
        self.write_file(name, &content.replace(from, to));
    }

    /// Lets the agent dial the relay at another address.
    ///
    /// # Panics
    /// It has been told so before.
    pub fn agent_dials(&self, address: SocketAddrV4) {
        self.edit_file("agent.toml", &self.relay_url(), &format!("wss://localhost:{}", address.port()));
    }

    /// Lets a gateway that is a process of its own dial the relay at another address.
    ///
    /// # Panics
    /// It has been told so before.
    pub fn gateway_dials(&self, address: SocketAddrV4) {
        self.edit_file("cloud.toml", &self.relay_url(), &format!("wss://localhost:{}", address.port()));
    }

    /// Adds a service to the agent's file; a running agent sees it when it reloads.
    pub fn add_service(&mut self, name: &str, target: SocketAddrV4) {
        self.setup.services.push((name.to_owned(), target));
        self.write_file("agent.toml", &self.agent_toml());
    }

    /// The relay and the gateway, started: one process or two, as the topology says.
    pub fn start_cloud(&self) -> Vec<Process> {
        let run = |name: &str| Process::start(name, &mut self.cloud_command("run", "cloud.toml"));
        match self.setup.topology {
            Topology::Embedded => vec![run("cloud")],
            Topology::Apart => vec![self.start_relay(), run("gateway")],
            Topology::Azure => vec![run("gateway")],
        }
    }

    /// The relay by itself, where it is a process of its own, started.
    pub fn start_relay(&self) -> Process {
        Process::start("relay", &mut self.cloud_command("run", "relay.toml"))
    }

    /// The agent, started.
    pub fn start_agent(&self) -> Process {
        Process::start("agent", &mut self.agent_command())
    }

    /// `umbilical-agent --config agent.toml`; options may be added.
    pub fn agent_command(&self) -> Command {
        let mut agent = Command::new(binaries::agent());
        agent.args(["--config", &self.path("agent.toml")]);
        self.tidy(agent)
    }

    /// `umbilical-cloud SUBCOMMAND --config FILE`.
    pub fn cloud_command(&self, subcommand: &str, file: &str) -> Command {
        let mut cloud = Command::new(binaries::cloud());
        cloud.args([subcommand, "--config", &self.path(file)]);
        self.tidy(cloud)
    }

    /// `umbilical-cloud connect device-1 SERVICE`, as one word list for a shell.
    pub fn connect_command(&self, service: &str) -> String {
        let cloud = binaries::cloud();
        format!("{} connect {DEVICE} {service} --config {}", cloud.display(), self.path("cloud.toml"))
    }

    /// Nothing of whoever runs the test plays a part.
    fn tidy(&self, mut command: Command) -> Command {
        for variable in
            ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "RUST_LOG", "JOURNAL_STREAM", "NOTIFY_SOCKET"]
        {
            command.env_remove(variable);
        }
        command.current_dir(self.folder.path());
        command
    }

    fn agent_toml(&self) -> String {
        let mut text =
            format!("[relay]\nurl = \"{}/{DEVICE}\"\nca-file = \"{}\"\n", self.relay_url(), self.path("ca.pem"));
        if let Some(proxy) = &self.setup.proxy {
            let _ = writeln!(text, "proxy = \"{proxy}\"");
        }
        let _ = writeln!(text, "[relay.auth]\nkey-name = \"listen\"\nkey-file = \"{}\"", self.path(AGENT_KEY));
        for (name, target) in &self.setup.services {
            let _ = writeln!(text, "[services.{name}]\ntarget = \"tcp:{target}\"");
        }
        for (name, target) in &self.setup.udp_services {
            let _ = writeln!(text, "[services.{name}]\ntarget = \"udp:{target}\"");
        }
        if let Some(service) = &self.setup.plain {
            let _ = writeln!(text, "[foreign]\nplain-service = \"{service}\"");
        }
        if let Some(target) = &self.setup.http {
            let _ = writeln!(text, "[http]\ntarget = \"tcp:{target}\"");
        }
        if !self.setup.memory.is_empty() {
            let _ = writeln!(text, "[memory]\n{}", self.setup.memory);
        }
        text
    }

    fn relay_toml(&self) -> String {
        format!(
            "[relay]\nlisten = \"{}\"\ncertificate-file = \"{}\"\nkey-file = \"{}\"\n\
             [relay.keys.operator]\nsecret-file = \"{}\"\nrights = [\"listen\", \"send\"]\n\
             [relay.hybrid-connections.{DEVICE}.keys.listen]\nsecret-file = \"{}\"\nrights = [\"listen\"]\n",
            self.relay,
            self.path("relay.pem"),
            self.path("relay.key"),
            self.path(OPERATOR_KEY),
            self.path(AGENT_KEY)
        )
    }

    /// How a gateway of its own process reaches the relay.
    fn dialling_toml(&self) -> String {
        format!(
            "relay = \"{}\"\nca-file = \"{}\"\n[gateway.auth]\nkey-name = \"operator\"\nkey-file = \"{}\"\n",
            self.relay_url(),
            self.path("ca.pem"),
            self.path(OPERATOR_KEY)
        )
    }

    fn gateway_toml(&self, dialling: &str) -> String {
        let mut text = format!("[gateway]\n{dialling}");
        let udp = self.udp_exposures.iter().map(|(service, address)| (service, format!("udp:{address}")));
        let tcp = self.exposures.iter().map(|(service, address)| (service, address.to_string()));
        for (service, listen) in tcp.chain(udp) {
            let _ = writeln!(
                text,
                "[[gateway.expose]]\nlisten = \"{listen}\"\ndevice = \"{DEVICE}\"\nservice = \"{service}\""
            );
            if self.setup.plain.is_some() {
                text.push_str("plain = true\n");
            }
        }
        text
    }
}

/// A certificate authority of this deployment alone, and certificates from it for the relay, or for each host of Azure's.
fn write_certificates(deployment: &Deployment) {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Umbilical system tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate().expect("the system has randomness");
    let authority_certificate = authority.self_signed(&authority_key).expect("its parameters are complete");
    let issuer = Issuer::new(authority, authority_key);

    deployment.write_file("ca.pem", &authority_certificate.pem());
    let local = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let hosts = [NAMESPACE, GATEWAY_HOST].map(|host| (host, vec![host.to_owned()]));
    let certificates = match deployment.setup.topology {
        Topology::Embedded | Topology::Apart => vec![("relay", local.to_vec())],
        Topology::Azure => hosts.to_vec(),
    };
    for (file, names) in certificates {
        let key = KeyPair::generate().expect("the system has randomness");
        let certificate = CertificateParams::new(names).and_then(|host| host.signed_by(&key, &issuer));
        deployment.write_file(&format!("{file}.pem"), &certificate.expect("its parameters are complete").pem());
        deployment.write_file(&format!("{file}.key"), &key.serialize_pem());
    }
}

/// A shared access key: 256 random bits in Base64, as the hosted service makes them.
pub fn new_key() -> String {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
    BASE64.encode(&bytes)
}
