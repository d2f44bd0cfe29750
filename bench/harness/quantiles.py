"""Percentiles and the figures of several rounds."""
from __future__ import annotations

import statistics


def percentile(values: list[float], share: float) -> float | None:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)  # ceiling
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


def median(values: list) -> float | None:
    numbers = only_numbers(values)
    return statistics.median(numbers) if numbers else None


def spread(values: list) -> tuple[float, float] | None:
    numbers = only_numbers(values)
    return (min(numbers), max(numbers)) if numbers else None


def only_numbers(values: list) -> list[float]:
    return [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
