"""Attention forward on the CPU: one task per (batch, head, query block), online softmax over key blocks.

The method is FlashAttention-2, T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
Partitioning", 2023, algorithm 1, in float32. Tiles are stored transposed, queries along the contiguous axis:
a row of the softmax is then a vector lane, so row maxima and sums are plain element-wise loops and need no
reordering of floating-point operations. Memory is a few tiles per thread, never seqlen_q * seqlen_k.
"""

import math
from functools import lru_cache, partial

import numpy as np
from numba import carray, get_num_threads, njit, prange, types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from numba_fa.kernels.cpu.blas import COLS, ROWS, add_product, round_up
from numba_fa.kernels.cpu.convert import FROM_FLOAT32, INFINITY_BITS, TO_FLOAT32, bits_of
from numba_fa.kernels.cpu.elementary import exp2
from numba_fa.kernels.cpu.hooks import LOG2_E, MINUS_INFINITY, NEXT_KEYS, ON_TILE, Hooks, leave, make_hooks
from numba_fa.kernels.cpu.launch_arguments import PACKED, pack
from numba_fa.kernels.cpu.running import run_tasks
from numba_fa.problem.tokens import tokens_of

LN_2 = math.log(2.0)
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


@intrinsic
def take(typing_context, counter):
    """The value of the only element of an int64 array, which grows by 1: each caller in any thread gets another."""
    def codegen(context, builder, signature, args):
        place = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", place, context.get_constant(types.int64, 1), "monotonic")
    return types.int64(types.Array(types.int64, 1, "C")), codegen


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
def add_visible_product(probs, values, out, shown, rows, cols):
    """``out[e, i] += sum_j probs[j, i] * values[j, e]`` where ``shown[j, i]`` is not -inf, so no 0 * NaN arises."""
    for j in range(rows):
        for e in range(values.shape[1]):
            for i in range(cols):
                if shown[j, i] != MINUS_INFINITY:
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
    """Types of one task: q, k, v, out, lse, sinks; packed launch arguments; the three hooks; factor; batch,
    head and query block.

    Arrays of any strides and alignment, inputs perhaps read-only (a broadcast view is); lse (batch, heads, seqlen_q)
    and sinks (heads,) are float32, or of size 0.
    """
    def array(dtype, ndim, readonly):
        return types.Array(dtype, ndim, "A", readonly=readonly, aligned=False)
    x = array(storage, 4, True)
    out, lse, sinks = array(storage, 4, False), array(types.float32, 3, False), array(types.float32, 1, True)
    pointers = [types.FunctionType(hook) for hook in (NEXT_KEYS, ON_TILE, ON_TILE)]
    return types.void(x, x, x, out, lse, sinks, PACKED, *pointers, types.float32, *[types.intp] * 5)


