"""The clients of a tunnel (bench/load), started on the cloud side, and their results."""
from __future__ import annotations

import dataclasses
import json
import subprocess
import time

import processes
import programs
from quantiles import percentile

UP, DOWN = "device-to-cloud", "cloud-to-device"
MIB = 1 << 20


@dataclasses.dataclass
class Latencies:
    """Samples as (unix time, milliseconds), and how many had no answer."""
    samples: list[tuple[float, float]]
    failed: int

    def at(self, share: float) -> float | None:
        return percentile([took for _, took in self.samples], share)

    def between(self, begin: float, end: float) -> Latencies:
        return Latencies([sample for sample in self.samples if begin <= sample[0] < end], 0)


@dataclasses.dataclass
class Transfer:
    """What arrived in the measured window, per stream, and what the tunnel's processes took for it."""
    seconds: float
    bytes: list[int]
    samples: list[tuple[float, int]]  # (unix time, total so far)
    cpu_seconds: float

    @property
    def total(self) -> int:
        return sum(self.bytes)

    @property
    def mib_per_second(self) -> float:
        return self.total / self.seconds / MIB

    @property
    def cpu_per_gib(self) -> float | None:
        """None when too little arrived to tell."""
        return self.cpu_seconds / (self.total / (1 << 30)) if self.total > 4 * MIB else None

    @property
    def starved(self) -> int:
        return sum(1 for count in self.bytes if count == 0)

    @property
    def smallest_share(self) -> float | None:
        """Of the mean; 1 is perfectly fair."""
        return min(self.bytes) / (self.total / len(self.bytes)) if self.total else None

    def rate_between(self, begin: float, end: float) -> float | None:
        """Bits per second from the samples within two times."""
        inside = [sample for sample in self.samples if begin <= sample[0] <= end]
        if len(inside) < 2:
            return None
        (first, before), (last, after) = inside[0], inside[-1]
        return (after - before) * 8 / (last - first)


def connect(tunnel, count: int, patience: float = 5.0, window: float = 3600.0, pause: float = 0.0) -> Latencies:
    """New connections one after the other, each with a byte there and back."""
    return latencies(start(tunnel, "connect", count=count, patience=patience, seconds=window, pause=pause))


# How long one message of a stream may take.
PATIENCE = 20.0


def ping(tunnel, window: float, pause: float = 0.0, count: int = 1_000_000, patience: float = PATIENCE) -> Latencies:
    """64 bytes there and back, over and over, on one connection."""
    return latencies(start_ping(tunnel, window, pause, count, patience))


def start_ping(tunnel, window: float, pause: float, count: int = 1_000_000, patience: float = PATIENCE) -> subprocess.Popen:
    return start(tunnel, "ping", seconds=window, pause=pause, count=count, patience=patience)


def start_connect(tunnel, window: float, pause: float, patience: float) -> subprocess.Popen:
    return start(tunnel, "connect", seconds=window, pause=pause, patience=patience)


def latencies(child: subprocess.Popen) -> Latencies:
    out, error = child.communicate()
    if child.returncode:
        # Not even the connection stood: one failure, nothing to time.
        return Latencies([], 1)
    told = json.loads(out)
    return Latencies([(at, took / 1000) for at, took in told["samples"]], told["failed"])


class Bulk:
    """Saturating streams. Begins at once; `wait_for_window`, do something beside it, then `finish`."""

    def __init__(self, tunnel, direction: str, streams: int, window: float, warm: float):
        self.tunnel = tunnel
        self.child = start(tunnel, "bulk", direction=direction, streams=streams, seconds=window, warm=warm,
                           control=tunnel.target.control)

    def wait_for_window(self) -> float:
        """The unix time when it opened."""
        self.expect("start")
        self.cpu_before = processes.cpu_seconds(self.tunnel.pids())
        return time.time()

    def finish(self) -> Transfer:
        self.expect("stop")
        cpu = processes.cpu_seconds(self.tunnel.pids()) - self.cpu_before
        # Not `communicate`, which forgets what was read along with the line before.
        told = json.loads(self.child.stdout.readline())
        self.stop()
        return Transfer(told["seconds"], told["bytes"], [tuple(sample) for sample in told["samples"]], cpu)

    def expect(self, word: str) -> None:
        line = self.child.stdout.readline().strip()
        if line != word:
            self.stop()
            raise RuntimeError(f"{self.tunnel.definition.name}: the bulk transfer failed: {self.error}")

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.error = self.child.stderr.read().strip()
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.stderr.close()
        self.child.wait()


class Held:
    """Connections that stay open until `release`: idle, or with a download that nobody reads."""

    def __init__(self, tunnel, streams: int, stalled: bool = False):
        self.child = start(tunnel, "hold", streams=streams, patience=5.0, **({"stalled": True} if stalled else {}))
        self.count = json.loads(self.child.stdout.readline() or '{"held": 0}')["held"]

    def release(self) -> None:
        """Closes them all."""
        self.child.communicate()


class Forwarder:
    """Before the tunnel's server, so that the device's connection can be cut."""

    def __init__(self, side, listen: str, to: str):
        self.child = subprocess.Popen(side.command([programs.load_program(), "forward", "--listen", listen, "--to", to]),
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not self.child.stdout.readline():
            raise RuntimeError(f"the forwarder could not listen on {listen}; its message is above")

    def cut(self) -> int:
        """Resets every connection; how many there were."""
        self.child.stdin.write("cut\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())["cut"]

    def stop(self) -> None:
        self.child.stdin.close()
        self.child.wait()


def start(tunnel, subcommand: str, **options) -> subprocess.Popen:
    words = [programs.load_program(), subcommand, "--to", tunnel.public]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return subprocess.Popen(tunnel.place.cloud.command(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
