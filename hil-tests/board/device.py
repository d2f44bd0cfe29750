"""What the tests ask of a board, by its shell on the serial console."""

import re
from dataclasses import dataclass

from board.waiting import until

PROGRAM = "umbilical-agent"


@dataclass(frozen=True)
class Memory:
    """Of the agent, in KiB."""

    resident: int
    # The most that it ever was.
    peak: int
    # The part that is its own data: the kernel may drop code under pressure and read it again.
    anonymous: int


class Device:
    def __init__(self, shell):
        self.shell = shell

    def run(self, command: str, seconds: float = 60) -> str:
        """Standard output of a command that must succeed."""
        lines, _, code = self.shell.run(command, timeout=seconds)
        assert code == 0, f"{command!r} on the board: exit code {code}\n" + "\n".join(lines)
        return "\n".join(lines)

    def exit_code(self, command: str) -> int:
        return self.shell.run(command, timeout=60)[2]

    def status(self) -> tuple[int, str]:
        """Exit code and screen of `umbilical-agent status`."""
        lines, _, code = self.shell.run(f"{PROGRAM} status", timeout=60)
        return code, "\n".join(lines)

    def wait_until_connected(self, seconds: float = 60) -> None:
        until(lambda: self.status()[0] == 0, seconds, "the agent listens at the relay")

    def agent(self) -> int:
        """Process id of the running agent."""
        return int(self.run(f"pidof {PROGRAM}"))

    def memory(self) -> Memory:
        text = self.run(f"cat /proc/{self.agent()}/status")
        return Memory(*(int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) for name in ("VmRSS", "VmHWM", "RssAnon")))

    def start_id(self) -> str:
        """Another one after each start of the kernel."""
        return self.run("cat /proc/sys/kernel/random/boot_id")
