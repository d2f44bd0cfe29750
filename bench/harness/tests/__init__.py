"""Tests of the harness: `bench/test`."""
