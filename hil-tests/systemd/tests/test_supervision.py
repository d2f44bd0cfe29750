"""Promise: whatever happens to the agent, systemd starts it again as the unit says, and it serves again."""

from pathlib import Path

from guest.board import PATIENCE, UNIT
from guest.client import Stream, is_served
from guest.deployment import EXPOSED, agent_toml
from board.waiting import until

WATCHDOG = Path(__file__).parents[3] / "systemd/drop-ins/agent-watchdog.conf"

# RestartSec of the unit, in seconds.
PAUSE = 10


def test_one_that_is_stuck_is_bitten_by_the_watchdog(board):
    board.drop_in(WATCHDOG.read_text())
    board.restart()
    stuck, mark = board.agent(), board.mark()
    board.run(f"kill -STOP {stuck}")
    wait_until_restarted(board, stuck)
    board.entry(mark, "Watchdog timeout")
    board.entry(mark, "Failed with result 'watchdog'")
    assert board.restarts() == 1
    serves_again(board)


def test_one_that_is_well_is_left_alone_by_the_watchdog(board):
    board.drop_in(WATCHDOG.read_text())
    board.restart()
    process, begun = board.agent(), last_fed(board)
    assert board.property("WatchdogUSec") == "10s"
    until(lambda: last_fed(board) - begun > 15, PATIENCE, "the watchdog was fed for longer than it waits")
    assert (board.agent(), board.restarts()) == (process, 0)


def test_one_that_is_killed_is_started_again_after_a_pause(board):
    stream = Stream(EXPOSED["echo"])
    stream.echo()
    killed, mark = board.agent(), board.mark()
    board.run(f"kill -KILL {killed}")
    assert stream.is_cut()
    wait_until_restarted(board, killed)
    ended, again = board.entry(mark, "code=killed, status=9/KILL"), board.entry(mark, "Scheduled restart job")
    assert again.time - ended.time > PAUSE - 0.5
    assert board.restarts() == 1
    serves_again(board)


def test_one_that_is_wrongly_configured_is_tried_again_with_pauses_until_it_is_right(board):
    board.configure(agent_toml().replace("[relay.auth]", "[relay.nonsense]"))
    mark = board.mark()
    code, said = board.attempt(f"systemctl restart {UNIT}")
    assert code == 1, said
    attempts = until(lambda: attempts_in(board, mark, 2), PATIENCE, "it was tried twice")
    assert attempts[1] - attempts[0] > PAUSE - 0.5
    # what is wrong is said where one looks first
    board.entry(mark, "nonsense")
    assert board.property("Result") == "exit-code"
    assert not [entry for entry in board.journal(mark) if "Started umbilical" in entry.text], "it was never active"
    board.configure(agent_toml())
    serves_again(board)
    assert board.restarts() >= 2


def attempts_in(board, mark, count):
    """When starts were refused with exit code 2, if there were so many."""
    times = [entry.time for entry in board.journal(mark) if "code=exited, status=2/" in entry.text]
    return times if len(times) >= count else None


def last_fed(board):
    """When the watchdog was, in seconds."""
    return int(board.property("WatchdogTimestampMonotonic")) / 1e6


def wait_until_restarted(board, before):
    until(lambda: board.agent() not in (0, before), PATIENCE, "there is another process")


def serves_again(board):
    board.wait_until_connected()
    assert board.property("ActiveState") == "active"
    until(lambda: is_served(EXPOSED["echo"]), PATIENCE, "the service is reached again")
