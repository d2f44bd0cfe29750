"""What the figures were taken on."""
from __future__ import annotations

import os
import platform
import re
import subprocess
import sys


def describe() -> dict[str, str]:
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "system": f"{distribution()}, Linux {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
        "compiler": first_line(["rustc", "--version"]),
        "python": sys.version.split()[0],
    }


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as cpuinfo:
            found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def distribution() -> str:
    try:
        with open("/etc/os-release") as release:
            found = re.search(r'^PRETTY_NAME="?([^"\n]+)', release.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else "Linux"


def first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    return ((done.stdout or done.stderr).strip().splitlines() or ["unknown"])[0]


def versions(programs: dict[str, str]) -> dict[str, str]:
    """What each of the peers says it is."""
    asks = {"ssh": ["-V"], "rathole": ["--version"], "bore": ["--version"], "wstunnel": ["--version"]}
    return {name: release(name, programs[name], words) for name, words in asks.items() if name in programs}


def release(name: str, path: str, words: list[str]) -> str:
    """Some tell their build over several lines, with the release in one of them."""
    try:
        done = subprocess.run([path, *words], capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "unknown"
    found = re.search(r"OpenSSH_\S+|\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0].rstrip(",") if found else "unknown"
