"""Keys, certificates and configuration of one board and its cloud side, as an operator would make them."""

import base64
import os
import subprocess
from pathlib import Path

DEVICE = "board-1"

# How the board calls this machine: see image/root/etc/hosts.
RELAY = "relay.test"
RELAY_PORT = 8443

# Services by name, and the port at which the gateway offers each. The board offers `late` only after a reload.
EXPOSED = {"echo": 7007, "late": 7008}
ECHO = "tcp:127.0.0.1:7"


class Deployment:
    def __init__(self, folder: Path):
        self.cloud_toml = folder / "cloud.toml"
        self.authority = folder / "ca.pem"
        self.key = folder / "listen.key"
        self.key.write_bytes(base64.b64encode(os.urandom(32)))
        self._write_certificates(folder)
        exposures = "".join(
            f'[[gateway.expose]]\nlisten = "127.0.0.1:{port}"\ndevice = "{DEVICE}"\nservice = "{name}"\n' for name, port in EXPOSED.items()
        )
        self.cloud_toml.write_text(
            f'[relay]\nlisten = "127.0.0.1:{RELAY_PORT}"\ncertificate-file = "{folder}/relay.pem"\nkey-file = "{folder}/relay.key"\n'
            f'[relay.hybrid-connections.{DEVICE}.keys.listen]\nsecret-file = "{self.key}"\nrights = ["listen"]\n'
            f'[gateway]\nrelay = "embedded"\n{exposures}'
        )

    def _write_certificates(self, folder: Path) -> None:
        def openssl(*words):
            command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            subprocess.run([*command, *map(str, words)], check=True, capture_output=True)

        signer = folder / "ca.key"
        openssl("-subj", "/CN=Umbilical tests", "-keyout", signer, "-out", self.authority, "-addext", "keyUsage=critical,keyCertSign")
        openssl(
            *("-subj", f"/CN={RELAY}", "-keyout", folder / "relay.key", "-out", folder / "relay.pem", "-CA", self.authority, "-CAkey", signer),
            *("-addext", f"subjectAltName=DNS:{RELAY}", "-addext", "basicConstraints=critical,CA:FALSE"),
        )


def agent_toml(services=("echo",), port: int = RELAY_PORT, drain_for: str = "10s") -> str:
    """The configuration as it is on the board, key and all where the unit puts it."""
    offered = "".join(f'[services.{name}]\ntarget = "{ECHO}"\n' for name in services)
    return (
        f'[relay]\nurl = "wss://{RELAY}:{port}/{DEVICE}"\nca-file = "/etc/umbilical/ca.pem"\nproxy = "none"\n'
        f'[relay.auth]\nkey-name = "listen"\nkey-file = "/run/credentials/umbilical-agent.service/key"\n'
        f'{offered}[session]\ndrain-for = "{drain_for}"\n'
    )
