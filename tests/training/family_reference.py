#!/usr/bin/env python3
"""The model families, their initial weights, AdamW and the schedule once more, in PyTorch and FP64:
nothing of it is shared with what it checks.

  family_reference.py --write    makes family_golden.json
  family_reference.py --check    exits 1 where family_golden.json is not what it would make

family_golden.json holds, for every case, 50 losses and gradient norms and a fingerprint of the first
and the last weights; family_test trains the same cases. Without PyTorch --check says so and
passes.
"""
import argparse
import json
import math
import pathlib
import sys

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(0)

GOLDEN = pathlib.Path(__file__).with_name("family_golden.json")
STEPS, WARMUP, FINAL = 50, 5, 0.1
SEED, LENGTH, BATCH, SEQUENCES = 42, 16, 4, 24
LEARNING_RATE, BETAS, EPSILON, DECAY, CLIP = 0.01, (0.9, 0.95), 1e-5, 0.1, 1.0

COMMON = dict(vocab_size=48, width=32, blocks=3, heads=4, kv_heads=2, head_size=8, mlp_width=48,
              tied_embeddings=False, init_std=0.1, rope_theta=10000.0, norm_epsilon=1e-5)
MAMBA = dict(heads=8, head_size=8, groups=2, state_size=16, conv_width=4)
CASES = {
    "llama": dict(family="llama"),
    "llama_multi_query": dict(family="llama", kv_heads=1),
    "llama_multi_head": dict(family="llama", kv_heads=4),
    "gpt2": dict(family="gpt2", kv_heads=4, tied_embeddings=True, max_positions=20,
                 activation="gelu_tanh"),
    "gpt2_exact_gelu": dict(family="gpt2", max_positions=16, activation="gelu"),
    "nemotron": dict(family="nemotron"),
    "nemotron_h": dict(family="nemotron_h", blocks=5, pattern="M-M*M", mamba=MAMBA),
}


# ---- initial weights (worker/model/weights.h) ----
def philox(counter, key):
    """Philox4x32-10 of arrays of counters [4][n]."""
    c = [np.asarray(word, dtype=np.uint64) for word in counter]
    k0, k1 = key
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a = c[0] * np.uint64(0xD2511F53)
        b = c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & mask,
             (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def initial(index, shape, kind, value):
    size = math.prod(shape)
    if kind == "constant":
        return np.full(shape, value, dtype=np.float32)
    block = np.arange((size + 3) // 4, dtype=np.uint64)
    low, high = block & np.uint64(0xFFFFFFFF), block >> np.uint64(32)
    same = np.zeros_like(block)
    words = philox([low, high, same + np.uint64(index), same + np.uint64(0xFFFFFFFF)],
                   (SEED & 0xFFFFFFFF, SEED >> 32))
    a, b, c, d = (word.astype(np.float64) for word in words)
    if kind == "normal":
        def pair(radius, angle):
            r = np.sqrt(-2 * np.log((radius + 1) / 2**32))
            return r * np.cos(2 * np.pi * angle / 2**32), r * np.sin(2 * np.pi * angle / 2**32)
        values = np.stack([*pair(a, b), *pair(c, d)], axis=1).reshape(-1) * value
    else:
        u = (np.stack([a, b, c, d], axis=1).reshape(-1) + 0.5) / 2**32
        if kind == "uniform":
            values = value * (2 * u - 1)
        elif kind == "log_of_rate":
            values = np.log(1 + 15 * u)
        else:
            dt = np.exp(np.log(1e-3) + u * (np.log(1e-1) - np.log(1e-3)))
            values = dt + np.log(-np.expm1(-dt))
    return values[:size].astype(np.float32).reshape(shape)


# ---- parameters, in the order of docs/formats/checkpoint.md ----
def branches(c):
    if c["family"] == "nemotron_h":
        return list(enumerate(c["pattern"]))
    return [(block, kind) for block in range(c["blocks"]) for kind in "*-"]


def names(c, block, kind):
    family = c["family"]
    if family == "gpt2":
        part = ("ln_1", "attn.c_attn", "attn.c_proj") if kind == "*" else (
            "ln_2", "mlp.c_fc", "mlp.c_proj")
        return [f"transformer.h.{block}.{name}" for name in part]
    if family == "nemotron_h":
        part = {"*": ("qkv_proj", "o_proj"), "-": ("up_proj", "down_proj"),
                "M": ("in_proj", "out_proj")}[kind]
        return [f"backbone.layers.{block}.norm"] + [
            f"backbone.layers.{block}.mixer.{name}" for name in part]
    part = ("input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj") if kind == "*" else (
        "post_attention_layernorm", "mlp.gate_up_proj" if family == "llama" else "mlp.up_proj",
        "mlp.down_proj")
    return [f"model.layers.{block}.{name}" for name in part]


def outer_names(c):
    return {"gpt2": ("transformer.wte", "transformer.ln_f"),
            "nemotron_h": ("backbone.embeddings", "backbone.norm_f")}.get(
                c["family"], ("model.embed_tokens", "model.norm"))


def mamba_sizes(c):
    m = c["mamba"]
    inner = m["heads"] * m["head_size"]
    return inner, inner + 2 * m["groups"] * m["state_size"]


def table(c):
    """[(name, shape, initial kind, value, decays)]."""
    width, rows = c["width"], []
    out_std = c["init_std"] / math.sqrt(len(branches(c)))

    def matrix(name, out, into, std=c["init_std"]):
        rows.append((name + ".weight", (out, into), "normal", std, True))

    def vector(name, size, kind, value):
        rows.append((name, (size,), kind, value, False))

    embedding, final_norm = outer_names(c)
    matrix(embedding, c["vocab_size"], width)
    if c["family"] == "gpt2":
        matrix("transformer.wpe", c["max_positions"], width)
    for block, kind in branches(c):
        _, into, out = names(c, block, kind)
        if kind == "*":
            matrix(into, (c["heads"] + 2 * c["kv_heads"]) * c["head_size"], width)
            matrix(out, width, c["heads"] * c["head_size"], out_std)
        elif kind == "-":
            matrix(into, c["mlp_width"] * (2 if c["family"] == "llama" else 1), width)
            matrix(out, width, c["mlp_width"], out_std)
        else:
            inner, channels = mamba_sizes(c)
            matrix(into, inner + channels + c["mamba"]["heads"], width)
            rows.append((f"backbone.layers.{block}.mixer.conv1d.weight",
                         (channels, c["mamba"]["conv_width"]), "uniform",
                         1 / math.sqrt(c["mamba"]["conv_width"]), True))
            matrix(out, width, inner, out_std)
    if not c["tied_embeddings"]:
        matrix("lm_head", c["vocab_size"], width)

    def norm(name):
        vector(name + ".weight", width, "constant", 1.0)
        if c["family"] == "gpt2":
            vector(name + ".bias", width, "constant", 0.0)

    shapes = {name: shape for name, shape, *_ in rows}
    for block, kind in branches(c):
        norm_name, into, out = names(c, block, kind)
        norm(norm_name)
        if c["family"] == "gpt2":
            vector(into + ".bias", shapes[into + ".weight"][0], "constant", 0.0)
            vector(out + ".bias", width, "constant", 0.0)
        if kind == "M":
            inner, channels = mamba_sizes(c)
            mixer = f"backbone.layers.{block}.mixer."
            vector(mixer + "conv1d.bias", channels, "constant", 0.0)
            vector(mixer + "dt_bias", c["mamba"]["heads"], "time_step", 0)
            vector(mixer + "A_log", c["mamba"]["heads"], "log_of_rate", 0)
            vector(mixer + "D", c["mamba"]["heads"], "constant", 1.0)
            vector(mixer + "norm.weight", inner, "constant", 1.0)
    norm(final_norm)
    return rows


# ---- the models ----
def normalise(c, w, name, x):
    if c["family"] == "gpt2":
        return F.layer_norm(x, (c["width"],), w[name + ".weight"], w[name + ".bias"],
                            c["norm_epsilon"])
    return F.rms_norm(x, (c["width"],), w[name + ".weight"], c["norm_epsilon"])


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def rotate(x, theta):
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2], dtype=x.dtype),
                        theta ** (-torch.arange(half, dtype=x.dtype) / half))
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)


