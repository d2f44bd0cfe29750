"""What a cut of the device's connections costs: how long until streams move again, until a new connection works, and how
much of a transfer is left when cuts come again and again."""
from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import threading
import time

import load
import places
import processes
import slow_link
from quantiles import percentile
from tunnels import Definition, Tunnel, expand

# Upper ends of the histogram's bars, ms.
BARS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclasses.dataclass
class Recovery:
    """Milliseconds from each cut; None where nothing came before the next cut."""
    round_trip: float
    streams: list[float | None]
    new_connections: list[float | None]


def measure_recovery(definition: Definition, programs: dict[str, str], place, cuts: int, seed: int) -> Recovery:
    """Cuts at random times, one to two seconds and twenty round trips apart, beside a stream that is used and new connections all the time."""
    rng = random.Random(seed)
    with Tunnel(definition, programs, place, cuttable=True) as tunnel:
        idle = load.ping(tunnel, window=2.0, pause=0.005).at(0.5)
        # all that is dialled anew has been in use for a while when it is cut
        apart = 20 * idle / 1000
        window = cuts * (apart + 2.0) + 5.0
        used = load.start_ping(tunnel, window, pause=0.002)
        new = load.start_connect(tunnel, window, pause=0.002, patience=5.0)
        time.sleep(2.0)
        at = []
        for _ in range(cuts):
            tunnel.forwarder.cut()
            # what comes after this has come by another connection
            at.append(time.time())
            time.sleep(apart + rng.uniform(1.2, 2.0))
        streams, connections = load.latencies(used), load.latencies(new)
        if streams.failed:
            raise RuntimeError(f"{definition.name}: the stream was lost, or stood still for {load.PATIENCE:.0f} s\n{tunnel.logs()}")
    ends = at[1:] + [at[-1] + 5.0]
    # what ends within a round trip of the cut may have passed where the cut was before it
    moved = [(began + took / 1000, began + took / 1000 - idle / 1000) for began, took in streams.samples]
    worked = [(began + took / 1000, began) for began, took in connections.samples]
    return Recovery(idle, first_after(moved, at, ends), first_after(worked, at, ends))


def first_after(samples: list[tuple[float, float]], cuts: list[float], ends: list[float]) -> list[float | None]:
    """Milliseconds from each cut until the end of the first sample that cannot be from before it, and is over before the
    next. A sample is its end, and the latest time of a cut that it is surely from after."""
    return [next(((over - cut) * 1000 for over, since in samples if cut < since and over < end), None) for cut, end in zip(cuts, ends)]


def histogram(values: list[float | None]) -> list[tuple[str, int]]:
    """Bars by their upper ends, without empty ones."""
    bars, below = [], 0.0
    for bar in BARS:
        bars.append((f"up to {bar} ms", sum(1 for value in values if value is not None and below < value <= bar)))
        below = bar
    bars += [(f"over {below:.0f} ms", sum(1 for value in values if value is not None and value > below)),
             ("not before the next cut", sum(1 for value in values if value is None))]
    return [(name, count) for name, count in bars if count]


def describe(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    p50, p99 = percentile(known, 0.5), percentile(known, 0.99)
    lines = [f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"]
    lines += [f"    {name:>24}  {count:4}  {'#' * min(60, count)}" for name, count in histogram(values)]
    return "\n".join(lines)


class CopyingTunnel(Tunnel):
    """A tunnel whose service is OpenSSH's server, on the device's side."""

    def write_files(self, values: dict[str, object]) -> None:
        port = places.free_port()
        for name in ("hostkey", "userkey"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.folder}/{name}"], check=True)
        os.makedirs("/run/sshd", exist_ok=True)
        with open(f"{self.folder}/sshd_config", "w") as file:
            file.write(expand(SSHD_CONFIG, {"dir": self.folder, "port": port}))
        sshd = self.place.device.command(["/usr/sbin/sshd", "-D", "-e", "-f", f"{self.folder}/sshd_config"])
        self.processes.append(processes.Process("sshd", sshd, f"{self.folder}/sshd.log"))
        super().write_files({**values, "target": port})

    def answers_within(self, seconds: float) -> bool:
        """Waits until a command runs on the other side."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ssh = self.place.cloud.command(["ssh", *self.ssh_options(), "-p", self.public_port, "root@127.0.0.1", "true"])
            if subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
                return True
            time.sleep(0.2)
        return False

    @property
    def public_port(self) -> str:
        return self.public.rsplit(":", 1)[1]

    def ssh_options(self) -> list[str]:
        return ["-F", "/dev/null", "-i", f"{self.folder}/userkey", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
                "-o", f"UserKnownHostsFile={self.folder}/known_hosts", "-o", "LogLevel=ERROR"]

    def start_copy(self, source: str, target: str) -> subprocess.Popen:
        scp = ["scp", "-q", *self.ssh_options(), "-P", self.public_port, source, target]
        return subprocess.Popen(self.place.cloud.command(scp), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


SSHD_CONFIG = """ListenAddress 127.0.0.1:{port}
HostKey {dir}/hostkey
AuthorizedKeysFile {dir}/userkey.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


@dataclasses.dataclass
class Copied:
    """Two files copied at once, one each way."""
    seconds: float
    bits_per_second: float
    cuts: int


def measure_copies(definition: Definition, programs: dict[str, str], link: places.SlowLink, loss: str, size: int,
                   cut_every: float | None) -> Copied:
    """`scp` both ways at once on a link that loses packets, cut every so many seconds or never. Both hashes are checked."""
    with CopyingTunnel(definition, programs, link, cuttable=True) as tunnel:
        link.command(f"loss {loss}")
        for name in ("up", "down"):
            with open(f"{tunnel.folder}/{name}", "wb") as file:
                file.write(os.urandom(size))
        over, cuts = threading.Event(), []

        def cut() -> None:
            while cut_every and not over.wait(cut_every):
                cuts.append(tunnel.forwarder.cut())

        cutting = threading.Thread(target=cut)
        began = time.monotonic()
        copies = [tunnel.start_copy(f"{tunnel.folder}/up", f"root@127.0.0.1:{tunnel.folder}/up.copy"),
                  tunnel.start_copy(f"root@127.0.0.1:{tunnel.folder}/down", f"{tunnel.folder}/down.copy")]
        cutting.start()
        told = [copy.communicate()[1] for copy in copies]
        seconds = time.monotonic() - began
        over.set()
        cutting.join()
        if any(copy.returncode for copy in copies):
            raise RuntimeError(f"{definition.name}: scp failed: {' '.join(told).strip()}")
        for name in ("up", "down"):
            with open(f"{tunnel.folder}/{name}", "rb") as original, open(f"{tunnel.folder}/{name}.copy", "rb") as copy:
                if original.read() != copy.read():
                    raise RuntimeError(f"{definition.name}: {name} is not what was sent")
    return Copied(seconds, 2 * size * 8 / seconds, len(cuts))


def prepare_link(delay: str, rate: str = "100M") -> places.SlowLink:
    """A link whose queue holds a tenth of a second, as a modem's does."""
    slow_link.seconds(delay)
    return places.SlowLink(f"{rate}, {delay}", rate, delay, "100ms")
