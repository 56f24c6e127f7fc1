"""The backward's work in tasks of one signature, which threads take one after another.

The method is FlashAttention-2's (Dao 2023, algorithm 2) in float32: tiles of p and ds are computed again from q, k and
the log-sum-exp. Whatever threads there are, every sum is taken in one order: dk and dv of a block of keys over heads and
blocks of queries, dq of a block of queries over blocks of keys, both from the first to the last.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange, types

from numba_fa.kernels.cpu.backward_hooks import DERIVE, GATHER, HIDE
from numba_fa.kernels.cpu.backward_tile import JUDGE, LOAD, OPTIONS, STORE, ZERO, add_weighted
from numba_fa.kernels.cpu.blas import COLS, ROWS, round_up
from numba_fa.kernels.cpu.forward import take
from numba_fa.kernels.cpu.hooks import LOG2_E, MINUS_INFINITY, NEXT_KEYS
from numba_fa.kernels.cpu.launch_arguments import PACKED

Q, K, V, OUT, DOUT, DQ, DK, DV = range(8)  # rows of `places`: address, and strides of batch, sequence and head in bytes
ONE, INFINITY, LN_2 = np.float32(1.0), np.float32(np.inf), np.float32(np.log(2.0))


class Sizes(NamedTuple):
    """Of a call. biased: whether there is a `derive`. fused: whether a task of keys owns all keys of its head and
    makes dq too. own_*: into how many parts an axis is cut by tasks of a parameter's gradient, else 1."""

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    block_m: int
    block_n: int
    biased: int
    fused: int
    own_batch: int = 1
    own_heads: int = 1
    own_q: int = 1
    own_k: int = 1


_SIZES = types.NamedUniTuple(types.int64, len(Sizes._fields), Sizes)
_f = types.float32
# sizes, places, lse, dlse, rows (`prepare`: 3, batch, heads, seqlen_q), packed, packed gradient of a
# parameter, hooks, converters, judge, factor, scale, number of the task
TASK = types.void(
    _SIZES, types.Array(types.int64, 2, "C"), *[types.Array(_f, 3, "A", readonly=True, aligned=False)] * 2,
    types.Array(_f, 4, "C"), PACKED, PACKED,
    *[types.FunctionType(hook) for hook in (NEXT_KEYS, HIDE, DERIVE, GATHER, LOAD, LOAD, STORE, JUDGE)], _f, _f, types.int64,
)  # fmt: skip


@njit(**OPTIONS)
def address_of(places, which, batch, place, head):
    """The address of [batch, place, head, 0] of a matrix."""
    return places[which, 0] + batch * places[which, 1] + place * places[which, 2] + head * places[which, 3]


@njit(**OPTIONS)
def room(rows, columns):
    """A tile for products. 16 more floats a line: with 64, lines fall into a quarter of the first-level cache's sets."""
    return np.zeros((round_up(rows, ROWS), round_up(columns, COLS) + COLS), np.float32)


@njit(**OPTIONS)
def room_turned(head_dim, columns):
    """A tile with a line for each of head_dim, and no more."""
    return np.zeros((head_dim, round_up(columns, COLS) + COLS), np.float32)


@njit(**OPTIONS)
def tile_of_keys(next_keys, sizes, batch, head, q_first, rows, block, packed):
    """(how many keys of a block, from its first on, these queries may see, whether some are hidden from some)."""
    start = block * sizes.block_n
    end = min(start + sizes.block_n, sizes.seqlen_k)
    verdict = next_keys(batch, head, q_first, q_first + rows - 1, end - 1, sizes.block_n, packed)
    return max((verdict >> 1) + 1 - start, 0) if verdict >= 0 else 0, verdict & 1 == 0


@njit(**OPTIONS)
def prepare(sizes, places, lse, dlse, rows, packed, packed_gradient, next_keys, hide, derive, gather, load_rows,
            load_columns, store, judge, factor, scale, index):  # fmt: skip
    """rows of one head: lse times log2(e), infinity where there is no key; what is beyond float32 of it; and
    rowsum(dout * out) - dlse."""
    batch, head = index // sizes.heads, index % sizes.heads
    out, dout = room(sizes.block_m, sizes.head_dim_v), room(sizes.block_m, sizes.head_dim_v)
    for start in range(0, sizes.seqlen_q, sizes.block_m):
        count = min(sizes.block_m, sizes.seqlen_q - start)
        load_rows(address_of(places, OUT, batch, start, head), places[OUT, 2], count, sizes.head_dim_v, ONE, out)
        load_rows(address_of(places, DOUT, batch, start, head), places[DOUT, 2], count, sizes.head_dim_v, ONE, dout)
        for i in range(count):
            natural, total = lse[batch, head, start + i], 0.0
            for e in range(sizes.head_dim_v):
                total += np.float64(dout[i, e]) * np.float64(out[i, e])
            if dlse.size:
                total -= dlse[batch, head, start + i]
            binary = np.float64(natural) * LOG2_E
            rows[0, batch, head, start + i] = INFINITY if natural == MINUS_INFINITY else binary
            rows[1, batch, head, start + i] = ZERO if np.isinf(natural) else binary - np.float32(binary)
            rows[2, batch, head, start + i] = total


