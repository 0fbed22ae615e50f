#!/usr/bin/env python3
"""op_runner from outside: both backends write the same bytes, and malformed input ends in a sentence,
a non-zero exit and no output file.

Argument: the op_runner program.
Seen red: a matrix whose size in bytes overflows 64 bits.
"""
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

RUNNER = sys.argv.pop(1)


def case(tile, rows, cols, values):
    return struct.pack("<iii", tile, rows, cols) + struct.pack(f"<{len(values)}f", *values)


def normal(count, seed):
    source = random.Random(seed)
    return [source.gauss(0, 1) for _ in range(count)]


class OpRunnerTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.inp = pathlib.Path(self.folder.name) / "in"
        self.out = pathlib.Path(self.folder.name) / "out"

    def run_mode(self, mode, data, *extra):
        self.inp.write_bytes(data)
        self.out.unlink(missing_ok=True)
        return subprocess.run([RUNNER, f"--mode={mode}", f"--in={self.inp}", f"--out={self.out}", *extra],
                              capture_output=True, text=True, timeout=60)

    def output(self, mode, data, *extra):
        result = self.run_mode(mode, data, *extra)
        self.assertEqual(result.returncode, 0, result.stderr)
        return self.out.read_bytes()

    def test_backends_write_the_same_bytes(self):
        data = struct.pack("<i", 2) + case(1, 48, 80, normal(3840, 1)) + case(16, 32, 64, normal(2048, 2))
        sizes = {"quantize": (3840 + 2048) // 2 + (3840 + 2048) // 16,
                 "quantize_sr": (3840 + 2048) // 2 + (3840 + 2048) // 16,
                 "rht": (3840 + 2048) * 4, "swizzle": 128 * 8 + 128 * 4, "roundtrip": (3840 + 2048) * 4}
        for mode, size in sizes.items():
            key = ["--seed=0x123456789abcdef0", "--tensor=7", "--step=3"] if mode == "quantize_sr" else []
            outputs = [self.output(mode, data, f"--backend={b}", *key) for b in ("reference", "cpu")]
            self.assertEqual(outputs[0], outputs[1], mode)
            self.assertEqual(len(outputs[0]), size, mode)

    def test_key_is_read_in_decimal_and_hexadecimal(self):
        data = struct.pack("<i", 1) + case(1, 16, 64, normal(1024, 3))
        self.assertEqual(self.output("quantize_sr", data, "--seed=255"),
                         self.output("quantize_sr", data, "--seed=0xff"))
        self.assertNotEqual(self.output("quantize_sr", data, "--seed=255"),
                            self.output("quantize_sr", data, "--seed=254"))

    def test_round_trips_of_every_recipe_take_any_size(self):
        recipes = ("fp32", "bf16", "fp8", "fp8_blockwise", "mxfp8", "mxfp4", "nvfp4")
        for recipe in recipes:
            rows, cols = (48, 80) if recipe == "nvfp4" else (37, 53)
            data = struct.pack("<i", 1) + case(1, rows, cols, normal(rows * cols, 7))
            for operand in ("activation", "weight"):
                outputs = [self.output("roundtrip", data, f"--recipe={recipe}", f"--operand={operand}",
                                       f"--backend={b}") for b in ("reference", "cpu")]
                self.assertEqual(outputs[0], outputs[1], recipe)
                self.assertEqual(len(outputs[0]), rows * cols * 4)
                if recipe == "fp32":
                    self.assertEqual(outputs[0], data[16:])

    def test_products_of_both_backends_agree(self):
        data = struct.pack("<i", 2) + case(1, 32, 512, normal(32 * 512, 4)) + case(16, 48, 512, normal(48 * 512, 5))
        results = [struct.unpack("<1536f", self.output("gemm", data, f"--backend={b}"))
                   for b in ("reference", "cpu")]
        difference = sum((a - b) ** 2 for a, b in zip(*results)) ** 0.5
        norm = sum(a * a for a in results[0]) ** 0.5
        # The order of FP32 accumulation: 512 terms.
        self.assertLess(difference, 1e-6 * norm)
        self.assertGreater(norm, 100)

    def test_malformed_input_is_refused(self):
        good = case(1, 16, 16, normal(256, 6))
        nan = case(1, 16, 16, [float("nan")] + normal(255, 6))
        files = {
            "empty": b"", "no case": struct.pack("<i", 1), "negative count": struct.pack("<i", -1),
            "truncated": struct.pack("<i", 1) + good[:-1], "one too few": struct.pack("<i", 2) + good,
            "trailing bytes": struct.pack("<i", 1) + good + b"x",
            "tile": struct.pack("<i", 1) + case(3, 16, 16, normal(256, 6)),
            "rows": struct.pack("<i", 1) + case(1, 8, 32, normal(256, 6)),
            "columns": struct.pack("<i", 1) + case(1, 32, 8, normal(256, 6)),
            "negative": struct.pack("<iiii", 1, 1, -16, -16), "zero": struct.pack("<iiii", 1, 1, 0, 16),
            "huge": struct.pack("<iiii", 1, 1, 2147483632, 2147483632), "nan": struct.pack("<i", 1) + nan,
        }
        for name, data in files.items():
            for mode in ("quantize", "gemm", "rht"):
                with self.subTest(name=name, mode=mode):
                    result = self.run_mode(mode, data)
                    self.assertGreater(result.returncode, 0)
                    self.assertIn("op_runner: ", result.stderr)
                    self.assertFalse(self.out.exists(), "an output file is left behind")

    def test_wrong_arguments_are_refused(self):
        one = struct.pack("<i", 1) + case(1, 16, 16, normal(256, 6))
        pair = struct.pack("<i", 2) + case(1, 16, 16, normal(256, 6)) + case(1, 16, 32, normal(512, 6))
        for mode, data, extra in [("gemm", one, []), ("gemm", pair, []), ("quantise", one, []),
                                  ("quantize", one, ["--backend=cuda"]),
                                  ("quantize_sr", one, ["--seed=12x"]),
                                  ("quantize_sr", one, ["--seed=-1"]),
                                  ("quantize_sr", one, ["--step=4294967296"]),
                                  ("quantize", one, ["--threads=-1"]),
                                  ("roundtrip", one, ["--operand=gradient"]),
                                  ("roundtrip", one, ["--recipe=fp4"])]:
            with self.subTest(mode=mode, extra=extra):
                result = self.run_mode(mode, data, *extra)
                self.assertGreater(result.returncode, 0)
                self.assertTrue(result.stderr.strip())
                self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main()
