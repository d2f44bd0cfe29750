"""Plots as SVG, written by hand: panels of horizontal bars, and a timeline. Any viewer and any Git host shows them."""
from __future__ import annotations

import dataclasses
import math
from xml.sax.saxutils import escape

WIDTH = 860
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
INK, FAINT, GRID = "#1f2933", "#61707f", "#e3e8ed"
COLOURS = {"ours": "#0b7285", "limit": "#495057", "peer": "#adb5bd", "direct": "#ced4da"}


@dataclasses.dataclass(frozen=True)
class Bar:
    label: str
    value: float | None
    kind: str = "peer"
    low: float | None = None
    high: float | None = None
    note: str = ""  # instead of a bar, when there is no value


@dataclasses.dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    bars: list[Bar]


def bars(title: str, subtitle: str, panels: list[Panel], logarithmic: bool = False) -> str:
    """One panel under the other; whiskers span the rounds. A logarithmic axis begins at the power of ten below the least."""
    left, right, row = 210, 110, 22
    body, y = [], 78.0
    for panel in panels:
        body.append(text(20, y, panel.title, size=13, weight=600))
        y += 10
        known = [value for bar in panel.bars for value in (bar.value, bar.high) if value is not None and value > 0]
        axis = Axis(left, WIDTH - right, known, logarithmic)
        top = y
        rows = []
        for bar in panel.bars:
            rows += bar_row(bar, panel.unit, axis, y, row)
            y += row
        body += [line(axis.at(tick), top, axis.at(tick), y, GRID) for tick in axis.ticks()] + rows
        body += [text(axis.at(tick), y + 14, number(tick), size=10, colour=FAINT, anchor="middle") for tick in axis.ticks()]
        y += 44
    return document(title, subtitle, body, y - 12)


def bar_row(bar: Bar, unit: str, axis: Axis, y: float, row: float) -> list[str]:
    middle = y + row / 2
    drawn = [text(200, middle + 4, bar.label, size=12, anchor="end", weight=600 if bar.kind == "ours" else 400)]
    if bar.value is None:
        return drawn + [text(axis.begin + 4, middle + 4, bar.note or "not measured", size=11, colour=FAINT)]
    end = axis.at(bar.value)
    drawn.append(f'<rect x="{axis.begin}" y="{y + 4:.1f}" width="{max(1.0, end - axis.begin):.1f}" height="{row - 8}" rx="2" '
                 f'fill="{COLOURS[bar.kind]}"/>')
    tip = end
    if bar.low is not None and bar.high is not None and bar.high > bar.low:
        low, tip = axis.at(bar.low), max(end, axis.at(bar.high))
        drawn.append(line(low, middle, axis.at(bar.high), middle, INK, 1.2))
        drawn += [line(x, middle - 3, x, middle + 3, INK, 1.2) for x in (low, axis.at(bar.high))]
    return drawn + [text(tip + 6, middle + 4, f"{number(bar.value)} {unit}", size=11, colour=INK)]


@dataclasses.dataclass(frozen=True)
class Series:
    label: str
    points: list[tuple[float, float]]
    colour: str
    dots: bool = False


def timeline(title: str, subtitle: str, seconds: float, parts: list[tuple[str, list[Series]]]) -> str:
    """Parts share the axis of time; each has a vertical axis of its own from 0."""
    left, width, height = 70, WIDTH - 70 - 30, 170
    body, y = [], 82.0
    for name, series in parts:
        top = max((value for one in series for _, value in one.points), default=1.0) * 1.08 or 1.0
        body.append(text(20, y, name, size=13, weight=600))
        x = 20 + 8 * len(name) + 20
        for one in series:
            body.append(f'<rect x="{x}" y="{y - 9:.1f}" width="12" height="10" rx="2" fill="{one.colour}"/>')
            body.append(text(x + 17, y, one.label, size=11, colour=FAINT))
            x += 17 + 6.5 * len(one.label) + 18
        y += 12

        def place(point: tuple[float, float], base: float = y + height, ceiling: float = top) -> tuple[float, float]:
            return left + min(1.0, point[0] / seconds) * width, base - point[1] / ceiling * height

        for tick in steps(top):
            _, at = place((0, tick))
            body += [line(left, at, left + width, at, GRID), text(left - 8, at + 4, number(tick), size=10, colour=FAINT, anchor="end")]
        for one in series:
            points = [place(point) for point in one.points]
            if one.dots:
                body += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="1.4" fill="{one.colour}"/>' for px, py in points]
            elif points:
                path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
                body.append(f'<polyline points="{path}" fill="none" stroke="{one.colour}" stroke-width="1.8"/>')
        y += height
        body += [text(left + tick / seconds * width, y + 15, f"{number(tick)} s", size=10, colour=FAINT, anchor="middle")
                 for tick in steps(seconds)]
        y += 46
    return document(title, subtitle, body, y - 14)


class Axis:
    """From a value to a horizontal position."""

    def __init__(self, begin: float, end: float, values: list[float], logarithmic: bool):
        self.begin, self.end, self.logarithmic = begin, end, logarithmic
        self.most = max(values, default=1.0)
        self.least = 10 ** math.floor(math.log10(min(values, default=1.0))) if logarithmic else 0.0
        if logarithmic and self.most <= self.least:
            self.most = self.least * 10

    def at(self, value: float) -> float:
        if self.logarithmic:
            share = math.log(max(value, self.least) / self.least) / math.log(self.most / self.least)
        else:
            share = value / self.most
        return self.begin + min(1.0, max(0.0, share)) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return steps(self.most)
        powers = range(round(math.log10(self.least)), math.floor(math.log10(self.most)) + 1)
        whole = [10.0 ** power for power in powers]
        if len(whole) > 3:
            return whole
        return [tick * factor for tick in whole for factor in (1, 2, 5) if tick * factor <= self.most]


def steps(most: float) -> list[float]:
    """Four to eight round values from 0 to at most `most`."""
    if most <= 0:
        return [0.0]
    rough = most / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * count for count in range(int(most / step + 1e-9) + 1)]


def number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def document(title: str, subtitle: str, body: list[str], height: float) -> str:
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" {FONT}>',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="#ffffff"/>',
            text(20, 30, title, size=17, weight=700), text(20, 50, subtitle, size=12, colour=FAINT)]
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, size: int, colour: str = INK, anchor: str = "start", weight: int = 400) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(words)}</text>")


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
