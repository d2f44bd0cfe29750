"""Promise: the installed package is there after a restart of the board without anybody's help, survives an update, and goes without a trace of a process."""

from guest.board import UNIT
from guest.client import is_refused, is_served
from guest.deployment import EXPOSED


def test_it_is_started_at_boot(board, target, figure):
    before = board.run("cat /proc/sys/kernel/random/boot_id")
    # the shell ends with it, so the next prompt is the next start's
    board.shell.console.sendline("exec systemctl reboot")
    target.deactivate(board.shell)
    target.activate(board.shell)
    assert board.run("cat /proc/sys/kernel/random/boot_id") != before
    board.wait_until_connected()
    assert board.restarts() == 0
    assert is_served(EXPOSED["echo"])
    active = int(board.property("ActiveEnterTimestampMonotonic")) / 1e6
    figure("seconds from the kernel's start to the active unit", round(active, 1))


def test_an_update_of_the_package_starts_the_agent_again(board):
    before = board.agent()
    board.install()
    assert board.agent() not in (0, before)
    board.wait_until_connected()
    assert is_served(EXPOSED["echo"])


def test_the_package_can_be_removed(board):
    process = board.agent()
    board.run("dpkg -r umbilical-agent")
    assert board.attempt(f"kill -0 {process}")[0] == 1
    assert board.attempt(f"systemctl is-enabled {UNIT}")[0] == 1
    assert board.property("LoadState") == "not-found"
    assert is_refused(EXPOSED["echo"])
