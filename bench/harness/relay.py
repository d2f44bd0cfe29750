"""The relay by itself: two sockets joined, against a loop that copies bytes between two TLS connections; its memory.

What is measured is in Rust, beside the relay: `cloud/benches/splice.rs`, `cloud/tests/relay_memory.rs`. Here their words
become figures.
"""
from __future__ import annotations

import os
import re
import subprocess

import programs

ROUND = re.compile(r"splice ([\d.]+) MiB/s, ([\d.]+) CPU s/GiB; copy ([\d.]+) MiB/s, ([\d.]+) CPU s/GiB")
MEMORY = re.compile(r"(\d+) bytes for each idle (listener|join)")


def measure() -> dict:
    """`rounds` of the joined and the copying pair, taking turns in one process; bytes per idle listener and join."""
    said = cargo("bench", "--bench", "splice")
    rounds = [dict(zip(("splice", "splice_cpu", "copy", "copy_cpu"), map(float, found))) for found in ROUND.findall(said)]
    if not rounds:
        raise RuntimeError(f"the splice benchmark gave no figure:\n{said[-2000:]}")
    said = cargo("test", "--release", "--test", "relay_memory", "--", "--nocapture")
    return {"rounds": rounds, **{f"idle_{what}": int(count) for count, what in MEMORY.findall(said)}}


def cargo(*words: str) -> str:
    command = ["cargo", words[0], "--locked", "--package", "umbilical-cloud", *words[1:]]
    done = subprocess.run(command, cwd=programs.ROOT, env={**os.environ, "CARGO_TERM_COLOR": "never"}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout
