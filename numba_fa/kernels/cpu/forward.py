"""Attention forward on the CPU: one task per (batch, head, query block), online softmax over key blocks.

The method is FlashAttention-2, T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning", 2023, algorithm 1, in float32. Tiles are stored transposed, queries along the contiguous axis:
a row of the softmax is then a vector lane, so row maxima and sums are plain element-wise loops and need no
reordering of floating-point operations. Memory is a few tiles per thread, never seqlen_q * seqlen_k.
"""

import math
import threading
from functools import lru_cache

import numpy as np
from numba import carray, njit, prange, types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from numba_fa.kernels.cpu.blas import COLS, ROWS, add_product, round_up
from numba_fa.kernels.cpu.convert import FROM_FLOAT32, INFINITY_BITS, TO_FLOAT32, bits_of, exp2

LOG2_E = math.log2(math.e)
LN_2 = np.float32(math.log(2.0))
MINUS_INFINITY = np.float32(-np.inf)
# Numba's workqueue layer, all there is without OpenMP and TBB, ends the process when two threads enter parallel code.
_ONE_AT_A_TIME = threading.Lock()
STORAGE = {"fp32": np.float32, "fp16": np.uint16, "bf16": np.uint16}

# contract alone: fused multiply-adds keep NaN and infinities, and the order of every sum is the source's.
jit = njit(error_model="numpy", fastmath={"contract"})


@intrinsic
def _pointer(typing_context, array, batch, seq, head):
    """Pointer to ``array[batch, seq, head, 0]`` of a 4-D array of any strides."""
    def codegen(context, builder, signature, args):
        proxy = context.make_array(signature.args[0])(context, builder, args[0])
        address = builder.ptrtoint(proxy.data, context.get_value_type(types.intp))
        for axis, position in enumerate(args[1:]):
            stride = builder.extract_value(proxy.strides, axis)
            address = builder.add(address, builder.mul(position, stride))
        return builder.inttoptr(address, context.get_value_type(types.CPointer(array.dtype)))
    return types.CPointer(array.dtype)(array, types.intp, types.intp, types.intp), codegen


@jit
def vector_of(array, batch, seq, head):
    """The last axis at (batch, seq, head) as a contiguous vector, which a strided array's type cannot say."""
    return carray(_pointer(array, batch, seq, head), (array.shape[3],))


@jit
def has_non_finite(tile, rows):
    """Whether any of the first ``rows`` rows of a float32 tile holds an infinity or a NaN."""
    found = 0
    for j in range(rows):
        for e in range(tile.shape[1]):
            found |= (bits_of(tile[j, e]) & INFINITY_BITS) == INFINITY_BITS
    return found != 0


@jit
def hide_future(scores, key_lead, rows, cols):
    """Set ``scores[j, i]`` to -inf where key j lies after query i, that is where j > i + key_lead."""
    for j in range(rows):
        for i in range(min(cols, max(0, j - key_lead))):
            scores[j, i] = MINUS_INFINITY


@jit
def online_softmax(scores, row_max, row_sum, rescale, rows, cols):
    """Turn scores (base-2 logits, keys x queries) into exp2(score - max); update row_max, row_sum, rescale.

    ``rescale`` becomes the factor by which sums over earlier blocks shrink. A query that has seen no key
    keeps max = -inf and sum = 0; its exponentials are taken against 0 instead, which makes them 0 and not
    NaN.
    """
    for i in range(cols):
        rescale[i] = row_max[i]
    for j in range(rows):
        for i in range(cols):
            s = scores[j, i]
            row_max[i] = s if s > row_max[i] else row_max[i]
    for i in range(cols):
        shift = np.float32(0.0) if row_max[i] == MINUS_INFINITY else row_max[i]
        rescale[i] = exp2(rescale[i] - shift)
        row_sum[i] *= rescale[i]
    for j in range(rows):
        for i in range(cols):
            shift = np.float32(0.0) if row_max[i] == MINUS_INFINITY else row_max[i]
            p = exp2(scores[j, i] - shift)
            scores[j, i] = p
            row_sum[i] += p


