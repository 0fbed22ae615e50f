#!/usr/bin/env python3
"""Random sequences of calls by a user and a worker, valid and not, through a real daemon, against a
model of the life of a job (docs/job_lifecycle.md): every status code and every state is the model's.

NIBBLE_MODEL_STEPS asks for more steps, NIBBLE_TEST_SEED for a certain sequence; a failure prints the
last calls. Seen red with a model in which the request_id of a deleted job is still known, and with one
in which the trainer of an ended attempt holds no slot.
"""
import os
import random
import time
import unittest

from cluster import Cluster
import raw_api
from raw_api import Api, Refusal

STEPS = int(os.environ.get("NIBBLE_MODEL_STEPS", "800"))
SLOTS = 3
TOTAL_STEPS = 10
LIVE = ("STARTING", "RUNNING", "PAUSING", "STOPPING")
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
NEVER = "j-0123456789abcdef"
MALFORMED = ["", "j-1", "J-0123456789ABCDEF", NEVER + "0", "x" * 300]


class Job:
    def __init__(self, body):
        self.state = "QUEUED"
        self.attempt = 0
        self.body = body  # number of the spec
        self.reported = None  # (attempt, status) of the newest end
        self.checkpoints = {}  # attempt -> newest (step, digest)
        self.etag = ""


class Model:
    """What the daemon should hold. Methods return the status code and change the state."""

    def __init__(self):
        self.jobs = {}  # job_id -> Job; deleted ones are gone
        self.keys = {}  # request_id -> (job_id, body)
        self.drained = False

    def pause(self, job):
        if job.state == "QUEUED":
            job.state = "PAUSED"
        elif job.state in ("STARTING", "RUNNING"):
            job.state = "PAUSING"
        else:
            return "FAILED_PRECONDITION"
        return "OK"

    def resume(self, job):
        if job.state != "PAUSED":
            return "FAILED_PRECONDITION"
        job.state = "QUEUED"
        return "OK"

    def cancel(self, job):
        if job.state in ("SUCCEEDED", "FAILED"):
            return "FAILED_PRECONDITION"
        if job.state in ("QUEUED", "PAUSED"):
            job.state = "CANCELLED"
        elif job.state in ("STARTING", "RUNNING", "PAUSING"):
            job.state = "STOPPING"
        return "OK"

    def report(self, job, attempt, status):
        if job.state not in LIVE or attempt != job.attempt:
            return "OK" if job.reported == (attempt, status) else "FAILED_PRECONDITION"
        if status == "TRAINING":
            if job.state == "STARTING":
                job.state = "RUNNING"
            return "OK"
        job.reported = (attempt, status)
        if job.state == "STOPPING":
            job.state = "CANCELLED"
        elif status == "SUCCEEDED":
            job.state = "SUCCEEDED"
        elif job.state == "PAUSING":
            job.state = "PAUSED"
        else:
            job.state = "FAILED"  # of class USER, which has no second try
        return "OK"

    def commit(self, job, attempt, step, digest):
        if job.state not in LIVE or attempt != job.attempt:
            return "FAILED_PRECONDITION"
        if step > TOTAL_STEPS:
            return "INVALID_ARGUMENT"
        newest = job.checkpoints.get(attempt)
        if newest == (step, digest):
            return "OK"
        if newest is not None and step <= newest[0]:
            return "FAILED_PRECONDITION"
        job.checkpoints[attempt] = (step, digest)
        return "OK"

    def used(self):
        return sum(job.state in LIVE for job in self.jobs.values())

    def to_start(self):
        """How many of the queued jobs start, now that nothing else changes."""
        queued = sum(job.state == "QUEUED" for job in self.jobs.values())
        return 0 if self.drained else min(queued, SLOTS - self.used())


