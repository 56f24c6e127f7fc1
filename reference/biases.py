"""What is done to a score before the mask. One function a bias, and the table of their names.

Every bias is `(score, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, parameters) -> score`: score is a float array, the
indices are integer arrays (or ints) that broadcast to its shape, h that of the query head. Parameters are widened or
narrowed to score's dtype, in which everything is computed, and which the result has: float64 for the truth, float32
for the naive low-precision computation.
"""
import bisect
import functools

import numpy as np

from .parameters import lookup


def position_ahead(q_idx, kv_idx, seqlen_q, seqlen_k):
    """How far key j stands ahead of query i, `j - (i + seqlen_k - seqlen_q)`: an integer array, negative for the past."""
    return np.asarray(kv_idx) - (np.asarray(q_idx) + (seqlen_k - seqlen_q))


def alibi(score, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, slopes):
    """`score - slope * |i + seqlen_k - seqlen_q - j|`: the farther, the less. slopes (heads,) or (batch, heads).

    Press et al. 2021, "Train Short, Test Long", in the two-sided form of FlashAttention.
    """
    slope = lookup(np.atleast_2d(slopes), b, h).astype(score.dtype)
    return score - slope * np.abs(position_ahead(q_idx, kv_idx, seqlen_q, seqlen_k)).astype(score.dtype)


def four_axes(array):
    """A view of an array of up to four axes as (batch, heads, seqlen_q, seqlen_k) with 1 for the missing ones."""
    array = np.asarray(array)
    return array.reshape((1,) * (4 - array.ndim) + array.shape)


def dense(score, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, array):
    """`score + array[b, h, i, j]`: array broadcasts to (batch, heads, seqlen_q, seqlen_k), by NumPy's rules."""
    return score + lookup(four_axes(array), b, h, q_idx, kv_idx).astype(score.dtype)


@functools.cache
def bucket_starts(num_buckets, max_distance):
    """The least distance in each of T5's `num_buckets` buckets of one direction: a tuple of ints that never falls.

    The first `exact = num_buckets // 2` buckets hold one distance each; the others cut [exact, max_distance) in equal
    parts of its logarithm, and the last one has no end. Bucket `exact + t` starts at the least n for which

        log(n / exact) / log(max_distance / exact) * (num_buckets - exact) >= t

    which is decided without rounding as `n**parts * exact**t >= max_distance**t * exact**parts` over the integers,
    with `parts = num_buckets - exact`. Two starts are equal where a bucket is empty. ValueError for a bucket count or
    distance of which the formula makes no sense.
    """
    exact = num_buckets // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(f"T5 needs 2 buckets a direction and max_distance past {exact}: {num_buckets}, {max_distance}")
    parts, distances = num_buckets - exact, range(exact, max_distance + 1)
    starts = list(range(exact))
    for part in range(parts):
        enough = max_distance**part * exact**parts
        found = bisect.bisect_left(distances, enough, key=lambda n, part=part: n**parts * exact**part)
        starts.append(distances[found])
    return tuple(starts)


def t5_bucket(ahead, num_buckets, max_distance=128, bidirectional=True):
    """The bucket of relative positions `ahead = j - i` (integer array): an integer array in [0, num_buckets).

    Raffel et al. 2020 (T5), section 2.1; `_relative_position_bucket` of HuggingFace transformers, whose
    relative_position is `ahead`. With bidirectional the upper half of the buckets is for keys ahead of the query;
    without, keys ahead count as distance 0. Boundaries are exact; a float logarithm is free to fall on either side of
    a distance that stands on one (16, 32 and 64 of the default buckets), though PyTorch's float32 falls on ours.
    """
    ahead = np.asarray(ahead)
    if bidirectional:
        num_buckets //= 2
        first, distance = num_buckets * (ahead > 0), np.abs(ahead)
    else:
        first, distance = 0, np.maximum(-ahead, 0)
    return first + np.searchsorted(bucket_starts(num_buckets, max_distance), distance, side="right") - 1


def t5(score, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, table, max_distance=128, bidirectional=True):
    """`score + table[t5_bucket(j - (i + seqlen_k - seqlen_q)), h]`. table (num_buckets, heads)."""
    ahead = position_ahead(q_idx, kv_idx, seqlen_q, seqlen_k)
    bucket = t5_bucket(ahead, len(table), max_distance, bidirectional)
    return score + np.asarray(table)[bucket, h].astype(score.dtype)


def softcap(score, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, *, cap):
    """`cap * tanh(score / cap)`: scores stay within cap of 0. cap a positive number.

    Gemma 2 (Gemma Team 2024), section 2.
    """
    cap = score.dtype.type(cap)
    return cap * np.tanh(score / cap)


BIASES = {bias.__name__: bias for bias in (alibi, dense, t5, softcap)}
