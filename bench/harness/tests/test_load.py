import unittest

from load import Latencies, Transfer

GIB = 1 << 30


class Transfers(unittest.TestCase):
    def test_tell_rate_cost_and_fairness(self):
        transfer = Transfer(seconds=2.0, bytes=[GIB, GIB // 2, 0, GIB // 2], samples=[], cpu_seconds=3.0)
        self.assertEqual(transfer.mib_per_second, 1024)
        self.assertEqual(transfer.cpu_per_gib, 1.5)
        self.assertEqual(transfer.starved, 1)
        self.assertEqual(transfer.smallest_share, 0)

    def test_that_hardly_moved_have_no_cost_per_gib(self):
        self.assertIsNone(Transfer(1.0, [1000], [], 0.5).cpu_per_gib)
        self.assertIsNone(Transfer(1.0, [0, 0], [], 0.5).smallest_share)

    def test_tell_the_rate_within_a_part_of_the_window(self):
        transfer = Transfer(3.0, [0], [(10.0, 0), (11.0, 1000), (12.0, 1500), (13.0, 2000)], 0.0)
        self.assertEqual(transfer.rate_between(10.5, 13.5), 4000)
        self.assertIsNone(transfer.rate_between(10.5, 11.5))


class LatencyRows(unittest.TestCase):
    def test_can_be_cut_by_time(self):
        row = Latencies([(1.0, 5.0), (2.0, 6.0), (3.0, 9.0)], 0)
        self.assertEqual(row.between(1.5, 3.5).at(1.0), 9.0)
        self.assertEqual(row.between(1.5, 3.0).at(1.0), 6.0)


if __name__ == "__main__":
    unittest.main()
