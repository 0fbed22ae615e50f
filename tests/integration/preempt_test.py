#!/usr/bin/env python3
"""One slot, two jobs: the urgent one makes the other checkpoint and give its slot back, which goes on
afterwards to the weights of an undisturbed run. And what waits says why.
"""
import json
import subprocess
import time
import unittest

from cluster import BIN, Cluster, tiny_spec

STEPS = 3000
SCHEDULING = "min_run_seconds: 1\npause_grace_seconds: 60\nprojects:\n  - {name: lm, weight: 2}\n"


class PreemptTest(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(slots=1)
        (self.cluster.directory / "projects.yaml").write_text(SCHEDULING)
        self.cluster.daemon_flags += ["--projects", self.cluster.directory / "projects.yaml"]
        self.cluster.__enter__()

    def tearDown(self):
        self.cluster.__exit__(None, None, None)

    def explain(self, job):
        return json.loads(self.cluster.nibble("explain", job, "-o", "json").stdout)

    def test_a_preempted_job_ends_as_if_undisturbed(self):
        cluster = self.cluster
        # No checkpoint but those that it is asked for.
        spec = tiny_spec(name="victim", steps=STEPS, checkpoint=0)
        alone = cluster.train_alone(spec)
        victim = cluster.submit(spec)
        cluster.wait(victim, ("RUNNING",))
        time.sleep(1.5)  # its guaranteed time
        urgent = cluster.submit("priority: 10\n" + tiny_spec(name="urgent", steps=50))
        self.assertEqual(cluster.wait(urgent)["state"], "SUCCEEDED")
        end = cluster.wait(victim, timeout=300)
        self.assertEqual(end["state"], "SUCCEEDED", end)
        self.assertEqual(end["result"]["digest"], alone["digest"])
        self.assertGreaterEqual(end.get("preemptions", 0), 1, "it was done before it was preempted")
        self.assertEqual(end["attempt"], "2" if isinstance(end["attempt"], str) else 2)
        self.assertEqual([int(r["step"]) for r in cluster.steps(victim)], list(range(1, STEPS + 1)))
        events = json.loads(cluster.nibble("events", victim, "-o", "json").stdout)["events"]
        causes = [e.get("cause", "") for e in events if e["reason"] == "JOB_PREEMPTED"]
        self.assertIn(f"job:{urgent}", causes)

    def test_what_waits_says_why_and_a_drained_worker_gets_nothing(self):
        cluster = self.cluster
        first = cluster.submit(tiny_spec(steps=100000, checkpoint=0))
        cluster.wait(first, ("RUNNING",))
        second = cluster.submit("project: lm\n" + tiny_spec(name="second", steps=10))
        why = self.explain(second)
        self.assertEqual(why["reasons"][0]["code"], "SLOTS_BUSY", why)
        self.assertEqual(why["holders"][0]["job_id"], first)
        cluster.nibble("workers", "drain", "local", "--reason", "a test")
        cluster.kill_daemon()
        cluster.start_daemon()
        cluster.nibble("cancel", first)
        cluster.wait(first)
        self.assertEqual(self.explain(second)["reasons"][0]["code"], "WORKERS_CLOSED")
        self.assertIn("DRAINED", cluster.nibble("workers").stdout)
        self.assertIn("lm", cluster.nibble("projects").stdout)
        cluster.nibble("update", second, "--priority", "7", "--label", "a=b")
        self.assertEqual(cluster.get(second)["spec"]["priority"], 7)
        refused = cluster.nibble("submit", "-", input="project: other\n" + tiny_spec(), check=False)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("project", refused.stderr)
        cluster.nibble("workers", "undrain", "local")
        self.assertEqual(cluster.wait(second)["state"], "SUCCEEDED")

    def test_state_is_copied_while_serving_and_both_verify(self):
        cluster = self.cluster
        job = cluster.submit(tiny_spec(steps=30))
        cluster.wait(job)
        state = cluster.directory / "state"
        run = lambda *flags: subprocess.run([BIN / "nibbled", *map(str, flags)], capture_output=True,
                                            text=True, timeout=60)
        copied = run("--state-dir", state, "--backup", "one")
        self.assertEqual(copied.returncode, 0, copied.stderr)
        self.assertEqual(copied.stdout.strip(), str(state / "backups" / "one"))
        self.assertNotEqual(run("--state-dir", state, "--backup", "one").returncode, 0)
        checked = run("--check", state / "backups" / "one")
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertIn("1 jobs", checked.stdout)
        busy = run("--check", state)
        self.assertEqual(busy.returncode, 1)
        self.assertIn("in use", busy.stderr)
        second = run("--state-dir", state, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
        self.assertEqual(second.returncode, 1)
        self.assertIn("in use", second.stderr)
        cluster.stop_daemon()
        checked = run("--check", state)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)


if __name__ == "__main__":
    unittest.main()
