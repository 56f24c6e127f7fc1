"""Masks and biases of every kind for a problem of two batches, bound for the reference, and the same as plain
scalar functions."""
import math

import numpy as np
from hypothesis import strategies as st

from reference import BIASES, MASK_KINDS, bind, intersection, union

from .brute_force import sees, t5_bucket
from .problems import SHAPES

WINDOWS = {
    "diagonal": {"left": 0, "right": 0},
    "left": {"left": 2},
    "right": {"right": 1},
    "both": {"left": 1, "right": 2},
    "sinks": {"left": 1, "right": 0, "sinks": 2},
    "unbounded": {"left": None, "right": -1},
}


def mask_cases(seqlen_q, seqlen_k):
    """`{name: (kind, parameters for the reference, parameters for brute_force.sees)}`."""
    rng = np.random.default_rng(seqlen_q * 100 + seqlen_k)
    lengths = [seqlen_k // 2, seqlen_k]
    q_ids, k_ids = (np.sort(rng.integers(0, 3, (2, n))).astype(np.int32) for n in (seqlen_q, seqlen_k))
    cases = {"full": ("full", {}, {}), "causal": ("causal", {}, {})}
    for name, params in WINDOWS.items():
        cases[f"window_{name}"] = "window", params, {**params, "right": None if name == "unbounded" else params.get("right")}
    cases["padding"] = "padding", {"lengths": np.array(lengths, np.int32)}, {"lengths": lengths}
    cases["document"] = "document", {"q_ids": q_ids, "k_ids": k_ids}, {"ids": (q_ids.tolist(), k_ids.tolist())}
    cases["document_one_batch"] = (
        "document", {"q_ids": q_ids[:1], "k_ids": k_ids[:1]}, {"ids": (q_ids[[0, 0]].tolist(), k_ids[[0, 0]].tolist())}
    )
    cases["prefix"] = "prefix", {"prefix": np.array([2, 0], np.int32)}, {"prefix": [2, 0]}
    cases["prefix_int"] = "prefix", {"prefix": 3}, {"prefix": [3, 3]}
    return cases


MASK_NAMES = list(mask_cases(1, 1))


def mask_case(name, seqlen_q, seqlen_k):
    """`(bound mask, scalar (b, h, i, j) -> bool)` of a case by name."""
    kind, params, plain = mask_cases(seqlen_q, seqlen_k)[name]
    scalar = lambda b, h, i, j: sees(kind, i, j, seqlen_q, seqlen_k, b, **plain)  # noqa: E731
    return bind(MASK_KINDS[kind], seqlen_q, seqlen_k, **params), scalar


def bias_cases(seqlen_q, seqlen_k, heads):
    """`{name: (kind, parameters, scalar (score, b, h, i, j) -> score)}` for two batches of `heads` heads."""
    rng = np.random.default_rng(7)
    slopes = rng.uniform(0.1, 0.9, (2, heads)).astype(np.float32)
    cases = {
        "alibi": ("alibi", {"slopes": slopes[0]}, lambda s, b, h, i, j: s - float(slopes[0, h]) * abs(ahead(i, j))),
        "alibi_batch": ("alibi", {"slopes": slopes}, lambda s, b, h, i, j: s - float(slopes[b, h]) * abs(ahead(i, j))),
        "softcap": ("softcap", {"cap": 1.5}, lambda s, b, h, i, j: 1.5 * math.tanh(s / 1.5)),
    }

    def ahead(i, j):
        return (seqlen_q - 1 - i) - (seqlen_k - 1 - j)

    for axes in ("bhij", "hij", "ij", "j", "", "b1ij", "1h1j", "bhi1", "i1"):
        sizes = {"b": 2, "h": heads, "i": seqlen_q, "j": seqlen_k, "1": 1}
        array = rng.standard_normal([sizes[axis] for axis in axes])
        cases[f"dense_{axes or 'scalar'}"] = "dense", {"array": array}, dense_scalar(array, axes)
    for num_buckets, max_distance, bidirectional in ((8, 6, True), (6, 7, False)):
        table = rng.standard_normal((num_buckets, heads)).astype(np.float32)
        params = {"table": table, "max_distance": max_distance, "bidirectional": bidirectional}

        def t5_scalar(s, b, h, i, j, table=table, rest=(num_buckets, max_distance, bidirectional)):
            return s + float(table[t5_bucket(ahead(i, j), *rest), h])

        cases["t5_both" if bidirectional else "t5_past"] = "t5", params, t5_scalar
    return cases


def dense_scalar(array, axes):
    """`(score, b, h, i, j) -> score + array[...]` where axes names array's axes, "1" one of size 1."""

    def modify(score, b, h, i, j):
        index = {"b": b, "h": h, "i": i, "j": j, "1": 0}
        return score + array[tuple(index[axis] for axis in axes)].item()

    return modify


BIAS_NAMES = list(bias_cases(1, 1, 1))


def bias_case(name, seqlen_q, seqlen_k, heads):
    """`(bound bias, scalar (score, b, h, i, j) -> score)` of a case by name."""
    kind, params, scalar = bias_cases(seqlen_q, seqlen_k, heads)[name]
    return bind(BIASES[kind], seqlen_q, seqlen_k, **params), scalar


BATCHES_OF_TWO = SHAPES.map(lambda shape: shape._replace(batch=2))


def rules(data, shape):
    """Drawn keyword arguments of attention for a Shape: any combination of masks, up to two biases, maybe sinks."""
    heads = shape.heads_kv * shape.group
    names = data.draw(st.lists(st.sampled_from(MASK_NAMES), min_size=1, max_size=2))
    masks = [mask_case(name, shape.seqlen_q, shape.seqlen_k)[0] for name in names]
    biases = data.draw(st.lists(st.sampled_from(BIAS_NAMES), max_size=2))
    return {
        "mask": data.draw(st.sampled_from([intersection, union]))(*masks),
        "bias": [bias_case(name, shape.seqlen_q, shape.seqlen_k, heads)[0] for name in biases],
        "sink_logits": data.draw(st.none() | st.lists(st.floats(-5, 5), min_size=heads, max_size=heads)),
        "scale": data.draw(st.sampled_from([None, 2.0, -0.3])),
    }
