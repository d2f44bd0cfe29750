"""Waiting for a condition."""

import time


def until(condition, seconds: float, what: str):
    """What `condition` returns as soon as that is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.1)
