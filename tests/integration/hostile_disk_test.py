#!/usr/bin/env python3
"""What the daemon does when its disk fills up, breaks or rots, when the wall clock jumps by ten years,
and when a second daemon wants its directory: rules R4 and R7 of the design.
"""
import json
import os
import pathlib
import random
import sqlite3
import subprocess
import time
import unittest

from cluster import BIN, Cluster, tiny_spec

TEN_YEARS = 10 * 365 * 24 * 3600
LIBRARY = BIN.parent / "test" / "libsurroundings.so"


class World(Cluster):
    """A cluster whose daemon (and only it) has a disk and a clock that this test commands."""

    def __init__(self, **options):
        super().__init__(**options)
        self.surroundings = self.directory / "surroundings"
        self.surroundings.mkdir()
        self.daemon_prefix = ["env", f"LD_PRELOAD={LIBRARY}", f"NIBBLE_SURROUNDINGS={self.surroundings}",
                              f"NIBBLE_SURROUNDINGS_DISK={self.state}/"]

    def set(self, what, value=""):
        path = self.surroundings / f"new-{what}"
        path.write_text(value)
        path.rename(self.surroundings / what)

    def clear(self, what):
        (self.surroundings / what).unlink()

    def log_text(self):
        self.log.flush()
        return (self.directory / "nibbled.log").read_text(errors="replace")

    def sql(self, database, statement, *parameters):
        """On a database that no daemon has open."""
        with sqlite3.connect(self.state / database) as connection:
            rows = connection.execute(statement, parameters).fetchall()
        connection.close()
        return rows


