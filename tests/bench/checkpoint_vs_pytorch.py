#!/usr/bin/env python3
"""Durable saves, verified loads and the stall of training beside torch.save and torch.load.

  tests/bench/checkpoint_vs_pytorch.py [--pairs 7] [--width 512] [--blocks 8] [--vocabulary 32000]

Both sides hold the same number of FP32 values (weights and two moments). Peer: torch.save of the
state to a new file, fsync of file and directory, rename; torch.load of it, copied into existing
tensors. Files of both lie in one directory (--directory; default: build/bench-checkpoints). Ours
also digests what it saves, reads it back from the disk, and verifies what it loads. The page cache
is warm for loads on both sides.
"""
import argparse
import pathlib
import shutil
import statistics
import sys

import bench_peer

PEER = r"""
import os, sys, time, torch
elements, path = int(sys.argv[1]), sys.argv[2]
count = 48
state = {kind: {f"layer.{i}": torch.randn(elements // count) for i in range(count)}
         for kind in ("weights", "exp_avg", "exp_avg_sq")}
def sync(name):
    fd = os.open(name, os.O_RDONLY); os.fsync(fd); os.close(fd)
for line in sys.stdin:
    start = time.perf_counter()
    if line.strip() == "load":
        loaded = torch.load(path)
        for kind, tensors in loaded.items():
            for name, tensor in tensors.items(): state[kind][name].copy_(tensor)
    else:
        torch.save(state, path + ".tmp")
        sync(path + ".tmp"); os.rename(path + ".tmp", path); sync(os.path.dirname(path))
    print(time.perf_counter() - start, os.path.getsize(path), flush=True)
"""


class Server(bench_peer.Server):
    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        seconds, size = self.process.stdout.readline().split()
        return float(seconds), int(size)


def show(name, ours, peers):
    ratios = [p / o for o, p in zip(ours, peers)]
    print(f"{name}: ours {statistics.median(ours):.3f} s, peer {statistics.median(peers):.3f} s, ratio "
          f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--directory", type=pathlib.Path, default=bench_peer.ROOT / "build" / "bench-checkpoints")
    options = parser.parse_args()
    shutil.rmtree(options.directory, ignore_errors=True)
    options.directory.mkdir(parents=True)
    ours = Server([bench_peer.BUILD / "test" / "checkpoint_server", options.width, options.blocks,
                   options.vocabulary, options.directory])
    size = ours.ask("save")[1]
    peer = Server([bench_peer.python(), "-c", PEER, size // 12, options.directory / "peer.pt"],
                  bench_peer.ENVIRONMENT)
    peer.ask("save")
    print(f"{size / 1e6:.0f} MB; peer's file {peer.ask('load')[1] / 1e6:.0f} MB")
    times = {"save": ([], []), "load": ([], []), "stall": ([], [])}
    for _ in range(options.pairs):
        for what in ("save", "load"):
            times[what][0].append(ours.ask(what)[0])
            times[what][1].append(peer.ask(what)[0])
        # The peer of the stall is our own synchronous save.
        times["stall"][0].append(ours.ask("stall")[0])
        times["stall"][1].append(ours.ask("save")[0])
    show("durable save with digests", *times["save"])
    show("load and verify", *times["load"])
    show("stall of an asynchronous save beside our synchronous one", *times["stall"])
    print(f"save {size / statistics.median(times['save'][0]) / 1e9:.2f} GB/s, "
          f"load {size / statistics.median(times['load'][0]) / 1e9:.2f} GB/s")
    ours.stop()
    peer.stop()
    shutil.rmtree(options.directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
