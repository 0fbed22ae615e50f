#!/usr/bin/env python3
"""The peer of train_vs_pytorch.py: the same llama, optimiser, schedule and batches in PyTorch on a CPU.

Prints one JSON line: tokens_per_second (from the median step), losses. The arrays it trains on are
the bytes of a text file, cut into sequences and shuffled.
"""
import argparse
import json
import math
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def rotate(x, cos, sin):
    # x [B, H, T, S]; pairs are (i, i + S/2).
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        size = c.width // c.heads
        self.norm1 = nn.RMSNorm(c.width, eps=1e-5)
        self.qkv = nn.Linear(c.width, (c.heads + 2 * c.kv_heads) * size, bias=False)
        self.output = nn.Linear(c.width, c.width, bias=False)
        self.norm2 = nn.RMSNorm(c.width, eps=1e-5)
        self.gate_up = nn.Linear(c.width, 2 * c.mlp_width, bias=False)
        self.down = nn.Linear(c.mlp_width, c.width, bias=False)

    def forward(self, x, cos, sin):
        c = self.c
        batch, length, width = x.shape
        size = width // c.heads
        q, k, v = self.qkv(self.norm1(x)).split(
            (c.heads * size, c.kv_heads * size, c.kv_heads * size), dim=-1)
        q = rotate(q.view(batch, length, c.heads, size).transpose(1, 2), cos, sin)
        k = rotate(k.view(batch, length, c.kv_heads, size).transpose(1, 2), cos, sin)
        v = v.view(batch, length, c.kv_heads, size).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=c.heads != c.kv_heads)
        x = x + self.output(y.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embedding = nn.Embedding(c.vocab_size, c.width)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.blocks))
        self.norm = nn.RMSNorm(c.width, eps=1e-5)
        self.head = nn.Linear(c.width, c.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                scale = 1 / math.sqrt(2 * c.blocks) if "output" in name or "down" in name else 1
                nn.init.normal_(parameter, 0, 0.02 * scale)
        size = c.width // c.heads
        angle = torch.outer(torch.arange(c.sequence_length).float(),
                            10000.0 ** (-torch.arange(0, size, 2).float() / size))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), targets.flatten())


def main():
    p = argparse.ArgumentParser()
    for name in ("vocab_size", "width", "blocks", "heads", "kv_heads", "mlp_width", "sequence_length",
                 "batch_size", "steps", "threads"):
        p.add_argument("--" + name, type=int, required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--dtype", choices=("fp32", "bf16"), required=True)
    p.add_argument("--learning_rate", type=float, required=True)
    p.add_argument("--compile", action="store_true")
    c = p.parse_args()
    torch.set_num_threads(c.threads)
    torch.manual_seed(0)

    text = torch.frombuffer(bytearray(open(c.text, "rb").read()), dtype=torch.uint8).long()
    rows = (len(text) - 1) // c.sequence_length
    order = torch.randperm(rows)
    model = Llama(c)
    run = torch.compile(model) if c.compile else model
    decay = [x for x in model.parameters() if x.dim() > 1]
    rest = [x for x in model.parameters() if x.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                                   {"params": rest, "weight_decay": 0.0}],
                                  lr=c.learning_rate, betas=(0.9, 0.95), fused=True)
    losses, seconds = [], []
    for step in range(c.steps):
        picked = order[[(step * c.batch_size + i) % rows for i in range(c.batch_size)]]
        at = picked[:, None] * c.sequence_length + torch.arange(c.sequence_length)
        inputs, targets = text[at], text[at + 1]
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=c.dtype == "bf16"):
            loss = run(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    tokens = c.batch_size * c.sequence_length
    steady = seconds[min(5, len(seconds) // 2):]
    print(json.dumps({"tokens_per_second": tokens / statistics.median(steady),
                      "loss": statistics.mean(losses[-10:]), "torch": torch.__version__,
                      "isa": torch.backends.cpu.get_cpu_capability()}))


main()
