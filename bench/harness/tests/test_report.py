import unittest
from xml.etree import ElementTree

import goals
import pictures
import report
from results import Results


def figures(**changed):
    usual = dict(up1=600.0, down1=600.0, up50=500.0, down50=500.0, up1_cpu=1.2, down1_cpu=1.2, up50_cpu=2.0, down50_cpu=2.0,
                 up50_starved=0, down50_starved=0, up50_share=0.9, down50_share=0.9, connect_p50=0.3, connect_p99=0.5,
                 connect_failed=0, ping_p50=0.1, ping_p99=0.2, ping_up_p50=0.3, ping_up_p99=0.9, ping_down_p50=0.3,
                 ping_down_p99=0.9, rss_idle=3000, rss_held=3200, held=200, rss_per_stream=1.0, rss_peak_50=6000,
                 cut_recovery=40.0, cut_survives=True, cut_ended=[], other_cores=0.1)
    return {**usual, **changed}


def example(**changed) -> Results:
    about = dict(protection="TLS", sharing="one | many", streams=None)
    return Results(
        command="bench/run", date="2026-01-01", versions={"rathole": "0.5.0"}, settings={"rounds": 2, "seconds": 3.0, "congestion": "cubic"},
        machine={"processor": "A & B <cpu>", "memory": "1 GiB", "system": "Linux", "compiler": "rustc", "python": "3"},
        tunnels={"umbilical": dict(about, kind="ours", encrypted=True), "limit": dict(about, kind="limit", encrypted=True),
                 "peer": dict(about, kind="peer", encrypted=True), "bare": dict(about, kind="peer", encrypted=False)},
        rounds={"umbilical": [figures(**changed), figures(**changed)], "limit": [dict(up1=1000.0, down1=1000.0, up1_cpu=0.8, down1_cpu=0.8)] * 2,
                "peer": [figures(connect_p50=0.5)] * 2, "bare": [figures(up1=5000.0, up1_cpu=0.1, connect_p50=0.01)] * 2},
        sizes={"umbilical": 1 << 20},
        links={"10 Mbit/s": {"umbilical": [dict(idle_p50=1.0, up_over_p50=4.0, up_over_p99=13.0, up_goodput=0.94, down_over_p50=4.0,
                                                down_over_p99=8.0, down_goodput=0.95)], "peer": [dict(idle_p50=1.0)]}})


def word(results: Results, begin: str) -> str:
    return next(one.word for one in goals.judge(results, "umbilical") if one.what.startswith(begin))


class Goals(unittest.TestCase):
    def test_are_reached_at_the_bar_and_not_beside_it(self):
        self.assertEqual(word(example(up1=600.0), "one stream, device to cloud, of the limit"), "reached")
        self.assertEqual(word(example(up1=599.0), "one stream, device to cloud, of the limit"), "falls short")
        self.assertEqual(word(example(up50_share=0.5), "smallest share of 50 streams, device to cloud"), "reached")
        self.assertEqual(word(example(up50_share=0.49), "smallest share of 50 streams, device to cloud"), "falls short")
        self.assertEqual(word(example(rss_idle=4097), "agent, idle"), "falls short")
        self.assertEqual(word(example(), "10 Mbit/s, upload: echo p99"), "falls short")
        self.assertEqual(word(example(), "10 Mbit/s, upload: share"), "reached")

    def test_compare_with_encrypted_peers_alone(self):
        one = next(one for one in goals.judge(example(), "umbilical") if one.what.startswith("new connection"))
        self.assertEqual((one.measured, one.word), ("0.60", "reached"))
        self.assertIn("(peer)", one.what)

    def test_count_one_starved_stream_of_one_round(self):
        results = example()
        results.rounds["umbilical"][1]["up50_starved"] = 1
        self.assertEqual(word(results, "starved of 50 streams, device"), "falls short")

    def test_without_a_figure_are_not_measured(self):
        self.assertEqual(word(example(rss_peak_50=None), "agent, 50 bulk"), "not measured")

    def test_take_the_ratio_within_each_round(self):
        results = example()
        results.rounds["umbilical"] = [figures(up1=100.0), figures(up1=1000.0), figures(up1=700.0)]
        results.rounds["limit"] = [dict(up1=125.0), dict(up1=1250.0), dict(up1=1000.0)]
        self.assertAlmostEqual(results.ratio("umbilical", "limit", "up1"), 0.8)


class Markdown(unittest.TestCase):
    def test_has_every_table_with_as_many_cells_as_its_head(self):
        text = report.render(example(), ["throughput.svg"], "notes.md")
        for title in ("Goals: umbilical", "Throughput", "Fairness", "Latency", "Memory", "The device's connection is cut", "Slow link: 10 Mbit/s"):
            self.assertIn(title, text)
        width = None
        for line in text.splitlines():
            if not line.startswith("|"):
                width = None
                continue
            cells = line.replace("\\|", "").count("|")
            width = width or cells
            self.assertEqual(cells, width, line)
        self.assertIn("one \\| many", text)
        self.assertIn("(notes.md)", text)

    def test_shows_the_span_of_rounds_that_differ(self):
        self.assertEqual(report.several([1.0, 3.0, 2.0]), "2.00 [1.00-3.00]")
        self.assertEqual(report.several([2.0, 2.0]), "2.00")
        self.assertEqual(report.several([None]), "-")

    def test_says_that_a_quick_run_means_nothing(self):
        results = example()
        self.assertNotIn("nothing about speed", report.render(results, []))
        results.settings["quick"] = True
        self.assertIn("nothing about speed", report.render(results, []))


class Plots(unittest.TestCase):
    def test_are_well_formed_and_say_no_answer_where_there_is_none(self):
        drawn = pictures.draw(example())
        self.assertEqual(set(drawn), {"throughput.svg", "processor.svg", "latency.svg", "memory.svg", "slow-link.svg"})
        for svg in drawn.values():
            ElementTree.fromstring(svg)
        self.assertIn("no answer", drawn["slow-link.svg"])
        self.assertIn("A &amp; B &lt;cpu&gt;", drawn["throughput.svg"])

    def test_draw_bars_in_proportion(self):
        svg = ElementTree.fromstring(pictures.draw(example(up1=1250.0))["throughput.svg"])
        widths = [float(rect.get("width")) for rect in svg.iter("{http://www.w3.org/2000/svg}rect")][1:]
        ours, limit, _, bare = widths[:4]
        self.assertAlmostEqual(ours / bare, 0.25, places=2)
        self.assertAlmostEqual(limit / bare, 0.2, places=2)

    def test_draw_the_changing_rate_over_time(self):
        results = example()
        results.scenarios = {"umbilical": [{"timeline": {
            "echo": [(0.1, 2.0), (1.5, 9.0)], "bytes": [(count / 10, count * 100_000) for count in range(30)],
            "rates": [(0.0, 10.0), (1.0, 2.0), (2.0, 10.0)], "seconds": 3.0}}]}
        svg = pictures.draw(results)["changing-rate.svg"]
        ElementTree.fromstring(svg)
        self.assertEqual(svg.count("<circle"), 2)


class Saved(unittest.TestCase):
    def test_results_are_the_same_when_read_again(self):
        import tempfile
        with tempfile.NamedTemporaryFile() as file:
            example().save(file.name)
            again = Results.read(file.name)
        self.assertEqual(report.render(again, []), report.render(example(), []))


if __name__ == "__main__":
    unittest.main()
