"""Which plots a run has."""
from __future__ import annotations

import plot
from quantiles import median
from results import Results
from tunnels import OURS

COLOURS = ("#0b7285", "#adb5bd")
LINK_COLOUR = "#e8590c"


def draw(results: Results) -> dict[str, str]:
    """SVG by file name; a plot without figures is left out."""
    subtitle = f"{results.machine['processor']}; median of the rounds, whiskers from least to most"
    pictures = {
        "throughput.svg": plot.bars("Throughput", subtitle, panels(results, "MiB/s", (
            ("up1", "one stream, device to cloud"), ("down1", "one stream, cloud to device"),
            ("up50", "50 streams, device to cloud"), ("down50", "50 streams, cloud to device")))),
        "processor.svg": plot.bars("Processor time of the tunnel for one GiB", subtitle, panels(results, "s", (
            ("up1_cpu", "one stream, device to cloud"), ("down1_cpu", "one stream, cloud to device"),
            ("up50_cpu", "50 streams, device to cloud")))),
        "latency.svg": plot.bars("Latency on the loopback, median", subtitle, panels(results, "ms", (
            ("connect_p50", "new connection and one byte back"), ("ping_p50", "64 B there and back, idle"),
            ("ping_up_p50", "64 B there and back, beside a transfer from the device"))), logarithmic=True),
        "memory.svg": plot.bars("Resident memory of the device's side", subtitle, panels(results, "KiB", (
            ("rss_idle", "idle"), ("rss_held", "with idle streams"), ("rss_peak_50", "at most, 50 bulk streams"))),
            logarithmic=True),
    } if results.rounds else {}
    if results.links:
        pictures["slow-link.svg"] = plot.bars(
            "A 64 B echo beside one saturating upload", "median, over the idle round trip; whiskers: p50 to p99",
            [slow_panel(setting, rows, results) for setting, rows in results.links.items()], logarithmic=True)
    timelines = [(name, rounds[-1]["timeline"]) for name, rounds in results.scenarios.items()
                 # Plain TCP's full queue would press ours flat against the axis; it has its row in the table.
                 if results.tunnels[name]["kind"] == OURS and rounds and "timeline" in rounds[-1]]
    if timelines:
        pictures["changing-rate.svg"] = changing_rate(timelines)
    return pictures


def panels(results: Results, unit: str, keys: tuple) -> list[plot.Panel]:
    made = []
    for key, title in keys:
        rows = []
        for name in results.rounds:
            middle, span = results.median(name, key), results.spread(name, key)
            if middle is not None and span is not None:
                rows.append(plot.Bar(name, middle, results.tunnels[name]["kind"], *span))
        if rows:
            made.append(plot.Panel(title, unit, rows))
    return made


def slow_panel(setting: str, rows: dict, results: Results) -> plot.Panel:
    bars = []
    for name, rounds in rows.items():
        half, most = (median([figures.get(f"up_over_{suffix}") for figures in rounds]) for suffix in ("p50", "p99"))
        kind = results.tunnels[name]["kind"]
        if half is None or most is None:
            bars.append(plot.Bar(name, None, kind, note="no answer"))
        else:
            floor = 0.1  # ms; a logarithmic axis has no zero, and the idle round trip varies more than that
            bars.append(plot.Bar(name, max(half, floor), kind, max(half, floor), max(most, floor)))
    return plot.Panel(setting, "ms", bars)


def changing_rate(timelines: list[tuple[str, dict]]) -> str:
    goodput, echo = [], []
    first = timelines[0][1]
    for (name, told), colour in zip(timelines, COLOURS):
        samples = told["bytes"]
        steps = [((later[0] + earlier[0]) / 2, (later[1] - earlier[1]) * 8 / 1e6 / (later[0] - earlier[0]))
                 for earlier, later in zip(samples, samples[5:])]
        goodput.append(plot.Series(name, steps, colour))
        echo.append(plot.Series(name, [tuple(point) for point in told["echo"]], colour, dots=True))
    rates = first["rates"]
    ends = [begin for begin, _ in rates[1:]] + [first["seconds"]]
    goodput.append(plot.Series("the link", [point for (begin, rate), end in zip(rates, ends) for point in ((begin, rate), (end, rate))],
                               LINK_COLOUR))
    return plot.timeline("An upload on a link whose rate changes", "64 KiB queue; the echo shares the tunnel with the upload",
                         first["seconds"], [("upload, Mbit/s", goodput), ("64 B echo, ms", echo)])