@lru_cache
def _compiled(dtype):
    """``run`` for a dtype: any tile, and every mask and bias by hooks."""
    load_queries, load_rows, store = _make_tile_steps(TO_FLOAT32[dtype], FROM_FLOAT32[dtype])
    task = _task_signature(from_dtype(np.dtype(STORAGE[dtype])))

    @njit(task, error_model="numpy", fastmath={"contract"})
    def attend(q, k, v, out, lse, sinks, packed, next_keys, hide, modify, factor, block_m, block_n, batch, head,
               block):
        """Compute one query block of one head; shapes as in ``_task_signature``."""
        seqlen_q, heads, head_dim = q.shape[1:]
        seqlen_k, heads_kv, head_dim_v = k.shape[1], k.shape[2], v.shape[3]
        head_kv = head // (heads // heads_kv)
        start = block * block_m
        rows = min(block_m, seqlen_q - start)
        cols = round_up(rows, COLS)

        room_d, room_n = round_up(head_dim_v, ROWS), round_up(block_n, ROWS)
        # 16 more floats a line: with 64, a column of blocks falls into a quarter of the first-level cache's sets.
        line = round_up(block_m, COLS) + COLS
        q_t = np.empty((head_dim, line), np.float32)
        keys = np.zeros((room_n, head_dim), np.float32)
        values = np.zeros((room_n, room_d), np.float32)
        scores = np.empty((room_n, line), np.float32)
        acc = np.zeros((room_d, line), np.float32)
        row_max = np.full(line, MINUS_INFINITY, np.float32)
        row_sum = np.zeros(line, np.float32)
        rescale = np.empty(line, np.float32)
        if sinks.size:
            # A sink is a key seen by all whose value is zero. Of logit -inf it goes, like all before, with the first key.
            row_max[:], row_sum[:] = sinks[head] * np.float32(LOG2_E), np.float32(1.0)

        load_queries(q, batch, head, start, rows, factor, q_t)
        end = seqlen_k
        while end > 0:
            verdict = next_keys(batch, head, start, start + rows - 1, end - 1, block_n, packed)
            if verdict < 0:
                break
            last, masked = verdict >> 1, verdict & 1 == 0
            first = last // block_n * block_n
            count, end = last + 1 - first, first
            load_rows(k, batch, head_kv, first, count, keys)
            load_rows(v, batch, head_kv, first, count, values)
            scores[:, :] = np.float32(0.0)
            add_product(q_t, keys, head_dim, 1, scores, count, cols, head_dim)
            modify(scores, batch, head, start, first, count, rows, packed)
            if masked:
                hide(scores, batch, head, start, first, count, rows, packed)
            online_softmax(scores, row_max, row_sum, rescale, count, cols)
            for e in range(head_dim_v):
                for i in range(cols):
                    acc[e, i] *= rescale[i]
            if masked and has_non_finite(values, count):
                shown = np.zeros((room_n, line), np.float32)
                hide(shown, batch, head, start, first, count, rows, packed)
                add_visible_product(scores, values, acc, shown, count, cols)
            else:
                add_product(scores, values, 1, room_d, acc, room_d, cols, count)

        store(acc, row_sum, out, batch, head, start, rows)
        if lse.size:
            for i in range(rows):
                empty = row_sum[i] == np.float32(0.0)
                log2_sum = np.float64(row_max[i]) + np.log2(np.float64(row_sum[i]))
                lse[batch, head, start + i] = MINUS_INFINITY if empty else LN_2 * log2_sum

    # The task is called through a pointer: inlined, LLVM would optimise it three times (7.0 s against 4.2 s).
    @njit(types.void(types.FunctionType(task), *task.args[:-3], types.int64, PACKED), parallel=True, error_model="numpy")
    def run(attend, q, k, v, out, lse, sinks, packed, next_keys, hide, modify, factor, block_m, block_n, tasks, taken):
        blocks = (q.shape[1] + block_m - 1) // block_m
        for _ in prange(get_num_threads()):
            index = take(taken)
            while index < tasks:
                # Later queries see more keys under a causal mask: the costliest blocks of a head come first.
                sequence, block = index // blocks, blocks - 1 - index % blocks
                attend(q, k, v, out, lse, sinks, packed, next_keys, hide, modify, factor, block_m,
                       block_n, sequence // q.shape[2], sequence % q.shape[2], block)
                index = take(taken)

    return partial(run, attend)


def make_forward(*, dtype: str, hooks: Hooks, block_m: int, block_n: int):
    """The forward for one dtype, mask and bias.

    Args: ``dtype`` "fp32", "fp16" or "bf16"; ``hooks`` of the mask and the biases; ``block_m`` queries by ``block_n``
    keys is the tile. Any positive sizes work; multiples of 16 and 4 waste nothing. Compiles once a dtype.

    Returns ``forward(q, k, v, out, lse, scale, aux)`` on NumPy arrays: q (batch, seqlen_q, heads, head_dim), k
    (batch, seqlen_k, heads_kv, head_dim), v and out alike with head_dim_v, any strides with the last axis contiguous, all
    float32, or float16, or uint16 bit patterns of bfloat16; lse (batch, heads, seqlen_q) float32 or None; aux a tuple
    of the launch arguments that ``hooks.tokens`` list, 16-bit floats as bit patterns. ``out`` and ``lse`` are written
    in place: lse is the natural logarithm, and a query that sees no key gets out 0 and lse -inf, or the sink's logit.

    Raises KeyError for another dtype. FunctionError by ``forward`` where a user's function raises.
    """
    run, storage = _compiled(dtype), STORAGE[dtype]
    modify, base = (leave, LOG2_E) if hooks.modify is None else (hooks.modify, 1.0)

    def forward(q, k, v, out, lse, scale, aux=()):
        """Write softmax(bias(scale * q k^T)) v into ``out`` and, unless None, its log-sum-exp into ``lse``."""
        lse = np.empty((0, 0, 0), np.float32) if lse is None else lse
        sinks = np.empty(0, np.float32) if hooks.sink is None else aux[hooks.sink]
        arrays, packed = (x.view(storage) for x in (q, k, v, out)), pack(hooks.tokens, aux)
        shared = (lse, sinks, packed, hooks.next_keys, hooks.hide, modify, np.float32(scale * base), block_m, block_n)
        tasks = q.shape[0] * q.shape[2] * -(-q.shape[1] // block_m)
        run_tasks(run, (*arrays, *shared), tasks, hooks.texts)

    return forward


def forward_of(key):
    """The forward for a DispatchKey, taking q, k, v, out, lse, scale and the tuple of what mask and biases pass.

    Compiled once a dtype for all head_dims; once a mask and bias its hooks.
    """
    hooks = make_hooks(key.mask, key.bias, tokens_of(key.mask, key.bias))
    return make_forward(dtype=key.dtype, hooks=hooks, block_m=key.block_m, block_n=key.block_n)
