"""The device's service: echo, endless source and counting sink (bench/load/src/target.rs)."""
from __future__ import annotations

import subprocess

import programs


class Target:
    """Listens on a free port of a side. What its sinks took is told on the Unix socket `control`."""

    def __init__(self, side, host: str, folder: str):
        self.control = f"{folder}/target.sock"
        self.child = subprocess.Popen(
            side.command([programs.load_program(), "target", "--listen", f"{host}:0", "--control", self.control]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.child.stdout.readline() or 0)
        if not self.port:
            self.stop()
            raise RuntimeError(f"the device's service could not listen on {host}; its message is above")

    def stop(self) -> None:
        self.child.stdin.close()
        self.child.wait()
