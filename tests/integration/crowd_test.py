#!/usr/bin/env python3
"""A thousand workers, each holding a job, lose the daemon at one moment and come back at once: all
are back in 30 s, none loses its lease, and the daemon stays small and answers others meanwhile.
"""
import json
import os
import subprocess
import time
import unittest

from cluster import BIN, Cluster

WORKERS = int(os.environ.get("NIBBLE_CROWD", "1000"))
JOBS = 200
BACK_SECONDS = 30
MEMORY_LIMIT = 512 << 20
SPEC = """
name: "crowd" model { width: 16 blocks: 1 heads: 1 mlp_width: 16 }
data { path: "tiny" } training { steps: 1 sequence_length: 16 batch_size: 1 }
precision { recipe: "bf16" } resources { threads: 1 }
"""


def resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


class CrowdTest(unittest.TestCase):
    def wait_for(self, crowd, what, patience):
        """The crowd's line of counts for which `what` holds, and the seconds it took."""
        started = time.monotonic()
        while True:
            counts = json.loads(crowd.stdout.readline())
            took = time.monotonic() - started
            if what(counts):
                return counts, took
            self.assertLess(took, patience, counts)

    def running(self, cluster):
        listed = json.loads(cluster.nibble("list", "--state", "running", "--limit", "1000", "-o", "json").stdout)
        return {job["job_id"]: int(job["attempt"]) for job in listed["jobs"]}

    def test_all_come_back_and_no_lease_is_lost(self):
        with Cluster(local_worker=False) as cluster:
            crowd = subprocess.Popen([BIN.parent / "test" / "worker_crowd", cluster.ports["grpc"],
                                      str(WORKERS), "1", "0", "300"], stdout=subprocess.PIPE, text=True)
            try:
                _, first = self.wait_for(crowd, lambda c: c["online"] == WORKERS, 60)
                spec = cluster.directory / "crowd.textproto"
                spec.write_text(SPEC)
                subprocess.run([BIN.parent / "test" / "submit_storm", cluster.ports["grpc"], "8", str(JOBS), spec],
                               check=True, stdout=subprocess.DEVNULL, timeout=120)
                deadline = time.monotonic() + 30
                while len(before := self.running(cluster)) < JOBS:
                    self.assertLess(time.monotonic(), deadline, f"{len(before)} of {JOBS} jobs run")
                    time.sleep(0.2)
                cluster.kill_daemon()
                cluster.start_daemon()
                slowest = 0.0

                def back(counts):
                    nonlocal slowest
                    started = time.monotonic()
                    cluster.nibble("list", "--limit", "10")
                    slowest = max(slowest, time.monotonic() - started)
                    return counts["registrations"] >= 2 * WORKERS and counts["online"] == WORKERS
                counts, took = self.wait_for(crowd, back, BACK_SECONDS)
                memory = resident_bytes(cluster.daemon.pid)
                print(f"{WORKERS} workers online in {first:.1f} s, back in {took:.1f} s after kill -9; daemon "
                      f"{memory >> 20} MiB at its peak; slowest `nibble list` meanwhile {slowest * 1e3:.0f} ms; "
                      f"{counts}", flush=True)
                # A term and a half: whose lease was lost would show as another attempt.
                time.sleep(20)
                counts, _ = self.wait_for(crowd, lambda c: True, 5)
                self.assertEqual(self.running(cluster), before)
                self.assertEqual(counts["stale"], 0)
                self.assertEqual(counts["online"], WORKERS)
                self.assertLess(resident_bytes(cluster.daemon.pid), MEMORY_LIMIT)
                self.assertLess(slowest, 5)
            finally:
                crowd.kill()
                crowd.wait()
                crowd.stdout.close()


if __name__ == "__main__":
    unittest.main()
