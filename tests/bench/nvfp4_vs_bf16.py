#!/usr/bin/env python3
"""What emulating NVFP4 exactly costs a step of training on a CPU: our own recipes side by side.

  tests/bench/nvfp4_vs_bf16.py [--row d256|d768] [--recipe nvfp4] [--pairs 5] [--steps 12]

d256: vocabulary 256, width 256, 4 blocks, T 256, batch 8. d768: width 768 with an MLP of 3,072, the
sizes of GPT-2's layers, 2 blocks, batch 4. No block is kept in BF16, so that every linear layer
counts. Runs alternate; the figure is the median of the pair ratios of tokens a second (recipe /
bf16), each a run's median step.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

BIN = pathlib.Path(__file__).resolve().parents[2] / "build" / "release" / "bin"

ROWS = {
    "d256": dict(vocab_size=256, width=256, blocks=4, heads=4, kv_heads=4, mlp_width=704),
    "d768": dict(vocab_size=256, width=768, blocks=2, heads=12, kv_heads=12, mlp_width=3072),
}
BATCH = {"d256": 8, "d768": 4}


def run(directory, row, precision, steps, threads):
    spec = {"name": "bench", "model": ROWS[row], "data": {"path": "text"},
            "training": {"steps": steps, "sequence_length": 256, "batch_size": BATCH[row],
                         "validation_sequences": 1},
            "optimizer": {"learning_rate": 1e-3, "schedule": {"kind": "constant"}},
            "precision": precision, "resources": {"threads": threads}}
    with tempfile.TemporaryDirectory(dir=directory) as out:
        path = pathlib.Path(out) / "spec.json"
        path.write_text(json.dumps(spec))
        subprocess.run([BIN / "nibble-trainer", "--spec", path, "--out", pathlib.Path(out) / "run", "--data-dir",
                        directory], check=True, capture_output=True)
        lines = (pathlib.Path(out) / "run" / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["step_seconds"] for line in lines[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=ROWS, action="append")
    parser.add_argument("--recipe", default="nvfp4")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    precision = {"recipe": options.recipe, "high_precision_blocks": {"first": 0, "last": 0}}
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        text = directory / "kjv.txt"
        text.write_bytes(subprocess.run(["bible", "-f", "gen1:1-rev22:21"], check=True, capture_output=True,
                                        stdin=subprocess.DEVNULL).stdout)
        subprocess.run([BIN / "nibble", "data", "prepare", text, "--out", directory / "text", "--split", "hash",
                        "--validation-fraction", "0"], check=True, capture_output=True)
        for row in options.row or ROWS:
            ratios = []
            for _ in range(options.pairs):
                bf16 = run(directory, row, {"recipe": "bf16"}, options.steps, options.threads)
                ratios.append(bf16 / run(directory, row, precision, options.steps, options.threads))
            print(f"{row}: {options.recipe} / bf16 tokens a second, {options.threads} threads: median "
                  f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


main()
