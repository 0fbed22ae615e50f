#!/usr/bin/env python3
"""A trainer that is killed, hangs, stops or computes NaN, and a checkpoint that is damaged, under a real
daemon and worker: nothing is lost, and every event is there to read. The parts have been seen red in
worker/agent/safety_test.cc and tests/training/safety_test.cc.
"""
import json
import os
import time
import unittest

from cluster import Cluster, tiny_spec

STEPS = 4000


class SafetyTest(unittest.TestCase):
    def tearDown(self):
        os.environ.pop("NIBBLE_TEST_FAULTS", None)

    def events(self, cluster, job, reason):
        events = json.loads(cluster.nibble("events", job, "-o", "json").stdout)["events"]
        return [e for e in events if e["reason"] == reason]

    def check_end(self, cluster, job, steps, alone=None):
        end = cluster.wait(job, timeout=240)
        self.assertEqual(end["state"], "SUCCEEDED", end)
        self.assertEqual([int(r["step"]) for r in cluster.steps(job)], list(range(1, steps + 1)))
        if alone is not None:
            self.assertEqual(end["result"]["digest"], alone["digest"])
        return end

    def await_step(self, cluster, job, step):
        deadline = time.monotonic() + 60
        while int(cluster.get(job).get("step", 0)) < step:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_a_killed_trainer_goes_on_from_its_snapshot(self):
        with Cluster(slots=1) as cluster:
            # No checkpoint but the last.
            spec = tiny_spec(steps=STEPS, checkpoint=0)
            alone = cluster.train_alone(spec)
            job = cluster.submit(spec)
            cluster.wait(job, ("RUNNING",))
            kills = 0
            for step in (200, 900, 1600):
                self.await_step(cluster, job, step)
                killed = time.time()
                if cluster.kill("nibble-trainer") == 0:
                    break
                kills += 1
                while len(self.events(cluster, job, "TRAINER_RESTARTED")) < kills:
                    self.assertLess(time.time(), killed + 3, "training again within 3 s")
                    time.sleep(0.05)
            self.assertGreater(kills, 0)
            end = self.check_end(cluster, job, STEPS, alone)
            self.assertEqual(str(end["attempt"]), "1")
            self.assertEqual(int(end["failures"]), kills)
            event = self.events(cluster, job, "TRAINER_RESTARTED")[0]
            self.assertIn("signal 9", event["message"])
            self.assertNotIn("goes on from step 0", event["message"])

    def test_a_stopped_trainer_is_found_and_started_again(self):
        os.environ["NIBBLE_TEST_FAULTS"] = "stop:150,hang:300"
        with Cluster(slots=1) as cluster:
            spec = "safety: {hang: restart, hang_seconds: 2}\n" + tiny_spec(steps=600, checkpoint=0)
            job = cluster.submit(spec)
            end = cluster.wait(job, timeout=120)
            hangs = self.events(cluster, job, "TRAINER_HUNG")
            self.assertEqual(end["state"], "SUCCEEDED", (end, hangs))
            self.assertEqual(len(hangs), 2, hangs)
            self.assertIn("stopped by a signal", hangs[0]["message"])
            self.assertIn("after step 149, in phase forward", hangs[0]["message"])
            self.assertEqual(hangs[1]["cause"], "hang:forward")
            self.assertEqual(len(self.events(cluster, job, "TRAINER_RESTARTED")), 2)
            log = cluster.nibble("logs", job).stdout
            self.assertIn(": stopped", log, "what the kernel says of its threads")
            self.assertIn("FaultPlan::BeforeStep", log, "the stack of the thread that hangs")
            self.assertIn("end of the stacks", log)
            os.environ.pop("NIBBLE_TEST_FAULTS")
            self.check_end(cluster, job, 600, cluster.train_alone(spec))

    def test_nan_pauses_and_a_resume_goes_on_without_the_batch(self):
        os.environ["NIBBLE_TEST_FAULTS"] = "nan_loss:30"
        with Cluster(slots=1) as cluster:
            job = cluster.submit(tiny_spec(steps=60, checkpoint=10))
            paused = cluster.wait(job, ("PAUSED", "FAILED", "SUCCEEDED"))
            self.assertEqual((paused["state"], paused["reason"]), ("PAUSED", "GUARD_TRIPPED"), paused)
            self.assertIn("step 31: the loss is not finite", paused["reason_message"])
            self.assertIn("not finite", cluster.nibble("explain", job).stdout)
            events = [e for e in self.events(cluster, job, "GUARD_TRIPPED")
                      if e["cause"] == "guard:non_finite"]
            self.assertEqual(len(events), 3, "found, pausing, paused")
            cluster.nibble("resume", job)
            self.check_end(cluster, job, 60)
            rows = json.loads(cluster.nibble("metrics", job, "--name", "safety/skipped_batches", "-o",
                                             "json").stdout)
            self.assertEqual(int(rows[-1]["step"]), 60)

    def test_what_is_not_reproducible_is_the_hardware(self):
        os.environ["NIBBLE_TEST_FAULTS"] = "flaky:30"
        with Cluster(slots=1) as cluster:
            spec = "restart: {max_failures: 0}\n" + tiny_spec(steps=60, checkpoint=10)
            end = cluster.wait(cluster.submit(spec))
            self.assertEqual((end["state"], end["last_failure"]), ("FAILED", "HARDWARE"), end)

    def test_a_roll_back_is_an_event_and_the_run_goes_on(self):
        os.environ["NIBBLE_TEST_FAULTS"] = "loss_spike:40"
        with Cluster(slots=1) as cluster:
            job = cluster.submit("safety: {loss_spike: rollback, window: 16}\n" +
                                 tiny_spec(steps=60, checkpoint=10))
            self.check_end(cluster, job, 60)
            causes = [e["cause"] for e in self.events(cluster, job, "GUARD_TRIPPED")]
            self.assertEqual(causes.count("guard:loss_spike"), 1, causes)

    def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(self):
        with Cluster(slots=1) as cluster:
            spec = tiny_spec(steps=STEPS, checkpoint=50)
            alone = cluster.train_alone(spec)
            job = cluster.submit(spec)
            self.await_step(cluster, job, 300)
            cluster.nibble("pause", job)
            cluster.wait(job, ("PAUSED",))
            kept = sorted(cluster.directory.glob("state/**/step-*/optimizer.safetensors"),
                          key=lambda f: int(f.parent.name.split("-")[1]))
            self.assertEqual(len(kept), 2, kept)
            contents = bytearray(kept[-1].read_bytes())
            contents[len(contents) // 2] ^= 1
            kept[-1].write_bytes(contents)
            cluster.nibble("resume", job)
            self.check_end(cluster, job, STEPS, alone)
            events = self.events(cluster, job, "CHECKPOINT_QUARANTINED")
            self.assertEqual(len(events), 1, events)
            self.assertIn(kept[-1].parent.name, events[0]["message"])
            self.assertTrue(kept[-1].parent.with_suffix(".damaged").is_dir())


if __name__ == "__main__":
    unittest.main()
