"""Judges OpenMetrics text on standard input by Prometheus' own parser, and prints what is in it as JSON.

Beyond the format: names are as https://prometheus.io/docs/practices/naming/ wants them.
"""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

BASE_UNITS = ("seconds", "bytes")
OTHER_UNITS = ("_ms", "_us", "_millis", "_minutes", "_hours", "_kb", "_kib", "_mb", "_percent")

families = []
for family in text_string_to_metric_families(sys.stdin.read()):
    name = family.name
    assert name.startswith("umbilical_") and name == name.lower(), f"{name}: prefix or case"
    assert not name.endswith(OTHER_UNITS), f"{name}: no base unit"
    assert family.documentation, f"{name}: no help"
    assert any(name.endswith(f"_{unit}") for unit in BASE_UNITS) == bool(family.unit), f"{name}: unit {family.unit!r}"
    samples = [{"name": sample.name, "labels": sample.labels, "value": sample.value} for sample in family.samples]
    families.append({"name": name, "type": family.type, "samples": samples})
json.dump(families, sys.stdout)
