"""Promise: what passes through the agent costs few allocations."""

import pytest

from board.allocations import Allocations
from board.traffic import Transfer, sha256

pytestmark = pytest.mark.lg_feature("uprobes")

# Bytes in a full TLS record
RECORD = 16 * 1024

PART = 4 << 20

# link/tests/allocations.rs has the session's own; here is the reactor as well, which allocates whenever it wakes somebody.
AT_MOST = 16


@pytest.fixture
def allocations(device):
    found = Allocations(device)
    yield found
    found.close()


def test_allocations_per_record_are_few(device, deployment, payload, allocations, figure):
    for direction in ("to", "from"):
        before = allocations.count()
        if direction == "to":
            assert Transfer(deployment.address("hash"), payload[:PART]).said() == sha256(payload[:PART])
            records = PART / RECORD
        else:
            assert Transfer(deployment.address("source")).received_hash() == sha256(payload)
            records = len(payload) / RECORD
        each = (allocations.count() - before) / records
        figure(f"allocations per 16 KiB {direction} the board", round(each, 1))
        assert each <= AT_MOST
