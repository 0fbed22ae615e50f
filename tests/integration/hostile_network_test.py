#!/usr/bin/env python3
"""Connections that mean harm, against a real daemon: meanwhile honest clients, on connections new and
old, are served within bounds, and the daemon's memory stays bounded.
"""
import os
import statistics
import threading
import time
import unittest

from cluster import Cluster
import raw_api
from raw_api import Refusal, field, grpc
import raw_http2 as h2

MEMORY_LIMIT = 512 << 20
# One call may meet a connection that is shut in its face and tried again (gRPC waits a second).
SLOWEST_CALL_SECONDS = 5.0
# The attacks share two cores with the daemon and its honest clients.
MEDIAN_CALL_SECONDS = 0.5
LIST = "/nibble.v1.TrainingService/ListJobs"


def resident_bytes(pid, what="VmRSS"):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(what + ":"):
                return int(line.split()[1]) << 10
    raise AssertionError(f"no {what}")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class HonestClients:
    """Lists jobs again and again, on a connection kept open and on one made for each call, and
    notes how long each call took."""

    def __init__(self, cluster):
        self.address = cluster.ports["grpc"]
        self.pid = cluster.daemon.pid
        self.seconds = {"kept": [], "new": []}
        self.errors = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(kind,)) for kind in self.seconds]

    def channel(self):
        return grpc.insecure_channel(self.address, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000), ("grpc.max_reconnect_backoff_ms", 1000)])

    def run(self, kind):
        kept = self.channel() if kind == "kept" else None
        while not self.stop.is_set():
            channel = kept or self.channel()
            started = time.monotonic()
            try:
                channel.unary_unary(LIST)(b"", timeout=30, wait_for_ready=True)
            except grpc.RpcError as error:
                self.errors.append(f"{kind}: {error.code().name} {error.details()}")
            self.seconds[kind].append(time.monotonic() - started)
            if kept is None:
                channel.close()
            self.stop.wait(0.05)
        if kept is not None:
            kept.close()

    def __enter__(self):
        self.cpu = cpu_seconds(self.pid)
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *unused):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def check(self, test, name):
        peak = resident_bytes(test.cluster.daemon.pid, "VmHWM")
        print(f"{name}: " + ", ".join(
            f"{len(s)} calls on {kind} connections, median {statistics.median(s) * 1e3:.1f} ms, "
            f"slowest {max(s) * 1e3:.0f} ms" for kind, s in self.seconds.items()) +
            f"; daemon: {peak >> 20} MiB at its peak, "
            f"{cpu_seconds(self.pid) - self.cpu:.1f} CPU s", flush=True)
        test.assertEqual(self.errors, [])
        for kind, seconds in self.seconds.items():
            test.assertGreater(len(seconds), 3, kind)
            test.assertLess(statistics.median(seconds), MEDIAN_CALL_SECONDS, kind)
            test.assertLess(max(seconds), SLOWEST_CALL_SECONDS, kind)
        test.assertLess(peak, MEMORY_LIMIT)
        test.assertIsNone(test.cluster.daemon.poll())


