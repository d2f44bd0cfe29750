"""Promise: the package's unit is started by systemd and is ready when the agent says so, as a user of its own, in the cage the unit describes."""

import re

from guest.board import PATIENCE, UNIT
from guest.client import is_served
from guest.deployment import EXPOSED, RELAY, agent_toml
from board.waiting import until


def test_the_system_is_as_it_should_be(installed, figure):
    installed.wait_until_connected()
    _, state = installed.attempt("systemctl is-system-running --wait")
    assert state == "running", installed.run("systemctl --no-pager --failed")
    assert installed.run("cat /proc/1/comm") == "systemd"
    assert installed.run("uname -m") == "armv7l"
    figure("systemd", installed.run("systemctl --version | head -1"))


def test_the_package_enables_and_starts_the_unit(board):
    assert board.run(f"systemctl is-enabled {UNIT}") == "enabled"
    assert board.property("FragmentPath") == f"/lib/systemd/system/{UNIT}"
    assert board.property("DropInPaths") == ""
    assert board.run("dpkg-query -W -f '${Status}' umbilical-agent") == "install ok installed"
    assert board.run("stat -c '%a %U' /etc/umbilical/secrets") == "700 root"


def test_a_service_of_the_board_is_reached(board):
    assert is_served(EXPOSED["echo"])
    assert board.attempt("umbilical-agent status")[0] == 0


def test_status_shows_how_it_stands_with_its_relay(board):
    screen = board.run(f"systemctl status --no-pager {UNIT}")
    assert "Active: active (running)" in screen
    assert f'Status: "listening at wss://{RELAY}' in screen


def test_it_is_active_only_when_it_says_so(board):
    # the process stops itself before it becomes the agent
    command = re.search(r"argv\[\]=(.*?) ;", board.property("ExecStart"))[1]
    board.drop_in(f"[Service]\nExecStart=\nExecStart=/bin/sh -c 'kill -STOP $$$$; exec {command}'\n")
    board.run(f"systemctl restart --no-block {UNIT}")
    stopped = until(lambda: stopped_process(board), 25, "the process has stopped itself")
    assert board.attempt(f"systemctl is-active {UNIT}")[1] == "activating"
    board.run(f"kill -CONT {stopped}")
    board.wait_until("ActiveState", "active")
    assert board.agent() == stopped
    assert board.run(f"cat /proc/{stopped}/comm") == "umbilical-agent"


def test_it_does_not_wait_for_its_relay(board):
    board.configure(agent_toml(port=1))
    board.run(f"systemctl restart {UNIT}")
    assert board.property("ActiveState") == "active"
    until(lambda: "refused" in board.property("StatusText").lower(), PATIENCE, "the status says why there is no connection")


def test_it_is_a_user_of_its_own_who_alone_has_the_key(board, deployment):
    process = board.agent()
    user, name = board.run(f"stat -c '%u %U' /proc/{process}").split()
    # the range of dynamic users
    assert 61184 <= int(user) <= 65519
    assert name == "umbilical-agent"
    key = "/run/credentials/umbilical-agent.service/key"
    assert board.run(f"nsenter -t {process} -m setpriv --reuid {user} --clear-groups cat {key}") == deployment.key.read_text()
    for words in (f"setpriv --reuid 65534 --clear-groups cat {key}", f"setpriv --reuid {user} --clear-groups cat /etc/umbilical/listen.key"):
        code, said = board.attempt(words)
        assert code == 1 and "Permission denied" in said, words
    # another service, in a cage of the same kind
    other = board.attempt(f"systemd-run --quiet --wait --pipe -p DynamicUser=yes cat {key}")
    assert other[0] == 1 and "Permission denied" in other[1], other


def test_the_cage_is_as_the_unit_says(board, figure):
    process = board.agent()
    status = dict(re.findall(r"^(\w+):\s+(.*)$", board.run(f"cat /proc/{process}/status"), re.MULTILINE))
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    code, said = board.attempt(f"nsenter -t {process} -m touch /usr/bin/x /etc/umbilical/x")
    assert code == 1 and said.count("Read-only file system") == 2
    group = f"/sys/fs/cgroup/system.slice/{UNIT}"
    assert board.run(f"cat {group}/memory.max {group}/memory.swap.max {group}/pids.max").split() == [str(32 << 20), "0", "16"]
    assert board.run(f"cat /proc/{process}/oom_score_adj") == "-900"
    assert re.search(r"Max open files +4096 +4096", board.run(f"cat /proc/{process}/limits"))
    board.run(f"systemd-analyze security --no-pager --threshold=15 {UNIT}")
    figure("agent, peak of its memory in KiB", status["VmHWM"])
    figure("unit, memory that the kernel counts in KiB", int(board.run(f"cat {group}/memory.current")) >> 10)


def stopped_process(board):
    """The agent's process id, if it is stopped."""
    process = board.agent()
    return process and "T" in board.attempt(f"ps -o stat= -p {process}")[1] and process
