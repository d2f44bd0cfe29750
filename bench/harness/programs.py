"""Where the programs of this repository are built, and the building of them."""
from __future__ import annotations

import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = ("umbilical-agent", "umbilical-cloud", "umbilical-bench-limit", "umbilical-bench-load")


def target_folder() -> str:
    return os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"))


def folders() -> list[str]:
    """Ours first, then what bench/peers-install put beside them."""
    return [os.path.join(target_folder(), "release"), os.path.join(target_folder(), "bench-peers", "bin")]


def load_program() -> str:
    return os.path.join(target_folder(), "release", "umbilical-bench-load")


def build() -> None:
    packages = [word for package in PACKAGES for word in ("--package", package)]
    subprocess.run(["cargo", "build", "--release", "--locked", *packages], cwd=ROOT, check=True)
