"""The tunnels that are compared, as definitions, and a running one.

Strings of a definition may hold placeholders in braces (a literal brace is doubled):
  {dir}                          the tunnel's temporary folder, where `files` are written
  {public}                       port on the cloud side's loopback that users connect to
  {target}                       port on the device's loopback where its service is (target.py)
  {server_host} {server}         where the tunnel's server listens
  {link_host} {link}             where the device dials: the server, or a forwarder before it that can be cut
  {ca} {cert} {key} {p12}        certificates.py
  {program:NAME}                 path of a program that the definition names in `programs`
"""
from __future__ import annotations

import base64
import dataclasses
import os
import re
import shutil
import subprocess
import tempfile
import time

import certificates
import load
import places
import processes
import target

OURS, LIMIT, PEER, DIRECT = "ours", "limit", "peer", "direct"


@dataclasses.dataclass(frozen=True)
class Role:
    """One process: `device` is the device's side, whose memory and binary are measured."""
    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Definition:
    name: str
    kind: str
    protection: str  # of the hop between device and server
    sharing: str  # how streams share connections
    roles: tuple[Role, ...] = ()
    programs: tuple[str, ...] = ()
    device_program: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    streams: int | None = None  # at most so many at once; None: no bound
    fixed_server_port: int | None = None
    ssh_keys: bool = False

    @property
    def encrypted(self) -> bool:
        return self.protection != "none"

    def check(self) -> None:
        """Refuses what `Tunnel` could not start."""
        if self.kind not in (OURS, LIMIT, PEER, DIRECT):
            raise ValueError(f"{self.name}: unknown kind {self.kind!r}")
        names = [role.name for role in self.roles]
        if self.kind != DIRECT and "device" not in names:
            raise ValueError(f"{self.name}: no role is called device")
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: two roles have one name")
        known = PLACEHOLDERS | {f"program:{program}" for program in self.programs}
        texts = [word for role in self.roles for word in role.argv] + [text for _, text in self.files]
        for text in texts:
            for placeholder in placeholders(text):
                if placeholder not in known:
                    raise ValueError(f"{self.name}: unknown placeholder {{{placeholder}}}")


PLACEHOLDERS = {"dir", "public", "target", "server_host", "server", "link_host", "link", "ca", "cert", "key", "p12"}
PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z0-9_:-]+)\}")


def placeholders(text: str) -> list[str]:
    return [found[1] for found in PLACEHOLDER.finditer(text) if found[1]]


def expand(text: str, values: dict[str, object]) -> str:
    """Puts the values in; an unknown placeholder is a KeyError."""
    return PLACEHOLDER.sub(lambda found: str(values[found[1]]) if found[1] else found[0][0], text)


# ------------------------------------------------------------------------------------------------ definitions

AGENT_TOML = """[relay]
url = "wss://{link_host}:{link}/bench"
ca-file = "{ca}"

[relay.auth]
key-name = "listen"
key-file = "{dir}/listen.key"

[services.bench]
target = "tcp:127.0.0.1:{target}"

[memory]
streams = 256
"""

RELAY_TOML = """[relay]
listen = "{server_host}:{server}"
certificate-file = "{cert}"
key-file = "{key}"

[relay.keys.operator]
secret-file = "{dir}/operator.key"
rights = ["listen", "send"]

[relay.hybrid-connections.bench.keys.listen]
secret-file = "{dir}/listen.key"
rights = ["listen"]
"""

EXPOSE_TOML = """
[[gateway.expose]]
listen = "127.0.0.1:{public}"
device = "bench"
service = "bench"
"""

GATEWAY_TOML = """[gateway]
relay = "wss://{server_host}:{server}"
ca-file = "{ca}"

[gateway.auth]
key-name = "operator"
key-file = "{dir}/operator.key"
""" + EXPOSE_TOML

AGENT = Role("device", ("{program:umbilical-agent}", "--config", "{dir}/agent.toml"))


def cloud(role: str, file: str) -> Role:
    return Role(role, ("{program:umbilical-cloud}", "run", "--config", "{dir}/" + file))


SSHD_CONFIG = """Port {server}
ListenAddress {server_host}
HostKey {dir}/hostkey
AuthorizedKeysFile {dir}/userkey.pub
PidFile {dir}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
UseDNS no
"""


def ssh(name: str, cipher: str) -> Definition:
    return Definition(
        name=name, kind=PEER, protection=f"SSH, {cipher.split('@')[0]}", sharing="channels of one TCP connection",
        programs=("ssh", "sshd"), device_program="ssh", ssh_keys=True, files=(("sshd_config", SSHD_CONFIG),),
        roles=(
            Role("server", ("{program:sshd}", "-D", "-e", "-f", "{dir}/sshd_config")),
            Role("device", (
                "{program:ssh}", "-F", "/dev/null", "-N", "-c", cipher, "-i", "{dir}/userkey", "-p", "{link}",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
                "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR",
                "-R", "127.0.0.1:{public}:127.0.0.1:{target}", "{link_host}")),
        ))


QUIET = (("RUST_LOG", "error"),)

DEFINITIONS = (
    Definition(
        name="umbilical", kind=OURS, protection="TLS 1.3 (rustls)", sharing="streams of one WebSocket",
        programs=("umbilical-cloud", "umbilical-agent"), device_program="umbilical-agent",
        files=(("agent.toml", AGENT_TOML), ("cloud.toml", RELAY_TOML + '\n[gateway]\nrelay = "embedded"\n' + EXPOSE_TOML)),
        roles=(cloud("cloud", "cloud.toml"), AGENT)),
    Definition(
        name="umbilical, relay apart", kind=OURS, protection="TLS 1.3 (rustls), both hops",
        sharing="streams of one WebSocket, through a relay",
        programs=("umbilical-cloud", "umbilical-agent"), device_program="umbilical-agent",
        files=(("agent.toml", AGENT_TOML), ("relay.toml", RELAY_TOML), ("gateway.toml", GATEWAY_TOML)),
        roles=(cloud("relay", "relay.toml"), AGENT, cloud("gateway", "gateway.toml"))),
    Definition(
        name="limit", kind=LIMIT, protection="TLS 1.3 (rustls)", sharing="one TLS connection, one stream, bytes copied",
        programs=("umbilical-bench-limit",), device_program="umbilical-bench-limit", streams=1,
        roles=(
            Role("cloud", ("{program:umbilical-bench-limit}", "cloud", "--public", "127.0.0.1:{public}",
                           "--link", "{server_host}:{server}", "--cert", "{cert}", "--key", "{key}")),
            Role("device", ("{program:umbilical-bench-limit}", "device", "--link", "{link_host}:{link}", "--ca", "{ca}",
                            "--target", "127.0.0.1:{target}")))),
    Definition(name="no tunnel", kind=DIRECT, protection="none", sharing="straight to the service"),
    Definition(
        name="wstunnel", kind=PEER, protection="TLS 1.3 (rustls)", sharing="a WebSocket per stream",
        programs=("wstunnel",), device_program="wstunnel",
        roles=(
            Role("server", ("{program:wstunnel}", "--log-lvl", "ERROR", "server", "wss://{server_host}:{server}")),
            Role("device", ("{program:wstunnel}", "--log-lvl", "ERROR", "client", "-R",
                            "tcp://127.0.0.1:{public}:127.0.0.1:{target}", "wss://{link_host}:{link}")))),
    ssh("ssh -R, aes128-gcm", "aes128-gcm@openssh.com"),
    ssh("ssh -R, chacha20", "chacha20-poly1305@openssh.com"),
    Definition(
        name="rathole", kind=PEER, protection="TLS (OpenSSL)", sharing="a TLS connection per stream, some kept ready",
        programs=("rathole",), device_program="rathole",
        files=(
            ("server.toml", '[server]\nbind_addr = "{server_host}:{server}"\ndefault_token = "bench"\n'
                            '[server.transport]\ntype = "tls"\n'
                            '[server.transport.tls]\npkcs12 = "{p12}"\npkcs12_password = "bench"\n'
                            '[server.services.bench]\nbind_addr = "127.0.0.1:{public}"\n'),
            ("client.toml", '[client]\nremote_addr = "{link_host}:{link}"\ndefault_token = "bench"\n'
                            '[client.transport]\ntype = "tls"\n'
                            '[client.transport.tls]\ntrusted_root = "{ca}"\nhostname = "localhost"\n'
                            '[client.services.bench]\nlocal_addr = "127.0.0.1:{target}"\n')),
        roles=(Role("server", ("{program:rathole}", "{dir}/server.toml"), QUIET),
               Role("device", ("{program:rathole}", "{dir}/client.toml"), QUIET))),
    Definition(
        name="bore", kind=PEER, protection="none", sharing="a TCP connection per stream", programs=("bore",),
        device_program="bore", fixed_server_port=7835,
        roles=(Role("server", ("{program:bore}", "server", "--min-port", "1024", "--bind-addr", "{server_host}",
                               "--bind-tunnels", "127.0.0.1"), QUIET),
               Role("device", ("{program:bore}", "local", "{target}", "--local-host", "127.0.0.1", "--to", "{link_host}",
                               "--port", "{public}"), QUIET))),
)