def attention(c, w, into, out, x):
    batch, length, _ = x.shape
    heads, kv, size = c["heads"], c["kv_heads"], c["head_size"]
    q, k, v = (part.view(batch, length, -1, size).transpose(1, 2) for part in linear(w, into, x).split(
        (heads * size, kv * size, kv * size), dim=-1))
    if c["family"] in ("llama", "nemotron"):
        q, k = rotate(q, c["rope_theta"]), rotate(k, c["rope_theta"])
    k, v = (part.repeat_interleave(heads // kv, dim=1) for part in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return linear(w, out, y.transpose(1, 2).reshape(batch, length, heads * size))


def mlp(c, w, into, out, x):
    up = linear(w, into, x)
    if c["family"] == "llama":
        gate, up = up.chunk(2, dim=-1)
        return linear(w, out, F.silu(gate) * up)
    if c["family"] == "gpt2":
        return linear(w, out, F.gelu(up, approximate="tanh" if c["activation"] == "gelu_tanh" else "none"))
    return linear(w, out, F.relu(up).square())


def mamba(c, w, into, out, x):
    """The state-space recurrence, token by token."""
    mixer = into.removesuffix("in_proj")
    m = c["mamba"]
    batch, length, _ = x.shape
    inner, channels = mamba_sizes(c)
    heads, size, groups, state = m["heads"], m["head_size"], m["groups"], m["state_size"]
    z, xbc, dt = linear(w, into, x).split((inner, channels, heads), dim=-1)
    xbc = F.conv1d(F.pad(xbc.transpose(1, 2), (m["conv_width"] - 1, 0)),
                   w[mixer + "conv1d.weight"].unsqueeze(1), w[mixer + "conv1d.bias"],
                   groups=channels)
    values, b, key = F.silu(xbc).transpose(1, 2).split((inner, groups * state, groups * state), dim=-1)
    values = values.view(batch, length, heads, size)
    b, key = (part.view(batch, length, groups, state).repeat_interleave(heads // groups, dim=2)
              for part in (b, key))
    dt = F.softplus(dt + w[mixer + "dt_bias"])
    decay = torch.exp(-torch.exp(w[mixer + "A_log"]) * dt)
    h = x.new_zeros(batch, heads, size, state)
    rows = []
    for t in range(length):
        h = decay[:, t, :, None, None] * h + (dt[:, t, :, None] * values[:, t])[..., None] * b[:, t, :, None, :]
        rows.append((h * key[:, t, :, None, :]).sum(-1) + w[mixer + "D"][:, None] * values[:, t])
    y = torch.stack(rows, dim=1).reshape(batch, length, inner) * F.silu(z)
    grouped = y.view(batch, length, groups, inner // groups)
    y = (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + c["norm_epsilon"])).reshape(
        batch, length, inner)
    return linear(w, out, y * w[mixer + "norm.weight"])


def loss_of(c, w, inputs, targets):
    embedding, final_norm = outer_names(c)
    x = F.embedding(inputs, w[embedding + ".weight"])
    if c["family"] == "gpt2":
        x = x + w["transformer.wpe.weight"][:inputs.shape[1]]
    mixers = {"*": attention, "-": mlp, "M": mamba}
    for block, kind in branches(c):
        norm, into, out = names(c, block, kind)
        x = x + mixers[kind](c, w, into, out, normalise(c, w, norm, x))
    head = w[embedding + ".weight" if c["tied_embeddings"] else "lm_head.weight"]
    logits = F.linear(normalise(c, w, final_norm, x), head)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# ---- data: tests/training/memory_data.h ----
def tokens(count, vocab_size, seed=1):
    state, token, out = (seed * 2654435761 + 1) % 2**32, seed % vocab_size, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        token = (state >> 8) % vocab_size if (state >> 24) < 32 else (token * 5 + 3) % vocab_size
        out.append(token)
    return torch.tensor(out)


def batch_of(step, text):
    index = torch.tensor([(5 * (step * BATCH + i) + SEED) % SEQUENCES for i in range(BATCH)])
    at = index[:, None] * LENGTH + torch.arange(LENGTH)
    return text[at], text[at + 1]


def factor(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step + 1 - WARMUP) / (STEPS - WARMUP)
    return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * progress)) / 2


def fingerprint(weights):
    """Of every weight, its length and its product with sin(1), sin(2), ..."""
    def of(tensor):
        flat = tensor.detach().double().flatten()
        return [float(flat.norm()), float(flat @ torch.sin(torch.arange(1, len(flat) + 1).double()))]
    return {name: of(weight) for name, weight in weights.items()}


def run(case):
    c = COMMON | case
    rows = table(c)
    w = {name: torch.tensor(initial(i, shape, kind, value)).double().requires_grad_()
         for i, (name, shape, kind, value, _) in enumerate(rows)}
    first = fingerprint(w)
    optimizer = torch.optim.AdamW(
        [{"params": [w[r[0]] for r in rows if r[4]], "weight_decay": DECAY},
         {"params": [w[r[0]] for r in rows if not r[4]], "weight_decay": 0.0}],
        lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)
    text = tokens(SEQUENCES * LENGTH + 1, c["vocab_size"])
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(c, w, *batch_of(step, text))
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(w.values(), CLIP)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * factor(step)
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "grad_norms": norms, "first_weights": first,
            "last_weights": fingerprint(w)}


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.9g}")


def close(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b))
    return abs(a - b) <= 1e-6 * (1 + abs(b))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true")
    mode.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = {name: rounded(run(case)) for name, case in CASES.items()}
    if args.write:
        lines = [f' "{name}": {json.dumps(value)}' for name, value in made.items()]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        return 0
    wrong = [name for name in CASES if not close(made[name], json.loads(GOLDEN.read_text()).get(name, {}))]
    for name in wrong:
        print(f"family_golden.json is not what this program makes of {name}")
    return 1 if wrong else 0


sys.exit(main())
