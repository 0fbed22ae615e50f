#!/usr/bin/env python3
"""More than 200 malformed specs and requests, as bytes to a running daemon: each is refused with the
right status and names the field; the daemon neither grows nor dies, and stores nothing.

Seen red with CheckWire of server/rpc answering OK to everything.
"""
import math
import time
import unittest
import urllib.request

from cluster import Cluster
import raw_api
from raw_api import Api, Refusal, field, varint

SUBMIT = "TrainingService/SubmitJob"
JOB = "j-0123456789abcdef"
BIG, HUGE = 2**31 - 1, 2**63 - 1
NAN, INF = math.nan, math.inf
# A field number that nothing will ever use.
UNKNOWN = 150_000

# Path of a number in JobSpec, and values that it does not take.
NUMBERS = [
    ("priority", -1001, 1001, -BIG, BIG),
    ("model.vocab_size", -1, 0, 1, BIG),
    ("model.width", -4, 0, 65537, BIG),
    ("model.blocks", -1, 0, 257, BIG),
    ("model.heads", -1, 0, 3, 1025, BIG),
    ("model.kv_heads", -1, 0, 3, 8, BIG),
    ("model.head_size", -2, 0, 17, 1026, BIG),
    ("model.mlp_width", -1, 0, 262145, BIG),
    ("model.rope_theta", -1.0, 0.0, 1e10, 1e300, NAN, INF, -INF),
    ("model.norm_epsilon", -1.0, 0.0, 0.2, 5e-324, NAN, INF),
    ("model.init_std", -1.0, 0.0, 1.5, NAN, INF, -INF),
    ("training.steps", -1, 0, 10**9 + 1, HUGE, -HUGE),
    ("training.sequence_length", -1, 0, 2**20 + 1, BIG),
    ("training.batch_size", -1, 0, 65537, BIG),
    ("training.micro_batch_size", -1, 0, 3, BIG),
    ("training.validation_interval", -1, 10**9 + 1, HUGE),
    ("training.validation_sequences", -1, 10**9 + 1, HUGE),
    ("optimizer.learning_rate", -1e-3, 0.0, 10.5, 1e308, NAN, INF, -INF),
    ("optimizer.beta1", -0.1, 1.0, 1.5, NAN, INF),
    ("optimizer.beta2", -0.1, 1.0, 1.5, NAN, INF),
    ("optimizer.epsilon", -1.0, 0.0, 2.0, NAN, INF),
    ("optimizer.weight_decay", -1.0, 11.0, NAN, INF),
    ("optimizer.gradient_clip", -1.0, 1e7, NAN, INF, -INF),
    ("optimizer.schedule.warmup_steps", -1, 101, HUGE),
    ("optimizer.schedule.decay_fraction", -0.1, 1.1, NAN, INF),
    ("optimizer.schedule.final_fraction", -0.1, 1.1, NAN, INF),
    ("precision.version", 2**32 - 1),
    ("precision.high_precision_blocks.first", -1, 5, BIG),
    ("precision.high_precision_blocks.last", -1, 5, BIG),
    ("precision.hadamard_size", -16, 7, BIG),
    ("precision.weight_block_rows", -1, 0, 3, BIG),
    ("checkpoint.interval", -1, 10**9 + 1, HUGE),
    ("checkpoint.keep", -1, 0, 1001, BIG),
    ("resources.slots", -1, 0, BIG),
    ("resources.threads", -1, 1025, BIG),
    ("restart.max_failures", -1, 1001, BIG),
]
WORDS = [
    ("name", "", "UPPER", "a_b", "-a", "a-", "a.b", "a b", "a\nb", "\x1b[31m", "ü", "a" * 64),
    ("model.family", "nothing", "llama ", "LLAMA", "\x07"),
    ("model.preset", "nothing", "../tiny"),
    ("data.path", "", "..", "../up", "a/../b", "/a/../b", "/proc/self/mem", "//proc//self", "/dev/zero",
     "/sys/kernel", "a\nb", "\x7f", "a" * 5000),
    ("training.init_from", "relative", "./a", "/a/../b", "/proc/1", "/a\tb"),
    ("optimizer.name", "sgdd", "adamw\x1b"),
    ("optimizer.schedule.kind", "linearly", "1"),
    ("precision.recipe", "fp3", "nvfp4 "),
    ("resources.backend", "gpu9", "cpu\n"),
]
# Parts of JobSpec that are messages.
PARTS = ["model", "data", "training", "optimizer", "optimizer.schedule", "precision",
         "precision.high_precision_blocks", "checkpoint", "resources", "restart"]