def find_program(name: str, folders: list[str]) -> str | None:
    return shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


# ---------------------------------------------------------------------------------------------------- running

class Tunnel:
    """A started tunnel with its device's service behind it; a context that ends all its processes."""

    PATIENCE = 20.0  # seconds for the first byte to come through

    def __init__(self, definition: Definition, programs: dict[str, str], place, cuttable: bool = False):
        self.definition, self.place = definition, place
        self.folder = tempfile.mkdtemp(prefix="umbilical-bench-")
        self.processes: list[processes.Process] = []
        self.forwarder: load.Forwarder | None = None
        self.target: target.Target | None = None
        try:
            self.start(programs, cuttable)
        except BaseException:
            self.stop()
            raise

    def start(self, programs: dict[str, str], cuttable: bool) -> None:
        definition, place = self.definition, self.place
        direct = definition.kind == DIRECT
        self.target = target.Target(place.device, place.target_host if direct else places.LOOPBACK, self.folder)
        server = definition.fixed_server_port or places.free_port()
        values: dict[str, object] = {
            "dir": self.folder, "public": places.free_port(), "target": self.target.port,
            "server_host": place.server_host, "server": server, "link_host": place.server_host, "link": server,
            **certificates.make(self.folder), **{f"program:{name}": path for name, path in programs.items()},
        }
        if cuttable:
            # On an address of its own, because a server's port may be fixed.
            self.forwarder = load.Forwarder(place.device, f"127.0.0.2:{server}", f"{place.server_host}:{server}")
            values.update(link_host="127.0.0.2")
        self.public = f"{place.target_host}:{self.target.port}" if direct else f"{places.LOOPBACK}:{values['public']}"
        self.write_files(values)
        for role in definition.roles:
            side = place.device if role.name == "device" else place.cloud
            argv = side.command([expand(word, values) for word in role.argv])
            self.processes.append(processes.Process(role.name, argv, f"{self.folder}/{role.name}.log", dict(role.environment)))
            time.sleep(0.3)
        if not self.answers_within(self.PATIENCE):
            raise RuntimeError(f"{definition.name}: nothing came through within {self.PATIENCE:.0f} s\n{self.logs()}")

    def write_files(self, values: dict[str, object]) -> None:
        for name, text in self.definition.files:
            with open(os.path.join(self.folder, name), "w") as file:
                file.write(expand(text, values))
        for key in ("listen.key", "operator.key"):
            with open(os.open(os.path.join(self.folder, key), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(base64.b64encode(os.urandom(32)))
        if self.definition.ssh_keys:
            for name in ("hostkey", "userkey"):
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.folder}/{name}"], check=True)
            os.makedirs("/run/sshd", exist_ok=True)  # sshd's privilege separation wants it

    def answers_within(self, seconds: float) -> bool:
        """Waits until a new connection echoes a byte."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not any(process.has_ended() for process in self.processes):
            if load.connect(self, count=1, patience=2.0).samples:
                return True
            time.sleep(0.05)
        return False

    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    @property
    def device_pid(self) -> int | None:
        return next((process.pid for process in self.processes if process.role == "device"), None)

    def logs(self) -> str:
        """The ends of what its processes have said."""
        return "\n".join(f"--- {process.role}\n{process.log_tail()}" for process in self.processes)

    def ended(self) -> list[str]:
        return [process.role for process in self.processes if process.has_ended()]

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()
        if self.forwarder:
            self.forwarder.stop()
        if self.target:
            self.target.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_) -> None:
        self.stop()
