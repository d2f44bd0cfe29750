"""Processes of a tunnel: started with a log, ended by id, and what they take of the machine, from /proc."""
from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile

TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """One program of a tunnel. Its output goes to a log of its own; it ends with `stop`."""

    def __init__(self, role: str, argv: list[str], log: str, environment: dict[str, str] | None = None):
        self.role, self.log_path = role, log
        with open(log, "w") as out:
            self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                                          env={**tidy_environment(), **(environment or {})})

    @property
    def pid(self) -> int:
        return self.child.pid

    def has_ended(self) -> bool:
        return self.child.poll() is not None

    def log_tail(self, characters: int = 1500) -> str:
        with open(self.log_path, errors="replace") as log:
            return log.read()[-characters:]

    def stop(self) -> None:
        for pid in reversed(tree(self.pid)):
            kill(pid, signal.SIGTERM)
        try:
            self.child.wait(3)
        except subprocess.TimeoutExpired:
            for pid in reversed(tree(self.pid)):
                kill(pid, signal.SIGKILL)
            self.child.wait()


def tidy_environment() -> dict[str, str]:
    """The environment without what would send a tunnel through a proxy or make it log more."""
    unwanted = re.compile(r"(https?|no|all)_proxy$|rust_log$|journal_stream$|notify_socket$", re.IGNORECASE)
    return {name: value for name, value in os.environ.items() if not unwanted.match(name)}


def kill(pid: int, with_signal: int) -> None:
    try:
        os.kill(pid, with_signal)
    except ProcessLookupError:
        pass


def tree(pid: int) -> list[int]:
    """A process and its descendants, parents first."""
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as children:
                    todo += [int(child) for child in children.read().split()]
        except OSError:
            pass
    return found


def cpu_seconds(roots: list[int]) -> float:
    """User and system time of these process trees, ended threads included."""
    return sum(ticks(pid) for root in roots for pid in tree(root)) / TICKS


def ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])  # proc(5): utime, stime


def resident_kib(root: int) -> int:
    """Resident memory (VmRSS) of a process tree, KiB."""
    return sum(status_kib(pid, "VmRSS") for pid in tree(root))


def peak_resident_kib(root: int) -> int:
    """The most since `reset_peak`, or since the start (VmHWM), KiB."""
    return sum(status_kib(pid, "VmHWM") for pid in tree(root))


def reset_peak(root: int) -> None:
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/clear_refs", "w") as clear:
                clear.write("5")
        except OSError:
            pass


def status_kib(pid: int, field: str) -> int:
    try:
        with open(f"/proc/{pid}/status") as status:
            found = re.search(rf"^{field}:\s+(\d+)", status.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


class MachineLoad:
    """How many cores other programs kept busy, from here to `others`: a measurement beside a compiler is worth little."""

    def __init__(self) -> None:
        self.busy, self.ours, self.idle = self.now()

    def others(self) -> float:
        """Cores, on average; time stolen by the hypervisor included."""
        busy, ours, idle = self.now()
        whole = (busy - self.busy) + (idle - self.idle)
        return max(0.0, (busy - self.busy) - (ours - self.ours)) / max(whole, 1) * (os.cpu_count() or 1)

    @staticmethod
    def now() -> tuple[float, float, float]:
        with open("/proc/stat") as stat:
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
        ended = os.times()
        ours = sum(ticks(pid) for pid in tree(os.getpid())) + (ended.children_user + ended.children_system) * TICKS
        return user + nice + system + irq + softirq + steal, ours, idle + iowait


def stripped_size(program: str) -> int:
    """Bytes of a binary without its symbols."""
    with tempfile.NamedTemporaryFile() as copy:
        shutil.copyfile(program, copy.name)
        subprocess.run(["strip", copy.name], stderr=subprocess.DEVNULL, check=False)
        return os.path.getsize(copy.name)
