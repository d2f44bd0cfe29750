"""Tunnels on a slow link: what a keystroke feels beside a saturating transfer, and how much of the link the transfer gets."""
from __future__ import annotations

import dataclasses
import json
import time

import load
from load import DOWN, UP
from places import SlowLink
from quantiles import percentile
from tunnels import Definition, Tunnel


@dataclasses.dataclass(frozen=True)
class Setting:
    """A link: rate each way, delay one way, depth of its drop-tail queue (slow_link.py)."""
    name: str
    rate: str
    delay: str
    queue: str

    def link(self, congestion: str) -> SlowLink:
        return SlowLink(self.name, self.rate, self.delay, self.queue, congestion)


# A link that delivers a packet so many milliseconds late is not the one that was asked for: the round is taken again.
TOO_LATE = 8.0
ATTEMPTS = 3

SETTINGS = (
    Setting("10 Mbit/s, 0.7 ms", rate="10M", delay="0.35ms", queue="64KiB"),
    Setting("50 Mbit/s, 40 ms", rate="50M", delay="20ms", queue="100ms"),
)


@dataclasses.dataclass(frozen=True)
class Effort:
    seconds: float = 10.0  # of each transfer
    warm: float = 3.0  # before its window opens
    pause: float = 0.02  # between keystrokes
    idle_minute: float = 60.0
    phase: float = 10.0  # of the changing rate
    settling: float = 3.0  # at the start of a phase

    @staticmethod
    def quick() -> Effort:
        return Effort(seconds=1.0, warm=0.5, idle_minute=1.0, phase=1.5, settling=0.5)


def measure(definition: Definition, programs: dict[str, str], setting: Setting, congestion: str, effort: Effort) -> dict:
    """An idle link first, then 64 B echoes beside an upload and beside a download."""
    return retaken_if_late(measure_once, definition, programs, setting, congestion, effort)


def measure_scenarios(definition: Definition, programs: dict[str, str], setting: Setting, congestion: str, effort: Effort) -> dict:
    """Uploads that try to mislead the estimate: a rate that changes, a reader that stalls, an idle minute before a burst."""
    return retaken_if_late(measure_scenarios_once, definition, programs, setting, congestion, effort)


def retaken_if_late(measure_on, definition: Definition, programs: dict[str, str], setting: Setting, congestion: str, effort: Effort) -> dict:
    """Measures anew when the machine stood still meanwhile; `retaken` says how often."""
    for attempt in range(ATTEMPTS):
        with setting.link(congestion) as link, Tunnel(definition, programs, link) as tunnel:
            figures = measure_on(tunnel, link, effort)
            figures.update(link_late=lateness(link), retaken=attempt)
        if figures["link_late"] <= TOO_LATE:
            break
    return figures


def measure_once(tunnel: Tunnel, link: SlowLink, effort: Effort) -> dict:
    figures: dict = {}
    time.sleep(0.5)
    idle = load.ping(tunnel, window=min(3.0, effort.seconds), pause=effort.pause)
    figures.update(idle_p50=idle.at(0.5), idle_p99=idle.at(0.99))
    for direction, way in ((UP, "up"), (DOWN, "down")):
        let_link_rest(link)
        beside, transfer = echo_beside(tunnel, direction, effort.warm, effort.seconds, effort.pause)
        figures.update({f"{way}_p50": beside.at(0.5), f"{way}_p99": beside.at(0.99), f"{way}_failed": beside.failed})
        add(figures, way, beside, transfer.total * 8 / transfer.seconds / link.rate)
    return figures


def lateness(link: SlowLink) -> float:
    """The latest packet since the link began, ms. The link runs ahead of all other programs, so this is how long
    the machine itself stood still."""
    return max(way["late_most_us"] for way in json.loads(link.command("stats")).values()) / 1000


