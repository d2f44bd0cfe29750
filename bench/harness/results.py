"""The figures of one run: rounds of each tunnel, and what the tables ask of them."""
from __future__ import annotations

import dataclasses
import json

from quantiles import median, spread
from tunnels import LIMIT, OURS, PEER


@dataclasses.dataclass
class Results:
    command: str
    date: str
    machine: dict
    versions: dict
    settings: dict  # rounds, seconds, congestion, quick
    tunnels: dict = dataclasses.field(default_factory=dict)  # name: kind, protection, sharing, encrypted, streams
    rounds: dict = dataclasses.field(default_factory=dict)  # name: [figures of rounds.measure]
    sizes: dict = dataclasses.field(default_factory=dict)  # name: bytes of the device's binary, stripped
    links: dict = dataclasses.field(default_factory=dict)  # setting: {name: [figures of uplink.measure]}
    scenarios: dict = dataclasses.field(default_factory=dict)  # name: [figures of uplink.measure_scenarios]
    relay: dict = dataclasses.field(default_factory=dict)  # figures of relay.measure
    absent: dict = dataclasses.field(default_factory=dict)  # name: why it is not in the run
    failures: list = dataclasses.field(default_factory=list)

    def save(self, path: str) -> None:
        with open(path, "w") as file:
            json.dump(dataclasses.asdict(self), file, indent=1)

    @staticmethod
    def read(path: str) -> Results:
        with open(path) as file:
            return Results(**json.load(file))

    def of(self, name: str, key: str) -> list:
        return [figures.get(key) for figures in self.rounds.get(name, [])]

    def median(self, name: str, key: str) -> float | None:
        return median(self.of(name, key))

    def spread(self, name: str, key: str) -> tuple[float, float] | None:
        return spread(self.of(name, key))

    def kind(self, kind: str) -> list[str]:
        return [name for name, about in self.tunnels.items() if about["kind"] == kind]

    @property
    def ours(self) -> list[str]:
        return self.kind(OURS)

    @property
    def limit(self) -> str | None:
        return next(iter(self.kind(LIMIT)), None)

    def encrypted_peers(self) -> list[str]:
        """The ones to be measured against: whoever saves the encryption has it easier."""
        return [name for name in self.kind(PEER) if self.tunnels[name]["encrypted"]]

    def best_peer(self, key: str, larger_is_better: bool) -> str | None:
        having = [name for name in self.encrypted_peers() if self.median(name, key) is not None]
        if not having:
            return None
        return (max if larger_is_better else min)(having, key=lambda name: self.median(name, key))

    def ratio(self, name: str, other: str | None, key: str) -> float | None:
        """The median of the rounds' own ratios: what slows a whole round down falls out of it."""
        if other is None:
            return None
        pairs = zip(self.of(name, key), self.of(other, key))
        return median([mine / its for mine, its in pairs if mine is not None and its])
