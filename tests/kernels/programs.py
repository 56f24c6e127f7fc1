"""Masks and biases as a key names them, with launch arguments and what they mean in NumPy, for tests of kernels.

A part of a program is (text, tokens, arguments, meaning). A mask's meaning is a bool array that broadcasts to (batch,
heads, seqlen_q, seqlen_k), a bias's a function from float64 scores of that shape to such scores.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from numba_fa.problem.biases import ScoreMod
from numba_fa.problem.masks import MaskMod


class Sizes(NamedTuple):
    """What a program is made for."""

    batch: int
    heads: int
    seqlen_q: int
    seqlen_k: int


class Part(NamedTuple):
    """A mask or a bias."""

    text: str
    tokens: tuple[str, ...]
    aux: tuple[Any, ...]
    meaning: Any


def user_mask(function, aux, meaning):
    """A MaskMod as a part."""
    declared = MaskMod(function, *aux)
    return Part(declared.name, declared.tokens, tuple(map(carrier, aux)), meaning)


def user_bias(function, aux, meaning):
    """A ScoreMod as a part."""
    declared = ScoreMod(function, *aux)
    return Part(declared.name, declared.tokens, tuple(map(carrier, aux)), meaning)


def carrier(x):
    """What the kernel takes: bfloat16 as uint16 bit patterns, all else as it is."""
    return x.view(np.uint16) if getattr(x, "dtype", None) == ml_dtypes.bfloat16 else x


def grids(sizes):
    """Positions b, h, i, j that broadcast to (batch, heads, seqlen_q, seqlen_k)."""
    return np.ogrid[tuple(map(slice, sizes))]


def int32(values):
    return np.asarray(values, np.int32)


def full(sizes):
    return Part("full", (), (), np.ones((1, 1, 1, 1), bool))


def causal(sizes):
    _, _, i, j = grids(sizes)
    offset = sizes.seqlen_k - sizes.seqlen_q
    return Part("causal", ("int32",), (offset,), j <= i + offset)


def window(left, right, sinks=0):
    """Of so many keys before and after the query's place, None for no bound."""

    def make(sizes):
        _, _, i, j = grids(sizes)
        offset = sizes.seqlen_k - sizes.seqlen_q
        low = -(2**30) if left is None else offset - left
        high = 2**30 if right is None else offset + right
        meaning = (j <= i + high) & ((j >= i + low) | (j < sinks))
        return Part("window", ("int32",) * 3, (low, high, sinks), meaning)

    return make


