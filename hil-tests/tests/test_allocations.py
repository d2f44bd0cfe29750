"""Promise: what passes through the agent costs a bounded number of allocations, whatever else the agent does beside."""

import pytest

from board.allocations import Allocations
from board.traffic import Transfer, sha256

pytestmark = pytest.mark.lg_feature("uprobes")

# Bytes in a full TLS record
RECORD = 16 * 1024

PART = 4 << 20

# Of a session there are one or two (link/tests/allocations.rs). Here is all that an emulated board does beside: it is woken for each of the
# dozen packets of a record, and the reactor allocates whenever it wakes somebody.
AT_MOST = 128


@pytest.fixture
def allocations(device):
    found = Allocations(device)
    yield found
    found.close()


def test_allocations_per_record_are_bounded(device, deployment, payload, allocations, figure):
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
