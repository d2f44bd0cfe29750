"""The link's arithmetic on virtual time, and the real one between two namespaces, measured against its settings."""
import json
import statistics
import subprocess
import sys
import unittest

import places
import slow_link
from quantiles import percentile
from slow_link import Depth, Direction, Link


def direction(rate=8e6, delay=0.010, loss=0.0, queue="10000B"):
    out = []
    return Direction(Link(rate, delay, loss, Depth(queue)), out.append), out


class Units(unittest.TestCase):
    def test_are_taken_as_written(self):
        self.assertEqual(slow_link.bits_per_second("2.5M"), 2.5e6)
        self.assertAlmostEqual(slow_link.seconds("0.35ms"), 0.00035)
        self.assertEqual(slow_link.share("1%"), 0.01)
        self.assertEqual(Depth("64KiB").bytes_at(1), 65536)
        self.assertEqual(Depth("100ms").bytes_at(50e6), 625_000)

    def test_that_make_no_sense_are_refused(self):
        for parse, text in ((slow_link.bits_per_second, "0"), (slow_link.bits_per_second, "fast"), (slow_link.seconds, "-1s"),
                            (slow_link.seconds, "10"), (slow_link.share, "nan%"), (Depth, "64")):
            with self.assertRaises(ValueError, msg=text):
                parse(text)


class VirtualTime(unittest.TestCase):
    def test_a_packet_takes_its_length_at_the_rate_and_then_the_delay(self):
        way, out = direction()
        way.push(bytes(1000), now=5.0)
        self.assertAlmostEqual(way.next_at(), 5.0 + 0.001 + 0.010)
        way.deliver(5.0109)
        self.assertEqual(out, [])
        way.deliver(5.0111)
        self.assertEqual(len(out), 1)

    def test_a_late_wake_up_moves_no_other_packet(self):
        way, out = direction(queue="100000B")
        for _ in range(10):
            way.push(bytes(1000), now=0.0)
        way.deliver(0.0145)  # the first call after a long sleep: four are due by now, the rest keeps its times
        self.assertEqual(len(out), 4)
        way.deliver(0.0201)
        self.assertEqual(len(out), 10)

    def test_what_does_not_fit_the_queue_is_dropped_and_what_is_sent_does_not_count(self):
        way, out = direction(queue="2000B")
        for _ in range(5):
            way.push(bytes(1000), now=0.0)
        self.assertEqual((way.dropped, way.waiting_bytes), (2, 2000))
        way.push(bytes(1000), now=0.0011)  # one more has begun
        self.assertEqual(way.dropped, 2)
        way.deliver(1.0)
        self.assertEqual(len(out), 4)

    def test_a_new_rate_holds_for_what_has_not_begun(self):
        way, out = direction(delay=0.0)
        for _ in range(3):
            way.push(bytes(1000), now=0.0)
        slow_link.obey("rate 0.8M", way.link, {"a": way})
        way.deliver(0.0011)
        self.assertEqual(len(out), 1)
        way.deliver(0.0109)
        self.assertEqual(len(out), 1)
        way.deliver(0.0111)
        self.assertEqual(len(out), 2)

    def test_down_loses_what_is_under_way_and_up_starts_afresh(self):
        way, out = direction()
        way.push(bytes(1000), now=0.0)
        self.assertEqual(slow_link.obey("down", way.link, {"a": way}), "ok")
        way.push(bytes(1000), now=0.001)
        way.deliver(9.0)
        self.assertEqual((out, way.lost), ([], 2))
        slow_link.obey("up", way.link, {"a": way})
        way.push(bytes(1000), now=10.0)
        way.deliver(10.1)
        self.assertEqual(len(out), 1)

    def test_loss_loses_its_share(self):
        way, out = direction(rate=1e12, delay=0.0, loss=0.25, queue="1000MiB")
        for _ in range(4000):
            way.push(b"x" * 100, now=0.0)
        way.deliver(1.0)
        self.assertAlmostEqual(len(out) / 4000, 0.75, delta=0.05)

    def test_bad_commands_are_answered_and_change_nothing(self):
        way, _ = direction()
        for line in ("rate", "rate 0", "delay soon", "queue 7", "fly"):
            self.assertRegex(slow_link.obey(line, way.link, {"a": way}), "^error: ", line)
        self.assertEqual(way.link.rate, 8e6)


