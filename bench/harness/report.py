"""The figures of a run as Markdown tables."""
from __future__ import annotations

import goals
from quantiles import median, spread
from results import Results
from tunnels import DIRECT

UP_WORDS, DOWN_WORDS = "device to cloud", "cloud to device"
SCENARIOS = (("phase1", "10 Mbit/s"), ("phase2", "then 2 Mbit/s"), ("phase3", "10 Mbit/s again"),
             ("stalled", "a stalled reader beside it"), ("burst", "a burst after an idle minute"))


def render(results: Results, plots: list[str], notes: str | None = None) -> str:
    """A whole document. `plots` are file names beside it, `notes` the name of a file beside it, if there is one."""
    parts = [
        "# Performance\n",
        "Written by `bench/run`, which takes every figure below in one run, the tunnels taking turns in each round, so that\n"
        "what slows the machine slows them all. Figures of different runs or machines say little when held side by side;\n"
        "the ratios say more.\n",
    ]
    if results.settings.get("quick"):
        parts.append("**From a quick run, which shows that the benchmark works, and nothing about speed.**\n")
    if notes:
        parts.append(f"What the figures mean, where a goal is not reached and why: [{notes}]({notes}).\n")
    parts += [about(results), *[f"![{name.rsplit('.', 1)[0].replace('-', ' ')}]({name})\n" for name in plots]]
    parts += [goal_table(results, name) for name in results.ours]
    parts += [relay_section(results), throughput_table(results), fairness_table(results), latency_table(results), memory_table(results), cut_table(results)]
    parts += [slow_table(setting, rows, results) for setting, rows in results.links.items()]
    parts += [scenario_table(results), left_out(results), method(results)]
    return "\n".join(part for part in parts if part)


def about(results: Results) -> str:
    machine, settings = results.machine, results.settings
    peers = ", ".join(f"{name} {version}" for name, version in results.versions.items()) or "none"
    rows = [
        ["date", results.date], ["command", f"`{results.command}`"],
        ["machine", f"{machine['processor']}, {machine['memory']}"], ["system", machine["system"]],
        ["compiler", machine["compiler"]], ["peers", peers],
        ["rounds", f"{settings['rounds']}, {settings['seconds']:g} s for each transfer"],
        ["congestion control", settings["congestion"]],
    ]
    return table(["", ""], rows)


def goal_table(results: Results, name: str) -> str:
    verdicts = goals.judge(results, name)
    if not verdicts:
        return ""
    rows = [[one.what, one.measured, one.goal, one.word] for one in verdicts]
    return f"## Goals: {name}\n\n" + table(["figure", "measured", "goal", ""], rows)


def relay_section(results: Results) -> str:
    if not results.relay:
        return ""
    rows = [[one.what, one.measured, one.goal, one.word] for one in goals.relay(results)]
    rounds = results.relay["rounds"]
    figures = [[what, several([one[key] for one in rounds]), several([one[f"{key}_cpu"] for one in rounds])]
               for what, key in (("joined by the relay", "splice"), ("copied", "copy"))]
    note = ("One thread in the middle, messages of 16 KiB from a client of one TLS connection to that of another, in turns with\n"
            f"a loop that only copies. An idle listener takes {results.relay.get('idle_listener', 0) / 1024:.0f} KiB.")
    return (section("The relay by itself", note, ["", "MiB/s", "CPU s/GiB of the middle"], figures) + "\n"
            + table(["figure", "measured", "goal", ""], rows))


def throughput_table(results: Results) -> str:
    head = ["tunnel", "protection", f"1 stream, {UP_WORDS}", f"1 stream, {DOWN_WORDS}", f"50 streams, {UP_WORDS}",
            f"50 streams, {DOWN_WORDS}", "CPU s/GiB, 1 up", "1 down", "50 up", "50 down"]
    rows = [[name, results.tunnels[name]["protection"], *[cell(results, name, key) for key in ("up1", "down1", "up50", "down50")],
             *[cell(results, name, f"{key}_cpu") for key in ("up1", "down1", "up50", "down50")]] for name in results.rounds]
    return section("Throughput, MiB/s, and processor time of all the tunnel's processes",
                   "Median of the rounds [least-most].", head, rows)


