#!/usr/bin/env python3
"""Scores on tasks while training, and of a checkpoint alone.

  tests/training/evaluation_run_test.py NIBBLE_TRAINER NIBBLE_MODEL

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

MODEL = pathlib.Path(sys.argv.pop(2)).resolve()
TRAINER = pathlib.Path(sys.argv.pop(1)).resolve()
STEPS = 24
TEXT = "the quick brown fox jumps over the lazy dog. " * 6


def write_inputs(root):
    """A dataset of bytes, and three evaluation files beside it."""
    rng = random.Random(1)
    data = root / "data" / "text"
    data.mkdir(parents=True)
    tokens = [(i * 7 + rng.randrange(3)) % 255 + 1 for i in range(8000)]
    shard = b"nibbletk" + struct.pack("<IIQII", 1, 2, len(tokens), 256, 0) + struct.pack(
        f"<{len(tokens)}H", *tokens)
    (data / "train-00000.bin").write_bytes(shard)
    (data / "dataset.json").write_text(json.dumps({
        "format": "nibble-token-shards", "version": 1, "vocab_size": 256, "token_bytes": 2,
        "tokenizer": {"kind": "bytes", "digest": "0" * 64, "separator": 0},
        "splits": {"train": {"documents": 1, "bytes": 7999, "tokens": 8000, "files": [
            {"name": "train-00000.bin", "tokens": 8000,
             "sha256": hashlib.sha256(shard).hexdigest()}]}}}))
    (root / "data" / "held.txt").write_text(TEXT)
    (root / "data" / "pairs.jsonl").write_text("".join(
        json.dumps({"sentence_good": f"a{i}b", "sentence_bad": f"b{i}a", "UID": f"u{i % 2}"}) + "\n"
        for i in range(8)))
    (root / "data" / "questions.jsonl").write_text("".join(
        json.dumps({"query": f"Question {i}", "choices": ["one", "another"], "gold": i % 2}) + "\n"
        for i in range(6)))


def spec(**changes):
    value = {
        "name": "scored", "seed": 3,
        "model": {"vocab_size": 256, "width": 64, "blocks": 2, "heads": 2, "mlp_width": 96},
        "data": {"path": "text"},
        "training": {"steps": STEPS, "sequence_length": 32, "batch_size": 4},
        "precision": {"recipe": "nvfp4"}, "checkpoint": {"interval": 5, "keep": 2},
        "resources": {"threads": 1},
        "evaluation": {"interval": 8, "tasks": [
            {"task": "text", "path": "held.txt"},
            {"task": "blimp", "path": "pairs.jsonl", "name": "pairs"},
            {"task": "arc_easy", "path": "questions.jsonl", "limit": 4},
            {"task": "information_capacity", "path": "held.txt"}]},
    }
    for part, new in changes.items():
        if new is None:
            del value[part]
        else:
            value[part] = new
    return value


NAMES = {"eval/text/loss", "eval/text/perplexity", "eval/text/bits_per_byte",
         "eval/text/word_perplexity", "eval/pairs/acc", "eval/arc_easy/acc",
         "eval/arc_easy/acc_norm", "eval/information_capacity/information_capacity",
         "eval/information_capacity/text_bits_per_token",
         "eval/information_capacity/loss_bits_per_token",
         "eval/information_capacity/gain_bits_per_token",
         "eval/information_capacity/flops_per_token"}


class EvaluationRunTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.temporary.name)
        write_inputs(cls.root)
        cls.out = cls.root / "scored"
        cls.result = cls("train").train(cls.out, spec())

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def command(self, out, job):
        path = pathlib.Path(str(out) + ".json")
        path.write_text(json.dumps(job))
        return [TRAINER, "--spec", path, "--out", out, "--data-dir", self.root / "data"]

    def train(self, out, job):
        done = subprocess.run(self.command(out, job), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads((out / "result.json").read_text())

    def refused(self, job, code=2):
        out = self.root / "refused"
        done = subprocess.run(self.command(out, job), capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stderr)
        metrics = out / "metrics.jsonl"
        self.assertFalse(metrics.exists() and metrics.read_text(), "it had begun to train")
        return done.stderr

    def rows(self, out):
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]

    def scores(self, out):
        return {row["step"]: {k: v for k, v in row.items() if k.startswith("eval/")}
                for row in self.rows(out) if any(k.startswith("eval/") for k in row)}

    def test_scores_come_by_schedule_once_a_step(self):
        rows = self.rows(self.out)
        self.assertEqual([row["step"] for row in rows], list(range(1, STEPS + 1)))
        scores = self.scores(self.out)
        self.assertEqual(list(scores), [8, 16, 24])
        for values in scores.values():
            self.assertEqual(set(values), NAMES)
        self.assertEqual(self.result["evaluation"], scores[STEPS])
        self.assertNotEqual(scores[8]["eval/text/loss"], scores[16]["eval/text/loss"])
        # Without an interval only the end counts.
        job = spec(training={"steps": 9, "sequence_length": 32, "batch_size": 4})
        del job["evaluation"]["interval"]
        self.train(self.root / "at_end", job)
        self.assertEqual(list(self.scores(self.root / "at_end")), [9])

    def test_training_does_not_notice(self):
        plain = self.train(self.root / "plain", spec(evaluation=None))
        self.assertEqual(plain["digest"], self.result["digest"])
        self.assertEqual(plain["config_digest"], self.result["config_digest"])
        self.assertNotIn("evaluation", plain)

    def test_the_command_gives_the_same_numbers_for_the_last_checkpoint(self):
        checkpoint = self.out / "checkpoints" / f"step-{STEPS}"
        data = self.root / "data"
        tasks = {"text": "text", "blimp": "pairs", "information_capacity": "information_capacity"}
        files = {"text": "held.txt", "blimp": "pairs.jsonl", "information_capacity": "held.txt"}
        done = subprocess.run(
            [MODEL, "evaluate", checkpoint, "--json",
             *[f"--task={task}={data / files[task]}" for task in tasks]],
            capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        for task in json.loads(done.stdout)["tasks"]:
            for name, metric in task["metrics"].items():
                if "/" in name:
                    continue
                key = f"eval/{tasks[task['task']]}/{name}"
                self.assertEqual(self.result["evaluation"][key], metric["value"], key)

    def test_killed_and_resumed_it_scores_the_same(self):
        out = self.root / "killed"
        command = self.command(out, spec())
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if (out / "checkpoints" / "step-10").is_dir():
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        result = self.train(out, spec())
        self.assertEqual(result["digest"], self.result["digest"])
        self.assertEqual(self.scores(out), self.scores(self.out))
        self.assertEqual(result["evaluation"], self.result["evaluation"])
        # Again, with nothing left to train: no row is written twice.
        (out / "result.json").unlink()
        again = self.train(out, spec())
        self.assertEqual(again["evaluation"], self.result["evaluation"])
        self.assertEqual([row["step"] for row in self.rows(out)], list(range(1, STEPS + 1)))

    def only_scores(self, **changes):
        checkpoint = self.out / "checkpoints" / f"step-{STEPS}"
        return spec(data=None, training={"steps": 0, "init_from": str(checkpoint),
                                         "sequence_length": 32}, **changes)

    def test_a_checkpoint_is_scored_without_data(self):
        out = self.root / "alone"
        for _ in range(2):
            result = self.train(out, self.only_scores())
            self.assertEqual(result["evaluation"], self.result["evaluation"])
            self.assertEqual(result["steps"], 0)
            rows = self.rows(out)
            self.assertEqual(len(rows), 1)
            self.assertEqual(rows[0], {"step": 0, **self.result["evaluation"]})
            self.assertFalse((out / "checkpoints").exists())
        # Its digest is of the weights: what import calls the weights' digest.
        weights = (self.out / "checkpoints" / f"step-{STEPS}" / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", weights[:8])[0]
        header = json.loads(weights[8:8 + length])
        header.pop("__metadata__", None)
        digest = hashlib.sha256()
        for tensor in sorted(header.values(), key=lambda t: t["data_offsets"][0]):
            begin, end = tensor["data_offsets"]
            digest.update(weights[8 + length + begin:8 + length + end])
        self.assertEqual(result["digest"], digest.hexdigest())

    def test_what_cannot_be_scored_ends_before_training(self):
        def with_task(**task):
            return spec(evaluation={"tasks": [{"task": "text", "path": "held.txt"}, task]})

        error = self.refused(with_task(task="piqa", path="nowhere.jsonl"), code=1)
        self.assertIn("evaluation.tasks[1]: ", error)
        self.assertIn("nowhere.jsonl", error)
        error = self.refused(with_task(task="piqa", path="held.txt"))
        self.assertIn("evaluation.tasks[1]: ", error)
        self.assertIn("held.txt:1", error)
        (self.root / "data" / "empty.jsonl").write_text(
            json.dumps({"sentence_good": "", "sentence_bad": "a", "UID": "u"}) + "\n")
        error = self.refused(with_task(task="blimp", path="empty.jsonl"))
        self.assertIn("evaluation.tasks[1]: ", error)
        (self.root / "data" / "empty.txt").write_text("")
        self.assertIn("has no text", self.refused(with_task(task="text", path="empty.txt",
                                                            name="b")))
        job = spec()
        job["evaluation"]["tokenizer"] = "nowhere"
        self.assertIn("evaluation.tokenizer: ", self.refused(job))
        # A checkpoint of another model, and none at all.
        job = self.only_scores(model={"vocab_size": 256, "width": 32, "blocks": 2, "heads": 2,
                                      "mlp_width": 96})
        self.assertIn("training.init_from: ", self.refused(job, code=1))
        job = self.only_scores()
        job["training"]["init_from"] = "/nowhere"
        self.assertIn("/nowhere", self.refused(job, code=1))
        job = spec(training={"steps": 0, "sequence_length": 32})
        self.assertIn("training.steps", self.refused(job))


if __name__ == "__main__":
    unittest.main()
