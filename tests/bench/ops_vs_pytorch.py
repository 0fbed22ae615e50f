#!/usr/bin/env python3
"""Cross-entropy, AdamW and quantisation on a CPU beside PyTorch, interleaved in one run.

  tests/bench/ops_vs_pytorch.py [--op adamw|cross_entropy|quantize] [--pairs 9] [--threads 2]

adamw: one update of 16 million parameters. Ours with and without the clipping that a step of
training does (norm and factor), and writing the BF16 copy; the peers are torch.optim.AdamW as it is
by default, with foreach and with fused, for the clipped rows after clip_grad_norm_ and with the
same copy to BF16.

cross_entropy: an output head of 256 features and 50,257 columns over 1,024 rows. `head` is the
whole of it, loss and gradients, beside F.cross_entropy(F.linear(x, w)); `alone` is that without the
three products, measured in the same run and subtracted, beside F.cross_entropy of given logits with
its backward.

quantize: 16 million FP32 values to NVFP4 and back, in blocks of 16 (to nearest and stochastically)
and in tiles of 16x16, the tensor's largest magnitude included; the peer is the same in eager
PyTorch.

Prints the median of the pair ratios (peer / ours) and their range.
"""
import argparse
import math
import os
import statistics
import subprocess
import sys
import threading

import bench_peer

SIZE = 16_000_000
ROWS, FEATURES, VOCABULARY = 1024, 256, 50257
SIDE = 4096  # of the matrix to quantise

PEER = r"""
import sys, time, torch, torch.nn.functional as F
what, dtype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
SIZE, ROWS, FEATURES, VOCABULARY = map(int, sys.argv[4:8])
torch.set_num_threads(threads)
torch.manual_seed(0)

def adamw(kind, clip):
    # As many tensors as a model has: 64.
    tensors = [torch.nn.Parameter(torch.randn(SIZE // 64)) for _ in range(64)]
    for t in tensors: t.grad = torch.randn_like(t)
    flags = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}[kind]
    optimizer = torch.optim.AdamW(tensors, lr=1e-6, betas=(.9, .95), weight_decay=.1, **flags)
    copies = [torch.empty_like(t, dtype=torch.bfloat16) for t in tensors]
    def run():
        if clip: torch.nn.utils.clip_grad_norm_(tensors, 1.0)
        optimizer.step()
        if clip:
            with torch.no_grad():
                for c, t in zip(copies, tensors): c.copy_(t)
    return run

def head(alone):
    x = torch.randn(ROWS, FEATURES, requires_grad=True)
    w = (torch.randn(VOCABULARY, FEATURES) * .05).requires_grad_()
    w.grad, x.grad = torch.zeros_like(w), torch.zeros_like(x)
    targets = torch.arange(ROWS) * 7919 % VOCABULARY
    if alone:
        logits = (x @ w.T).detach().requires_grad_()
        logits.grad = torch.zeros_like(logits)
        def run():
            F.cross_entropy(logits, targets).backward()
        return run
    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            logits = F.linear(x, w)
        F.cross_entropy(logits.float(), targets).backward()
    return run

def quantize(how):
    x = torch.randn(4096, 4096)
    dims = (1, 3) if how == "tiles" else (-1,)
    blocks = x.view(256, 16, 256, 16) if how == "tiles" else x.view(-1, 16)
    def run():
        to_scale = 448 * 6 / x.abs().amax()
        scale = (blocks.abs().amax(dims, keepdim=True) / 6 * to_scale).to(torch.float8_e4m3fn).float()
        y = (blocks * (to_scale / scale)).clamp_(-6, 6)
        size = y.abs()
        step = torch.where(size < 2, .5, torch.where(size < 4, 1., 2.))
        y /= step
        y = torch.floor(y.add_(torch.rand_like(y))) if how == "stochastic" else torch.round_(y)
        return y.mul_(step).mul_(scale / to_scale)
    error = float((run() - blocks).norm() / blocks.norm())
    assert .05 < error < .2, error
    return run

run = {"nearest": lambda: quantize("nearest"), "stochastic": lambda: quantize("stochastic"),
       "tiles": lambda: quantize("tiles"), "default": lambda: adamw("default", False), "foreach": lambda: adamw("foreach", False),
       "fused": lambda: adamw("fused", False), "clip_fused": lambda: adamw("fused", True),
       "clip_foreach": lambda: adamw("foreach", True), "clip_default": lambda: adamw("default", True),
       "head": lambda: head(False), "alone": lambda: head(True)}[what]()
for line in sys.stdin:
    start = time.perf_counter()
    run()
    print(time.perf_counter() - start, flush=True)
"""


