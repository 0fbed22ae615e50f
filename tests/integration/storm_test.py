#!/usr/bin/env python3
"""Eight clients submit while the daemon is killed and restarted: every acknowledged job exists, none
twice, and the jobs end. Seen red with request_id ignored.
"""
import json
import os
import random
import subprocess
import time
import unittest

from cluster import BIN, Cluster

CLIENTS = 8
JOBS = int(os.environ.get("NIBBLE_STORM_JOBS", "400"))

SPEC = """
name: "storm" model { width: 16 blocks: 1 heads: 1 mlp_width: 16 }
data { path: "tiny" } training { steps: 1 sequence_length: 16 batch_size: 1 validation_sequences: 1 }
precision { recipe: "bf16" } resources { threads: 1 }
"""


class StormTest(unittest.TestCase):
    def test_submit_while_the_daemon_dies(self):
        seed = int(os.environ.get("NIBBLE_TEST_SEED", random.randrange(1 << 30)))
        print(f"NIBBLE_TEST_SEED={seed} jobs={JOBS}")
        chance = random.Random(seed)
        with Cluster(slots=2) as cluster:
            spec = cluster.directory / "storm.textproto"
            spec.write_text(SPEC)
            started = time.monotonic()
            with open(cluster.directory / "acknowledged", "wb") as output:
                storm = subprocess.Popen([BIN.parent / "test" / "submit_storm", cluster.ports["grpc"],
                                          str(CLIENTS), str(JOBS), spec], stdout=output)
            self.addCleanup(storm.kill)
            kills = 0
            while storm.poll() is None:
                time.sleep(chance.uniform(0.05, 0.4))
                cluster.kill_daemon()
                kills += 1
                cluster.start_daemon()
                if kills >= 10:
                    break
            self.assertEqual(storm.wait(300), 0)
            print(f"{JOBS} jobs acknowledged over {kills} kills in {time.monotonic() - started:.1f} s")
            acknowledged = dict(line.split() for line in
                                (cluster.directory / "acknowledged").read_text().splitlines())
            self.assertEqual(len(acknowledged), JOBS)
            self.assertEqual(len(set(acknowledged.values())), JOBS, "a job was acknowledged twice")
            listed = json.loads(cluster.nibble("list", "--limit", "100000", "-o", "json").stdout)["jobs"]
            names = sorted(job["spec"]["name"] for job in listed)
            self.assertEqual(names, sorted(f"storm-{i}" for i in range(JOBS)))
            self.assertEqual({job["job_id"] for job in listed}, set(acknowledged.values()))
            deadline = time.monotonic() + 0.3 * JOBS + 60
            while time.monotonic() < deadline:
                jobs = json.loads(cluster.nibble("list", "--limit", "100000", "-o", "json").stdout)["jobs"]
                if all(job["state"] == "SUCCEEDED" for job in jobs):
                    break
                time.sleep(1)
            self.assertEqual({job["state"] for job in jobs}, {"SUCCEEDED"})
            print(f"all ended {time.monotonic() - started:.1f} s after the first submission")


if __name__ == "__main__":
    unittest.main()
