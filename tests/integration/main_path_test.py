#!/usr/bin/env python3
"""Submit, schedule, train, record, finish: the whole system as a user drives it.

Seen red (pause and resume) with a data position one step too far after a checkpoint is loaded.
"""
import json
import time
import unittest
import urllib.request

from cluster import Cluster, tiny_spec


class MainPathTest(unittest.TestCase):
    def test_a_job_trains_and_its_records_are_complete(self):
        with Cluster() as cluster:
            spec = tiny_spec(steps=60)
            job = cluster.wait(cluster.submit(spec))
            self.assertEqual(job["state"], "SUCCEEDED", job)
            # The daemon's way changes nothing: the same bits as the trainer alone.
            alone = cluster.train_alone(spec)
            self.assertEqual(job["result"]["digest"], alone["digest"])
            rows = cluster.steps(job["job_id"])
            self.assertEqual([int(r["step"]) for r in rows], list(range(1, 61)))
            self.assertLess(rows[-1]["loss"], rows[0]["loss"])
            checkpoints = json.loads(
                cluster.nibble("checkpoints", job["job_id"], "-o", "json").stdout)["checkpoints"]
            self.assertEqual([int(c["step"]) for c in checkpoints], [60, 50])
            events = json.loads(cluster.nibble("events", job["job_id"], "-o", "json").stdout)["events"]
            self.assertEqual([e["after"] for e in events],
                             ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"])
            self.assertIn("nvfp4", cluster.nibble("get", job["job_id"]).stdout)
            # The newest checkpoint is used by the job's name, and is the directory that is listed.
            by_name = cluster.nibble("generate", job["spec"]["name"], "--prompt", "a", "-o", "ids",
                                     "--max-tokens", 4, "--ignore-end").stdout
            by_path = cluster.nibble("generate", checkpoints[0]["path"], "--prompt=a", "-o", "ids",
                                     "--max-tokens=4", "--ignore-end").stdout
            self.assertEqual(len(by_name.split()), 4)
            self.assertEqual(by_name, by_path)
            self.assertEqual(cluster.nibble("generate", "no-such-job", check=False).returncode, 3)

    def test_jobs_run_at_once_on_their_slots_and_show_on_metrics(self):
        with Cluster(slots=2) as cluster:
            jobs = [cluster.submit(tiny_spec(name=f"job-{i}", steps=3000, checkpoint=0))
                    for i in range(3)]
            for job in jobs[:2]:
                cluster.wait(job, ("RUNNING",))
            self.assertEqual(cluster.get(jobs[2])["state"], "QUEUED")
            deadline = time.monotonic() + 30
            while True:
                page = urllib.request.urlopen(
                    f"http://{cluster.ports['metrics']}/metrics", timeout=5).read().decode()
                if page.count("\nnibble_job_loss{") == 2 or time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            self.assertEqual(page.count("\nnibble_job_loss{"), 2, page)
            self.assertRegex(page, r'nibble_jobs\{[^}]*state="QUEUED"[^}]*\} 1')
            self.assertRegex(page, r'nibble_jobs\{[^}]*state="RUNNING"[^}]*\} 2')
            for job in jobs:
                cluster.nibble("cancel", job)
                self.assertEqual(cluster.wait(job)["state"], "CANCELLED")
            self.assertEqual(cluster.processes("nibble-trainer"), [])

    def test_pause_and_resume_give_the_undisturbed_digest(self):
        with Cluster() as cluster:
            spec = tiny_spec(steps=400, checkpoint=0)
            alone = cluster.train_alone(spec)
            job = cluster.submit(spec)
            cluster.wait(job, ("RUNNING",))
            cluster.nibble("pause", job)
            paused = cluster.wait(job, ("PAUSED", "SUCCEEDED"))
            self.assertEqual(paused["state"], "PAUSED", "the job was too short to be paused")
            self.assertEqual(cluster.processes("nibble-trainer"), [])
            cluster.nibble("resume", job)
            done = cluster.wait(job)
            self.assertEqual(done["result"]["digest"], alone["digest"])
            self.assertEqual([int(r["step"]) for r in cluster.steps(job)], list(range(1, 401)))

    def test_two_daemons_on_one_state_directory(self):
        with Cluster() as cluster:
            first = cluster.daemon
            cluster.ports = {}
            with self.assertRaisesRegex(AssertionError, "nibbled ended"):
                cluster.start_daemon()
            cluster.daemon = first


if __name__ == "__main__":
    unittest.main()
