#!/usr/bin/env python3
"""A slow network link between two namespaces: rate, delay, loss, queue and cuts, changed while it runs.

    slow_link.py [--name slow] [--rate 10M] [--delay 0.35ms] [--loss 0%] [--queue 64KiB] [--congestion cubic] [--control PATH]

makes the namespaces NAME-a (10.77.0.1) and NAME-b (10.77.0.2), joined by the link, prints one line that begins with
`ready`, and runs until SIGINT or SIGTERM (or until its standard input ends, when that is a pipe); then it removes them.
A program runs on a side with `ip netns exec NAME-a PROGRAM`.

Two TUN devices instead of the kernel's netem, which not every kernel has. Each direction is a drop-tail queue, served
at `rate` (bit/s of IP packets), then a delay line of `delay` (one way: a round trip takes twice that). `queue` is bytes
(64KiB) or time at the rate (100ms). When a packet leaves is computed from when the one before it left, not from when
this process woke up: the rate is exact, and a late wake-up delays a packet but moves no other. `stats` tells how late: on
average since the last `stats`, and at most since the start.

Commands, one a line, on the Unix stream socket at PATH, each answered by one line:
    rate 5M | delay 100ms | loss 1% | queue 500ms | down | up | stats
Needs root, iproute2 and /dev/net/tun. `down` loses what is under way and what is sent until `up`, as pulling a plug does.
"""
from __future__ import annotations

import argparse
import collections
import fcntl
import gc
import json
import os
import random
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

# <linux/if_tun.h>
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET = 2048
ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}
SUBNET = "10.77.0.0/24"


def quantity(text: str, units: dict[str, float]) -> float:
    """A number with one of the units: `quantity("5ms", {"ms": 1e-3})` is 0.005. A negative one is refused."""
    for unit in sorted(units, key=len, reverse=True):
        if text.endswith(unit):
            text, factor = text[: len(text) - len(unit)], units[unit]
            break
    else:
        raise ValueError(f"{text!r}: expected a number with one of {', '.join(filter(None, units))}")
    value = float(text) * factor
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text!r}: expected a finite number from 0")
    return value


def bits_per_second(text: str) -> float:
    rate = quantity(text, {"G": 1e9, "M": 1e6, "K": 1e3, "": 1.0})
    if rate == 0:
        raise ValueError("a rate of 0 is `down`")
    return rate


def seconds(text: str) -> float:
    return quantity(text, {"us": 1e-6, "ms": 1e-3, "s": 1.0})


def share(text: str) -> float:
    return min(1.0, quantity(text, {"%": 0.01, "": 1.0}))


class Depth:
    """How much may wait: `64KiB` or `100ms`, the latter in bytes at the present rate."""

    def __init__(self, text: str):
        self.bytes_given = self.seconds_given = None
        if text.endswith(("KiB", "MiB", "B")):
            self.bytes_given = quantity(text, {"MiB": 1 << 20, "KiB": 1 << 10, "B": 1})
        else:
            self.seconds_given = seconds(text)

    def bytes_at(self, rate: float) -> float:
        return self.bytes_given if self.bytes_given is not None else self.seconds_given * rate / 8


class Link:
    """The settings, shared by both directions."""

    def __init__(self, rate: float, delay: float, loss: float, queue: Depth):
        self.rate, self.delay, self.loss, self.queue, self.up = rate, delay, loss, queue, True


