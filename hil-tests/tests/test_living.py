"""Promise: the agent lives on a device: nothing is written, init keeps it, and anybody can ask how it is doing."""

import re
import socket

import pytest

from board.deployment import DEVICE
from board.traffic import Transfer, page, sha256
from board.waiting import until


def test_status_says_that_it_can_be_reached(device, options):
    code, screen = device.status()
    assert code == 0
    assert f"wss://{options('relay')}:8443/{DEVICE}" in screen


def test_status_says_that_no_agent_runs(device):
    assert device.exit_code("umbilical-agent status --socket /run/umbilical/none.sock") == 2


def test_status_says_that_an_agent_does_not_answer(device):
    agent = device.agent()
    device.run(f"kill -STOP {agent}")
    try:
        assert device.exit_code("umbilical-agent status") == 3
    finally:
        device.run(f"kill -CONT {agent}")
    device.wait_until_connected()


def test_nothing_is_written(device, deployment, payload):
    """After all that the agent has been through since it was started."""
    assert re.search(r"^\S+ / squashfs ro,", device.run("cat /proc/mounts"), re.MULTILINE)
    assert Transfer(deployment.address("echo"), payload[: 1 << 20]).received_hash() == sha256(payload[: 1 << 20])
    agent = device.agent()
    assert "\nwrite_bytes: 0\n" in device.run(f"cat /proc/{agent}/io") + "\n"
    files = device.run(f"ls -l /proc/{agent}/fd | sed -n 's/.* -> //p'").split("\n")
    assert [file for file in files if file.startswith("/") and not file.startswith("/dev/")] == []
    assert device.run("ls -A /run/umbilical") == "agent.sock"
    disks = device.run("awk '$3 ~ /^vd/ { print $8 }' /proc/diskstats").split()
    assert len(disks) == 3
    assert set(disks) == {"0"}


def test_the_agent_runs_as_a_user_who_may_do_nothing_else(device):
    status = device.run(f"cat /proc/{device.agent()}/status")
    assert re.search(r"^Uid:\s+990\s+990\s+990", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)


@pytest.mark.lg_feature("emulated")
def test_the_init_script_of_the_yocto_layer_starts_and_stops_it(boot, deployment):
    device = boot(late="agent")
    assert device.exit_code("pidof umbilical-agent") == 1
    device.run("/etc/init.d/umbilical-agent start")
    device.wait_until_connected()
    agent = device.agent()
    assert re.search(r"^Uid:\s+990\s", device.run(f"cat /proc/{agent}/status"), re.MULTILINE)
    assert device.run(f"cat /proc/{agent}/oom_score_adj") == "-900"
    assert page(deployment.address("page"), "/")[0] == 200
    for command in ("start", "reload", "status"):
        device.run(f"/etc/init.d/umbilical-agent {command}")
    assert device.agent() == agent
    device.run("/etc/init.d/umbilical-agent restart")
    device.wait_until_connected()
    assert device.agent() != agent
    device.run("/etc/init.d/umbilical-agent stop")
    assert device.exit_code("pidof umbilical-agent") == 1


@pytest.mark.lg_feature("emulated")
def test_a_serial_line_is_reached(device, deployment, folder):
    """The other end of the board's second serial port is a socket of the emulator's."""
    every_byte = bytes(range(256))
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(60)
    line.connect(str(folder / "line.sock"))
    client = socket.create_connection(deployment.address("line"), timeout=60)
    try:
        client.sendall(every_byte)
        assert read(line, len(every_byte)) == every_byte
        line.sendall(every_byte[::-1])
        assert read(client, len(every_byte)) == every_byte[::-1]
        assert re.search(r"\b115200\b", device.run("stty -F /dev/ttyS0"))
    finally:
        client.close()
        line.close()
    until(lambda: "/dev/ttyS0" not in device.run(f"ls -l /proc/{device.agent()}/fd"), 30, "the line is given back")


def read(sock, count):
    taken = b""
    while len(taken) < count:
        piece = sock.recv(count - len(taken))
        assert piece, f"the other side ended after {len(taken)} of {count} bytes"
        taken += piece
    return taken