# Run on the sides of the link. Each prints one JSON value.
UDP_SINK = """
import socket, time, json, sys
# SO_RCVBUFFORCE (asm-generic/socket.h): holds all that is sent, however long a busy machine keeps this program waiting
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sink.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
sink.bind((sys.argv[1], 7001)); print("ready", flush=True); sink.settimeout(5); times = []
try:
    while len(times) < int(sys.argv[2]): sink.recv(2000); times.append(time.monotonic()); sink.settimeout(0.5)
except OSError: pass
print(json.dumps(times))
"""
UDP_SOURCE = """
import socket, sys
source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[2])): source.sendto(bytes(1172), (sys.argv[1], 7001))
"""
UDP_ECHO = """
import socket, sys
echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); echo.bind((sys.argv[1], 7002)); print("ready", flush=True)
while True: echo.sendto(*echo.recvfrom(2000))
"""
UDP_PING = """
import socket, sys, time, json
ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); ping.connect((sys.argv[1], 7002)); ping.settimeout(2); took = []
for _ in range(int(sys.argv[2])):
    began = time.monotonic(); ping.send(bytes(72))
    try: ping.recv(2000); took.append(time.monotonic() - began)
    except OSError: took.append(None)
print(json.dumps(took))
"""
TCP_SINK = """
import socket, sys, time, json
listener = socket.create_server((sys.argv[1], 7003)); print("ready", flush=True); s, _ = listener.accept(); got = []
while True:
    n = len(s.recv(65536)); got.append((time.monotonic(), n))
    if not n: break
print(json.dumps(got))
"""
TCP_SOURCE = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 7003)); end = time.monotonic() + 3
while time.monotonic() < end: s.send(bytes(16384))
"""
CONGESTION = """
import socket, json, sys
listener = socket.create_server((sys.argv[1], 0)); s = socket.create_connection(listener.getsockname()); a, _ = listener.accept()
print(json.dumps([x.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode() for x in (s, a)]))
"""


@unittest.skipUnless(places.can_make_namespaces(), "needs root and iproute2, to make network namespaces")
class BetweenNamespaces(unittest.TestCase):
    def setUp(self):
        self.link = places.SlowLink("test", rate="10M", delay="5ms", queue="64KiB")
        self.addCleanup(self.link.__exit__)
        self.a, self.b = slow_link.ADDRESSES["a"], slow_link.ADDRESSES["b"]

    def start(self, side, script, *words):
        child = subprocess.Popen(side.command([sys.executable, "-c", script, *map(str, words)]), stdout=subprocess.PIPE, text=True)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def told(self, side, script, *words):
        return json.loads(subprocess.run(side.command([sys.executable, "-c", script, *map(str, words)]), stdout=subprocess.PIPE,
                                         text=True, check=True, timeout=60).stdout)

    def packets(self, count):
        """Arrival times of back-to-back packets of 1200 bytes with their headers."""
        self.link.command("queue 10MiB")
        sink = self.start(self.link.cloud, UDP_SINK, self.b, count)
        sink.stdout.readline()
        subprocess.run(self.link.device.command([sys.executable, "-c", UDP_SOURCE, self.b, str(count)]), check=True)
        return json.loads(sink.stdout.readline())

    def test_the_rate_of_packets_is_the_rate_of_the_link(self):
        for rate in ("10M", "50M", "2M"):
            self.link.command(f"rate {rate}")
            count = int(slow_link.bits_per_second(rate) * 0.5 / (1200 * 8))
            runs = []
            for _ in range(3):
                times = self.packets(count)
                self.assertGreater(len(times), count * 0.9)
                runs.append((len(times) - 1) * 1200 * 8 / (times[-1] - times[0]))
            # The middle one: a busy machine may keep either program waiting.
            self.assertAlmostEqual(statistics.median(runs) / slow_link.bits_per_second(rate), 1.0, delta=0.03, msg=rate)

    def test_packets_leave_one_by_one_and_not_in_bursts(self):
        times = self.packets(400)
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        # 0.96 ms each at 10 Mbit/s; bursts of one-millisecond ticks would show none and two
        near = sum(0.0006 < gap < 0.0014 for gap in gaps) / len(gaps)
        self.assertGreater(near, 0.8, statistics.quantiles(gaps, n=20))

    def test_a_small_packet_takes_the_delay_twice_and_its_own_time(self):
        echo = self.start(self.link.cloud, UDP_ECHO, self.b)
        echo.stdout.readline()
        for delay in ("5ms", "0.35ms", "20ms"):
            self.link.command(f"delay {delay}")
            # The quicker ones: the two programs share the processors with whatever else runs here.
            took = percentile(self.told(self.link.device, UDP_PING, self.b, 60), 0.1)
            expected = 2 * (slow_link.seconds(delay) + 100 * 8 / 10e6)
            self.assertGreater(took, expected, delay)
            self.assertLess(took, expected + 0.001, delay)

    def test_nothing_passes_while_it_is_down(self):
        echo = self.start(self.link.cloud, UDP_ECHO, self.b)
        echo.stdout.readline()
        self.link.command("down")
        self.assertEqual(self.told(self.link.device, UDP_PING, self.b, 1), [None])
        self.link.command("up")
        self.assertNotIn(None, self.told(self.link.device, UDP_PING, self.b, 3))

    def test_a_tcp_transfer_fills_the_link(self):
        sink = self.start(self.link.device, TCP_SINK, self.a)
        sink.stdout.readline()
        subprocess.run(self.link.cloud.command([sys.executable, "-c", TCP_SOURCE, self.a]), check=True)
        got = json.loads(sink.stdout.readline())
        late = [(at, count) for at, count in got if at > got[0][0] + 0.5]
        rate = sum(count for _, count in late[1:]) * 8 / (late[-1][0] - late[0][0])
        self.assertGreater(rate, 0.90 * 10e6)
        self.assertLess(rate, 0.97 * 10e6)

    def test_tcp_on_it_uses_the_congestion_control_that_was_asked_for(self):
        self.assertEqual(self.told(self.link.device, CONGESTION, "127.0.0.1"), ["cubic", "cubic"])
        route = subprocess.run(["ip", "-n", self.link.cloud.namespace, "route", "show", slow_link.SUBNET], capture_output=True,
                               text=True, check=True).stdout
        self.assertIn("congctl cubic", route)

    def test_it_leaves_nothing_behind(self):
        name = self.link.device.namespace
        self.assertIn(name, subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout)
        self.link.__exit__()
        self.assertNotIn(name, subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    unittest.main()
