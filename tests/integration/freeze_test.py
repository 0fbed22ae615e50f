#!/usr/bin/env python3
"""A worker is frozen past its lease, another takes its job, and it wakes: what it says then counts for
nothing, its trainers die, and the job ends with the weights of an undisturbed run.
"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
import unittest

from cluster import BIN, Cluster, tiny_spec

STEPS = 4000


class FreezeTest(unittest.TestCase):
    def start_worker(self, cluster, name):
        process = subprocess.Popen(
            [BIN / "nibble-worker", "--daemon", cluster.ports["grpc"], "--worker-id", name, "--work-dir",
             cluster.directory / name, "--data-dir", cluster.data],
            stdout=cluster.log, stderr=cluster.log, stdin=subprocess.DEVNULL)
        self.workers.append(process)
        return process

    @staticmethod
    def trainers_of(worker):
        trainers = []
        for task in pathlib.Path(f"/proc/{worker.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
                for pid in (task / "children").read_text().split():
                    if "nibble-trainer" in os.readlink(f"/proc/{pid}/exe"):
                        trainers.append(int(pid))
        return trainers

    def freeze_and_wake(self, with_trainer):
        self.workers = []
        with Cluster(local_worker=False, daemon_flags=["--lease-term", "2"]) as cluster:
            try:
                spec = tiny_spec(steps=STEPS, checkpoint=50)
                alone = cluster.train_alone(spec)
                first = self.start_worker(cluster, "first")
                job = cluster.submit(spec)
                cluster.wait(job, ("RUNNING",))
                deadline = time.monotonic() + 60
                while not self.checkpoints(cluster, job):
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
                trainers = self.trainers_of(first)
                self.assertEqual(len(trainers), 1)
                frozen = [first.pid] + (trainers if with_trainer else [])
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
                second = self.start_worker(cluster, "second")
                deadline = time.monotonic() + 30
                while not (cluster.get(job)["state"] == "RUNNING" and int(cluster.get(job)["attempt"]) == 2):
                    self.assertLess(time.monotonic(), deadline, "no other worker took the job")
                    time.sleep(0.05)
                before = {(r["step"], r["sequence"] if "sequence" in r else "") for r in self.rows(cluster, job, 1)}
                of_first = self.checkpoints(cluster, job, 1)
                for pid in frozen:
                    os.kill(pid, signal.SIGCONT)
                deadline = time.monotonic() + 10
                while self.trainers_of(first):
                    self.assertLess(time.monotonic(), deadline, "the old trainer still runs")
                    time.sleep(0.05)
                end = cluster.wait(job)
                self.assertEqual((end["state"], int(end["attempt"])), ("SUCCEEDED", 2), end)
                self.assertEqual(end["result"]["digest"], alone["digest"])
                self.assertEqual([int(r["step"]) for r in cluster.steps(job)], list(range(1, STEPS + 1)))
                after = {(r["step"], r["sequence"] if "sequence" in r else "") for r in self.rows(cluster, job, 1)}
                self.assertLessEqual(after, before, "metrics of the old attempt were taken")
                late = [c for c in self.checkpoints(cluster, job, 1) if c not in of_first]
                self.assertEqual(late, [], "a checkpoint of the old attempt was taken")
                events = json.loads(cluster.nibble("events", job, "-o", "json").stdout)["events"]
                self.assertEqual(max(int(e["attempt"]) for e in events), 2)
                self.assertIsNone(first.poll(), "a woken worker goes on working")
                self.assertIsNone(second.poll())
            finally:
                for worker in self.workers:
                    os.kill(worker.pid, signal.SIGCONT)
                    worker.terminate()
                for worker in self.workers:
                    worker.wait(30)

    def checkpoints(self, cluster, job, attempt=None):
        found = json.loads(cluster.nibble("checkpoints", job, "-o", "json").stdout)
        found = found["checkpoints"] if isinstance(found, dict) else found
        return [c for c in found if attempt is None or int(c["attempt"]) == attempt]

    def rows(self, cluster, job, attempt):
        rows = json.loads(cluster.nibble("metrics", job, "--name", "loss", "-o", "json").stdout)
        return [r for r in rows if int(r.get("attempt", 0)) == attempt]

    def test_worker_and_trainer_freeze(self):
        self.freeze_and_wake(with_trainer=True)

    def test_only_the_worker_freezes(self):
        self.freeze_and_wake(with_trainer=False)


if __name__ == "__main__":
    unittest.main()
