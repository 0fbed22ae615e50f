#!/usr/bin/env python3
"""Training speed on a CPU beside llm.c's CPU trainer: the same GPT-2, tokens and batch.

  tests/bench/train_vs_llmc.py --llmc DIRECTORY [--recipe fp32|bf16|nvfp4] [--pairs 5] [--steps 3]

DIRECTORY is a checkout of karpathy/llm.c, whose train_gpt2.c is compiled in a temporary directory as
its Makefile does (-Ofast -march=native -fopenmp). It trains GPT-2 124M with batch 4 and T 64 in FP32
from random weights on random tokens, both written here in its formats; nibble reads the same
tokens. Runs alternate; the figure is the median of the pair ratios (ours / peer) of tokens a second,
each from a run's median step without the first. Both losses must start near ln 50,257.
"""
import argparse
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import bench_peer

BIN = bench_peer.BUILD / "bin"
BATCH, LENGTH, VOCABULARY, PADDED, POSITIONS = 4, 64, 50257, 50304, 1024

# Writes gpt2_124M.bin and the two token files.
WRITE_INPUTS = r"""
import sys, numpy as np
directory, layers, heads, width, vocabulary, padded, positions = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
def normal(*shape): return (rng.standard_normal(shape, dtype=np.float32) * .02)
def zeros(n): return np.zeros(n, np.float32)
def ones(n): return np.ones(n, np.float32)
header = np.zeros(256, np.int32)
header[:8] = 20240326, 3, positions, vocabulary, layers, heads, width, padded
with open(directory + "/gpt2_124M.bin", "wb") as f:
    f.write(header.tobytes())
    for values in (normal(padded, width), normal(positions, width), ones(layers * width), zeros(layers * width),
                   normal(layers, 3 * width, width), zeros(layers * 3 * width), normal(layers, width, width),
                   zeros(layers * width), ones(layers * width), zeros(layers * width),
                   normal(layers, 4 * width, width), zeros(layers * 4 * width), normal(layers, width, 4 * width),
                   zeros(layers * width), ones(width), zeros(width)):
        f.write(values.tobytes())
header = np.zeros(256, np.int32)
header[:3] = 20240520, 1, 1 << 16
import os
os.makedirs(directory + "/dev/data/tinyshakespeare")
for name in ("train", "val"):
    with open(f"{directory}/dev/data/tinyshakespeare/tiny_shakespeare_{name}.bin", "wb") as f:
        f.write(header.tobytes())
        f.write(rng.integers(0, vocabulary, 1 << 16, dtype=np.uint16).tobytes())
"""


def build_peer(checkout, directory):
    program = directory / "train_gpt2"
    subprocess.run(["cc", "-Ofast", "-march=native", "-Wno-unused-result", "-fopenmp", "-DOMP", "-I", checkout,
                    checkout / "train_gpt2.c", "-lm", "-o", program], check=True)
    return program


def run_peer(program, directory, steps, threads):
    process = subprocess.Popen([program], cwd=directory, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    took = []
    for line in process.stdout:
        match = re.match(r"step (\d+): train loss ([\d.]+) \(took ([\d.]+) ms\)", line)
        if match:
            took.append(float(match[3]) / 1e3)
            loss = float(match[2]) if len(took) == 1 else loss
            if len(took) == steps + 1:
                break
    process.kill()
    process.wait()
    return BATCH * LENGTH / statistics.median(took[1:]), loss


def run_ours(directory, recipe, steps, threads, name):
    tokens = directory / "dev/data/tinyshakespeare/tiny_shakespeare_train.bin"
    spec = {"name": "bench", "model": {"preset": "gpt2-small"},
            "data": {"sources": [{"path": str(tokens), "format": "llmc", "separator": VOCABULARY - 1}]},
            "training": {"steps": steps + 3, "sequence_length": LENGTH, "batch_size": BATCH,
                         "validation_sequences": 1},
            "optimizer": {"learning_rate": 1e-4, "schedule": {"kind": "constant"}},
            "precision": {"recipe": recipe}, "resources": {"threads": threads}}
    path = directory / f"{name}.json"
    path.write_text(json.dumps(spec))
    subprocess.run([BIN / "nibble-trainer", "--spec", path, "--out", directory / name], check=True,
                   capture_output=True)
    rows = [json.loads(line) for line in (directory / name / "metrics.jsonl").read_text().splitlines()]
    for checkpoint in (directory / name).rglob("*.safetensors"):
        checkpoint.unlink()
    return BATCH * LENGTH / statistics.median(row["step_seconds"] for row in rows[2:]), rows[0]["loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llmc", type=pathlib.Path, required=True)
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    recipes = options.recipe or ["fp32", "bf16"]
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        subprocess.run([bench_peer.python(), "-c", WRITE_INPUTS, directory, "12", "12", "768", str(VOCABULARY),
                        str(PADDED), str(POSITIONS)], check=True)
        program = build_peer(options.llmc.resolve(), directory)
        ratios = {recipe: [] for recipe in recipes}
        for pair in range(options.pairs):
            peer, peer_loss = run_peer(program, directory, options.steps, options.threads)
            for recipe in recipes:
                ours, loss = run_ours(directory, recipe, options.steps, options.threads, f"{recipe}-{pair}")
                ratios[recipe].append(ours / peer)
                print(f"pair {pair + 1}: {recipe} {ours:.1f}, llm.c {peer:.1f} tokens/s, ratio {ours / peer:.2f}; "
                      f"first losses {loss:.3f} {peer_loss:.3f}", flush=True)
                if max(abs(loss - math.log(VOCABULARY)), abs(peer_loss - math.log(VOCABULARY))) > 0.5:
                    sys.exit("the first losses are not those of random weights")
        for recipe, values in ratios.items():
            print(f"{recipe} / llm.c: median ratio {statistics.median(values):.2f} "
                  f"({min(values):.2f} to {max(values):.2f})")


main()
