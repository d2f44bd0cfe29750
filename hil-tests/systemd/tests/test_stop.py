"""Promise: `systemctl stop` lets open streams finish for `drain-for`, lets nobody new in, and is a success."""

from guest.board import PATIENCE, UNIT
from guest.client import Stream, is_refused
from guest.deployment import EXPOSED, agent_toml
from board.waiting import until


def test_a_stream_may_finish_for_longer_than_the_units_timeout(board):
    # `drain-for` is the only thing one has to set: the agent asks systemd for the time
    timeout = 4
    board.drop_in(f"[Service]\nTimeoutStopSec={timeout}\n")
    board.configure(agent_toml(drain_for="120s"))
    board.restart()
    stream = Stream(EXPOSED["echo"])
    stream.echo()
    mark = board.mark()
    board.run(f"systemctl stop --no-block {UNIT}")
    board.wait_until("StatusText", "stopping")
    begun = uptime(board)
    assert is_refused(EXPOSED["echo"])
    # each time round a piece of a transfer
    until(lambda: stream.echo(10_000) or uptime(board) > begun + timeout + 2, PATIENCE, "the unit's own timeout has passed")
    assert board.property("SubState") == "stop-sigterm"
    stream.echo(300_000)
    stream.finish()
    succeeded(board)
    board.entry(mark, "Deactivated successfully")


def test_a_stream_that_does_not_end_is_cut_after_drain_for(board):
    board.configure(agent_toml(drain_for="3s"))
    board.restart()
    stream = Stream(EXPOSED["echo"])
    stream.echo()
    begun = uptime(board)
    board.run(f"systemctl stop {UNIT}")
    took = uptime(board) - begun
    assert stream.is_cut()
    assert 3 <= took < 30
    succeeded(board)


def test_without_streams_it_ends_at_once(board):
    mark = board.mark()
    board.run(f"systemctl stop {UNIT}")
    succeeded(board)
    assert board.entry(mark, "Deactivated successfully").time - board.entry(mark, "Stopping").time < 5
    assert is_refused(EXPOSED["echo"])


def succeeded(board):
    """It has ended by itself, and systemd has nothing to do."""
    board.wait_until("ActiveState", "inactive")
    values = {name: board.property(name) for name in ("Result", "ExecMainCode", "ExecMainStatus", "NRestarts")}
    # 1 is CLD_EXITED
    assert values == {"Result": "success", "ExecMainCode": "1", "ExecMainStatus": "0", "NRestarts": "0"}


def uptime(board) -> float:
    return float(board.run("cut -d ' ' -f 1 /proc/uptime"))
