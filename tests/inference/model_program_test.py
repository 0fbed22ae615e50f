#!/usr/bin/env python3
"""nibble-model as a program, against somebody else's model and an independent scorer.

Usage: model_program_test.py NIBBLE_MODEL. Wants ../shared/data and NumPy; says so and passes where
they are absent.
"""
import bz2
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
    import plain_llama2c
except ImportError:
    np = None

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
STORIES = SHARED / "checkpoints" / "stories260K"
EVAL = SHARED / "eval"
PROGRAM = None
ITEMS = 3  # of each file: the NumPy side is slow


def run(*arguments, code=0):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stderr)
    return result


def decompressed(path):
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout
    return bz2.open(path).read() if path.suffix == ".bz2" else path.read_bytes()


def json_lines(path):
    return [json.loads(line) for line in decompressed(path).decode().split("\n")[:ITEMS] if line]


class ModelProgramTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not STORIES.is_dir():
            raise unittest.SkipTest(f"no {STORIES}")
        cls.directory = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.directory.name)
        cls.checkpoint = cls.root / "stories"
        cls.imported = json.loads(run("import", STORIES / "stories260K.bin", "--tokenizer",
                                      STORIES / "tok512.bin", "--out", cls.checkpoint,
                                      "--json").stdout)
        cls.golden = json.loads((STORIES / "golden.json").read_text())

    @classmethod
    def tearDownClass(cls):
        cls.directory.cleanup()

    def test_both_file_versions_hold_the_same_weights(self):
        again = json.loads(run("import", STORIES / "stories260K_v1.bin", "--out",
                               self.root / "v1", "--json").stdout)
        self.assertEqual(again["weights_digest"], self.imported["weights_digest"])
        self.assertEqual(again["parameters"], 260032)

    def test_greedy_ids_and_text_are_the_golden_ones(self):
        want = self.golden["greedy_ids_from_bos"]
        for backend, count in [("cpu", 255), ("reference", 20)]:
            got = run("generate", self.checkpoint, "--prompt-ids", 1, "--max-tokens", count,
                      "--ignore-end", "-o", "ids", "--backend", backend).stdout
            self.assertEqual([int(i) for i in got.split()], want[1:count + 1])
        text = run("generate", self.checkpoint, "--max-tokens", 255, "--ignore-end").stdout
        self.assertEqual(text.strip(), self.golden["greedy_text"].strip())

    def test_what_is_refused(self):
        run("import", self.root / "none.bin", "--out", self.root / "x", code=2)
        run("import", STORIES / "tok512.bin", "--out", self.root / "x", code=2)
        run("import", STORIES / "stories260K.bin", "--out", self.checkpoint, code=4)
        run("generate", self.checkpoint, "--prompt-ids", 512, code=2)
        run("generate", self.root, code=2)
        run("evaluate", self.checkpoint, "--task", "nonsense", code=2)
        run("evaluate", self.checkpoint, "--task", "piqa", code=2)
        self.assertFalse((self.root / "x").exists())

    def test_scores_are_those_of_an_independent_scorer_item_by_item(self):
        if np is None:
            self.skipTest("no NumPy")
        scorer = plain_llama2c.Scorer(plain_llama2c.Model(STORIES / "stories260K.bin"),
                                      plain_llama2c.Tokenizer(STORIES / "tok512.bin", 512), 512)
        for task, items in self.questions().items():
            out = self.root / f"{task}.jsonl"
            run("evaluate", self.checkpoint, "--task", task, "--data", EVAL, "--limit", ITEMS,
                "--items", out)
            got = [json.loads(line) for line in out.read_text().splitlines()][:len(items)]
            self.assertEqual(len(got), len(items), task)
            for item, (pairs, lengths, gold) in zip(got, items):
                with self.subTest(task=task, item=item["id"]):
                    self.check_item(task, item, [scorer.score(*pair) for pair in pairs], lengths,
                                    gold)

    def check_item(self, task, item, scores, lengths, gold):
        sums = np.array([s[0] for s in scores])
        # FP32 sums over at most 512 tokens of losses up to about 10.
        np.testing.assert_allclose(item["log_probabilities"], sums, rtol=2e-5, atol=2e-4)
        self.assertEqual(item["tokens"], [s[2] for s in scores])
        self.assertEqual(item["greedy"], [s[1] for s in scores])
        if task.startswith("lambada"):
            self.assertEqual(item["acc"], int(scores[0][1]))
            return
        self.assertEqual(item["gold"], gold)
        self.assertEqual(item["best"], int(sums.argmax()))
        self.assertEqual(item["acc"], int(sums.argmax() == gold))
        if "acc_norm" in item:
            self.assertEqual(item["acc_norm"], int((sums / lengths).argmax() == gold))

    def questions(self):
        """Per task: [((context, continuation), ...), lengths, gold]."""
        def question(path, end):
            return [([(end(d["query"]), " " + c) for c in d["choices"]],
                     [len(c) for c in d["choices"]], d["gold"]) for d in json_lines(EVAL / path)]

        answer = lambda query: query.rstrip() + "\nAnswer:"
        lines = decompressed(EVAL / "hellaswag_val_full.txt.bz2").decode().split("\n")
        hellaswag = [([(lines[i], " " + e) for e in lines[i + 2:i + 6]],
                      [len(e) for e in lines[i + 2:i + 6]], int(lines[i + 1]))
                     for i in range(0, 6 * ITEMS, 6)]
        words = [d["text"].rsplit(" ", 1) for d in json_lines(EVAL / "lambada_test.jsonl")]
        tar = subprocess.run(["tar", "-I", "zstd", "-xOf", EVAL / "blimp.tar.zst",
                              "blimp/adjunct_island.jsonl"], capture_output=True, check=True)
        blimp = [json.loads(line) for line in tar.stdout.decode().split("\n")[:ITEMS]]
        return {
            "lambada_openai": [([(d["context"], " " + d["continuation"])], [1], 0)
                               for d in json_lines(EVAL / "lambada_openai.jsonl.zst")],
            "lambada_standard": [([(c, " " + w)], [1], 0) for c, w in words],
            "hellaswag": hellaswag,
            "arc_easy": question("arc_easy.jsonl.zst", answer),
            "arc_challenge": question("arc_challenge.jsonl.zst", answer),
            "piqa": question("piqa.jsonl.zst", answer),
            "winogrande": [([(c, " " + d["continuation"]) for c in d["context_options"]], [1, 1],
                            d["gold"]) for d in json_lines(EVAL / "winogrande.jsonl.zst")],
            "boolq": question("boolq.jsonl.zst", lambda query: query + "\nAnswer:"),
            "copa": question("copa.jsonl.zst", lambda query: query),
            "openbookqa": question("openbook_qa.jsonl.zst", lambda query: query),
            "blimp": [([("", d["sentence_good"]), ("", d["sentence_bad"])], [1, 1], 0)
                      for d in blimp],
        }

    def test_bits_per_byte_of_a_text(self):
        if np is None:
            self.skipTest("no NumPy")
        model = plain_llama2c.Model(STORIES / "stories260K.bin")
        tokenizer = plain_llama2c.Tokenizer(STORIES / "tok512.bin", 512)
        text = (EVAL / "wikitext2" / "valid.txt").read_text()[:1500]
        path = self.root / "valid.txt"
        path.write_text(text)
        ids = [1] + tokenizer.encode(text)
        window, total, done = 100, 0.0, 1
        while done < len(ids):  # every token once; the last window reaches back
            end = min(done + window, len(ids))
            begin = max(0, end - window - 1)
            table = model.log_probabilities(ids[begin:end - 1])
            total += sum(table[i - begin - 1, ids[i]] for i in range(done, end))
            done = end
        got = json.loads(run("evaluate", self.checkpoint, "--task", f"text={path}", "--context",
                             window, "--json").stdout)["tasks"][0]["metrics"]
        self.assertAlmostEqual(got["bits_per_byte"]["value"],
                               -total / np.log(2) / len(text.encode()), places=4)
        self.assertAlmostEqual(got["loss"]["value"], -total / (len(ids) - 1), places=4)

    def test_an_export_comes_back_with_the_same_digest(self):
        for dtype in ["f32", "bf16", "f16"]:
            out = self.root / f"hf-{dtype}"
            run("export", self.checkpoint, "--out", out, "--dtype", dtype)
            again = json.loads(run("import", out, "--out", self.root / f"again-{dtype}",
                                   "--json").stdout)
            if dtype == "f32":
                self.assertEqual(again["weights_digest"], self.imported["weights_digest"])
            second = self.root / f"hf2-{dtype}"
            run("export", self.root / f"again-{dtype}", "--out", second, "--dtype", dtype)
            self.assertEqual((second / "model.safetensors").read_bytes(),
                             (out / "model.safetensors").read_bytes())


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
