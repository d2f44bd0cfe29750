"""Promise: what a board offers is reached, and bytes arrive as they were sent."""

import subprocess
from pathlib import Path

from board.traffic import Transfer, page, sha256

INDEX = Path(__file__).parents[1] / "image/root/etc/www/index.html"


def ssh(deployment, command, **options):
    """Standard output of a command that OpenSSH's client runs on the board."""
    host, port = deployment.address("ssh")
    known = f"UserKnownHostsFile={deployment.folder}/known_hosts"
    words = ["ssh", "-F", "none", "-i", deployment.ssh_key, "-p", str(port), "-o", known, "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]
    return subprocess.run([*words, f"root@{host}", command], check=True, capture_output=True, timeout=120, **options).stdout


def test_a_page_is_shown(device, deployment):
    assert page(deployment.address("page"), "/") == (200, INDEX.read_bytes())


def test_a_page_that_is_not_there_is_the_boards_own_answer(device, deployment):
    assert page(deployment.address("page"), "/none")[0] == 404


def test_somebody_logs_in_by_ssh(device, deployment, options):
    machine, start_id = ssh(deployment, "uname -m; cat /proc/sys/kernel/random/boot_id").decode().split()
    assert machine == options("machine")
    assert start_id == device.start_id()


def test_a_file_is_copied_by_ssh(device, deployment, payload):
    file = payload[: 2 << 20]
    ssh(deployment, "cat >/tmp/copy", input=file)
    assert ssh(deployment, "sha256sum </tmp/copy").decode().split()[0] == sha256(file)
    assert ssh(deployment, "cat /tmp/copy; rm /tmp/copy") == file


def test_a_large_file_to_the_board(device, deployment, payload):
    assert Transfer(deployment.address("hash"), payload).said() == sha256(payload)


def test_a_large_file_from_the_board(device, deployment, payload):
    assert Transfer(deployment.address("source")).received_hash() == sha256(payload)
