"""Promise: `systemctl reload` takes up a changed configuration while streams stay, and a wrong one changes nothing."""

from guest.board import UNIT
from guest.client import Stream, is_refused, is_served
from guest.deployment import EXPOSED, agent_toml


def test_a_reload_takes_up_a_new_service_while_a_stream_stays(board):
    stream = Stream(EXPOSED["echo"])
    stream.echo()
    assert is_refused(EXPOSED["late"])
    before = board.agent()
    board.configure(agent_toml(services=["echo", "late"]))
    board.run(f"systemctl reload {UNIT}")
    board.wait_until("ActiveState", "active")
    assert is_served(EXPOSED["late"])
    stream.echo(300_000)
    stream.finish()
    assert (board.agent(), board.restarts()) == (before, 0)


def test_a_reload_of_nonsense_changes_nothing_and_says_so(board):
    stream = Stream(EXPOSED["echo"])
    stream.echo()
    before = board.agent()
    board.configure("nonsense\n")
    board.run(f"systemctl reload {UNIT}")
    board.wait_until("ActiveState", "active")
    assert "the last reload changed nothing: /etc/umbilical/agent.toml" in board.run(f"systemctl status --no-pager {UNIT}")
    stream.echo()
    stream.finish()
    assert is_served(EXPOSED["echo"])
    assert (board.agent(), board.restarts()) == (before, 0)
