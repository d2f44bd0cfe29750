"""What the tests ask of the board, by root's shell on its serial console."""

import base64
import shlex
from dataclasses import dataclass

from board.waiting import until

UNIT = "umbilical-agent.service"
CONFIGURATION = "/etc/umbilical/agent.toml"
DROP_INS = f"/etc/systemd/system/{UNIT}.d"

# The longest that anything may take, in seconds, on a machine whose processors others want as well.
PATIENCE = 240

# A terminal takes lines of up to 4095 bytes; labgrid adds some.
LONGEST_LINE = 3900


@dataclass(frozen=True)
class Entry:
    """A line of the journal about the agent's unit; `time` is in seconds since the board was started."""

    time: float
    text: str


class Board:
    def __init__(self, shell):
        self.shell = shell
        # What was written last.
        self.configuration = ""

    def run(self, command: str, seconds: float = PATIENCE) -> str:
        """Standard output of a command that must succeed."""
        lines, _, code = self.shell.run(command, timeout=seconds)
        assert code == 0, f"{command!r} on the board: exit code {code}\n" + "\n".join(lines)
        return "\n".join(lines)

    def attempt(self, command: str, seconds: float = PATIENCE) -> tuple[int, str]:
        """Exit code of a command that may fail, and what it says."""
        lines, _, code = self.shell.run(f"{{ {command}; }} 2>&1", timeout=seconds)
        return code, "\n".join(lines)

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Makes a file of root's, and its folder."""
        code = base64.b64encode(text.encode()).decode()
        command = f"mkdir -p $(dirname {path}); install -m {mode} /dev/null {path}.new; echo {code} | base64 -d >{path}.new; mv {path}.new {path}"
        assert len(command) < LONGEST_LINE, f"too long for the console: {path}"
        self.run(command)

    def install(self) -> None:
        """Installs the package, as an operator would: the configuration is there, so it is started at once."""
        self.run("dpkg -i umbilical-agent.deb")

    def configure(self, text: str) -> None:
        """Makes this the agent's configuration, which takes effect at a start or a reload."""
        self.write(CONFIGURATION, text)
        self.configuration = text

    def drop_in(self, text: str) -> None:
        """Makes this the only drop-in of the agent's unit."""
        self.write(f"{DROP_INS}/test.conf", text)
        self.run("systemctl daemon-reload")

    def restart(self) -> None:
        self.run(f"systemctl restart {UNIT}")
        self.wait_until_connected()

    def restore(self, configuration: str) -> None:
        """Makes the unit what it was when it had just been installed and had connected."""
        as_installed = {"ActiveState": "active", "NRestarts": "0", "DropInPaths": ""}
        if self.configuration == configuration and self.properties(*as_installed) == as_installed:
            return self.wait_until_connected()
        self.run(f"rm -rf {DROP_INS}; systemctl daemon-reload")
        self.configure(configuration)
        self.restart()

    def properties(self, *names: str) -> dict[str, str]:
        """Of the agent's unit, as `systemctl show` has them."""
        lines = self.run(f"systemctl show -p {','.join(names)} {UNIT}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def property(self, name: str) -> str:
        return self.properties(name)[name]

    def agent(self) -> int:
        """Process id of the agent, 0 if there is none."""
        return int(self.property("MainPID"))

    def restarts(self) -> int:
        """Times that systemd has started it again by itself."""
        return int(self.property("NRestarts"))

    def wait_until(self, name: str, value: str, seconds: float = PATIENCE) -> None:
        until(lambda: self.property(name) == value, seconds, f"{name} of the unit is {value}")

    def wait_until_connected(self, seconds: float = PATIENCE) -> None:
        until(lambda: self.property("StatusText").startswith("listening at "), seconds, "the agent listens at the relay")

    def mark(self) -> str:
        """The journal's place at this moment: the newest entry about the unit, as the one after another's entry would be skipped."""
        return self.run(f"journalctl -q -u {UNIT} -n 1 --show-cursor -o cat | sed -n 's/^-- cursor: //p'")

    def journal(self, mark: str) -> list[Entry]:
        """What was written about the agent's unit since then, by systemd and by the agent."""
        text = self.run(f"journalctl -q -u {UNIT} -o short-monotonic --after-cursor={shlex.quote(mark)}")
        lines = [line for line in text.splitlines() if line.startswith("[")]
        return [Entry(float(line[1 : line.index("]")]), line[line.index("]") + 2 :]) for line in lines]

    def entry(self, mark: str, words: str) -> Entry:
        """The first entry since then that has these words."""
        entries = self.journal(mark)
        found = [entry for entry in entries if words in entry.text]
        assert found, f"nothing says {words!r} in:\n" + "\n".join(entry.text for entry in entries)
        return found[0]
