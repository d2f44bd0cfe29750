"""What Umbilical sets out to reach, held against the figures of one run."""
from __future__ import annotations

import dataclasses

from quantiles import median
from results import Results

MIB_IN_KIB = 1024


@dataclasses.dataclass(frozen=True)
class Verdict:
    what: str
    measured: str
    goal: str
    reached: bool | None  # None: not measured in this run

    @property
    def word(self) -> str:
        return {True: "reached", False: "falls short", None: "not measured"}[self.reached]


def judge(results: Results, name: str) -> list[Verdict]:
    """Every goal for one of our rows."""
    loopback = (throughput, fairness, latency, memory) if name in results.rounds else ()
    return [verdict_ for part in (*loopback, slow_links, scenarios) for verdict_ in part(results, name)]


def throughput(results: Results, name: str) -> list[Verdict]:
    verdicts = []
    for key, way in (("up1", "device to cloud"), ("down1", "cloud to device")):
        of_limit = results.ratio(name, results.limit, key)
        verdicts.append(at_least(f"one stream, {way}, of the limit", of_limit, 0.6, 2))
        best = results.best_peer(key, larger_is_better=True)
        verdicts.append(at_least(f"one stream, {way}, of the fastest encrypted peer{called(best)}",
                                 results.ratio(name, best, key), 1.0, 2))
    for key, way in (("up1_cpu", "device to cloud"), ("down1_cpu", "cloud to device")):
        verdicts.append(at_most(f"CPU per GiB, {way}, of the limit", results.ratio(name, results.limit, key), 1.5, 2))
        best = results.best_peer(key, larger_is_better=False)
        verdicts.append(at_most(f"CPU per GiB, {way}, of the thriftiest encrypted peer{called(best)}",
                                results.ratio(name, best, key), 1.0, 2))
    return verdicts


def fairness(results: Results, name: str) -> list[Verdict]:
    verdicts = []
    for key, way in (("up50", "device to cloud"), ("down50", "cloud to device")):
        starved = [count for count in results.of(name, f"{key}_starved") if count is not None]
        verdicts.append(at_most(f"starved of 50 streams, {way}, worst round", max(starved) if starved else None, 0, 0))
        verdicts.append(at_least(f"smallest share of 50 streams, {way}, of the mean", results.median(name, f"{key}_share"), 0.5, 2))
    return verdicts


def latency(results: Results, name: str) -> list[Verdict]:
    new, idle = (results.best_peer(key, larger_is_better=False) for key in ("connect_p50", "ping_p50"))
    return [
        at_most(f"new connection p50, of the best encrypted peer{called(new)}", results.ratio(name, new, "connect_p50"), 0.6, 2),
        at_most(f"ping-pong p50, idle, of the best encrypted peer{called(idle)}", results.ratio(name, idle, "ping_p50"), 1.0, 2),
    ]


def memory(results: Results, name: str) -> list[Verdict]:
    idle, peak = results.median(name, "rss_idle"), results.median(name, "rss_peak_50")
    return [
        at_most("agent, idle, resident MiB", idle / MIB_IN_KIB if idle else None, 4, 2),
        at_most("agent, per idle stream, KiB", results.median(name, "rss_per_stream"), 2, 2),
        at_most("agent, 50 bulk streams, resident MiB at most", peak / MIB_IN_KIB if peak else None, 8, 2),
    ]


def relay(results: Results) -> list[Verdict]:
    """The relay's own goals, whoever is at its ends."""
    rounds = results.relay.get("rounds", [])
    join = results.relay.get("idle_join")
    return [
        at_least("joined sockets, of a loop that copies", median([one["splice"] / one["copy"] for one in rounds]), 0.8, 2),
        at_most("memory of an idle joined pair, TLS on both sides, KiB", join / 1024 if join else None, 64, 1),
    ]


def slow_links(results: Results, name: str) -> list[Verdict]:
    verdicts = []
    for setting, rows in results.links.items():
        figures = rows.get(name, [])
        for key, way in (("up", "upload"), ("down", "download")):
            verdicts += slow_rows(f"{setting}, {way}", figures, key)
    return verdicts


def scenarios(results: Results, name: str) -> list[Verdict]:
    figures = results.scenarios.get(name, [])
    if not figures:
        return []
    verdicts = []
    for key, what, slower in (("phase1", "rate changes, at 10 Mbit/s", 1), ("phase2", "rate changes, then at 2 Mbit/s", 5),
                              ("phase3", "rate changes, again at 10 Mbit/s", 1), ("stalled", "beside a stalled reader", 1),
                              ("burst", "burst after an idle minute", 1)):
        verdicts += slow_rows(what, figures, key, slower)
    return verdicts


def slow_rows(what: str, figures: list[dict], key: str, slower: int = 1) -> list[Verdict]:
    """`slower`: the same bytes ahead of an echo take that many times longer."""
    def middle(suffix: str) -> float | None:
        return median([round_.get(f"{key}_{suffix}") for round_ in figures])
    return [
        at_most(f"{what}: echo p50 over the idle round trip, ms", middle("over_p50"), 5 * slower, 1),
        at_most(f"{what}: echo p99 over the idle round trip, ms", middle("over_p99"), 12 * slower, 1),
        at_least(f"{what}: share of the link", middle("goodput"), 0.93, 3),
    ]


def called(name: str | None) -> str:
    return f" ({name})" if name else ""


def at_least(what: str, value: float | None, bar: float, digits: int) -> Verdict:
    return verdict(what, value, f"≥ {bar:g}", digits, lambda: value >= bar)


def at_most(what: str, value: float | None, bar: float, digits: int) -> Verdict:
    return verdict(what, value, f"≤ {bar:g}", digits, lambda: value <= bar)


def verdict(what: str, value: float | None, goal: str, digits: int, holds) -> Verdict:
    if value is None:
        return Verdict(what, "-", goal, None)
    return Verdict(what, f"{value:.{digits}f}", goal, holds())
