import unittest

from quantiles import median, percentile, spread


class Percentiles(unittest.TestCase):
    def test_are_values_that_were_measured(self):
        values = [float(value) for value in range(100, 0, -1)]
        self.assertEqual(percentile(values, 0.5), 50)
        self.assertEqual(percentile(values, 0.99), 99)
        self.assertEqual(percentile(values, 1.0), 100)
        self.assertEqual(percentile(values, 0.0), 1)

    def test_of_few_values_show_the_worst_instead_of_hiding_it(self):
        self.assertEqual(percentile([1, 2, 90], 0.99), 90)
        self.assertEqual(percentile([7], 0.5), 7)

    def test_of_nothing_are_nothing(self):
        self.assertIsNone(percentile([], 0.5))


class Rounds(unittest.TestCase):
    def test_without_a_figure_are_left_out(self):
        self.assertEqual(median([3, None, 1]), 2)
        self.assertEqual(spread([3, None, 1]), (1, 3))
        self.assertIsNone(median([None]))
        self.assertIsNone(spread([]))

    def test_do_not_take_yes_and_no_for_numbers(self):
        self.assertIsNone(median([True, False]))


if __name__ == "__main__":
    unittest.main()