@unittest.skipUnless(raw_api.AVAILABLE, raw_api.WHY_NOT)
class RpcModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.job_pb2, cls.training, cls.worker = raw_api.compile_messages()

    def call(self, method, request, response=None):
        """(status code, response or None)."""
        answer = self.api.call(method, request.SerializeToString())
        code = answer.code if isinstance(answer, Refusal) else "OK"
        if method != "TrainingService/ListJobs":  # after every step
            self.log.append(f"{method} {str(request)[:200]!r} -> "
                            f"{answer if code != 'OK' else 'OK'}")
        if code != "OK" or response is None:
            return code, None
        return code, response.FromString(answer)

    def expect(self, got, wanted, what):
        self.assertEqual(got, wanted, f"{what}\n" + "\n".join(self.log[-25:]))

    # ---- the user ----

    def spec(self, body):
        return self.job_pb2.JobSpec(
            name=f"model-{body}", seed=1,
            model=dict(vocab_size=256, width=16, blocks=1, heads=1, kv_heads=1, mlp_width=16),
            data=dict(path="tiny"),
            training=dict(steps=TOTAL_STEPS if body >= 0 else -1, sequence_length=16, batch_size=1),
            precision=dict(recipe="bf16"), checkpoint=dict(keep=1))

    def submit(self):
        kind = self.chance.choices(["new", "again", "other", "bad"], [6, 1, 1, 1])[0]
        self.serial += 1
        key, body = f"key-{self.serial}", self.serial
        wanted = "OK"
        if kind in ("again", "other") and self.model.keys:
            key = self.chance.choice(sorted(self.model.keys))
            known, body = self.model.keys[key]
            if kind == "other":
                body, wanted = self.serial, "ALREADY_EXISTS"
        elif kind == "bad":
            body, wanted = -1, "INVALID_ARGUMENT"
        elif sum(job.state not in ENDED for job in self.model.jobs.values()) > 12:
            return
        code, answer = self.call("TrainingService/SubmitJob", self.training.SubmitJobRequest(
            spec=self.spec(body), request_id=key), self.training.SubmitJobResponse)
        self.expect(code, wanted, "SubmitJob")
        if code != "OK":
            return
        job_id = answer.job.job_id
        if key in self.model.keys:
            self.expect(job_id, self.model.keys[key][0], "the same request, another job")
        else:
            self.model.jobs[job_id] = Job(body)
            self.model.keys[key] = (job_id, body)

    def some_job(self):
        """(job_id, Job or None): mostly one that there is."""
        draw = self.chance.random()
        if draw < 0.03:
            return self.chance.choice(MALFORMED), None
        if draw < 0.06 or not self.model.jobs:
            return NEVER, None
        if draw < 0.10 and self.deleted:
            return self.chance.choice(self.deleted), None
        # Mostly those that are alive: the others are many.
        alive = [i for i, job in self.model.jobs.items() if job.state not in ENDED]
        pool = alive if alive and self.chance.random() < 0.8 else list(self.model.jobs)
        job_id = self.chance.choice(pool)
        return job_id, self.model.jobs[job_id]

    def of_missing(self, job_id):
        return "INVALID_ARGUMENT" if job_id in MALFORMED else "NOT_FOUND"

    def act(self, name):
        job_id, job = self.some_job()
        request = getattr(self.training, f"{name}JobRequest")(job_id=job_id)
        wanted = self.of_missing(job_id)
        if job is not None:
            wanted = getattr(self.model, name.lower())(job)
        code, _ = self.call(f"TrainingService/{name}Job", request)
        self.expect(code, wanted, f"{name}Job of a job that was {job and job.state}")

    def delete(self):
        job_id, job = self.some_job()
        wanted = self.of_missing(job_id)
        if job is not None:
            wanted = "OK" if job.state in ENDED else "FAILED_PRECONDITION"
        code, _ = self.call("TrainingService/DeleteJob", self.training.DeleteJobRequest(job_id=job_id))
        self.expect(code, wanted, f"DeleteJob of {job and job.state}")
        if code == "OK":
            del self.model.jobs[job_id]
            self.deleted.append(job_id)
            # Its request_id is forgotten with it.
            self.model.keys = {k: v for k, v in self.model.keys.items() if v[0] != job_id}

    def update(self):
        job_id, job = self.some_job()
        kind = self.chance.choice(["none", "right", "wrong", "nonsense"])
        etag = {"none": "", "nonsense": "x"}.get(kind)
        if etag is None:
            self.read(job_id, job)
            etag = job.etag if job is not None and kind == "right" else "999999"
        request = self.training.UpdateJobRequest(job_id=job_id, replace_labels=True, etag=etag,
                                                 labels={"step": str(self.chance.randrange(5))})
        if job_id in MALFORMED or kind == "nonsense":
            wanted = "INVALID_ARGUMENT"
        elif job is None:
            wanted = "NOT_FOUND"
        elif job.state in ENDED:
            wanted = "FAILED_PRECONDITION"
        else:
            wanted = "ABORTED" if etag == "999999" else "OK"
        code, _ = self.call("TrainingService/UpdateJob", request)
        self.expect(code, wanted, f"UpdateJob of {job and job.state} with etag {kind}")

    def read(self, job_id=None, job=None):
        if job_id is None:
            job_id, job = self.some_job()
        code, answer = self.call("TrainingService/GetJob", self.training.GetJobRequest(job_id=job_id),
                                 self.job_pb2.Job)
        self.expect(code, "OK" if job is not None else self.of_missing(job_id), "GetJob")
        if job is not None:
            self.expect((self.state_of(answer), answer.attempt), (job.state, job.attempt), "GetJob")
            job.etag = answer.etag

    def state_of(self, job):
        return self.job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")

    def drain(self):
        known = self.chance.random() < 0.8
        name = self.chance.choice(["Drain", "Undrain"]) if not self.model.drained else "Undrain"
        request = getattr(self.training, f"{name}WorkerRequest")(worker_id="m" if known else "nobody")
        code, _ = self.call(f"TrainingService/{name}Worker", request)
        self.expect(code, "OK" if known else "NOT_FOUND", name)
        if known:
            self.model.drained = name == "Drain"

    def list_all(self):
        """Everything there is, page by page."""
        found, token = {}, ""
        while True:
            code, page = self.call("TrainingService/ListJobs", self.training.ListJobsRequest(
                page_size=self.chance.choice([1, 7, 100]) if not token else 7, page_token=token),
                self.training.ListJobsResponse)
            self.expect(code, "OK", "ListJobs")
            for job in page.jobs:
                self.assertNotIn(job.job_id, found, "a job is listed twice")
                found[job.job_id] = (self.state_of(job), job.attempt)
            token = page.next_page_token
            if not token:
                return found

    # ---- the worker ----

    def register(self):
        running = [dict(job_id=i, attempt=job.attempt) for i, job in self.model.jobs.items() if job.state in LIVE]
        code, answer = self.call("WorkerService/RegisterWorker", self.worker.RegisterWorkerRequest(
            worker_id="m", incarnation="one", device_kind="cpu", slots=SLOTS, running=running),
            self.worker.RegisterWorkerResponse)
        self.expect(code, "OK", "RegisterWorker")
        self.assertEqual(len(answer.adopted), len(running), "every live attempt is adopted")

    def who(self):
        return dict(worker_id="m", incarnation="one")

    def attempt_of(self, job):
        return max(0, (job.attempt if job is not None else 1) + self.chance.choices([0, -1, 1], [12, 1, 1])[0])

    def report(self):
        job_id, job = self.some_job()
        attempt = self.attempt_of(job)
        state = job.state if job is not None else ""
        choices = ["TRAINING", "SUCCEEDED", "FAILED"] + ({"PAUSING": ["PAUSED", "STOPPED"],
                                                          "STOPPING": ["STOPPED"]}.get(state, []))
        status = self.chance.choices(choices, [3, 1, 1] + [4] * (len(choices) - 3))[0]
        request = self.worker.ReportAttemptRequest(
            **self.who(), key=dict(job_id=job_id, attempt=attempt),
            status=self.worker.ReportAttemptRequest.Status.Value(status))
        if status == "SUCCEEDED":
            request.result.steps = TOTAL_STEPS
        if status == "FAILED":
            request.failure_class = self.job_pb2.FailureClass.Value(
                next(n for n in self.job_pb2.FailureClass.keys() if n.endswith("USER")))
        code, _ = self.call("WorkerService/ReportAttempt", request)
        if job_id in MALFORMED or attempt == 0:
            wanted = "INVALID_ARGUMENT"
        else:
            wanted = self.model.report(job, attempt, status) if job is not None else "FAILED_PRECONDITION"
        self.expect(code, wanted, f"ReportAttempt {status} of {state}")

    def commit(self):
        job_id, job = self.some_job()
        attempt = self.attempt_of(job)
        step, digest = self.chance.randrange(TOTAL_STEPS + 2), self.chance.choice("ab") * 64
        code, _ = self.call("WorkerService/CommitCheckpoint", self.worker.CommitCheckpointRequest(
            **self.who(), checkpoint=dict(job_id=job_id, attempt=attempt, step=step, path="/checkpoints/x",
                                          manifest_digest=digest)))
        if job_id in MALFORMED or attempt == 0:
            wanted = "INVALID_ARGUMENT"
        else:
            wanted = self.model.commit(job, attempt, step, digest) if job is not None else "FAILED_PRECONDITION"
        self.expect(code, wanted, f"CommitCheckpoint of step {step} of {job and job.state}")

    def renew(self):
        """Names live attempts and others: the daemon says which is which. A trainer of an attempt that
        has ended still holds slots, so nothing starts until the worker names it no more."""
        self.renew_some(0.2)
        self.renew_some(0)

    def renew_some(self, share_of_others):
        named = {}
        for job_id, job in self.model.jobs.items():
            if job.attempt > 0 and (job.state in LIVE or self.chance.random() < share_of_others):
                named[job_id] = job.state in LIVE
        code, answer = self.call("WorkerService/RenewLeases", self.worker.RenewLeasesRequest(
            **self.who(), attempts=[dict(job_id=i, attempt=self.model.jobs[i].attempt) for i in named]),
            self.worker.RenewLeasesResponse)
        self.expect(code, "OK", "RenewLeases")
        self.expect(({a.job_id for a in answer.renewed}, {a.job_id for a in answer.stale}),
                    ({i for i, live in named.items() if live}, {i for i, live in named.items() if not live}),
                    "RenewLeases")

    def stranger(self):
        code, _ = self.call("WorkerService/RenewLeases", self.worker.RenewLeasesRequest(
            worker_id=self.chance.choice(["m", "stranger"]), incarnation="two"))
        self.expect(code, "NOT_FOUND", "RenewLeases of a process that never registered")

    def restart(self):
        self.cluster.kill_daemon()
        self.cluster.start_daemon()
        self.api.close()
        self.api = Api(self.cluster.ports["grpc"])
        self.log.append("kill -9")
        self.register()

    # ---- both ----

    def settle(self):
        """Waits for the jobs that start now; which ones, the daemon may say, how many, the model."""
        start = self.model.to_start()
        deadline = time.monotonic() + 5
        while True:
            found = self.list_all()
            begun = [i for i, job in self.model.jobs.items()
                     if job.state == "QUEUED" and found.get(i, ("",))[0] == "STARTING"]
            if len(begun) >= start or time.monotonic() > deadline:
                break
        self.expect(len(begun), start, "jobs that start")
        for job_id in begun:
            self.model.jobs[job_id].state = "STARTING"
            self.model.jobs[job_id].attempt += 1
        wanted = {i: (job.state, job.attempt) for i, job in self.model.jobs.items()}
        self.expect(found, wanted, "ListJobs")

    def test_every_answer_is_the_models(self):
        seed = int(os.environ.get("NIBBLE_TEST_SEED", random.randrange(1 << 30)))
        print(f"NIBBLE_TEST_SEED={seed} steps={STEPS}")
        self.chance = random.Random(seed)
        self.model = Model()
        self.log, self.deleted, self.serial = [], [], 0
        actions = {self.submit: 5, self.report: 12, self.commit: 3, self.read: 1, self.delete: 3, self.update: 2,
                   self.drain: 0.5, self.renew: 1, self.stranger: 0.3, self.restart: 0.1}
        for name in ("Pause", "Resume", "Cancel"):
            actions[lambda name=name: self.act(name)] = 2
        with Cluster(local_worker=False, daemon_flags=["--lease-term", "3600"]) as self.cluster:
            self.api = Api(self.cluster.ports["grpc"])
            self.register()
            started = time.monotonic()
            for step in range(STEPS):
                self.chance.choices(list(actions), list(actions.values()))[0]()
                self.settle()
                del self.log[:-60]
            codes = {state: sum(job.state == state for job in self.model.jobs.values()) for state in ENDED}
            print(f"{STEPS} calls as the model says in {time.monotonic() - started:.1f} s; {len(self.deleted)} jobs "
                  f"deleted, at the end {codes}")
            self.assertGreater(len(self.deleted), 0)
            self.api.close()


if __name__ == "__main__":
    unittest.main()
