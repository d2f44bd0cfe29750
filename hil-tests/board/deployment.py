"""Files of one board and its cloud side: certificates, keys, agent.toml, cloud.toml, the payload.

Made anew in the folder of the run. A board gets `settings/` as its /etc/umbilical: an emulated one as a disk, another one by the hands of
whoever set it up, which is why files that are there already stay as they are.
"""

import base64
import os
import shutil
import subprocess
from pathlib import Path

DEVICE = "board-1"

RELAY_PORT = 8443
NEIGHBOUR_PORT = 7000

# What the board offers, and the port at which the gateway offers it. {neighbour} is this machine as the board sees it.
SERVICES = {
    "page": ("tcp:127.0.0.1:80", 8080),
    "ssh": ("tcp:127.0.0.1:22", 2222),
    "echo": ("tcp:127.0.0.1:7", 7007),
    "hash": ("tcp:127.0.0.1:9", 7009),
    "source": ("tcp:127.0.0.1:19", 7019),
    "neighbour": ("tcp:{neighbour}", 7070),
    "line": ("serial:/dev/ttyS0?baud=115200", 7050),
}

# The user of the agent on an emulated board.
AGENT_USER = 990


class Deployment:
    """The files, and where they are."""

    def __init__(self, folder: Path, relay: str, listen: str, neighbour: str, payload_mib: int):
        self.folder = folder
        self.settings = folder / "settings"
        self.payload = folder / "payload"
        self.cloud_toml = folder / "cloud.toml"
        self.ssh_key = folder / "ssh.key"
        self.settings.mkdir(parents=True, exist_ok=True)
        if not self.payload.exists():
            self._write_secrets(relay, payload_mib)
        (self.settings / "agent.toml").write_text(agent_toml(relay, f"{neighbour}:{NEIGHBOUR_PORT}"))
        self.cloud_toml.write_text(cloud_toml(folder, listen))

    def address(self, service: str) -> tuple[str, int]:
        """Where the gateway offers a service of the board."""
        return "127.0.0.1", SERVICES[service][1]

    def pack_settings(self) -> None:
        """Makes the disk of an emulated board that becomes its /etc/umbilical."""
        owner = ["-force-uid", str(AGENT_USER), "-force-gid", str(AGENT_USER)]
        _run("mksquashfs", self.settings, self.folder / "settings.squashfs", "-noappend", "-quiet", "-no-progress", *owner)

    def _write_secrets(self, relay: str, payload_mib: int) -> None:
        ca, ca_key = self.settings / "ca.pem", self.folder / "ca.key"
        make = ["openssl", "req", "-x509", "-nodes", "-days", "3650", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        _run(*make, "-subj", "/CN=Umbilical device tests", "-keyout", ca_key, "-out", ca, "-addext", "keyUsage=critical,keyCertSign")
        certificate = ["-keyout", self.folder / "relay.key", "-out", self.folder / "relay.pem", "-CA", ca, "-CAkey", ca_key]
        for_relay = ["-addext", f"subjectAltName=DNS:{relay}", "-addext", "basicConstraints=critical,CA:FALSE"]
        _run(*make, "-subj", f"/CN={relay}", *certificate, *for_relay)
        key = self.settings / "agent.key"
        key.write_bytes(base64.b64encode(os.urandom(32)))
        key.chmod(0o600)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "device tests", "-f", self.ssh_key)
        shutil.copy(self.folder / "ssh.key.pub", self.settings / "authorized_keys")
        with self.payload.open("wb") as payload:
            for _ in range(payload_mib):
                payload.write(os.urandom(1 << 20))


def agent_toml(relay: str, neighbour: str) -> str:
    services = "".join(f'[services.{name}]\ntarget = "{target.format(neighbour=neighbour)}"\n' for name, (target, _) in SERVICES.items())
    return (
        f'[relay]\nurl = "wss://{relay}:{RELAY_PORT}/{DEVICE}"\nca-file = "/etc/umbilical/ca.pem"\nproxy = "none"\n'
        f'[relay.auth]\nkey-name = "listen"\nkey-file = "/etc/umbilical/agent.key"\n{services}'
    )


def cloud_toml(folder: Path, listen: str) -> str:
    exposures = "".join(
        f'[[gateway.expose]]\nlisten = "127.0.0.1:{port}"\ndevice = "{DEVICE}"\nservice = "{name}"\n' for name, (_, port) in SERVICES.items()
    )
    return (
        f'[relay]\nlisten = "{listen}:{RELAY_PORT}"\ncertificate-file = "{folder}/relay.pem"\nkey-file = "{folder}/relay.key"\n'
        f'[relay.hybrid-connections.{DEVICE}.keys.listen]\nsecret-file = "{folder}/settings/agent.key"\nrights = ["listen"]\n'
        f'[gateway]\nrelay = "embedded"\n{exposures}'
    )


def _run(*words) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
