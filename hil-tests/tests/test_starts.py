"""Promise: a board that starts without a date, a name server or a network is reached as soon as it can be."""

import time

import pytest

from board.traffic import page
from board.waiting import until

pytestmark = pytest.mark.lg_feature("emulated")


def test_a_board_without_a_clock_connects_and_does_not_mind_when_it_is_set(boot, deployment):
    device = boot(date="1970-01-01T00:00:00")
    device.wait_until_connected()
    assert device.run("date +%Y") == "1970"
    assert page(deployment.address("page"), "/")[0] == 200
    agent = device.agent()
    device.run(f"date -s @{int(time.time())}")
    assert page(deployment.address("page"), "/")[0] == 200
    assert device.status()[0] == 0
    assert device.agent() == agent


def test_a_clock_that_jumps_back_is_no_matter(boot, deployment):
    device = boot()
    device.wait_until_connected()
    device.run("date -s @0")
    device.run("kill -KILL $(pidof umbilical-agent)")
    device.wait_until_connected()
    assert page(deployment.address("page"), "/")[0] == 200


@pytest.mark.parametrize("late", ["names", "network"])
def test_what_comes_late_is_used_when_it_comes(boot, deployment, late):
    device = boot(late=late)
    agent = device.agent()
    until(lambda: device.status()[0] == 1, 30, "the agent says that it is not connected")
    device.run(f"/usr/libexec/hil/{late}")
    device.wait_until_connected(30)
    assert page(deployment.address("page"), "/")[0] == 200
    assert device.agent() == agent