def peer(what, dtype, threads):
    return bench_peer.Server([bench_peer.python(), "-c", PEER, what, dtype, threads, SIZE, ROWS, FEATURES,
                              VOCABULARY], bench_peer.ENVIRONMENT)


def ours(*words):
    return bench_peer.Server([bench_peer.BUILD / "test" / "op_server", *words])


def compare(name, pairs, our_servers, peer_server, our_time):
    """our_time(list of seconds, one a server) -> seconds."""
    ratios, mine, theirs = [], [], []
    for pair in range(pairs + 2):  # two warm up
        seconds = our_time([server.run() for server in our_servers])
        other = peer_server.run()
        if pair < 2:
            continue
        ratios.append(other / seconds)
        mine.append(seconds)
        theirs.append(other)
    for server in [*our_servers, peer_server]:
        server.stop()
    print(f"{name}: ours {statistics.median(mine) * 1e3:.1f} ms, peer {statistics.median(theirs) * 1e3:.1f} ms, "
          f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def trial(what, dtype, threads):
    """Seconds of the second run; infinite where a run takes over half a minute, as BF16 products do on
    a CPU without such instructions."""
    server = peer(what, dtype, threads)
    limit = threading.Timer(30, server.process.kill)
    limit.start()
    try:
        server.run()
        return server.run()
    except (RuntimeError, BrokenPipeError):
        return math.inf
    finally:
        limit.cancel()
        server.process.kill()
        server.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=("adamw", "cross_entropy", "quantize"), action="append")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    version = subprocess.run([bench_peer.python(), "-c", "import torch; print(torch.__version__)"], check=True,
                             capture_output=True, text=True).stdout.strip()
    print(f"PyTorch {version}, {options.threads} threads")
    threads = options.threads
    if not options.op or "adamw" in options.op:
        for kind in ("default", "foreach", "fused"):
            compare(f"AdamW beside {kind}", options.pairs, [ours("adamw", SIZE, "fp32", threads)],
                    peer(kind, "fp32", threads), lambda s: s[0])
        for kind in ("default", "foreach", "fused"):
            compare(f"clip, AdamW and BF16 copy beside {kind}", options.pairs,
                    [ours("clip_adamw", SIZE, "bf16", threads)], peer("clip_" + kind, "fp32", threads),
                    lambda s: s[0])
    if not options.op or "cross_entropy" in options.op:
        trials = {d: trial("head", d, threads) for d in ("fp32", "bf16")}
        dtype = min(trials, key=trials.get)
        shape = (ROWS, FEATURES, VOCABULARY, "bf16", threads)
        compare(f"head with cross-entropy beside PyTorch in {dtype}", options.pairs,
                [ours("cross_entropy", *shape)], peer("head", dtype, threads), lambda s: s[0])
        compare("cross-entropy alone", options.pairs,
                [ours("cross_entropy", *shape), ours("products", *shape)],
                peer("alone", "fp32", threads), lambda s: max(s[0] - s[1], 1e-6))
    if not options.op or "quantize" in options.op:
        for how in ("nearest", "stochastic", "tiles"):
            compare(f"NVFP4 {how}", options.pairs, [ours("quantize", SIDE, SIDE, how, threads)],
                    peer(how, "fp32", threads), lambda s: s[0])


if __name__ == "__main__":
    sys.exit(main())
