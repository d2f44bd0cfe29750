"""Promise: the agent stays small on a board of little memory, and does not grow."""

from board.traffic import Transfer, sha256
from board.waiting import until

# KiB, on ARMv7
IDLE = 2048
BUSY = 6144

STREAMS = 64
STREAM_BYTES = 256 << 10

# What samples may differ by without that being growth, in KiB.
NOISE = 128


def test_an_agent_that_waits_is_small(boot, options, figure):
    device = boot()
    device.wait_until_connected()
    memory = device.memory()
    figure("idle, listening at the relay: resident KiB", memory.resident)
    figure("idle, listening at the relay: peak KiB", memory.peak)
    assert memory.resident <= IDLE + options("program-more")


def test_sixty_four_streams_at_once_stay_within_the_budget_and_do_not_grow(boot, deployment, payload, options, figure):
    device = boot()
    device.wait_until_connected()
    pieces = [payload[at * STREAM_BYTES :][:STREAM_BYTES] for at in range(STREAMS)]
    transfers = [Transfer(deployment.address("neighbour"), piece) for piece in pieces]
    samples = []
    for tenth in range(1, 10):
        share = STREAMS * STREAM_BYTES * tenth // 10
        until(lambda: sum(transfer.progress() for transfer in transfers) >= share, 300, f"{tenth} tenths came back")
        samples.append(device.memory())
    assert [transfer.received_hash() for transfer in transfers] == [sha256(piece) for piece in pieces]
    peak = device.memory().peak
    anonymous = [sample.anonymous for sample in samples]
    figure(f"{STREAMS} streams: resident KiB by tenths of the transfer", [sample.resident for sample in samples])
    figure(f"{STREAMS} streams: of that, data", anonymous)
    figure(f"{STREAMS} streams: peak KiB", peak)
    assert peak <= BUSY + options("program-more")
    assert max(anonymous[5:]) <= max(anonymous[:5]) + NOISE


def test_what_a_large_transfer_took_is_given_back(device, deployment, payload, options, figure):
    for _ in range(2):
        assert Transfer(deployment.address("echo"), payload[: 4 << 20]).received_hash() == sha256(payload[: 4 << 20])
    memory = device.memory()
    figure("one stream, as fast as it goes: resident KiB", memory.resident)
    figure("one stream, as fast as it goes: peak KiB", memory.peak)
    assert memory.peak <= BUSY + options("program-more")
    until(lambda: device.memory().resident <= IDLE + options("program-more"), 60, "the agent is small again")
    figure("one stream, and a while later: resident KiB", device.memory().resident)


def test_a_neighbour_that_eats_all_memory_is_the_one_that_goes(device, deployment, payload):
    agent = device.agent()
    transfer = Transfer(deployment.address("echo"), payload[: 8 << 20])
    until(lambda: transfer.progress() > 1 << 20, 120, "the transfer is under way")
    most = "$(awk '/^MemTotal/ { print int($2 * 0.9) }' /proc/meminfo)K"
    assert device.exit_code(f"dd if=/dev/zero of=/dev/null count=1 bs={most}") == 128 + 9
    assert transfer.received_hash() == sha256(payload[: 8 << 20])
    assert device.agent() == agent
