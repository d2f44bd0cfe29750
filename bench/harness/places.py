"""Where the two sides of a tunnel run: both on the loopback of a namespace of their own, or at the ends of a slow link.

A namespace gives every tunnel the same ports, congestion control and quiet loopback, whatever the host has.
"""
from __future__ import annotations

import os
import random
import select
import socket
import subprocess

import slow_link

LOOPBACK = "127.0.0.1"
SLOW_LINK_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slow_link.py")


class Place:
    """A side: how a program is started there."""

    def __init__(self, namespace: str | None):
        self.namespace = namespace

    def command(self, argv: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *argv] if self.namespace else list(argv)


class Loopback:
    """Both sides on one loopback: a namespace for root, the host's otherwise."""

    server_host = LOOPBACK
    target_host = LOOPBACK
    name = "loopback"

    def __init__(self, congestion: str = "cubic"):
        self.namespace = None
        if can_make_namespaces():
            self.namespace = f"bench{os.getpid()}"
            slow_link.ip("netns", "add", self.namespace)
            slow_link.prepare_loopback(self.namespace, congestion)
        self.device = self.cloud = Place(self.namespace)

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *_) -> None:
        if self.namespace:
            subprocess.run(["ip", "netns", "del", self.namespace], check=False)


class SlowLink:
    """The device at one end of a slow link, everything else at the other."""

    def __init__(self, name: str, rate: str, delay: str, queue: str, congestion: str = "cubic"):
        self.name, self.rate = name, slow_link.bits_per_second(rate)
        prefix = f"bench{os.getpid()}"
        self.control_path = f"/tmp/{prefix}.sock"
        self.child = subprocess.Popen(
            [SLOW_LINK_PROGRAM, "--name", prefix, "--rate", rate, "--delay", delay, "--queue", queue,
             "--congestion", congestion, "--control", self.control_path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self.child.stdout.readline()
        if not ready.startswith("ready"):
            self.child.wait()
            raise RuntimeError("the slow link did not start; its message is above")
        self.device, self.cloud = Place(f"{prefix}-a"), Place(f"{prefix}-b")
        self.target_host, self.server_host = slow_link.ADDRESSES["a"], slow_link.ADDRESSES["b"]
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(self.control_path)

    def command(self, line: str) -> str:
        """One command of slow_link.py and its answer."""
        self.control.sendall(line.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            if not select.select([self.control], [], [], 10)[0]:
                raise RuntimeError(f"the slow link did not answer {line!r}")
            piece = self.control.recv(4096)
            if not piece:
                raise RuntimeError("the slow link is gone")
            answer += piece
        text = answer.decode().strip()
        if text.startswith("error"):
            raise ValueError(text)
        return text

    def __enter__(self) -> SlowLink:
        return self

    def __exit__(self, *_) -> None:
        self.control.close()
        self.child.stdin.close()
        self.child.wait(10)
        self.child.stdout.close()


def can_make_namespaces() -> bool:
    return os.geteuid() == 0 and any(os.path.exists(f"{folder}/ip") for folder in os.environ.get("PATH", "").split(":"))


def free_port() -> int:
    """A port below the ephemeral range, where no listener waits now."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
