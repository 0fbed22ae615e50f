"""llama2.c's model and tokenizer, written plainly in NumPy FP64 and Python from its run.c: the
independent side of the tests of nibble-model."""
import pathlib
import struct

import numpy as np


class Tokenizer:
    """tokenizer.bin: int32 longest piece, then per piece FP32 score, int32 length, bytes."""

    def __init__(self, path, vocab_size):
        data = pathlib.Path(path).read_bytes()
        at = 4
        self.pieces, self.scores = [], []
        for _ in range(vocab_size):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            self.pieces.append(data[at:at + length])
            self.scores.append(score)
            at += length
        self.ids = {}
        for i, piece in enumerate(self.pieces):
            self.ids.setdefault(piece, i)

    def encode(self, text):
        if not text:
            return []
        ids = [self.ids[b" "]]
        for character in text:
            raw = character.encode()
            if raw in self.ids:
                ids.append(self.ids[raw])
            else:
                ids.extend(byte + 3 for byte in raw)
        while True:
            best = None
            for i in range(len(ids) - 1):
                merged = self.ids.get(self.pieces[ids[i]] + self.pieces[ids[i + 1]])
                if merged is not None and (best is None or self.scores[merged] > best[0]):
                    best = (self.scores[merged], i, merged)
            if best is None:
                return ids
            ids[best[1]:best[1] + 2] = [best[2]]


class Model:
    """A model file of version 0."""

    def __init__(self, path):
        data = pathlib.Path(path).read_bytes()
        (self.dim, self.hidden, self.layers, self.heads, self.kv_heads, vocab,
         self.sequence) = struct.unpack_from("<7i", data)
        self.vocab = abs(vocab)
        self.head_size = self.dim // self.heads
        flat = np.frombuffer(data, "<f4", offset=28).astype(np.float64)
        at = 0

        def take(*shape):
            nonlocal at
            size = int(np.prod(shape))
            at += size
            return flat[at - size:at].reshape(shape)

        kv = self.kv_heads * self.head_size
        self.embedding = take(self.vocab, self.dim)
        self.attention_norm = take(self.layers, self.dim)
        self.wq = take(self.layers, self.dim, self.dim)
        self.wk = take(self.layers, kv, self.dim)
        self.wv = take(self.layers, kv, self.dim)
        self.wo = take(self.layers, self.dim, self.dim)
        self.mlp_norm = take(self.layers, self.dim)
        self.w1 = take(self.layers, self.hidden, self.dim)
        self.w2 = take(self.layers, self.dim, self.hidden)
        self.w3 = take(self.layers, self.hidden, self.dim)
        self.final_norm = take(self.dim)
        take(self.sequence * self.head_size)
        self.head = self.embedding if vocab > 0 else take(self.vocab, self.dim)

    @staticmethod
    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight

    def rotate(self, x):
        """x [positions, heads, head_size]: neighbouring pairs."""
        angles = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(0, self.head_size, 2)
                                                          / self.head_size)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def logits(self, ids):
        n = len(ids)
        h = self.embedding[ids]
        mask = np.triu(np.full((n, n), -np.inf), 1)
        for i in range(self.layers):
            x = self.norm(h, self.attention_norm[i])
            q = self.rotate((x @ self.wq[i].T).reshape(n, self.heads, -1))
            k = self.rotate((x @ self.wk[i].T).reshape(n, self.kv_heads, -1))
            v = (x @ self.wv[i].T).reshape(n, self.kv_heads, -1)
            k, v = (np.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head_size) + mask
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            h = h + np.einsum("hqk,khd->qhd", p, v).reshape(n, -1) @ self.wo[i].T
            x = self.norm(h, self.mlp_norm[i])
            gate = x @ self.w1[i].T
            h = h + (gate / (1 + np.exp(-gate)) * (x @ self.w3[i].T)) @ self.w2[i].T
        return self.norm(h, self.final_norm) @ self.head.T

    def log_probabilities(self, ids):
        logits = self.logits(ids)
        top = logits.max(-1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


class Scorer:
    """Likelihoods of continuations, as lm-evaluation-harness takes them; BOS is token 1."""

    def __init__(self, model, tokenizer, longest):
        self.model, self.tokenizer, self.longest = model, tokenizer, longest

    def score(self, context, continuation):
        """Sum of log-probabilities, whether all are greedy, number of tokens."""
        own = self.tokenizer.encode(context.rstrip())
        whole = self.tokenizer.encode(context + continuation)
        ids = [1] + whole
        count = len(whole) - min(len(own), len(whole) - 1)
        ids = ids[-(self.longest + 1):]
        count = min(count, len(ids) - 1)
        table = self.model.log_probabilities(ids[:-1])[-count:]
        targets = ids[-count:]
        total = sum(table[i, t] for i, t in enumerate(targets))
        return total, bool((table.argmax(-1) == targets).all()), count