@njit(**OPTIONS)
def keys_task(sizes, places, lse, dlse, rows, packed, packed_gradient, next_keys, hide, derive, gather, load_rows,
              load_columns, store, judge, factor, scale, index):  # fmt: skip
    """dk and dv of one block of keys; fused, of all keys of a head, and dq of the heads that read it."""
    block_m, block_n, head_dim, head_dim_v = sizes.block_m, sizes.block_n, sizes.head_dim, sizes.head_dim_v
    group, q_blocks = sizes.heads // sizes.heads_kv, -(-sizes.seqlen_q // block_m)
    blocks = -(-sizes.seqlen_k // block_n)
    sequence, first, last = index // blocks, index % blocks, index % blocks + 1
    if sizes.fused:
        sequence, first, last = index, 0, blocks
    batch, head_kv = sequence // sizes.heads_kv, sequence % sizes.heads_kv
    wants_k, wants_v = places[DK, 0] != 0, places[DV, 0] != 0
    cols_d, cols_v = round_up(head_dim, COLS), round_up(head_dim_v, COLS)

    q, dout = room(block_m, head_dim), room(block_m, head_dim_v)
    keys, k_sum, v_sum = room(block_n, head_dim), room(block_n, head_dim), room(block_n, head_dim_v)
    k_t, v_t = room_turned(head_dim, block_n), room_turned(head_dim_v, block_n)
    probs, gradients, slopes = room(block_m, block_n), room(block_m, block_n), room(block_m, block_n)
    room_m = q.shape[0]
    q_sum = room(group * q_blocks * room_m if sizes.fused else 0, head_dim)
    for block in range(first, last):
        start = block * block_n
        held = min(block_n, sizes.seqlen_k - start)
        k_at, v_at = address_of(places, K, batch, start, head_kv), address_of(places, V, batch, start, head_kv)
        load_rows(k_at, places[K, 2], held, head_dim, ONE, keys)
        load_columns(k_at, places[K, 2], held, head_dim, ONE, k_t)
        load_columns(v_at, places[V, 2], held, head_dim_v, ONE, v_t)
        k_sum[:, :] = ZERO
        v_sum[:, :] = ZERO
        for part in range(group * q_blocks):
            head, q_first = head_kv * group + part // q_blocks, part % q_blocks * block_m
            count_q = min(block_m, sizes.seqlen_q - q_first)
            count, masked = tile_of_keys(next_keys, sizes, batch, head, q_first, count_q, block, packed)
            if count == 0:
                continue
            load_rows(address_of(places, Q, batch, q_first, head), places[Q, 2], count_q, head_dim, factor, q)
            load_rows(address_of(places, DOUT, batch, q_first, head), places[DOUT, 2], count_q, head_dim_v, ONE, dout)
            judge(q, dout, k_t, v_t, rows[:, batch, head, q_first:q_first + count_q], batch, head, q_first, start, count_q,
                  count, sizes.biased != 0, masked, derive, hide, packed, probs, gradients, slopes)  # fmt: skip
            if wants_v:
                add_weighted(dout, probs, False, v_sum, count, cols_v, count_q, masked)
            if wants_k:
                add_weighted(q, gradients, False, k_sum, count, cols_d, count_q, masked)
            if sizes.fused:
                mine = q_sum[part * room_m : part * room_m + room_m]
                add_weighted(keys, gradients, True, mine, count_q, cols_d, count, masked)
        if wants_k:
            unscaled = ONE if sizes.biased else LN_2  # q is scaled already
            store(k_sum, unscaled, address_of(places, DK, batch, start, head_kv), places[DK, 2], held, head_dim)
        if wants_v:
            store(v_sum, ONE, address_of(places, DV, batch, start, head_kv), places[DV, 2], held, head_dim_v)
    if sizes.fused:
        for part in range(group * q_blocks):
            head, q_first = head_kv * group + part // q_blocks, part % q_blocks * block_m
            place = address_of(places, DQ, batch, q_first, head)
            count_q = min(block_m, sizes.seqlen_q - q_first)
            store(q_sum[part * room_m : part * room_m + room_m], scale, place, places[DQ, 2], count_q, head_dim)


@njit(**OPTIONS)
def queries_task(sizes, places, lse, dlse, rows, packed, packed_gradient, next_keys, hide, derive, gather, load_rows,
                 load_columns, store, judge, factor, scale, index):  # fmt: skip
    """dq of one block of queries."""
    block_m, block_n, head_dim, head_dim_v = sizes.block_m, sizes.block_n, sizes.head_dim, sizes.head_dim_v
    q_blocks = -(-sizes.seqlen_q // block_m)
    # Later queries see more keys under a causal mask: the costliest blocks of a head come first.
    sequence, q_first = index // q_blocks, (q_blocks - 1 - index % q_blocks) * block_m
    batch, head = sequence // sizes.heads, sequence % sizes.heads
    head_kv, count_q = head // (sizes.heads // sizes.heads_kv), min(block_m, sizes.seqlen_q - q_first)

    q, dout, q_sum = room(block_m, head_dim), room(block_m, head_dim_v), room(block_m, head_dim)
    keys, k_t, v_t = room(block_n, head_dim), room_turned(head_dim, block_n), room_turned(head_dim_v, block_n)
    probs, gradients, slopes = room(block_m, block_n), room(block_m, block_n), room(block_m, block_n)
    load_rows(address_of(places, Q, batch, q_first, head), places[Q, 2], count_q, head_dim, factor, q)
    load_rows(address_of(places, DOUT, batch, q_first, head), places[DOUT, 2], count_q, head_dim_v, ONE, dout)
    for block in range(-(-sizes.seqlen_k // block_n)):
        count, masked = tile_of_keys(next_keys, sizes, batch, head, q_first, count_q, block, packed)
        if count == 0:
            continue
        start = block * block_n
        k_at, v_at = address_of(places, K, batch, start, head_kv), address_of(places, V, batch, start, head_kv)
        load_rows(k_at, places[K, 2], count, head_dim, ONE, keys)
        load_columns(k_at, places[K, 2], count, head_dim, ONE, k_t)
        load_columns(v_at, places[V, 2], count, head_dim_v, ONE, v_t)
        judge(q, dout, k_t, v_t, rows[:, batch, head, q_first:q_first + count_q], batch, head, q_first, start, count_q,
              count, sizes.biased != 0, masked, derive, hide, packed, probs, gradients, slopes)  # fmt: skip
        add_weighted(keys, gradients, True, q_sum, count_q, round_up(head_dim, COLS), count, masked)
    store(q_sum, scale, address_of(places, DQ, batch, q_first, head), places[DQ, 2], count_q, head_dim)


@njit(**OPTIONS)
def span(part, parts, whole):
    """The range of an axis of length `whole` that a task has: one of it when it is cut, else all."""
    return range(part, part + 1) if parts == whole else range(whole)


@njit(**OPTIONS)
def parameter_task(sizes, places, lse, dlse, rows, packed, packed_gradient, next_keys, hide, derive, gather, load_rows,
                   load_columns, store, judge, factor, scale, index):  # fmt: skip
    """A part of the gradient of a bias's parameter that no other task adds to."""
    block_m, block_n, head_dim, head_dim_v = sizes.block_m, sizes.block_n, sizes.head_dim, sizes.head_dim_v
    index, part_k = index // sizes.own_k, index % sizes.own_k
    index, part_q = index // sizes.own_q, index % sizes.own_q
    part_batch, part_head = index // sizes.own_heads, index % sizes.own_heads

    q, dout = room(block_m, head_dim), room(block_m, head_dim_v)
    k_t, v_t = room_turned(head_dim, block_n), room_turned(head_dim_v, block_n)
    probs, gradients, slopes = room(block_m, block_n), room(block_m, block_n), room(block_m, block_n)
    for batch in span(part_batch, sizes.own_batch, sizes.batch):
        for head in span(part_head, sizes.own_heads, sizes.heads):
            head_kv = head // (sizes.heads // sizes.heads_kv)
            for q_block in span(part_q, sizes.own_q, -(-sizes.seqlen_q // block_m)):
                q_first = q_block * block_m
                count_q = min(block_m, sizes.seqlen_q - q_first)
                load_rows(address_of(places, Q, batch, q_first, head), places[Q, 2], count_q, head_dim, factor, q)
                load_rows(address_of(places, DOUT, batch, q_first, head), places[DOUT, 2], count_q, head_dim_v, ONE, dout)
                for block in span(part_k, sizes.own_k, -(-sizes.seqlen_k // block_n)):
                    count, masked = tile_of_keys(next_keys, sizes, batch, head, q_first, count_q, block, packed)
                    if count == 0:
                        continue
                    start = block * block_n
                    k_at = address_of(places, K, batch, start, head_kv)
                    v_at = address_of(places, V, batch, start, head_kv)
                    load_columns(k_at, places[K, 2], count, head_dim, ONE, k_t)
                    load_columns(v_at, places[V, 2], count, head_dim_v, ONE, v_t)
                    judge(q, dout, k_t, v_t, rows[:, batch, head, q_first:q_first + count_q], batch, head, q_first, start,
                          count_q, count, True, masked, derive, hide, packed, probs, gradients, slopes)  # fmt: skip
                    gather(gradients, batch, head, q_first, start, count_q, count, packed, packed_gradient)


@lru_cache
def make_runner():
    """run(task, its arguments but the last, how many tasks, a zero to count them with)."""
    @njit(types.void(types.FunctionType(TASK), *TASK.args[:-1], types.int64, PACKED), parallel=True, error_model="numpy")
    def run(task, sizes, places, lse, dlse, rows, packed, packed_gradient, next_keys, hide, derive, gather, load_rows,
            load_columns, store, judge, factor, scale, tasks, taken):  # fmt: skip
        for _ in prange(get_num_threads()):
            index = take(taken)
            while index < tasks:
                task(sizes, places, lse, dlse, rows, packed, packed_gradient, next_keys, hide, derive, gather, load_rows,
                     load_columns, store, judge, factor, scale, index)  # fmt: skip
                index = take(taken)

    return run
