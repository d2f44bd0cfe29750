"""What a test is given: the board, started once, with the agent's package installed and connected."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from guest.board import Board
from guest.deployment import EXPOSED, RELAY_PORT, Deployment, agent_toml
from board.waiting import until

FIGURES = pytest.StashKey[dict]()


@pytest.fixture(scope="session")
def folder():
    return Path(os.environ["LG_HIL_RUN"])


@pytest.fixture(scope="session")
def deployment(folder):
    return Deployment(folder)


@pytest.fixture(scope="session")
def cloud(deployment, folder):
    """Relay and gateway, once all their ports are open."""
    log = folder / "cloud.log"
    command = [os.environ["UMBILICAL_CLOUD"], "run", "--config", str(deployment.cloud_toml)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        ports = {RELAY_PORT, *EXPOSED.values()}
        until(lambda: ports <= listening() or process.poll() is not None, 20, "the cloud side listens")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def shell(target):
    """The console of the board, which is started."""
    power = target.get_driver("QEMUDriver")
    power.on()
    yield target.get_driver("ShellDriver")
    power.off()


@pytest.fixture(scope="session")
def installed(shell, deployment, cloud):
    """The board with the package, all that it needs having been there before."""
    board = Board(shell)
    board.write("/etc/umbilical/ca.pem", deployment.authority.read_text())
    board.write("/etc/umbilical/listen.key", deployment.key.read_text(), mode="600")
    board.configure(agent_toml())
    board.install()
    return board


@pytest.fixture
def board(installed):
    """The board as every test finds it: the unit as it was installed, active and connected."""
    installed.restore(agent_toml())
    return installed


@pytest.fixture
def figure(request):
    """Notes a figure for the report at the end."""
    return request.config.stash[FIGURES].__setitem__


def listening() -> set[int]:
    """TCP ports that somebody listens at, here."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {int(row.split()[1].split(":")[1], 16) for row in rows if row.split()[3] == "0A"}


def pytest_configure(config):
    config.stash[FIGURES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what both ends had to say."""
    report = yield
    if report.failed:
        if board := item.funcargs.get("installed"):
            # the console may be what has failed
            with contextlib.suppress(Exception):
                report.sections.append(("journal of the board", board.run("journalctl -q -n 60 -o short-monotonic")))
        log = Path(os.environ["LG_HIL_RUN"]) / "cloud.log"
        if log.exists():
            report.sections.append(("cloud.log", log.read_text(errors="replace")[-4000:]))
    return report


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[FIGURES]:
        terminalreporter.section("figures")
        for name, value in config.stash[FIGURES].items():
            terminalreporter.write_line(f"{name:>60}  {value}")
