import os
import subprocess
import sys
import tempfile
import time
import unittest

import processes


class Accounting(unittest.TestCase):
    def test_counts_a_grandchild_and_what_it_takes(self):
        busy = "end = __import__('time').process_time() + 0.5\nwhile __import__('time').process_time() < end: pass\ninput()"
        nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
        child = subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 20
            while processes.cpu_seconds([child.pid]) < 0.5 and time.monotonic() < deadline:
                time.sleep(0.02)
            self.assertGreaterEqual(processes.cpu_seconds([child.pid]), 0.5)
            self.assertLess(processes.cpu_seconds([child.pid]), 5)
            self.assertEqual(len(processes.tree(child.pid)), 2)
        finally:
            child.communicate(b"\n")
        self.assertEqual(processes.cpu_seconds([child.pid]), 0)

    def test_peak_can_be_taken_anew(self):
        grown = bytearray(64 << 20)
        grown[::4096] = b"x" * len(grown[::4096])
        del grown
        before = processes.peak_resident_kib(os.getpid())
        processes.reset_peak(os.getpid())
        self.assertLess(processes.peak_resident_kib(os.getpid()), before - (32 << 10))


class Running(unittest.TestCase):
    def test_ends_what_it_started_and_keeps_the_log(self):
        with tempfile.TemporaryDirectory() as folder:
            process = processes.Process("device", ["sh", "-c", "echo begun $MARK; exec sleep 60"], f"{folder}/log", {"MARK": "here"})
            deadline = time.monotonic() + 10
            while "begun" not in process.log_tail() and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(process.log_tail(), "begun here\n")
            self.assertFalse(process.has_ended())
            process.stop()
            self.assertTrue(process.has_ended())

    def test_goes_through_no_proxy_of_whoever_measures(self):
        os.environ["HTTPS_PROXY"] = "http://127.0.0.1:1"
        self.addCleanup(os.environ.pop, "HTTPS_PROXY")
        self.assertNotIn("HTTPS_PROXY", processes.tidy_environment())
        self.assertIn("PATH", processes.tidy_environment())


if __name__ == "__main__":
    unittest.main()