def measure_scenarios_once(tunnel: Tunnel, link: SlowLink, effort: Effort) -> dict:
    figures: dict = {"idle_p50": load.ping(tunnel, window=min(3.0, effort.seconds), pause=effort.pause).at(0.5)}
    measure_changing_rate(tunnel, link, effort, figures)
    let_link_rest(link)

    stalled = load.Held(tunnel, 1, stalled=True)
    # Until the buffers on its way are full it is one more transfer, which takes its fair share.
    let_link_rest(link)
    beside, transfer = echo_beside(tunnel, UP, effort.warm, effort.seconds, effort.pause)
    add(figures, "stalled", beside, transfer.total * 8 / transfer.seconds / link.rate)
    stalled.release()
    let_link_rest(link)

    time.sleep(effort.idle_minute)
    beside, transfer = echo_beside(tunnel, UP, 0.5, effort.seconds, effort.pause)
    add(figures, "burst", beside, transfer.total * 8 / transfer.seconds / link.rate)
    return figures


def let_link_rest(link: SlowLink, patience: float = 30.0) -> None:
    """Waits until what earlier transfers left on their way is through: less than a packet a tenth of a second."""
    end, quiet = time.monotonic() + patience, 0
    link.command("stats")
    while quiet < 5:
        time.sleep(0.1)
        passed = sum(way["bytes"] for way in json.loads(link.command("stats")).values())
        quiet = quiet + 1 if passed < 1500 else 0
        if time.monotonic() > end:
            raise RuntimeError(f"the link did not come to rest within {patience:.0f} s after a transfer")


def measure_changing_rate(tunnel: Tunnel, link: SlowLink, effort: Effort, figures: dict) -> None:
    """One upload and one row of echoes while the rate goes down to a fifth and up again."""
    rates = (link.rate, link.rate / 5, link.rate)
    whole = effort.phase * len(rates)
    bulk = load.Bulk(tunnel, UP, 1, whole, effort.warm)
    began = bulk.wait_for_window()
    echoes = load.start_ping(tunnel, whole * 0.98, effort.pause)
    begins = [began]
    for rate in rates[1:]:
        time.sleep(max(0.0, begins[-1] + effort.phase - time.time()))
        link.command(f"rate {rate:.0f}")
        begins.append(time.time())
    transfer, told = bulk.finish(), load.latencies(echoes)
    begins.append(began + whole)
    for number, rate in enumerate(rates, start=1):
        settled, end = begins[number - 1] + (effort.settling if number > 1 else 0), begins[number]
        rate_seen = transfer.rate_between(settled, end)
        add(figures, f"phase{number}", told.between(settled, end), rate_seen / rate if rate_seen else None)
        settling = told.between(begins[number - 1], settled)
        figures[f"phase{number}_settling"] = over(percentile([took for _, took in settling.samples], 1.0), figures["idle_p50"])
    figures["timeline"] = {
        "echo": [(round(at - began, 3), round(took, 2)) for at, took in told.samples],
        "bytes": [(round(at - began, 3), total) for at, total in transfer.samples],
        "rates": [(round(at - began, 3), rate / 1e6) for at, rate in zip(begins, rates)],
        "seconds": whole,
    }


def echo_beside(tunnel: Tunnel, direction: str, warm: float, seconds: float, pause: float):
    bulk = load.Bulk(tunnel, direction, 1, seconds, warm)
    bulk.wait_for_window()
    beside = load.ping(tunnel, window=seconds * 0.97, pause=pause)
    return beside, bulk.finish()


def add(figures: dict, key: str, echoes: load.Latencies, goodput: float | None) -> None:
    figures.update({
        f"{key}_over_p50": over(echoes.at(0.5), figures["idle_p50"]),
        f"{key}_over_p99": over(echoes.at(0.99), figures["idle_p50"]),
        f"{key}_goodput": goodput,
    })


def over(value: float | None, idle: float | None) -> float | None:
    return None if value is None or idle is None else value - idle
