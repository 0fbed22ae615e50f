#!/usr/bin/env python3
"""nibble-trainer alone: what it writes, how it goes on after kill -9, what it refuses.

  tests/training/nibble_trainer_test.py BINARY

Seen red: with metrics.jsonl not cut on resumption (a step twice after a kill); with `keep` ignored;
with the lock left out.
"""
import hashlib
import json
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

BINARY = pathlib.Path(sys.argv.pop(1)).resolve()
STEPS = 40


def shard(tokens):
    return b"nibbletk" + struct.pack("<IIQII", 1, 2, len(tokens), 256, 0) + struct.pack(
        f"<{len(tokens)}H", *tokens)


def write_dataset(directory):
    directory.mkdir(parents=True)
    rng = random.Random(1)
    splits = {}
    for split, count in (("train", 20_000), ("validation", 2_000)):
        tokens = [(i * 7 + rng.randrange(3)) % 256 for i in range(count)]
        data = shard(tokens)
        name = f"{split}-00000.bin"
        (directory / name).write_bytes(data)
        splits[split] = {"documents": 1, "bytes": count - 1, "tokens": count, "files": [
            {"name": name, "tokens": count, "sha256": hashlib.sha256(data).hexdigest()}]}
    (directory / "dataset.json").write_text(json.dumps({
        "format": "nibble-token-shards", "version": 1, "vocab_size": 256, "token_bytes": 2,
        "tokenizer": {"kind": "bytes", "digest": "0" * 64, "separator": 0}, "splits": splits}))


def spec(**changes):
    value = {
        "name": "alone", "seed": 3,
        "model": {"vocab_size": 256, "width": 64, "blocks": 3, "heads": 2, "mlp_width": 96},
        "data": {"path": "text"},
        "training": {"steps": STEPS, "sequence_length": 32, "batch_size": 4, "micro_batch_size": 2,
                     "validation_interval": 15, "validation_sequences": 5},
        "precision": {"recipe": "nvfp4"}, "checkpoint": {"interval": 5, "keep": 2},
        "resources": {"threads": 1},
    }
    for path, new in changes.items():
        part, name = path.split("__")
        value[part][name] = new
    return value


class NibbleTrainerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.temporary.name)
        write_dataset(cls.root / "data" / "text")
        cls.expected = cls("run_to_end").run_to_end(cls.root / "expected")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def setUp(self):
        self.out = self.root / self.id().split(".")[-1]

    def command(self, out, *flags, job=None):
        path = pathlib.Path(str(out) + ".json")
        path.write_text(json.dumps(job or spec()))
        return [BINARY, "--spec", path, "--out", out, "--data-dir", self.root / "data", *flags]

    def run_trainer(self, out, *flags, job=None):
        return subprocess.run(self.command(out, *flags, job=job), capture_output=True, text=True,
                              timeout=300)

    def run_to_end(self, out, *flags, job=None):
        done = self.run_trainer(out, *flags, job=job)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads((out / "result.json").read_text())

    def rows(self, out):
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    def check_same_as_expected(self, out):
        result = json.loads((out / "result.json").read_text())
        for name in ("digest", "train_loss", "validation_loss", "validation_bits_per_byte", "tokens"):
            self.assertEqual(result[name], self.expected[name], name)
        rows, expected = self.rows(out), self.rows(self.root / "expected")
        self.assertEqual([r["step"] for r in rows], list(range(1, STEPS + 1)))
        self.assertEqual([r["loss"] for r in rows], [r["loss"] for r in expected])
        self.assertEqual(sorted(p.name for p in (out / "checkpoints").iterdir()),
                         ["step-35", "step-40"])

    def test_writes_metrics_result_and_checkpoints(self):
        out = self.root / "expected"
        self.check_same_as_expected(out)
        for row in self.rows(out):
            names = ["step", "tokens", "loss", "learning_rate", "grad_norm", "step_seconds"]
            if row["step"] in (15, 30, STEPS):
                names += ["validation_loss", "validation_bits_per_byte"]
            names.append("epoch")
            self.assertEqual(list(row), names)
            self.assertEqual(row["tokens"], row["step"] * 128)
        self.assertRegex(self.expected["digest"], "^[0-9a-f]{64}$")
        self.assertEqual(self.expected["spec"]["model"]["kv_heads"], 2)
        self.assertGreater(self.expected["tokens_per_second"], 0)

    def test_the_digest_is_that_of_the_final_checkpoint(self):
        sha256 = hashlib.sha256()
        for name in ("model", "optimizer"):
            data = (self.root / "expected" / "checkpoints" / "step-40" / f"{name}.safetensors").read_bytes()
            header, = struct.unpack("<Q", data[:8])
            sha256.update(data[8 + header:])
        self.assertEqual(sha256.hexdigest(), self.expected["digest"])

    def test_two_threads_give_the_same_digest(self):
        self.assertEqual(self.run_to_end(self.out, "--threads", "2")["digest"],
                         self.expected["digest"])

    def test_started_again_when_done_gives_the_same_result(self):
        self.run_to_end(self.out)
        (self.out / "result.json").unlink()
        self.run_to_end(self.out)
        self.check_same_as_expected(self.out)

    def mixture(self):
        """llm.c and raw tokens beside the dataset, in two phases; boundaries masked."""
        rng = random.Random(2)
        tokens = [rng.randrange(256) for _ in range(3000)]
        header = struct.pack("<3i", 20240520, 1, len(tokens)) + bytes(1012)
        raw = struct.pack(f"<{len(tokens)}H", *tokens)
        (self.root / "data" / "x_train.bin").write_bytes(header + raw)
        (self.root / "data" / "y.raw").write_bytes(raw)
        job = spec()
        job["data"] = {"documents": "mask", "phases": [
            {"share": 0.5, "sources": [{"path": "text"},
                                       {"path": "x_train.bin", "weight": 0.25, "separator": 255}]},
            {"share": 0.5, "sources": [{"path": "text", "weight": 3},
                                       {"path": "y.raw", "format": "raw_u16", "separator": 255,
                                        "sha256": hashlib.sha256(raw).hexdigest()}]}]}
        return job

    def test_a_mixture_in_phases_resumes_exactly(self):
        job = self.mixture()
        whole = self.run_to_end(self.root / "mixture", job=job)
        # 160 samples: 64 and 16 of the first phase, 60 and 20 of the second.
        self.assertEqual([source["tokens"] for source in whole["data"]], [124 * 32, 16 * 32, 20 * 32])
        self.assertAlmostEqual(whole["data"][0]["epochs"], 124 / 624, places=9)
        rows = self.rows(self.root / "mixture")
        self.assertEqual(rows[19]["data/1/tokens"], 16 * 32)
        self.assertEqual(rows[19]["data/2/tokens"], 0)
        self.assertEqual(rows[-1]["data/2/tokens"], 20 * 32)
        process = subprocess.Popen(self.command(self.out, job=job), stderr=subprocess.DEVNULL)
        while not (self.out / "checkpoints" / "step-10").exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
        again = self.run_to_end(self.out, job=job)
        self.assertEqual(again["digest"], whole["digest"])
        self.assertEqual(again["data"], whole["data"])

    def test_damaged_sources_are_refused(self):
        job = self.mixture()
        job["data"]["phases"][1]["sources"][1]["sha256"] = "0" * 64
        done = self.run_trainer(self.out, job=job)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("the SHA-256 is", done.stderr)
        job = self.mixture()
        path = self.root / "data" / "x_train.bin"
        path.write_bytes(path.read_bytes()[:-2])
        done = self.run_trainer(self.out, job=job)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("its header says 3000 tokens", done.stderr)

    def test_killed_at_random_instants(self):
        rng = random.Random(4)
        kills = 0
        while kills < 6 and not (self.out / "result.json").exists():
            process = subprocess.Popen(self.command(self.out), stderr=subprocess.DEVNULL)
            before = time.monotonic()
            # Killed some time after it has written a row of its own.
            rows = (len(self.rows(self.out)) if (self.out / "metrics.jsonl").exists() else 0)
            while process.poll() is None and time.monotonic() - before < 60:
                metrics = self.out / "metrics.jsonl"
                if metrics.exists() and metrics.read_text().count("\n") > rows % STEPS:
                    break
                time.sleep(0.002)
            time.sleep(rng.random() * 0.1)
            process.kill()
            process.wait()
            kills += 1
        self.run_to_end(self.out)
        self.check_same_as_expected(self.out)

    def test_sigterm_makes_a_checkpoint_and_exits_3(self):
        process = subprocess.Popen(self.command(self.out), stderr=subprocess.PIPE, text=True)
        while not (self.out / "metrics.jsonl").exists() or not self.rows(self.out):
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 3, errors)
        last = self.rows(self.out)[-1]["step"]
        self.assertTrue((self.out / "checkpoints" / f"step-{last}").is_dir())
        self.run_to_end(self.out)
        self.check_same_as_expected(self.out)

    def test_a_damaged_checkpoint_is_passed_over(self):
        self.run_to_end(self.out)
        newest, older = (self.out / "checkpoints" / f"step-{s}" / "model.safetensors" for s in (40, 35))
        newest.write_bytes(newest.read_bytes()[:-1])
        self.run_to_end(self.out)
        self.check_same_as_expected(self.out)
        for path in (newest, older):
            path.write_bytes(b"")
        failed = self.run_trainer(self.out)
        self.assertEqual(failed.returncode, 1)
        self.assertIn("DATA_LOSS", failed.stderr)

    def test_another_spec_in_the_same_directory_is_refused(self):
        self.run_to_end(self.out)
        failed = self.run_trainer(self.out, job=spec(model__width=32))
        self.assertEqual(failed.returncode, 1)
        self.assertIn("another configuration", failed.stderr.splitlines()[-1])
        self.check_same_as_expected(self.out)

    def test_only_one_trainer_in_a_directory(self):
        process = subprocess.Popen(self.command(self.out), stderr=subprocess.DEVNULL)
        while not (self.out / "metrics.jsonl").exists():
            time.sleep(0.005)
        second = self.run_trainer(self.out)
        process.kill()
        process.wait()
        self.assertEqual(second.returncode, 1)
        self.assertIn("in use", second.stderr)

    def test_steps_and_resume_from_a_directory(self):
        result = self.run_to_end(self.out, "--steps", "4")
        self.assertEqual(result["steps"], 4)
        resumed = self.run_to_end(self.root / "resumed", "--resume",
                                  self.root / "expected" / "checkpoints" / "step-35")
        self.assertEqual(resumed["digest"], self.expected["digest"])
        self.assertEqual([r["step"] for r in self.rows(self.root / "resumed")], [36, 37, 38, 39, 40])

    def test_the_reference_backend(self):
        job = spec(training__steps=1, model__blocks=1, training__validation_sequences=1)
        losses = [self.run_to_end(self.out / b, "--backend", b, job=job)["train_loss"]
                  for b in ("cpu", "reference") if not (self.out / b).mkdir(parents=True)]
        self.assertAlmostEqual(losses[0], losses[1], delta=1e-3)

    def test_what_is_wrong_is_said_in_one_line(self):
        cases = [
            (spec(model__heads=3), [], 2, "model.head"),
            (spec(model__colour=1), [], 2, "model.colour"),
            (spec(model__vocab_size=200), [], 2, "model.vocab_size"),
            (spec(data__path="nothing"), [], 1, "nothing"),
            (spec(), ["--backend", "tpu"], 2, "--backend"),
            (spec(), ["--steps", "0"], 2, "--steps"),
            (spec(), ["--resume", str(self.root / "nowhere")], 1, "nowhere"),
            (spec(training__init_from=str(self.root / "nowhere")), [], 1, "nowhere"),
        ]
        for job, flags, code, text in cases:
            failed = self.run_trainer(self.out, *flags, job=job)
            self.assertEqual(failed.returncode, code, failed.stderr)
            self.assertIn(text, failed.stderr)
            self.assertFalse((self.out / "result.json").exists())
        self.assertEqual(subprocess.run([BINARY], capture_output=True).returncode, 2)
        shown = subprocess.run([BINARY, "--help"], capture_output=True, text=True)
        self.assertEqual(shown.returncode, 0)
        self.assertIn("Exit codes", shown.stdout)

    def test_init_from(self):
        start = str(self.root / "expected" / "checkpoints" / "step-40")
        self.run_to_end(self.out, "--steps", "2", job=spec(training__init_from=start))
        first = self.rows(self.out)[0]["loss"]
        self.assertLess(first, self.rows(self.root / "expected")[0]["loss"] - 0.5)


if __name__ == "__main__":
    unittest.main()
