"""Promise: what breaks while bytes are on their way breaks no byte; after a loss of the board itself, clients are told and the board comes back."""

import pytest

from board.traffic import Transfer, page, sha256
from board.waiting import until

PART = 8 << 20
SOME = 1 << 20

pytestmark = pytest.mark.lg_feature("emulated")


def stalled(transfer):
    """Whether nothing moves between two looks."""
    before = transfer.sent, transfer.received

    def quiet():
        nonlocal before
        last, before = before, (transfer.sent, transfer.received)
        return last == before

    return quiet


def wait_for_standstill(transfer):
    quiet = stalled(transfer)
    until(lambda: quiet() and quiet(), 60, "nothing moves any more")


def test_a_cable_pulled_during_a_transfer_loses_nothing(device, board, deployment, payload):
    transfer = Transfer(deployment.address("echo"), payload[:PART])
    for part in (1, 2):
        until(lambda: transfer.progress() > part * SOME, 120, "the transfer is under way")
        board.set_cable(False)
        until(lambda: device.run("cat /sys/class/net/eth0/carrier") == "0", 30, "the board notices")
        wait_for_standstill(transfer)
        board.set_cable(True)
    assert transfer.received_hash() == sha256(payload[:PART])


@pytest.mark.parametrize("impairment", ["delay 100ms", "loss 3%", "delay 20ms loss 1% duplicate 1% reorder 2%"])
def test_a_bad_line_loses_nothing(device, deployment, payload, impairment):
    device.run(f"/usr/sbin/tc qdisc replace dev eth0 root netem {impairment}")
    try:
        transfer = Transfer(deployment.address("echo"), payload[:SOME])
        assert transfer.received_hash() == sha256(payload[:SOME])
        assert "Sent 0 bytes" not in device.run("/usr/sbin/tc -s qdisc show dev eth0")
    finally:
        device.run("/usr/sbin/tc qdisc del dev eth0 root")


def test_a_board_that_is_reset_comes_back_and_clients_are_told(device, board, deployment, payload):
    start_id = device.start_id()
    transfer = Transfer(deployment.address("echo"), payload)
    until(lambda: transfer.progress() > SOME, 120, "the transfer is under way")
    board.reset()
    assert device.start_id() != start_id
    device.wait_until_connected()
    assert isinstance(transfer.error(), ConnectionResetError)
    assert page(deployment.address("page"), "/")[0] == 200


def test_a_board_whose_power_fails_comes_back_and_clients_are_told(device, board, deployment, payload):
    transfer = Transfer(deployment.address("echo"), payload)
    until(lambda: transfer.progress() > SOME, 120, "the transfer is under way")
    board.start()
    device.wait_until_connected()
    assert isinstance(transfer.error(), ConnectionResetError)
    assert page(deployment.address("page"), "/")[0] == 200


def test_an_agent_that_is_killed_is_started_again(device, deployment, payload):
    before = device.agent()
    transfer = Transfer(deployment.address("echo"), payload)
    until(lambda: transfer.progress() > SOME, 120, "the transfer is under way")
    device.run(f"kill -KILL {before}")
    until(lambda: device.exit_code("pidof umbilical-agent") == 0 and device.agent() != before, 30, "init has started another")
    device.wait_until_connected()
    assert isinstance(transfer.error(), ConnectionResetError)
    assert page(deployment.address("page"), "/")[0] == 200