@jit
def add_visible_product(probs, values, out, key_lead, rows, cols):
    """``out[e, i] += sum_j probs[j, i] * values[j, e]`` over visible keys alone, so no 0 * NaN arises."""
    for j in range(rows):
        for e in range(values.shape[1]):
            for i in range(max(0, j - key_lead), cols):
                out[e, i] += probs[j, i] * values[j, e]


def _make_tile_steps(to_float32, from_float32):
    """The three functions that touch the stored dtype: load queries, load keys or values, store."""
    @jit
    def load_queries(q, batch, head, start, rows, factor, tile):
        """tile[e, i] = factor * q[batch, start + i, head, e]; the surplus columns are zero."""
        tile[:, :] = np.float32(0.0)
        for i in range(rows):
            source = vector_of(q, batch, start + i, head)
            for e in range(source.size):
                tile[e, i] = to_float32(source[e]) * factor

    @jit
    def load_rows(x, batch, head, start, rows, tile):
        """tile[j, :] = x[batch, start + j, head, :]; surplus columns stay as they are."""
        for j in range(rows):
            source = vector_of(x, batch, start + j, head)
            for e in range(source.size):
                tile[j, e] = to_float32(source[e])

    @jit
    def store(acc, row_sum, out, batch, head, start, rows):
        """out[batch, start + i, head, e] = acc[e, i] / row_sum[i], and 0 where the sum is 0."""
        for i in range(rows):
            total = row_sum[i]
            inverse = np.float32(0.0) if total == np.float32(0.0) else np.float32(1.0) / total
            target = vector_of(out, batch, start + i, head)
            for e in range(target.size):
                target[e] = from_float32(acc[e, i] * inverse)

    return load_queries, load_rows, store


def _task_signature(storage):
    """Types of one task: arrays of any strides and alignment, inputs perhaps read-only (a broadcast view is),
    lse (batch, heads, seqlen_q) float32 or of size 0, scale * log2(e) float32, and batch, head, query block.
    """
    def array(dtype, ndim, readonly):
        return types.Array(dtype, ndim, "A", readonly=readonly, aligned=False)
    x = array(storage, 4, True)
    out, lse = array(storage, 4, False), array(types.float32, 3, False)
    return types.void(x, x, x, out, lse, types.float32, types.intp, types.intp, types.intp)


