#!/usr/bin/env python3
"""Exports loaded by transformers, and what transformers saves imported.

Usage: transformers_test.py NIBBLE_MODEL. Wants transformers and torch (in this
Python, or in the one that NIBBLE_TRANSFORMERS_PYTHON names); says so and passes where they are
absent.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

OTHER = os.environ.get("NIBBLE_TRANSFORMERS_PYTHON")
if OTHER and os.path.realpath(OTHER) != os.path.realpath(sys.executable) and \
        "NIBBLE_TRANSFORMERS_INSIDE" not in os.environ:
    os.environ["NIBBLE_TRANSFORMERS_INSIDE"] = "1"
    os.execv(OTHER, [OTHER, *sys.argv])

try:
    import torch
    import transformers
except ImportError:
    torch = None

PROGRAM = None
ROOT = pathlib.Path(__file__).resolve().parents[3]


def run(*arguments):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, (arguments, result.stderr)
    return result.stdout


@unittest.skipIf(torch is None, "no torch and transformers")
class TransformersTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.directory.name)
        torch.manual_seed(3)

    def tearDown(self):
        self.directory.cleanup()

    def models(self):
        llama = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
                     num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=64,
                     rms_norm_eps=1e-5, initializer_range=0.2, bos_token_id=None,
                     eos_token_id=None)
        yield "tied", transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**llama, tie_word_embeddings=True))
        yield "untied", transformers.LlamaForCausalLM(transformers.LlamaConfig(
            **llama, tie_word_embeddings=False, rope_parameters={
                "rope_type": "default", "rope_theta": 500000.0}))
        yield "wide heads", transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**{**llama, "num_key_value_heads": 6}, head_dim=16))

        gpt2 = dict(vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=64,
                    initializer_range=0.2, bos_token_id=None, eos_token_id=None, resid_pdrop=0.0,
                    embd_pdrop=0.0, attn_pdrop=0.0)
        yield "gpt2", transformers.GPT2LMHeadModel(transformers.GPT2Config(**gpt2))
        yield "gpt2 with its own head and exact GELU", transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**gpt2, n_inner=80, activation_function="gelu",
                                    tie_word_embeddings=False))

    def test_logits_and_greedy_ids_there_and_here(self):
        for name, model in self.models():
            with self.subTest(name):
                self.check_round_trip(model.eval())
                self.directory.cleanup()
                self.setUp()

    def check_round_trip(self, model):
        for parameter in model.parameters():  # norms are all ones otherwise
            if parameter.dim() == 1:
                parameter.data.uniform_(0.5, 1.5)
        saved, checkpoint, out = (self.root / n for n in ("saved", "checkpoint", "out"))
        model.save_pretrained(saved)
        first = json.loads(run("import", saved, "--out", checkpoint, "--json"))
        prompt = [5, 17, 3, 60]
        with torch.no_grad():
            ids = list(prompt)
            for _ in range(40):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        # Greedy ids depend on every weight and every position.
        got = run("generate", checkpoint, "--prompt-ids", ",".join(map(str, prompt)),
                  "--max-tokens", 40, "--ignore-end", "-o", "ids")
        self.assertEqual([int(i) for i in got.split()], ids[4:])

        run("export", checkpoint, "--out", out)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
        tokens = torch.tensor([ids])
        with torch.no_grad():
            # The same weights in the same program: the same bits.
            self.assertTrue(torch.equal(loaded(tokens).logits, model(tokens).logits))
        again = json.loads(run("import", out, "--out", self.root / "again", "--json"))
        self.assertEqual(again["weights_digest"], first["weights_digest"])

    def test_the_gpt2_tokenizer_goes_through(self):
        tokenizer = ROOT / "shared" / "data" / "tokenizers" / "gpt2"
        if not tokenizer.is_dir():
            self.skipTest(f"no {tokenizer}")
        transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=50257, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2)).save_pretrained(self.root / "saved")
        run("import", self.root / "saved", "--out", self.root / "checkpoint", "--tokenizer",
            tokenizer)
        run("export", self.root / "checkpoint", "--out", self.root / "out")
        text = "It's 3 o'clock,\n\tsaid  Zo\u00eb \u4f60\u597d."
        got = json.loads(run("generate", self.root / "checkpoint", "--prompt", text, "-o", "json",
                             "--max-tokens", 1))
        theirs = transformers.AutoTokenizer.from_pretrained(self.root / "out")
        self.assertEqual(got["prompt_ids"], theirs.encode(text, add_special_tokens=False))
        self.assertEqual(theirs.eos_token_id, 50256)

    def test_shards_and_narrow_types(self):
        _, model = next(self.models())
        for dtype in (torch.bfloat16, torch.float16):
            narrow = model.to(dtype)
            single, shards = self.root / f"s{dtype}", self.root / f"m{dtype}"
            narrow.save_pretrained(single)
            narrow.save_pretrained(shards, max_shard_size="20KB")
            self.assertGreater(len(list(shards.glob("*.safetensors"))), 2)
            digests = {json.loads(run("import", source, "--out", str(source) + "-c",
                                      "--json"))["weights_digest"] for source in (single, shards)}
            self.assertEqual(len(digests), 1)

    def test_bf16_export_is_torchs_rounding(self):
        _, model = next(self.models())
        model.save_pretrained(self.root / "saved")
        run("import", self.root / "saved", "--out", self.root / "checkpoint")
        for flag, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
            run("export", self.root / "checkpoint", "--out", self.root / flag, "--dtype", flag)
            loaded = transformers.AutoModelForCausalLM.from_pretrained(
                self.root / flag, torch_dtype=dtype)
            want = model.state_dict()
            for name, value in loaded.state_dict().items():
                self.assertTrue(torch.equal(value, want[name].to(dtype)), name)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
