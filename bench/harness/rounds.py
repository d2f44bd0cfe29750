"""One round of one tunnel on the loopback: every figure of the main tables, as one flat dict."""
from __future__ import annotations

import dataclasses
import time

import load
import processes
from load import DOWN, UP
from tunnels import DIRECT, Definition, Tunnel


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long and how often; `QUICK` only shows that every figure can be taken."""
    seconds: float = 3.0  # of each transfer
    connections: int = 500
    pings: int = 4000
    held: int = 200
    streams: int = 50
    cut_seconds: float = 6.0
    warm: float = 0.7  # of each transfer, before its window

    @staticmethod
    def quick() -> Effort:
        return Effort(seconds=0.5, connections=50, pings=300, held=50, cut_seconds=1.5, warm=0.2)


def expected(definition: Definition) -> list[str]:
    """The figures that every round of this tunnel has."""
    keys = ["ping_p50", "ping_p99", "up1", "down1"]
    if definition.kind != DIRECT:
        keys += ["rss_idle", "up1_cpu", "down1_cpu"]
    if definition.streams is None:
        keys += ["connect_p50", "connect_p99", "up50", "down50", "up50_share", "down50_share", "ping_up_p50", "ping_down_p50"]
        if definition.kind != DIRECT:
            keys += ["rss_per_stream", "rss_peak_50"]
    return keys


def measure(definition: Definition, programs: dict[str, str], place, effort: Effort) -> dict:
    figures: dict = {}
    machine = processes.MachineLoad()
    with Tunnel(definition, programs, place) as tunnel:
        many = definition.streams is None
        if definition.kind != DIRECT:
            measure_memory(tunnel, effort, figures, many)
        if many:
            new = load.connect(tunnel, count=effort.connections, window=20.0)
            figures.update(connect_p50=new.at(0.5), connect_p99=new.at(0.99), connect_failed=new.failed)
        idle = load.ping(tunnel, window=effort.seconds, count=effort.pings)
        figures.update(ping_p50=idle.at(0.5), ping_p99=idle.at(0.99))
        for direction, way in ((UP, "up"), (DOWN, "down")):
            measure_transfer(tunnel, direction, 1, effort, figures, f"{way}1")
        if many:
            if tunnel.device_pid:
                processes.reset_peak(tunnel.device_pid)
            for direction, way in ((UP, "up"), (DOWN, "down")):
                measure_transfer(tunnel, direction, effort.streams, effort, figures, f"{way}50")
            if tunnel.device_pid:
                figures["rss_peak_50"] = processes.peak_resident_kib(tunnel.device_pid)
            for direction, way in ((UP, "up"), (DOWN, "down")):
                beside = ping_beside(tunnel, direction, effort)
                figures.update({f"ping_{way}_p50": beside.at(0.5), f"ping_{way}_p99": beside.at(0.99)})
        figures["ended"] = tunnel.ended()
    if many and definition.kind != DIRECT:
        measure_cut(definition, programs, place, effort, figures)
    figures["other_cores"] = machine.others()
    return figures


def measure_memory(tunnel: Tunnel, effort: Effort, figures: dict, many: bool) -> None:
    """First of all, while nothing has run yet that could leave a larger heap behind."""
    time.sleep(0.5)
    figures["rss_idle"] = processes.resident_kib(tunnel.device_pid)
    if many:
        held = load.Held(tunnel, effort.held)
        time.sleep(0.5)
        figures.update(held=held.count, rss_held=processes.resident_kib(tunnel.device_pid))
        held.release()
        figures["rss_per_stream"] = (figures["rss_held"] - figures["rss_idle"]) / held.count if held.count else None


def measure_transfer(tunnel: Tunnel, direction: str, streams: int, effort: Effort, figures: dict, key: str) -> None:
    bulk = load.Bulk(tunnel, direction, streams, effort.seconds, effort.warm)
    bulk.wait_for_window()
    transfer = bulk.finish()
    figures.update({key: transfer.mib_per_second, f"{key}_cpu": transfer.cpu_per_gib})
    if streams > 1:
        figures.update({f"{key}_starved": transfer.starved, f"{key}_share": transfer.smallest_share})
    let_drain(tunnel, figures)


def ping_beside(tunnel: Tunnel, direction: str, effort: Effort) -> load.Latencies:
    """64 bytes every other millisecond beside one saturating stream."""
    bulk = load.Bulk(tunnel, direction, 1, effort.seconds, effort.warm)
    bulk.wait_for_window()
    beside = load.ping(tunnel, window=effort.seconds * 0.9, pause=0.002)
    bulk.finish()
    let_drain(tunnel, {})
    return beside


def let_drain(tunnel: Tunnel, figures: dict) -> None:
    """What a closed transfer left on its way must not slow the next measurement."""
    started = time.monotonic()
    if not tunnel.answers_within(tunnel.PATIENCE):
        raise RuntimeError(f"{tunnel.definition.name}: nothing came through within {tunnel.PATIENCE:.0f} s after a transfer")
    figures["drain_seconds"] = max(figures.get("drain_seconds", 0.0), time.monotonic() - started)
    time.sleep(0.2)


def measure_cut(definition: Definition, programs: dict[str, str], place, effort: Effort, figures: dict) -> None:
    """Resets the device's connection: how long until a new connection works, and does an open stream live on?"""
    with Tunnel(definition, programs, place, cuttable=True) as tunnel:
        open_stream = load.start_ping(tunnel, effort.cut_seconds, pause=0.01, patience=effort.cut_seconds)
        new_ones = load.start_connect(tunnel, effort.cut_seconds, pause=0.01, patience=1.0)
        time.sleep(0.5)
        cut_at = time.time()
        tunnel.forwarder.cut()
        survived, recovered = load.latencies(open_stream), load.latencies(new_ones)
        first = next(((at - cut_at) * 1000 + took for at, took in recovered.samples if at > cut_at), None)
        figures.update(
            cut_recovery=first, cut_ended=tunnel.ended(),
            cut_survives=survived.failed == 0 and any(at > cut_at + 0.2 for at, _ in survived.samples))