class HostileDiskTest(unittest.TestCase):
    def refused(self, cluster, spec):
        result = cluster.nibble("submit", "-", input=spec, check=False)
        return result.returncode != 0, result.stderr

    def test_full_disk_refuses_and_recovers_unaided(self):
        with World(slots=1, daemon_flags=["--lease-term", "3"]) as cluster:
            # Long enough to train through it all.
            job = cluster.submit(tiny_spec("long", steps=4000, checkpoint=200))
            kept = [cluster.submit(tiny_spec(f"before-{i}", steps=10)) for i in range(5)]
            cluster.wait(job, ("RUNNING",))
            cluster.set("full")
            for attempt in range(4):
                failed, why = self.refused(cluster, tiny_spec("refused", steps=10))
                self.assertTrue(failed, "a submission was taken that the disk does not hold")
                self.assertIn("full", why)
                for known in kept + [job]:  # reads go on
                    cluster.get(known)
                cluster.nibble("list")
                cluster.nibble("workers")
                time.sleep(1)  # four seconds in all: longer than a lease
            self.assertIsNone(cluster.daemon.poll())
            state = cluster.get(job)
            self.assertEqual((state["state"], str(state["attempt"])), ("RUNNING", "1"), "a healthy lease was lost")
            cluster.clear("full")
            deadline = time.monotonic() + 20
            while self.refused(cluster, tiny_spec("after", steps=10))[0]:
                self.assertLess(time.monotonic(), deadline, "it does not recover by itself")
                time.sleep(0.2)
            end = cluster.wait(job)
            self.assertEqual((end["state"], str(end["attempt"])), ("SUCCEEDED", "1"), end)
            self.assertEqual([int(row["step"]) for row in cluster.steps(job)], list(range(1, 4001)))
            for known in kept:
                self.assertEqual(cluster.wait(known)["state"], "SUCCEEDED")
            listed = json.loads(cluster.nibble("list", "--limit", "100", "-o", "json").stdout)["jobs"]
            self.assertEqual([j["spec"]["name"] for j in listed if j["spec"]["name"] == "refused"], [])

    def test_a_real_small_disk(self):
        """The same on a file system of its own, where one may be made."""
        directory = pathlib.Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True).stdout.strip())
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", directory],
                                 capture_output=True, check=False).returncode == 0
        if not mounted:
            directory.rmdir()
            self.skipTest("may not mount a file system")
        try:
            with World(local_worker=False, state_directory=directory / "state") as cluster:
                known, full = [], False
                for i in range(3000):
                    result = cluster.nibble("submit", "-", input=tiny_spec(f"fill-{i}", steps=10), check=False)
                    if result.returncode != 0:
                        self.assertIn("full", result.stderr)
                        full = True
                        break
                    known.append(result.stdout.split()[0])
                    if i == 20:
                        (directory / "ballast").write_bytes(b"x" * (os.statvfs(directory).f_bavail * 4096 - (256 << 10)))
                self.assertTrue(full, "3,000 jobs did not fill 3 MB")
                self.assertEqual(cluster.get(known[0])["state"], "QUEUED")
                cluster.kill_daemon()  # and it starts again on the full disk, or says why not
                (directory / "ballast").unlink()
                cluster.start_daemon()
                cluster.submit(tiny_spec("after", steps=10))
                for job in known:
                    self.assertEqual(cluster.get(job)["state"], "QUEUED")
        finally:
            subprocess.run(["umount", directory], check=True)
            directory.rmdir()

    def test_eio_on_fsync_ends_the_daemon(self):
        with World(slots=1) as cluster:
            job = cluster.submit(tiny_spec("long", steps=3000, checkpoint=100))
            cluster.wait(job, ("RUNNING",))
            cluster.set("eio")
            failed, _ = self.refused(cluster, tiny_spec("unacknowledged", steps=10))
            self.assertTrue(failed)
            self.assertEqual(cluster.daemon.wait(20), 74)
            cluster.clear("eio")
            cluster.start_daemon()
            end = cluster.wait(job)
            self.assertEqual((end["state"], str(end["attempt"])), ("SUCCEEDED", "1"), end)
            self.assertEqual([int(row["step"]) for row in cluster.steps(job)], list(range(1, 3001)))

    def test_wall_clock_jumps_ten_years(self):
        for seconds in (TEN_YEARS, -TEN_YEARS):
            with self.subTest(seconds=seconds), World(slots=1, daemon_flags=["--lease-term", "3"]) as cluster:
                job = cluster.submit(tiny_spec("long", steps=2500, checkpoint=100))
                cluster.wait(job, ("RUNNING",))
                cluster.set("clock", str(seconds))
                time.sleep(4)  # longer than a lease
                second = cluster.submit(tiny_spec("second", steps=5))
                end = cluster.wait(job)
                self.assertEqual((end["state"], str(end["attempt"])), ("SUCCEEDED", "1"), end)
                self.assertEqual(cluster.wait(second)["state"], "SUCCEEDED")
                year = int(cluster.get(second)["createTime" if "createTime" in end else "create_time"][:4])
                self.assertEqual(abs(year - time.gmtime().tm_year) > 8, True, "the clock did not jump")
                self.assertNotIn("alert", cluster.log_text())
                # And a restart with the clock put right again.
                cluster.kill_daemon()
                cluster.clear("clock")
                cluster.start_daemon()
                third = cluster.submit(tiny_spec("third", steps=5))
                self.assertEqual(cluster.wait(third)["state"], "SUCCEEDED")

    def test_a_second_daemon_exits_at_once(self):
        with World(local_worker=False) as cluster:
            started = time.monotonic()
            second = subprocess.run([BIN / "nibbled", "--listen", "127.0.0.1:0", "--metrics-listen", "",
                                     "--state-dir", cluster.state], capture_output=True, text=True, timeout=20)
            self.assertLess(time.monotonic() - started, 5)
            self.assertEqual(second.returncode, 1, second.stderr)
            self.assertIn("another nibbled", second.stderr)
            cluster.submit(tiny_spec("fine", steps=10))

    # ---- rot ----

    def end_some_jobs(self, cluster, number):
        jobs = [cluster.submit(tiny_spec(f"job-{i}", steps=5)) for i in range(number)]
        for job in jobs:
            self.assertEqual(cluster.wait(job)["state"], "SUCCEEDED")
        return jobs

    def test_damaged_rows_are_named_and_the_rest_goes_on(self):
        with World(slots=2) as cluster:
            jobs = self.end_some_jobs(cluster, 4)
            cluster.stop_daemon()
            cluster.sql("jobs.db", "UPDATE jobs SET record = CAST(substr(record, 1, 30) || x'5a' || "
                        "substr(record, 32) AS BLOB) WHERE job_id = ?", jobs[0])
            cluster.sql("metrics.db", "UPDATE metrics SET crc = crc + 1 WHERE step = 3")
            check = subprocess.run([BIN / "nibbled", "--check", cluster.state], capture_output=True, text=True)
            self.assertEqual(check.returncode, 1)
            self.assertIn(jobs[0], check.stdout)
            cluster.start_daemon()
            damaged = cluster.nibble("get", jobs[0], check=False)
            self.assertNotEqual(damaged.returncode, 0)
            self.assertIn("checksum", damaged.stderr.lower() + damaged.stdout.lower())
            for job in jobs[1:]:
                self.assertEqual(cluster.get(job)["state"], "SUCCEEDED")
            after = cluster.submit(tiny_spec("after", steps=5))
            self.assertEqual(cluster.wait(after)["state"], "SUCCEEDED")

    def test_damaged_pages_never_give_wrong_answers(self):
        """Random bytes over random places of both databases: the daemon refuses to start and says why, or
        serves, and then what it answers is what was there or an error."""
        chance = random.Random(4)
        with World(slots=2) as cluster:
            jobs = self.end_some_jobs(cluster, 12)
            truth = {job: cluster.get(job) for job in jobs}
            cluster.stop_daemon()
            files = {name: (cluster.state / name).read_bytes() for name in ("jobs.db", "metrics.db")}
            outcomes = {"refused to start": 0, "ended": 0, "error": 0, "same": 0, "absent": 0}
            cluster.local_worker = False
            for round in range(24):
                for name, contents in files.items():
                    damaged = bytearray(contents)
                    for _ in range(chance.choice([1, 4, 32])):
                        at = chance.randrange(0 if round % 4 == 0 else 4096, len(damaged) - 64)
                        size = chance.choice([1, 4, 64])
                        damaged[at:at + size] = chance.randbytes(size)
                    (cluster.state / name).write_bytes(damaged)
                    for rest in cluster.state.glob(f"{name}-*"):
                        rest.unlink()
                try:
                    cluster.start_daemon()
                except AssertionError as failed:
                    self.assertRegex(str(failed), r"ended with (1|74)$")
                    outcomes["refused to start"] += 1
                    continue
                for job in jobs:
                    got = cluster.nibble("get", job, "-o", "json", check=False)
                    if got.returncode == 0:
                        self.assertEqual(json.loads(got.stdout), truth[job])
                        outcomes["same"] += 1
                    else:
                        self.assertNotIn("INTERNAL", got.stderr)
                        outcomes["absent" if got.returncode == 3 else "error"] += 1
                    cluster.nibble("metrics", job, check=False)
                self.assertIn(cluster.daemon.poll(), (None, 74))
                if cluster.daemon.poll() is None:
                    cluster.kill_daemon()
                else:
                    outcomes["ended"] += 1
            print(f"24 damaged state directories: {outcomes}")
            self.assertGreater(outcomes["error"] + outcomes["refused to start"], 0)
            self.assertGreater(outcomes["same"], 0)
            for name, contents in files.items():
                (cluster.state / name).write_bytes(contents)

    def test_damaged_shard_and_checkpoint(self):
        with World(slots=1) as cluster:
            shard = next((cluster.data / "tiny").glob("train-*.bin"))
            whole = shard.read_bytes()
            shard.write_bytes(whole[:100] + b"\1\2\3\4" + whole[104:])
            job = cluster.submit(tiny_spec("rotten", steps=5))
            end = cluster.wait(job)
            self.assertEqual(end["state"], "FAILED")
            self.assertIn("digest", json.dumps(end))
            shard.write_bytes(whole)
            # A checkpoint that rots while its job is paused: the one before is used, or the job fails
            # and says so; never step 0 unsaid.
            job = cluster.submit(tiny_spec("paused", steps=2000, checkpoint=50))
            cluster.wait(job, ("RUNNING",))
            deadline = time.monotonic() + 60
            while len(self.checkpoints(cluster, job)) < 2:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.1)
            cluster.nibble("pause", job)
            cluster.wait(job, ("PAUSED",))
            newest = max(self.checkpoints(cluster, job), key=lambda c: int(c["step"]))
            model = pathlib.Path(newest["path"]) / "model.safetensors"
            contents = bytearray(model.read_bytes())
            contents[-8] ^= 0xff
            model.write_bytes(contents)
            cluster.nibble("resume", job)
            end = cluster.wait(job)
            alone = cluster.train_alone(tiny_spec("paused", steps=2000, checkpoint=50))
            events = cluster.nibble("events", job, check=False).stdout
            if end["state"] == "SUCCEEDED":
                self.assertEqual(end["result"]["digest"], alone["digest"])
            else:
                self.assertEqual(end["state"], "FAILED")
                self.assertRegex(json.dumps(end) + events, "digest|checkpoint")
            print(f"resumed from a rotten checkpoint: {end['state']}: {end.get('reason_message', '')}")

    def checkpoints(self, cluster, job):
        found = json.loads(cluster.nibble("checkpoints", job, "-o", "json").stdout)
        return found["checkpoints"] if isinstance(found, dict) else found


if __name__ == "__main__":
    unittest.main()