@unittest.skipUnless(raw_api.AVAILABLE, raw_api.WHY_NOT)
class MalformedTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.job, cls.training, cls.worker = raw_api.compile_messages()

    def spec(self):
        return self.job.JobSpec(
            name="good", seed=1,
            model=dict(vocab_size=256, width=64, blocks=4, heads=4, kv_heads=4, mlp_width=128),
            data=dict(path="tiny"), training=dict(steps=100, sequence_length=16, batch_size=4),
            precision=dict(recipe="nvfp4"))

    def submit_with(self, path, value):
        spec = self.spec()
        *parents, leaf = path.split(".")
        part = spec
        for parent in parents:
            part = getattr(part, parent)
        setattr(part, leaf, value)
        return self.training.SubmitJobRequest(spec=spec).SerializeToString()

    def numbers_of(self, path):
        """Field numbers from JobSpec down to `path`."""
        numbers, message = [], self.job.JobSpec.DESCRIPTOR
        for name in path.split("."):
            descriptor = message.fields_by_name[name]
            numbers.append(descriptor.number)
            message = descriptor.message_type
        return numbers

    def submit_with_bytes(self, path, payload):
        """The good spec followed by `payload` as the raw contents of the part at `path`."""
        for number in reversed(self.numbers_of(path) if path else []):
            payload = field(number, payload)
        return field(1, self.spec().SerializeToString() + payload)

    def spec_cases(self):
        for path, *values in [*NUMBERS, *WORDS]:
            for value in values:
                yield SUBMIT, self.submit_with(path, value), f"spec.{path}"
        for path, raw in [("name", b"\xff\xfe"), ("name", b"a\0b"), ("data.path", b"a\xc0\x80"),
                          ("data.path", b"a\0b"), ("model.family", b"\xed\xa0\x80"), ("model.preset", b"\x80"),
                          ("training.init_from", b"/\xf4\x90\x80\x80"), ("precision.recipe", b"\0")]:
            yield SUBMIT, self.submit_with_bytes(path, raw), f"spec.{path}"
        yield SUBMIT, field(1, self.spec().SerializeToString() + field(UNKNOWN, 1)), f"spec.{UNKNOWN}"
        for path in PARTS:
            yield SUBMIT, self.submit_with_bytes(path, field(UNKNOWN, "x")), f"spec.{path}.{UNKNOWN}"
            yield SUBMIT, self.submit_with_bytes(path, b"\x07"), f"spec.{path}"  # no field 0
            yield SUBMIT, self.submit_with_bytes(path, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), f"spec.{path}"
        for path in ["seed", "model.width", "optimizer.learning_rate", "training.steps"]:  # text for a number
            yield SUBMIT, self.submit_with_bytes(path, b"x"), f"spec.{path}"
        # Contradictions and shapes whose products do not fit.
        for change, where in [
                (dict(model=dict(width=65536, blocks=256, heads=1024, kv_heads=1024, head_size=1024,
                                 mlp_width=262144)), "spec.model"),
                (dict(training=dict(steps=10**9, sequence_length=2**20, batch_size=65536)),
                 "spec.training.batch_size"),
                (dict(training=dict(tokens=1000)), "spec.training.steps"),
                (dict(model=dict(width=66)), "spec.model.heads"),
                (dict(precision=dict(high_precision_blocks=dict(first=3, last=2))),
                 "spec.precision.high_precision_blocks"),
                (dict(precision=dict(strict=True), model=dict(mlp_width=100)), "spec.precision.strict"),
                (dict(labels={f"k{i}": "v" for i in range(33)}), "spec.labels"),
                (dict(labels={"a b": "c"}), "spec.labels"),
                (dict(labels={"a": "\x1b"}), "spec.labels.a"),
                (dict(labels={"k" * 64: "v"}), "spec.labels")]:
            spec = self.spec()
            spec.MergeFrom(self.job.JobSpec(**change))
            yield SUBMIT, self.training.SubmitJobRequest(spec=spec).SerializeToString(), where
        yield SUBMIT, self.training.SubmitJobRequest(spec=self.job.JobSpec()).SerializeToString(), "spec.name"

    def request_cases(self):
        t, w = self.training, self.worker
        good = t.SubmitJobRequest(spec=self.spec()).SerializeToString()
        yield SUBMIT, b"", "spec"
        for identifier in ["x" * 129, "a\nb", "\x1b[0m"]:
            yield SUBMIT, good + field(2, identifier), "request_id"
        yield SUBMIT, good + field(UNKNOWN, "x"), str(UNKNOWN)
        yield SUBMIT, good[:-1], "spec"
        yield SUBMIT, b"\x0b\x0c", "spec"  # a group
        for method in ["GetJob", "CancelJob", "PauseJob", "ResumeJob", "DeleteJob", "ListCheckpoints", "GetMetrics"]:
            for job_id in ["", "j-1", "J-0123456789ABCDEF", JOB + "0", "j-0123456789abcde\n", "' OR 1=1 --"]:
                yield f"TrainingService/{method}", field(1, job_id), "job_id"
            yield f"TrainingService/{method}", field(1, b"\xff"), "job_id"
        for method in ["WatchMetrics", "StreamLogs"]:
            yield f"TrainingService/{method}", field(1, "j-1"), "job_id"
        for request, where in [(t.ListJobsRequest(page_size=-1), "page_size"),
                               (t.ListJobsRequest(page_size=1001), "page_size"),
                               (t.ListJobsRequest(page_token="AAAA"), "page_token"),
                               (t.ListJobsRequest(page_token="x" * 10000), "page_token"),
                               (t.ListJobsRequest(states=[42]), "states[0]"),
                               (t.ListJobsRequest(states=[1, -1]), "states[1]"),
                               (t.ListJobsRequest(name="n" * 64), "name")]:
            yield "TrainingService/ListJobs", request.SerializeToString(), where
        for request, where in [(dict(max_points=-1), "max_points"), (dict(max_points=BIG), "max_points"),
                               (dict(page_size=-1), "page_size"), (dict(page_size=BIG), "page_size"),
                               (dict(page_token="forged"), "page_token"), (dict(first_step=-1), "first_step"),
                               (dict(last_step=-1), "last_step")]:
            yield ("TrainingService/GetMetrics",
                   t.GetMetricsRequest(job_id=JOB, **request).SerializeToString(), where)
        yield "TrainingService/WatchJobs", field(2, "forged"), "cursor"
        yield "TrainingService/WatchJobs", field(1, "nothing"), "job_ids[0]"
        yield "TrainingService/ListEvents", field(3, "forged"), "page_token"
        who = dict(worker_id="w", incarnation="i")
        key = dict(job_id=JOB, attempt=1)
        for method, request, where in [
                ("RegisterWorker", w.RegisterWorkerRequest(), "worker_id"),
                ("RegisterWorker", w.RegisterWorkerRequest(**who, slots=-1), "slots"),
                ("RegisterWorker", w.RegisterWorkerRequest(**who, slots=BIG), "slots"),
                ("RegisterWorker", w.RegisterWorkerRequest(worker_id="../w", incarnation="i", slots=1), "worker_id"),
                ("RegisterWorker", w.RegisterWorkerRequest(**who, slots=1, running=[dict(job_id="x")]),
                 "running[0].job_id"),
                ("RenewLeases", w.RenewLeasesRequest(**who, attempts=[dict(job_id=JOB, attempt=-1)]),
                 "attempts[0].attempt"),
                ("ReportAttempt", w.ReportAttemptRequest(**who), "key.job_id"),
                ("ReportAttempt", w.ReportAttemptRequest(**who, key=key, status=4), "result"),
                ("ReportAttempt", w.ReportAttemptRequest(**who, key=key, status=99), "status"),
                ("CommitCheckpoint", w.CommitCheckpointRequest(
                    **who, checkpoint=dict(**key, step=1, path="../etc", manifest_digest="a" * 64)),
                 "checkpoint.path"),
                ("CommitCheckpoint", w.CommitCheckpointRequest(
                    **who, checkpoint=dict(**key, step=1, path="/a", manifest_digest="xyz")),
                 "checkpoint.manifest_digest"),
                ("CommitCheckpoint", w.CommitCheckpointRequest(
                    **who, checkpoint=dict(**key, step=-1, path="/a", manifest_digest="a" * 64)),
                 "checkpoint.step"),
                ("AppendMetrics", w.AppendMetricsRequest(**who, key=key, rank=-1), "rank"),
                ("AppendMetrics", w.AppendMetricsRequest(**who, key=key, records=[dict(sequence=0)]),
                 "records[0].sequence"),
                ("AppendMetrics", w.AppendMetricsRequest(
                    **who, key=key, records=[dict(sequence=1, values={"loss": NAN})]), "records[0].values[\"loss\"]"),
                ("AppendLogs", w.AppendLogsRequest(**who, key=key, records=[dict(sequence=-5)]),
                 "records[0].sequence")]:
            yield f"WorkerService/{method}", request.SerializeToString(), where

    def run_cases(self, api, cases):
        for method, request, where in cases:
            with self.subTest(method=method, field=where, request=request[-60:]):
                streams = ("Watch" in method or "StreamLogs" in method)
                answer = api.first(method, request) if streams else api.call(method, request)
                self.assertIsInstance(answer, Refusal)
                self.assertEqual((answer.code, answer.reason, answer.domain),
                                 ("INVALID_ARGUMENT", "INVALID_REQUEST", "nibble"), answer)
                self.assertIn(where, answer.fields, answer)
                self.assertTrue(all(c.isprintable() or c == "\t" for c in answer.message), answer)

    def too_large(self):
        """Requests beyond a limit, with the size for which a careless reader would allocate much more."""
        labels = field(2, field(1, "k") + field(2, "v"))
        yield SUBMIT, field(1, labels * 30_000)
        yield SUBMIT, field(1, field(5, b"")) * 60_000
        yield SUBMIT, field(2, "x" * (512 << 10))
        yield SUBMIT, b"x" * (8 << 20)
        yield "TrainingService/ListJobs", varint(3 << 3 | 2) + varint(200_000) + b"\1" * 200_000
        yield "WorkerService/RenewLeases", field(3, b"") * 500_000

    @staticmethod
    def resident_bytes(pid):
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * 4096

    def test_every_one_is_refused_and_nothing_remains(self):
        cases = [*self.spec_cases(), *self.request_cases()]
        self.assertGreaterEqual(len(cases), 200)
        with Cluster(local_worker=False) as cluster:
            api = Api(cluster.ports["grpc"])
            self.run_cases(api, cases)
            for method, request in self.too_large():
                answer = api.call(method, request)
                self.assertEqual(answer.code, "RESOURCE_EXHAUSTED", f"{method} {len(request)}: {answer}")
            # Unknown jobs and methods have codes of their own.
            self.assertEqual(api.call("TrainingService/GetJob", field(1, JOB)).code, "NOT_FOUND")
            self.assertEqual(api.call("TrainingService/Nothing", b"").code, "UNIMPLEMENTED")
            settled = self.resident_bytes(cluster.daemon.pid)
            started = time.monotonic()
            for _ in range(4):
                for method, request, _ in cases:
                    if "Watch" not in method and "StreamLogs" not in method:
                        api.call(method, request)
                for method, request in self.too_large():
                    api.call(method, request)
            growth = self.resident_bytes(cluster.daemon.pid) - settled
            print(f"{len(cases)} malformed requests; four times more in {time.monotonic() - started:.1f} s: "
                  f"{settled >> 20} MiB grew by {growth >> 10} KiB")
            # A leak of one request a round would be 4 x 8 MiB; buffers of the allocator are less.
            self.assertLess(growth, 16 << 20)
            self.assertEqual(dict(raw_api.parse(api.call("TrainingService/ListJobs", b""))), {})
            good = self.training.SubmitJobRequest(spec=self.spec())
            self.assertNotIsInstance(api.call(SUBMIT, good.SerializeToString()), Refusal)
            page = urllib.request.urlopen(f"http://{cluster.ports['metrics']}/metrics", timeout=5).read().decode()
            for code in ("INTERNAL", "UNKNOWN"):
                self.assertNotIn(f'code="{code}"', page)
            self.assertIsNone(cluster.daemon.poll())
            api.close()


if __name__ == "__main__":
    unittest.main()