@unittest.skipUnless(raw_api.AVAILABLE, raw_api.WHY_NOT)
class HostileNetworkTest(unittest.TestCase):
    def setUp(self):
        self.open = []

    def start(self, **options):
        self.cluster = Cluster(local_worker=False, **options)
        self.enterContext(self.cluster) if hasattr(self, "enterContext") else self.addCleanup(
            self.cluster.__exit__, None, None, None)
        if self.cluster.daemon is None:
            self.cluster.__enter__()
        self.address = self.cluster.ports["grpc"]

    def tearDown(self):
        for connection in self.open:
            connection.close()

    def connect(self):
        connection = h2.connect(self.address)
        self.open.append(connection)
        return connection

    # ---- descriptors ----

    def test_idle_connections_use_up_the_descriptors(self):
        for greet in (False, True):
            with self.subTest(greet=greet):
                self.start(daemon_prefix=["prlimit", "--nofile=64:64"])
                with HonestClients(self.cluster) as honest:
                    time.sleep(0.3)
                    for _ in range(60):
                        connection = self.connect()
                        if greet:
                            h2.greet(connection)
                        time.sleep(0.01)
                    time.sleep(5)
                honest.check(self, f"60 idle connections (greeted: {greet}), 64 descriptors")

    # ---- headers ----

    def flood_headers(self, first, pieces, name):
        self.start()
        with HonestClients(self.cluster) as honest:
            time.sleep(0.3)
            connection = self.connect()
            h2.greet(connection)
            connection.sendall(first)
            sent, closed = h2.send_until_refused(connection, pieces, 8)
            time.sleep(0.5)
        honest.check(self, f"{name}: {sent >> 10} KiB sent, closed: {closed}")
        self.assertTrue(closed, "the flooding connection is still open")
        self.assertLess(sent, 8 << 20, "the daemon read the flood to its end")
        self.assertLess(cpu_seconds(self.cluster.daemon.pid) - honest.cpu, 3)

    def test_one_endless_header(self):
        start = h2.call_headers() + b"\0" + h2.integer(1, 7) + b"x" + h2.integer(10 << 20, 7)
        self.flood_headers(h2.frame(h2.HEADERS, start, stream=1),
                           [h2.frame(h2.CONTINUATION, b"a" * 16384, stream=1)] * 640, "one header of 10 MB")

    def test_many_headers(self):
        many = b"".join(h2.header(f"x-{i}", "v" * 20) for i in range(500))
        self.flood_headers(h2.frame(h2.HEADERS, h2.call_headers(), stream=1),
                           [h2.frame(h2.CONTINUATION, many[:16384], stream=1)] * 640, "10 MB of headers")

    def test_empty_continuations_without_end(self):
        self.flood_headers(h2.frame(h2.HEADERS, h2.call_headers(), stream=1),
                           [h2.frame(h2.CONTINUATION, b"", stream=1) * 10_000] * 120, "a million empty frames")

    # ---- messages ----

    def test_two_million_empty_fields(self):
        self.start()
        api = raw_api.Api(self.address)
        request = field(1, field(5, b"")) * 2_000_000
        with HonestClients(self.cluster) as honest:
            for _ in range(5):
                answer = api.call("TrainingService/SubmitJob", request)
                self.assertIsInstance(answer, Refusal)
                self.assertEqual(answer.code, "RESOURCE_EXHAUSTED", answer)
                fits = field(1, field(5, b"")) * 60_000  # within the size, beyond the number
                self.assertEqual(api.call("TrainingService/SubmitJob", fits).code, "RESOURCE_EXHAUSTED")
            time.sleep(0.5)
        api.close()
        honest.check(self, "2 million empty fields, 5 times")

    def test_oversized_messages(self):
        self.start()
        with HonestClients(self.cluster) as honest:
            apis = [raw_api.Api(self.address) for _ in range(4)]
            threads = [threading.Thread(
                target=lambda api=api: [api.call("WorkerService/AppendMetrics", b"x" * (32 << 20))
                                        for _ in range(3)]) for api in apis]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            # A message that says it has 4 GiB, on 100 streams.
            connection = self.connect()
            h2.greet(connection)
            for stream in range(1, 201, 2):
                connection.sendall(
                    h2.frame(h2.HEADERS, h2.call_headers("/nibble.v1.WorkerService/AppendMetrics"),
                             h2.END_HEADERS, stream) +
                    h2.frame(h2.DATA, b"\0\xff\xff\xff\xff" + b"x" * 400, 0, stream))
            time.sleep(1)
            for api in apis:
                api.close()
        honest.check(self, "12 messages of 32 MiB and 100 of 4 GiB")

    # ---- slowness and numbers ----

    def test_slow_loris(self):
        self.start()
        connections = [self.connect() for _ in range(300)]
        begun = h2.PREFACE + h2.frame(h2.SETTINGS) + h2.frame(h2.HEADERS, h2.call_headers(), 0, 1)
        closed = set()
        with HonestClients(self.cluster) as honest:
            end = time.monotonic() + 14
            byte = 0
            while time.monotonic() < end:
                for i, connection in enumerate(connections):
                    # A third drips its greeting, a third headers without end, the rest says nothing.
                    data = [h2.PREFACE[byte:byte + 1] if byte < 23 else b"",
                            begun if byte == 0 else h2.frame(h2.CONTINUATION, b"", 0, 1), b""][i % 3]
                    try:
                        connection.send(data)
                    except OSError:
                        closed.add(i)
                byte += 1
                time.sleep(0.5)
            closed |= {i for i, c in enumerate(connections) if i not in closed and h2.is_closed(c, 0.01)}
        honest.check(self, f"300 slow connections, {len(closed)} closed after 14 s")
        self.assertEqual(len(closed), 300)

    def test_streams_opened_and_reset(self):
        self.start()
        with HonestClients(self.cluster) as honest:
            connection = self.connect()
            h2.greet(connection)
            pieces = (b"".join(
                h2.frame(h2.HEADERS, h2.call_headers(), h2.END_HEADERS, stream) +
                h2.frame(h2.RST_STREAM, b"\0\0\0\x08", 0, stream)
                for stream in range(first, first + 200, 2)) for first in range(1, 400_000, 200))
            sent, closed = h2.send_until_refused(connection, pieces, 8)
            time.sleep(0.5)
        honest.check(self, f"200,000 streams opened and reset: {sent >> 10} KiB sent, closed: {closed}")
        self.assertTrue(closed)

    def test_streams_left_open(self):
        self.start()
        with HonestClients(self.cluster) as honest:
            for _ in range(4):
                connection = self.connect()
                h2.greet(connection)
                # More than one connection may have; without an end, and with a part of a message.
                connection.sendall(b"".join(
                    h2.frame(h2.HEADERS, h2.call_headers(), h2.END_HEADERS, stream) +
                    h2.frame(h2.DATA, b"\0\0\0\4\0xx", 0, stream) for stream in range(1, 1025, 2)))
            watches = raw_api.Api(self.address)
            calls = [watches.channel.unary_stream("/nibble.v1.TrainingService/WatchJobs")(b"", timeout=60)
                     for _ in range(2000)]
            time.sleep(2)
            for call in calls:
                call.cancel()
            watches.close()
        honest.check(self, "2,048 half-open and 2,000 watching streams")

    def test_control_frames_without_end(self):
        for kind, payload in [(h2.PING, b"12345678"), (h2.SETTINGS, b"")]:
            with self.subTest(kind=kind):
                self.start()
                with HonestClients(self.cluster) as honest:
                    connection = self.connect()
                    h2.greet(connection)
                    pieces = [h2.frame(kind, payload) * 1000] * 2000
                    sent, closed = h2.send_until_refused(connection, pieces, 6)
                    time.sleep(0.3)
                honest.check(self, f"2 million frames of kind {kind}: {sent >> 10} KiB sent, closed: {closed}")
                self.assertTrue(closed)


if __name__ == "__main__":
    unittest.main()
