import contextlib
import unittest
from unittest import mock

import uplink


class Retaking(unittest.TestCase):
    """Only a machine that stood still makes a round be taken again, never the figures of the round."""

    def rounds(self, *lateness):
        setting = mock.Mock()
        setting.link.side_effect = lambda _: contextlib.nullcontext()
        late = iter(lateness)
        with mock.patch.object(uplink, "Tunnel", lambda *_: contextlib.nullcontext()), \
                mock.patch.object(uplink, "lateness", lambda _: next(late)):
            return uplink.retaken_if_late(lambda *_: {"up_p99": 1e9}, None, {}, setting, "cubic", None)

    def test_a_quiet_round_counts_whatever_it_shows(self):
        self.assertEqual(self.rounds(uplink.TOO_LATE), {"up_p99": 1e9, "link_late": uplink.TOO_LATE, "retaken": 0})

    def test_a_round_in_which_the_machine_stood_still_is_taken_again(self):
        self.assertEqual(self.rounds(100.0, 1.0)["retaken"], 1)

    def test_the_last_attempt_counts_and_says_how_late_it_was(self):
        self.assertEqual(self.rounds(100.0, 90.0, 80.0), {"up_p99": 1e9, "link_late": 80.0, "retaken": 2})


if __name__ == "__main__":
    unittest.main()