def fairness_table(results: Results) -> str:
    head = ["tunnel", f"starved, {UP_WORDS}", f"smallest share of the mean, {UP_WORDS}", f"starved, {DOWN_WORDS}",
            f"smallest share of the mean, {DOWN_WORDS}"]
    rows = []
    for name in with_figure(results, "up50_share"):
        row = [name]
        for key in ("up50", "down50"):
            starved = [count for count in results.of(name, f"{key}_starved") if count is not None]
            row += [str(max(starved)) if starved else "-", cell(results, name, f"{key}_share")]
        rows.append(row)
    return section("Fairness among 50 saturating streams", "Starved: not one byte in the window, in the worst round.", head, rows)


def latency_table(results: Results) -> str:
    head = ["tunnel", "new connection + 1 byte, p50 / p99", "64 B ping-pong, idle, p50 / p99",
            f"beside a transfer {UP_WORDS}, p50 / p99", f"beside a transfer {DOWN_WORDS}, p50 / p99", "failed connections"]
    rows = []
    for name in results.rounds:
        pairs = [f"{cell(results, name, f'{key}_p50')} / {cell(results, name, f'{key}_p99')}"
                 for key in ("connect", "ping", "ping_up", "ping_down")]
        failed = [count for count in results.of(name, "connect_failed") if count is not None]
        rows.append([name, *[pair.replace("- / -", "-") for pair in pairs], str(sum(failed)) if failed else "-"])
    return section("Latency on the loopback, ms", "Median of the rounds [least-most].", head, rows)


def memory_table(results: Results) -> str:
    head = ["tunnel", "idle, KiB", "with idle streams, KiB", "idle streams held", "KiB per idle stream",
            "most with 50 bulk streams, KiB", "binary, stripped, KiB"]
    rows = []
    for name in with_figure(results, "rss_idle"):
        size = results.sizes.get(name)
        rows.append([name, *[cell(results, name, key) for key in ("rss_idle", "rss_held", "held", "rss_per_stream", "rss_peak_50")],
                     f"{size / 1024:.0f}" if size else "-"])
    return section("Memory of the device's side", "Resident (VmRSS, VmHWM), median of the rounds [least-most].", head, rows)


def cut_table(results: Results) -> str:
    head = ["tunnel", "new connection works again after, ms", "open stream lives on", "processes that ended"]
    rows = []
    for name, rounds in results.rounds.items():
        tried = [figures for figures in rounds if "cut_survives" in figures]
        if not tried:
            continue
        ended = sorted({role for figures in tried for role in figures["cut_ended"]})
        survived = sum(figures["cut_survives"] for figures in tried)
        recovery = cell(results, name, "cut_recovery")
        rows.append([name, "not in the time given" if recovery == "-" else recovery,
                     "yes" if survived == len(tried) else "no" if not survived else f"{survived} of {len(tried)} times",
                     ", ".join(ended) or "none"])
    return section("The device's connection is cut (TCP reset)", "", head, rows)