class Direction:
    """One way of the link. Time is an argument, in seconds of any one clock."""

    def __init__(self, link: Link, write):
        self.link, self.write = link, write
        self.waiting: collections.deque = collections.deque()  # (arrived at, packet), not yet begun
        self.waiting_bytes = 0
        self.under_way: collections.deque = collections.deque()  # (due at, packet), begun
        self.free_at = 0.0  # when the packet that is being sent will have left
        self.late_most = 0.0  # since the start: how long this process, and so the machine, stood still
        self.clear_counts()

    def clear_counts(self) -> None:
        self.packets = self.bytes = self.lost = self.dropped = self.most_waiting = 0
        self.late_total = 0.0

    def push(self, packet: bytes, now: float) -> None:
        self.advance(now)
        link = self.link
        if not link.up or (link.loss and random.random() < link.loss):
            self.lost += 1
            return
        if self.waiting_bytes + len(packet) > link.queue.bytes_at(link.rate):
            self.dropped += 1
            return
        self.waiting.append((now, packet))
        self.waiting_bytes += len(packet)
        self.most_waiting = max(self.most_waiting, self.waiting_bytes)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Begins every packet whose turn came at or before `now`."""
        while self.waiting:
            arrived, packet = self.waiting[0]
            begin = max(self.free_at, arrived)
            if begin > now:
                return
            self.waiting.popleft()
            self.waiting_bytes -= len(packet)
            self.free_at = begin + len(packet) * 8 / self.link.rate
            self.under_way.append((self.free_at + self.link.delay, packet))

    def deliver(self, now: float) -> None:
        self.advance(now)
        while self.under_way and self.under_way[0][0] <= now:
            due, packet = self.under_way.popleft()
            try:
                self.write(packet)
            except OSError:
                self.lost += 1
                continue
            self.packets += 1
            self.bytes += len(packet)
            self.late_total += now - due
            self.late_most = max(self.late_most, now - due)

    def next_at(self) -> float | None:
        """When `deliver` has something to do next."""
        if self.under_way:
            return self.under_way[0][0]
        return self.free_at if self.waiting else None

    def empty(self) -> None:
        self.lost += len(self.waiting) + len(self.under_way)
        self.waiting.clear()
        self.under_way.clear()
        self.waiting_bytes = 0

    def counts(self) -> dict:
        return {
            "packets": self.packets, "bytes": self.bytes, "lost": self.lost, "dropped": self.dropped,
            "most_waiting": self.most_waiting, "late_mean_us": round(self.late_total / max(1, self.packets) * 1e6, 1),
            "late_most_us": round(self.late_most * 1e6, 1),
        }


def obey(line: str, link: Link, ways: dict[str, Direction]) -> str:
    """Carries out one command and returns the answer."""
    word, *rest = line.split() or [""]
    try:
        if word in ("up", "down"):
            link.up = word == "up"
            if not link.up:
                for way in ways.values():
                    way.empty()
        elif word == "rate":
            link.rate = bits_per_second(rest[0])
        elif word == "delay":
            link.delay = seconds(rest[0])
        elif word == "loss":
            link.loss = share(rest[0])
        elif word == "queue":
            link.queue = Depth(rest[0])
        elif word == "stats":
            answer = json.dumps({name: way.counts() for name, way in ways.items()})
            for way in ways.values():
                way.clear_counts()
            return answer
        else:
            return f"error: unknown command {word!r}"
    except (IndexError, ValueError) as error:
        return f"error: {word}: {error}"
    return "ok"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def open_side(namespace: str, device: str, address: str, congestion: str) -> int:
    """Makes a namespace with a TUN device in it; the descriptor stays usable from here."""
    ip("netns", "add", namespace)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", device, "netns", namespace)
    ip("-n", namespace, "addr", "add", f"{address}/24", "dev", device)
    # More than a program sends before this one comes to read it: what is dropped is dropped by `queue`, and counted.
    ip("-n", namespace, "link", "set", device, "up", "txqueuelen", "20000")
    prepare_loopback(namespace, congestion)
    if congestion:
        ip("-n", namespace, "route", "replace", SUBNET, "dev", device, "proto", "kernel", "scope", "link",
           "src", address, "congctl", congestion)
    return tun


def prepare_loopback(namespace: str, congestion: str) -> None:
    """Brings `lo` up; TCP over it uses the given congestion control, whatever the host's default is."""
    ip("-n", namespace, "link", "set", "lo", "up")
    if congestion:
        ip("-n", namespace, "route", "replace", "local", "127.0.0.1", "dev", "lo", "table", "local", "proto", "kernel",
           "src", "127.0.0.1", "congctl", congestion)


def run_ahead_of_others() -> str:
    """Real-time priority: the link must not wait for the programs that it joins."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
        return "fifo"
    except OSError as error:
        return f"normal ({error.strerror})"


def serve(link: Link, tuns: dict[str, int], control: socket.socket, until_end_of: int | None) -> None:
    ways = {"a": Direction(link, lambda packet: os.write(tuns["b"], packet)),
            "b": Direction(link, lambda packet: os.write(tuns["a"], packet))}
    by_tun = {tuns["a"]: ways["a"], tuns["b"]: ways["b"]}
    watched: list = [*by_tun, control] + ([until_end_of] if until_end_of is not None else [])
    while True:
        dues = [due for due in (way.next_at() for way in ways.values()) if due is not None]
        # select takes microseconds; poll and epoll would round to milliseconds.
        wait = max(0.0, min(dues) - time.monotonic()) if dues else None
        for ready in select.select(watched, (), (), wait)[0]:
            if ready in by_tun:
                way = by_tun[ready]
                for _ in range(64):
                    try:
                        packet = os.read(ready, PACKET)
                    except BlockingIOError:
                        break
                    way.push(packet, time.monotonic())
            elif ready is control:
                watched.append(control.accept()[0])
            elif ready is until_end_of:
                if not os.read(until_end_of, 4096):
                    return
            else:
                data = ready.recv(4096)
                if not data:
                    watched.remove(ready)
                    ready.close()
                for line in data.decode(errors="replace").splitlines():
                    ready.sendall((obey(line, link, ways) + "\n").encode())
        now = time.monotonic()
        for way in ways.values():
            way.deliver(now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="slow")
    parser.add_argument("--rate", type=bits_per_second, default=bits_per_second("10M"))
    parser.add_argument("--delay", type=seconds, default=seconds("0.35ms"))
    parser.add_argument("--loss", type=share, default=0.0)
    parser.add_argument("--queue", type=Depth, default=Depth("64KiB"))
    parser.add_argument("--congestion", default="cubic", help="TCP's congestion control on both sides; '' leaves the host's")
    parser.add_argument("--control", metavar="PATH")
    given = parser.parse_args()
    control_path = given.control or f"/tmp/{given.name}.sock"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    link = Link(given.rate, given.delay, given.loss, given.queue)
    sides = {side: f"{given.name}-{side}" for side in ADDRESSES}
    try:
        tuns = {side: open_side(sides[side], f"{given.name}{side}"[-15:], ADDRESSES[side], given.congestion) for side in sides}
        control = socket.socket(socket.AF_UNIX)
        control.bind(control_path)
        control.listen()
        priority = run_ahead_of_others()
        print(f"ready {sides['a']}={ADDRESSES['a']} {sides['b']}={ADDRESSES['b']} control={control_path} priority={priority}",
              flush=True)
        gc.freeze()
        gc.disable()
        serve(link, tuns, control, 0 if stat.S_ISFIFO(os.fstat(0).st_mode) else None)
    except KeyboardInterrupt:
        pass
    finally:
        for side in sides.values():
            subprocess.run(["ip", "netns", "del", side], stderr=subprocess.DEVNULL, check=False)
        if os.path.exists(control_path):
            os.unlink(control_path)


if __name__ == "__main__":
    main()
