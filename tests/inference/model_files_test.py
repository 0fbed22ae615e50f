#!/usr/bin/env python3
"""Files that nibble-model reads, made here: what is whole is read, what is damaged is refused with a
sentence and little memory, and an imported model is trained on.

Usage: model_files_test.py NIBBLE_MODEL NIBBLE_TRAINER.
"""
import hashlib
import json
import pathlib
import random
import resource
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM = TRAINER = None
DIM, HIDDEN, LAYERS, HEADS, KV, VOCAB, LENGTH = 8, 12, 2, 2, 1, 256, 16


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))


def run(*arguments, program=None):
    return subprocess.run([program or PROGRAM, *map(str, arguments)], capture_output=True,
                          text=True, errors="replace", timeout=120, preexec_fn=limit_memory)


def values(count, seed=1):
    generator = random.Random(seed)
    return [generator.uniform(-0.3, 0.3) for _ in range(count)]


def floats(numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


HEAD_SIZE = DIM // HEADS
BLOCK = {"rms_att": DIM, "wq": DIM * DIM, "wk": KV * HEAD_SIZE * DIM, "wv": KV * HEAD_SIZE * DIM,
         "wo": DIM * DIM, "rms_ffn": DIM, "w1": HIDDEN * DIM, "w2": DIM * HIDDEN,
         "w3": HIDDEN * DIM}


def llama2c(version, shared):
    """A model file; the same tensors whatever the version."""
    names = list(BLOCK)
    tensors = {name: values(LAYERS * size, seed) for seed, (name, size) in enumerate(BLOCK.items())}
    embedding, final = values(VOCAB * DIM, 50), values(DIM, 51)
    head = [] if shared else values(VOCAB * DIM, 52)
    shape = [DIM, HIDDEN, LAYERS, HEADS, KV]
    if version == 0:
        order = [embedding, *(tensors[n] for n in names), final, [0.0] * (LENGTH * HEAD_SIZE), head]
        start = struct.pack("<7i", *shape, VOCAB if shared else -VOCAB, LENGTH)
    else:
        order = [tensors["rms_att"], tensors["rms_ffn"], final, embedding,
                 *(tensors[n] for n in names if not n.startswith("rms")), head]
        start = struct.pack("<Ii7i?", 0x616B3432, 1, *shape, VOCAB, LENGTH, shared).ljust(256, b"\0")
    return start + b"".join(floats(t) for t in order)


def safetensors(tensors):
    header, offset = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(d for _, d in tensors.values())


CONFIG = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": DIM,
          "intermediate_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": HEADS,
          "num_key_value_heads": KV, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
          "max_position_embeddings": LENGTH, "tie_word_embeddings": True, "hidden_act": "silu"}


def hugging_face_tensors():
    block = "model.layers.0."
    shapes = {"model.embed_tokens.weight": [VOCAB, DIM], "model.norm.weight": [DIM],
              block + "input_layernorm.weight": [DIM],
              block + "post_attention_layernorm.weight": [DIM],
              block + "self_attn.q_proj.weight": [DIM, DIM],
              block + "self_attn.k_proj.weight": [KV * HEAD_SIZE, DIM],
              block + "self_attn.v_proj.weight": [KV * HEAD_SIZE, DIM],
              block + "self_attn.o_proj.weight": [DIM, DIM],
              block + "mlp.gate_proj.weight": [HIDDEN, DIM],
              block + "mlp.up_proj.weight": [HIDDEN, DIM],
              block + "mlp.down_proj.weight": [DIM, HIDDEN]}
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        size = shape[0] * (shape[1] if len(shape) == 2 else 1)
        tensors[name] = (shape, floats(values(size, seed)))
    return tensors


class ModelFilesTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.directory.name)
        self.count = 0

    def tearDown(self):
        self.directory.cleanup()

    def write(self, data):
        self.count += 1
        path = self.root / f"model-{self.count}.bin"
        path.write_bytes(data)
        return path

    def hugging_face(self, config=None, tensors=None, files=None):
        self.count += 1
        path = self.root / f"hf-{self.count}"
        path.mkdir()
        text = config if isinstance(config, (str, bytes)) else json.dumps({**CONFIG, **(config or {})})
        (path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        if files is None:
            files = {"model.safetensors": safetensors(tensors or hugging_face_tensors())}
        for name, data in files.items():
            (path / name).write_bytes(data)
        return path

    def bring_in(self, source):
        self.count += 1
        out = self.root / f"checkpoint-{self.count}"
        result = run("import", source, "--out", out, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return out, json.loads(result.stdout)

    def refused(self, *arguments, says="", codes=(2,)):
        result = run(*arguments)
        self.assertIn(result.returncode, codes, (arguments, result.stderr))
        self.assertTrue(result.stderr.startswith("error: "), result.stderr)
        self.assertIn(says, result.stderr)

    def refuse_import(self, source, says=""):
        self.refused("import", source, "--out", self.root / "refused", says=says)
        self.assertFalse((self.root / "refused").exists())
        self.assertFalse((self.root / "refused.tmp").exists())

    def test_both_versions_of_llama2c_with_and_without_a_shared_head(self):
        digests = [self.bring_in(self.write(llama2c(version, shared)))[1]["weights_digest"]
                   for shared in (True, False) for version in (0, 1)]
        self.assertEqual(digests[0], digests[1])
        self.assertEqual(digests[2], digests[3])
        self.assertNotEqual(digests[0], digests[2])

    def test_damaged_llama2c_files(self):
        for version in (0, 1):
            good = llama2c(version, True)
            for size in (0, 1, 27, 28, 100, 255, 256, 257, len(good) // 2, len(good) - 1):
                if size < len(good):
                    self.refuse_import(self.write(good[:size]))
            self.refuse_import(self.write(good + b"\0\0\0\0"), says="its header asks for")
            start = 0 if version == 0 else 8
            for field in range(7):
                for value in (0, -1, 3, 2**31 - 1, -2**31):
                    bad = bytearray(good)
                    struct.pack_into("<i", bad, start + 4 * field, value)
                    # A vocabulary of the other sign, or another sequence length, asks for more.
                    self.refuse_import(self.write(bytes(bad))) if not (
                        version == 1 and field == 6 and value == 3) else None
        good = llama2c(1, True)
        self.refuse_import(self.write(good[:4] + struct.pack("<i", 2) + good[8:]), says="8 bits")
        self.refuse_import(self.write(good[:4] + struct.pack("<i", 9) + good[8:]), says="version 9")
        self.refuse_import(self.write(good[:36] + b"\7" + good[37:]), says="shared head")

    def test_settings_that_no_model_here_has_are_named(self):
        for change in ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
                       {"rope_parameters": {"rope_type": "yarn"}}, {"attention_bias": True},
                       {"mlp_bias": True}, {"hidden_act": "gelu"}, {"model_type": "mamba"}):
            self.refuse_import(self.hugging_face(change), says=list(change)[0])

    def test_hostile_configurations(self):
        changes = [{"hidden_size": v} for v in (0, -8, 2**31, 2**70, 1.5, "8", None, [8], 2**30)]
        changes += [{"num_attention_heads": 3}, {"num_key_value_heads": 0}, {"vocab_size": 2**31 - 1},
                    {"rms_norm_eps": "x"}, {"rope_theta": -1}, {"num_hidden_layers": 10**9},
                    {"tie_word_embeddings": 1}, {"rope_scaling": 5}, {"head_dim": 7}]
        for change in changes:
            self.refuse_import(self.hugging_face(change))
        for text in ("", "[]", "{", "null", "[" * 100_000, '{"a":' * 100_000, b"\xff\xfe",
                     " " * (1 << 21)):
            result = run("import", self.hugging_face(text), "--out", self.root / "refused")
            self.assertIn(result.returncode, (2, 4), result.stderr)

    def test_tensors_that_do_not_belong(self):
        good = hugging_face_tensors()
        norm = good["model.norm.weight"]
        for tensors, says in (
                ({**good, "model.layers.0.self_attn.q_proj.bias": norm}, "no place"),
                ({**good, "model.norm.weight": ([DIM, 1], norm[1])}, "shape"),
                ({k: v for k, v in good.items() if k != "model.norm.weight"}, "model.norm.weight")):
            self.refuse_import(self.hugging_face(tensors=tensors), says=says)
        # What old files carry beside the weights is left out.
        _, plain = self.bring_in(self.hugging_face())
        _, more = self.bring_in(self.hugging_face(tensors={
            **good, "lm_head.weight": good["model.embed_tokens.weight"],
            "model.layers.0.self_attn.rotary_emb.inv_freq": ([2], floats([1, 2]))}))
        self.assertEqual(plain["weights_digest"], more["weights_digest"])

    def test_damaged_tensor_files(self):
        good = safetensors(hugging_face_tensors())
        cuts = [good[:size] for size in (0, 7, 8, 20, len(good) // 2, len(good) - 1)]
        for data in cuts + [good + b"x", struct.pack("<Q", 2**63) + good[8:],
                            good.replace(b"F32", b"F8_", 1)]:
            self.refuse_import(self.hugging_face(files={"model.safetensors": data}))
        self.refuse_import(self.hugging_face(files={"pytorch_model.bin": b"x"}), says="safetensors")

    def test_shards_and_hostile_indexes(self):
        tensors = list(hugging_face_tensors().items())
        first, second = dict(tensors[:5]), dict(tensors[5:])
        shards = {"a.safetensors": safetensors(first), "b.safetensors": safetensors(second)}

        def index(names):
            return json.dumps({"metadata": {}, "weight_map": names}).encode()

        names = {**{n: "a.safetensors" for n in first}, **{n: "b.safetensors" for n in second}}
        whole = self.hugging_face(files={**shards, "model.safetensors.index.json": index(names)})
        _, got = self.bring_in(whole)
        self.assertEqual(got["weights_digest"], self.bring_in(self.hugging_face())[1]["weights_digest"])
        for bad in (b"", b"[]", b'{"weight_map": 5}', index({"x": "../a.safetensors"}),
                    index({"x": "/etc/passwd"}), index({"x": 5}), index({"x": "c.safetensors"}),
                    index({n: "a.safetensors" for n in first})):
            self.refuse_import(self.hugging_face(
                files={**shards, "model.safetensors.index.json": bad}))
        twice = {**shards, "b.safetensors": safetensors({**second, **first})}
        self.refuse_import(self.hugging_face(
            files={**twice, "model.safetensors.index.json": index(names)}), says="twice")

    def test_damaged_checkpoints(self):
        checkpoint, _ = self.bring_in(self.write(llama2c(0, True)))
        for name in ("model.yaml", "model.safetensors", "manifest.json"):
            path = checkpoint / name
            good = path.read_bytes()
            for bad in (b"", good[:-3], good[:20] + b"\x00" + good[21:]):
                path.write_bytes(bad)
                self.refused("generate", checkpoint, "--prompt-ids", 1)
                self.refused("export", checkpoint, "--out", self.root / "refused")
            path.write_bytes(good)
        self.assertEqual(run("generate", checkpoint, "--prompt-ids", 1).returncode, 0)

    def test_damaged_evaluation_files(self):
        checkpoint, _ = self.bring_in(self.write(llama2c(0, True)))
        question = '{"query": "Q", "choices": ["a", "b"], "gold": 1}\n'
        pair = '{"sentence_good": "a b", "sentence_bad": "b a", "UID": "x"}\n'
        good = {"piqa": question, "blimp": pair, "lambada_standard": '{"text": "one two"}\n',
                "lambada_openai": '{"context": "one", "continuation": "two"}\n',
                "winogrande": '{"context_options": ["a", "b"], "continuation": "c", "gold": 0}\n',
                "hellaswag": "context\n2\na\nb\nc\nd\n", "text": "some text"}
        for task, text in good.items():
            result = run("evaluate", checkpoint, "--task",
                         f"{task}={self.write(text.encode())}", "--json")
            self.assertEqual(result.returncode, 0, (task, result.stderr))
        for task, text in (
                ("piqa", ""), ("piqa", "{"), ("piqa", "[]\n"), ("piqa", question + "nonsense\n"),
                ("piqa", '{"query": "Q", "choices": ["a", "b"], "gold": 2}\n'),
                ("piqa", '{"query": "Q", "choices": ["a", "b"], "gold": -1}\n'),
                ("piqa", '{"query": "Q", "choices": [], "gold": 0}\n'),
                ("piqa", '{"query": "Q", "choices": ["a", 5], "gold": 0}\n'),
                ("piqa", '{"query": 5, "choices": ["a", "b"], "gold": 0}\n'),
                ("piqa", '{"query": "Q", "choices": %s, "gold": 0}\n' % json.dumps(["a"] * 65)),
                ("piqa", "[" * 1_000_000), ("blimp", '{"sentence_good": "a"}\n'),
                ("lambada_standard", '{"text": "one"}\n'),
                ("lambada_openai", '{"context": "one", "continuation": ""}\n{}\n'),
                ("hellaswag", "context\n4\na\nb\nc\nd\n"), ("hellaswag", "context\n1\na\nb\n"),
                ("text", ""), ("hellaswag", "\x1f\x8bdamaged"), ("hellaswag", "BZh91AY&SYdamaged"),
                ("hellaswag", "\x28\xb5\x2f\xfddamaged")):
            with self.subTest(task=task, text=text[:60]):
                path = self.write(text.encode("latin-1"))
                self.refused("evaluate", checkpoint, "--task", f"{task}={path}")

    def test_archives(self):
        checkpoint, _ = self.bring_in(self.write(llama2c(0, True)))
        pair = '{"sentence_good": "a b", "sentence_bad": "b a", "UID": "%s"}\n'
        inner = self.root / "inner"
        inner.mkdir()
        for name in "pq":
            (inner / f"{name}.jsonl").write_text((pair % name) * 3)
        tar = self.root / "pairs.tar"
        subprocess.run(["tar", "--format=ustar", "-cf", tar, "-C", self.root, "inner"], check=True)
        data = tar.read_bytes()
        result = run("evaluate", checkpoint, "--task", f"blimp={tar}", "--limit", 2, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        task = json.loads(result.stdout)["tasks"][0]
        self.assertEqual(task["items"], 4)
        self.assertEqual(set(task["metrics"]), {"acc", "acc/p", "acc/q"})
        at = data.index(b"inner/p.jsonl") + 124  # its size
        for bad in (data[:700], data[:at] + b"77777777777" + data[at + 11:],
                    data[:at] + b"zzzzzzzzzzz" + data[at + 11:], data[:20] + b"!" + data[21:]):
            self.refused("evaluate", checkpoint, "--task", f"blimp={self.write(bad)}")

    def test_an_imported_model_is_trained_on(self):
        checkpoint, _ = self.bring_in(self.write(llama2c(0, True)))
        data = self.root / "data" / "text"
        data.mkdir(parents=True)
        text = ("the cat sat on the mat. " * 200).encode()
        files = {}
        for split, part in (("train", text), ("validation", text[:600])):
            shard = b"nibbletk" + struct.pack("<IIQII", 1, 2, len(part), 256, 0) + \
                struct.pack(f"<{len(part)}H", *part)
            (data / f"{split}-00000.bin").write_bytes(shard)
            files[split] = (len(part), hashlib.sha256(shard).hexdigest())
        self.write_manifest(data, files)
        spec = self.root / "job.yaml"
        body = (checkpoint / "model.yaml").read_text().replace("training:\n", "training:\n  steps: 30\n"
                                                               f"  init_from: {checkpoint}\n"
                                                               "  batch_size: 4\n")
        spec.write_text(f"name: on\n{body}data: {{path: text}}\nprecision: {{recipe: fp32}}\n"
                        "optimizer: {learning_rate: 0.01}\n")
        result = run("--spec", spec, "--out", self.root / "run", "--data-dir", self.root / "data",
                     program=TRAINER)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = [json.loads(line)["loss"] for line in
                (self.root / "run" / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(len(rows), 30)
        self.assertLess(rows[-1], rows[0] - 0.3)
        # What came out is a checkpoint like any other: it knows its model, and byte text.
        trained = self.root / "run" / "checkpoints" / "step-30"
        again = run("generate", trained, "--prompt", "the ca", "--max-tokens", 5)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertTrue(again.stdout.startswith("the ca"), again.stdout)
        # The first step's loss is that of the imported weights, not of fresh ones.
        other = run("evaluate", checkpoint, "--task", f"text={self.write(text)}", "--json")
        loss = json.loads(other.stdout)["tasks"][0]["metrics"]["loss"]["value"]
        self.assertAlmostEqual(rows[0], loss, delta=0.25)
        self.assertLess(json.loads(run("evaluate", trained, "--task", f"text={self.write(text)}",
                                       "--json").stdout)["tasks"][0]["metrics"]["loss"]["value"],
                        loss - 0.3)

    def write_manifest(self, data, files):
        def split(name):
            size, digest = files[name]
            return {"tokens": size, "bytes": size, "documents": 1,
                    "files": [{"name": f"{name}-00000.bin", "tokens": size, "sha256": digest}]}

        (data / "dataset.json").write_text(json.dumps({
            "format": "nibble-token-shards", "version": 1, "vocab_size": 256, "token_bytes": 2,
            "tokenizer": {"kind": "bytes", "digest": "0" * 64, "separator": 0},
            "splits": {"train": split("train"), "validation": split("validation")}}))


if __name__ == "__main__":
    PROGRAM, TRAINER = sys.argv.pop(1), sys.argv.pop(1)
    unittest.main()
