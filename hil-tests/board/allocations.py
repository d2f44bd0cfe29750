"""Counts the agent's allocations while it runs on a board: probes of the kernel's (uprobes) at the allocator's entries.

The kernel of a 32-bit board has none for Thumb code. Where the entries are is read from the program as it was before it was stripped.
"""

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
UNSTRIPPED = REPOSITORY / "target/cross/build/aarch64-unknown-linux-musl/device/umbilical-agent"
TRACING = "/sys/kernel/tracing"

# What Rust's standard library calls for new memory.
ENTRIES = ("malloc", "calloc", "realloc", "posix_memalign")


class Allocations:
    def __init__(self, device):
        self.device = device
        device.run(f"grep -q {TRACING} /proc/mounts || mount -t tracefs tracing {TRACING}")
        # Events are counted, and kept in as little memory as can be.
        device.run(f"echo 4 >{TRACING}/buffer_size_kb")
        for name, offset in entries().items():
            device.run(f"echo p:allocations/{name} /usr/bin/umbilical-agent:{offset:#x} >>{TRACING}/uprobe_events")
        device.run(f"echo 1 >{TRACING}/events/allocations/enable")

    def count(self) -> int:
        """Since the probes were set. An entry that another one calls counts twice."""
        table = self.device.run(f"cat {TRACING}/uprobe_profile")
        return sum(int(line.split()[-1]) for line in table.splitlines())

    def close(self):
        self.device.run(f"echo 0 >{TRACING}/events/allocations/enable; echo >{TRACING}/uprobe_events")


def entries() -> dict[str, int]:
    """Offsets in the file, by name."""
    symbols = read("-sW")
    load = [[int(word, 16) for word in match] for match in re.findall(r"LOAD +(\S+) (\S+) \S+ (\S+)", read("-lW"))]
    found = {}
    for name in ENTRIES:
        address = int(re.search(rf"\b([0-9a-f]{{16}}) +\d+ FUNC +\w+ +\w+ +\d+ {name}$", symbols, re.MULTILINE)[1], 16)
        found[name] = next(offset + address - start for offset, start, size in load if start <= address < start + size)
    return found


def read(option: str) -> str:
    return subprocess.run(["readelf", option, UNSTRIPPED], check=True, capture_output=True, text=True).stdout