def make_forward(*, dtype: str, causal: bool, block_m: int, block_n: int):
    """Compile the forward for one dtype and mask.

    Args: ``dtype`` "fp32", "fp16" or "bf16"; ``causal`` hides keys after a query, aligned bottom-right;
    ``block_m`` queries by ``block_n`` keys is the tile. Any positive sizes work; multiples of 16 and 4 waste
    nothing.

    Returns ``forward(q, k, v, out, lse, scale)`` on NumPy arrays: q, out (batch, seqlen_q, heads, head_dim),
    k, v (batch, seqlen_k, heads_kv, head_dim), any strides with the last axis contiguous, all float32, or
    float16, or uint16 bit patterns of bfloat16; lse (batch, heads, seqlen_q) float32 or None. ``out`` and
    ``lse`` are written in place: lse is the natural logarithm, and a query that sees no key gets out 0 and
    lse -inf.

    Raises KeyError for another dtype.
    """
    load_queries, load_rows, store = _make_tile_steps(TO_FLOAT32[dtype], FROM_FLOAT32[dtype])
    storage = STORAGE[dtype]
    task = _task_signature(from_dtype(np.dtype(storage)))
    ROOM_M, ROOM_N = round_up(block_m, COLS), round_up(block_n, ROWS)
    # 16 more floats a line: with 64, a column of blocks falls into a quarter of the first-level cache's sets.
    LINE_M = ROOM_M + COLS

    @njit(task, error_model="numpy", fastmath={"contract"})
    def attend(q, k, v, out, lse, scale_log2, batch, head, block):
        """Compute one query block of one head; shapes as in ``_task_signature``."""
        seqlen_q, heads, head_dim = q.shape[1:]
        seqlen_k, heads_kv = k.shape[1:3]
        head_kv = head // (heads // heads_kv)
        start = block * block_m
        rows = min(block_m, seqlen_q - start)
        cols = (rows + COLS - 1) // COLS * COLS
        lead = start + seqlen_k - seqlen_q
        end = max(0, min(seqlen_k, lead + rows)) if causal else seqlen_k

        room_d = (head_dim + ROWS - 1) // ROWS * ROWS
        q_t = np.empty((head_dim, LINE_M), np.float32)
        keys = np.zeros((ROOM_N, head_dim), np.float32)
        values = np.zeros((ROOM_N, room_d), np.float32)
        scores = np.empty((ROOM_N, LINE_M), np.float32)
        acc = np.zeros((room_d, LINE_M), np.float32)
        row_max = np.full(LINE_M, MINUS_INFINITY, np.float32)
        row_sum = np.zeros(LINE_M, np.float32)
        rescale = np.empty(LINE_M, np.float32)

        load_queries(q, batch, head, start, rows, scale_log2, q_t)
        for first in range(0, end, block_n):
            count = min(block_n, end - first)
            load_rows(k, batch, head_kv, first, count, keys)
            load_rows(v, batch, head_kv, first, count, values)
            scores[:, :] = np.float32(0.0)
            add_product(q_t, keys, head_dim, 1, scores, count, cols, head_dim)
            on_diagonal = causal and first + count - 1 > lead
            if on_diagonal:
                hide_future(scores, lead - first, count, cols)
            online_softmax(scores, row_max, row_sum, rescale, count, cols)
            for e in range(head_dim):
                for i in range(cols):
                    acc[e, i] *= rescale[i]
            if on_diagonal and has_non_finite(values, count):
                add_visible_product(scores, values, acc, lead - first, count, cols)
            else:
                add_product(scores, values, 1, room_d, acc, room_d, cols, count)

        store(acc, row_sum, out, batch, head, start, rows)
        if lse.size:
            for i in range(rows):
                empty = row_sum[i] == np.float32(0.0)
                log2_sum = row_max[i] + np.log2(row_sum[i])
                lse[batch, head, start + i] = MINUS_INFINITY if empty else LN_2 * log2_sum

    # The task is called through a pointer: inlined, LLVM would optimise it three times (7.0 s against 4.2 s).
    @njit(types.void(types.FunctionType(task), *task.args[:6]), parallel=True, error_model="numpy")
    def run(attend, q, k, v, out, lse, scale_log2):
        blocks = (q.shape[1] + block_m - 1) // block_m
        for index in prange(q.shape[0] * q.shape[2] * blocks):
            # prange counts in uint64, which with int64 would promote to float64.
            sequence, n = divmod(np.int64(index), blocks)
            # A causal mask's cheap first and costly last blocks alternate: equal shares are equal work.
            block = n // 2 if n % 2 == 0 else blocks - 1 - n // 2
            attend(q, k, v, out, lse, scale_log2, sequence // q.shape[2], sequence % q.shape[2], block)

    def forward(q, k, v, out, lse, scale):
        """Write softmax(scale * q k^T) v into ``out`` and, unless None, its log-sum-exp into ``lse``."""
        no_lse = np.empty((0, 0, 0), np.float32)
        arrays = (x.view(storage) for x in (q, k, v, out))
        with _ONE_AT_A_TIME:
            run(attend, *arrays, no_lse if lse is None else lse, np.float32(scale * LOG2_E))

    return forward


def forward_of(key):
    """The forward for a DispatchKey, taking q, k, v, out, lse, scale. Compiled once for all head_dims."""
    return _compiled(key.dtype, key.mask == "causal", key.block_m, key.block_n)


@lru_cache
def _compiled(dtype, causal, block_m, block_n):
    return make_forward(dtype=dtype, causal=causal, block_m=block_m, block_n=block_n)
