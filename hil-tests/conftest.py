"""What a test is given: the cloud side, the board, the device as its shell shows it."""

import json
import os
from pathlib import Path

import pytest
from labgrid.pytestplugin.hooks import LABGRID_ENV_KEY

from board.deployment import Deployment
from board.device import Device
from board.processes import cloud as run_cloud
from board.processes import name_server, neighbour
from board.strategy import Boot
from board.traffic import Payload

FIGURES = pytest.StashKey[dict]()


@pytest.fixture(scope="session")
def folder():
    return Path(os.environ["LG_HIL_RUN"])


@pytest.fixture(scope="session")
def options(target):
    """`options` of the target in the environment file."""
    return lambda name: target.env.config.get_target_option(target.name, name)


@pytest.fixture(scope="session")
def deployment(folder, options):
    return Deployment(folder, options("relay"), options("listen"), options("neighbour"), options("payload-mib"))


@pytest.fixture(scope="session")
def cloud(deployment, options):
    with neighbour(options("listen")), run_cloud(deployment, options("listen")) as process:
        yield process


@pytest.fixture(scope="session")
def board(env, strategy, deployment, options, cloud):
    """The board, off at first."""
    if "emulated" in env.get_target_features():
        deployment.pack_settings()
        with name_server(options("relay"), options("neighbour"), deployment.folder):
            yield strategy
            strategy.transition("off")
    else:
        yield strategy


@pytest.fixture
def boot(board):
    """Starts the board as the test wants it: boot(date=..., late=...)."""

    def boot(**special):
        board.start(Boot(**special))
        return Device(board.shell)

    yield boot
    board.boot = None


@pytest.fixture
def device(board):
    """The board as it usually is: started, and connected."""
    if board.boot != Boot():
        board.start()
    found = Device(board.shell)
    found.wait_until_connected()
    return found


@pytest.fixture(scope="session")
def payload(deployment):
    return Payload(deployment.payload).bytes


@pytest.fixture
def figure(request):
    """Notes a figure for the report at the end."""
    return request.config.stash[FIGURES].__setitem__


def pytest_configure(config):
    config.stash[FIGURES] = {}


def pytest_collection_modifyitems(config, items):
    """What a board's kernel can't do is not a test of that board."""
    can = set(config.stash[LABGRID_ENV_KEY].get_target_features())
    others = [item for item in items if any("uprobes" in marker.args and "uprobes" not in can for marker in item.iter_markers("lg_feature"))]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows what both ends had to say."""
    report = yield
    if report.failed:
        for name in ("agent.log", "cloud.log"):
            log = Path(os.environ["LG_HIL_RUN"]) / name
            if log.exists():
                report.sections.append((name, log.read_text(errors="replace")[-6000:]))
    return report


def pytest_sessionfinish(session):
    """Where everything can be had, nothing may be left out."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if "qemu" in str(session.config.option.lg_env) and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    figures = config.stash[FIGURES]
    if figures:
        terminalreporter.section("figures")
        for name, value in figures.items():
            terminalreporter.write_line(f"{name:>60}  {value}")
        (Path(os.environ["LG_HIL_RUN"]) / "figures.json").write_text(json.dumps(figures, indent=1))