def padding(sizes):
    lengths = int32([(sizes.seqlen_k * 5) // (7 + 3 * b) for b in range(sizes.batch)])
    return Part("padding", ("array:int32:1",), (lengths,), grids(sizes)[3] < lengths[:, None, None, None])


def no_keys(sizes):
    lengths = int32([0, sizes.seqlen_k][: sizes.batch] + [1] * (sizes.batch - 2))
    return Part("padding", ("array:int32:1",), (lengths,), grids(sizes)[3] < lengths[:, None, None, None])


def document(sizes):
    """Sorted segments of uneven lengths, the same for every batch by a stride of 0; queries lack the last segment."""
    q_ids = int32(np.sort(np.arange(sizes.seqlen_q) % 5) * 3)
    k_ids = int32(np.sort(np.arange(sizes.seqlen_k) % 6) * 3)
    arrays = tuple(np.broadcast_to(ids, (sizes.batch, ids.size)) for ids in (q_ids, k_ids))
    return Part("document", ("array:int32:2",) * 2, arrays, (q_ids[:, None] == k_ids)[None, None])


def prefix(sizes):
    lengths = int32([3 + 40 * b for b in range(sizes.batch)])
    plain = causal(sizes)
    meaning = plain.meaning | (grids(sizes)[3] < lengths[:, None, None, None])
    return Part("prefix", ("int32", "array:int32:1"), (*plain.aux, lengths), meaning)


def prefix_int(sizes):
    plain = causal(sizes)
    return Part("prefix_int", ("int32", "int32"), (*plain.aux, 20), plain.meaning | (grids(sizes)[3] < 20))


def _checkers(b, h, q_idx, kv_idx, ids, period):
    return (ids[b, kv_idx] != 2) & ((q_idx // 3 + kv_idx + h) % period != 0)


def checkers(sizes):
    """A user's mask, with an array of bytes and a number."""
    ids = np.random.default_rng(3).integers(0, 4, (sizes.batch, sizes.seqlen_k)).astype(np.uint8)
    _, h, i, j = grids(sizes)
    return user_mask(_checkers, (ids, 4), (ids != 2)[:, None, None] & ((i // 3 + j + h) % 4 != 0))


def _combine(word, together, makes):
    def make(sizes):
        parts = [make(sizes) for make in makes]
        return Part(
            "+".join([f"{word}{len(parts)}", *(part.text for part in parts)]),
            sum((part.tokens for part in parts), ()),
            sum((part.aux for part in parts), ()),
            together([np.broadcast_to(part.meaning, sizes) for part in parts]),
        )

    return make


def all_of(*makes):
    return _combine("all", np.logical_and.reduce, makes)


def any_of(*makes):
    return _combine("any", np.logical_or.reduce, makes)


def alibi(sizes):
    slopes = np.random.default_rng(4).random((sizes.batch, sizes.heads)).astype(np.float32) / 4
    _, _, i, j = grids(sizes)
    offset = sizes.seqlen_k - sizes.seqlen_q
    distance = slopes[:, :, None, None].astype(np.float64) * np.abs(i + offset - j)
    return Part("alibi", ("int32", "array:float32:2"), (offset, slopes), lambda score: score - distance)


DENSE = {
    "fp32": ("float32", np.float32, np.float32),
    "fp16": ("float16", np.float16, np.float16),
    "bf16": ("bfloat16", ml_dtypes.bfloat16, np.uint16),
}


def dense(dtype, axes="bhij"):
    """Of full length along the named axes, broadcast along the others by a stride of 0."""

    def make(sizes):
        name, stored, carrier = DENSE[dtype]
        shape = tuple(length if axis in axes else 1 for length, axis in zip(sizes, "bhij"))
        array = np.random.default_rng(5).standard_normal(shape).astype(stored)
        array.reshape(-1)[0] = 0 if stored is np.float32 else 2.0**-15 * 3  # a subnormal of float16
        wide = array.astype(np.float64)
        argument = np.broadcast_to(array.view(carrier), sizes)
        return Part(f"dense_{dtype}", (f"array:{name}:4",), (argument,), lambda score: score + wide)

    return make


def t5(buckets=32, max_distance=128, bidirectional=True):
    """Buckets by the logarithm in float64, as in T5's paper; distances at a border are left to tests of the reference."""

    def make(sizes):
        table = np.random.default_rng(6).standard_normal((buckets, sizes.heads)).astype(np.float32)
        _, _, i, j = grids(sizes)
        offset = sizes.seqlen_k - sizes.seqlen_q
        ahead = j - (i + offset)
        side = buckets // 2 if bidirectional else buckets
        distance = np.abs(ahead) if bidirectional else np.maximum(-ahead, 0)
        exact = side // 2
        far = np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact) * (side - exact)
        bucket = np.where(distance < exact, distance, np.minimum(exact + np.floor(far + 1e-9), side - 1)).astype(int)
        bucket += side * (ahead > 0) if bidirectional else 0
        added = np.moveaxis(table[bucket[0, 0]], -1, 0)[None].astype(np.float64)
        text = f"t5_{buckets}_{max_distance}_{'b' if bidirectional else 'u'}"
        return Part(text, ("int32", "array:float32:2"), (offset, table), lambda score: score + added)

    return make


def softcap(cap=3.0):
    return lambda sizes: Part("softcap", ("float32",), (cap,), lambda score: cap * np.tanh(score / cap))


def _wave(score, b, h, q_idx, kv_idx, phases, strength):
    return score * 0.5 + strength * phases[h, q_idx % 7] * (kv_idx % 3)


def wave(sizes):
    """A user's bias, with an array of 16-bit floats and a number."""
    phases = np.random.default_rng(7).standard_normal((sizes.heads, 7)).astype(ml_dtypes.bfloat16)
    _, _, i, j = grids(sizes)
    shift = 0.25 * phases.astype(np.float64)[:, np.arange(sizes.seqlen_q) % 7][None, :, :, None] * (j % 3)
    return user_bias(_wave, (phases, 0.25), lambda score: score * 0.5 + shift)


def sink(sizes):
    """sink_logits, the last of all; the meaning is the logits."""
    logits = np.linspace(-2, 3, sizes.heads).astype(np.float32)
    return Part("sink", ("array:float32:1",), (logits,), logits.astype(np.float64))