def slow_table(setting: str, rows_by_name: dict, results: Results) -> str:
    head = ["tunnel", "idle round trip, p50", "beside an upload: over it, p50 / p99", "upload's share of the link",
            "beside a download: over it, p50 / p99", "download's share of the link"]
    rows = []
    for name, rounds in rows_by_name.items():
        def figure(key: str, taken: list = rounds) -> str:
            return several([one.get(key) for one in taken])
        rows.append([name, figure("idle_p50"), f"{figure('up_over_p50')} / {figure('up_over_p99')}", figure("up_goodput"),
                     f"{figure('down_over_p50')} / {figure('down_over_p99')}", figure("down_goodput")])
    direct = [name for name in rows_by_name if results.tunnels.get(name, {}).get("kind") == DIRECT]
    note = "64 B echo every 20 ms beside one saturating stream, ms; share: payload bits per second of the link's rate."
    if direct:
        note += f" `{direct[0]}` is what two plain TCP connections get."
    late = median([one.get("link_late") for rounds in rows_by_name.values() for one in rounds])
    worst = spread([one.get("link_late") for rounds in rows_by_name.values() for one in rounds])
    if late is not None and worst is not None:
        retaken = sum(one.get("retaken", 0) for rounds in rows_by_name.values() for one in rounds)
        note += (f"\nThe link itself delivered its latest packet of a round {shown(late)} ms late (worst round {shown(worst[1])} ms);"
                 f" {retaken} rounds in which the machine stood still for longer were taken again.")
    return section(f"Slow link: {setting}", note, head, rows)


def scenario_table(results: Results) -> str:
    head = ["tunnel", "upload", "echo over the idle round trip, p50 / p99", "share of the link", "longest while settling"]
    rows = []
    for name, rounds in results.scenarios.items():
        for key, what in SCENARIOS:
            def figure(suffix: str, of: str = key, taken: list = rounds) -> str:
                return several([one.get(f"{of}_{suffix}") for one in taken])
            rows.append([name, what, f"{figure('over_p50')} / {figure('over_p99')}", figure("goodput"), figure("settling")])
    return section("Slow link: what could mislead", "10 Mbit/s with a 64 KiB queue, 64 B echo beside one upload, ms.", head, rows)


def left_out(results: Results) -> str:
    lines = [f"- {name}: {why}" for name, why in results.absent.items()] + [f"- {failure}" for failure in results.failures]
    return "## Not in this run\n\n" + "\n".join(lines) + "\n" if lines else ""


def method(results: Results) -> str:
    busy = spread([value for name in results.rounds for value in results.of(name, "other_cores")])
    other = f". Other programs kept {shown(busy[0])} to {shown(busy[1])} cores busy meanwhile." if busy else ""
    rows = [[name, about_["protection"], about_["sharing"]] for name, about_ in results.tunnels.items()]
    return (
        "## How it is measured\n\n"
        "All processes of a tunnel run on one machine, on the loopback of a network namespace of their own" + (other or ".") + "\n"
        "The limit is two processes that copy bytes between TCP and one TLS connection with the same libraries and cipher\n"
        "suites, and do nothing else (`bench/limit`). Load comes from `bench/load`, which sends from the page cache and discards\n"
        "in the kernel; its processor time is not charged to the tunnel. A transfer is counted where it arrives. Processor\n"
        "time is that of the tunnel's processes within the window. An echo is sent when the one before it is back, after the\n"
        "pause. Slow links are `bench/harness/slow_link.py`: drop-tail queue, rate, delay; the device's side at one end,\n"
        "everything else at the other. Agents run with default memory settings except for `streams = 256`.\n"
        "Ratios are medians of the rounds' own ratios. Encrypted peers are the ones compared with.\n\n"
        + table(["row", "protection of the hop", "how streams share"], rows))


def with_figure(results: Results, key: str) -> list[str]:
    return [name for name in results.rounds if results.median(name, key) is not None]


def cell(results: Results, name: str, key: str) -> str:
    return several(results.of(name, key))


def several(values: list) -> str:
    """The median, and the span when there are several that differ."""
    middle, span = median(values), spread(values)
    if middle is None or span is None:
        return "-"
    least, most = shown(span[0]), shown(span[1])
    return shown(middle) + (f" [{least}-{most}]" if least != most else "")


def shown(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def section(title: str, note: str, head: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    return f"## {title}\n\n" + (note + "\n\n" if note else "") + table(head, rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell_.replace("|", "\\|") for cell_ in row) + " |\n" for row in lines)
