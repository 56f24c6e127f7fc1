"""The backward's tiles: loading and storing matrices of any dtype, and from scores to the gradients of scores.

Matrices are known by address and strides, and their dtype by function pointers that convert, so that the kernels are
compiled once for all dtypes.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from numba_fa.kernels.cpu.backward_hooks import DERIVE, HIDE
from numba_fa.kernels.cpu.blas import COLS, add_product, round_up
from numba_fa.kernels.cpu.convert import FROM_FLOAT32, TO_FLOAT32
from numba_fa.kernels.cpu.elementary import exp2
from numba_fa.kernels.cpu.forward import STORAGE, has_non_finite
from numba_fa.kernels.cpu.hooks import MINUS_INFINITY
from numba_fa.kernels.cpu.launch_arguments import PACKED

OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
_i, _f, _tile = types.int64, types.float32, types.Array(types.float32, 2, "C")
# load(address, stride, rows, width, factor, tile); stride in bytes
LOAD = types.void(_i, _i, _i, _i, _f, _tile)
# store(tile, factor, address, stride, rows, width)
STORE = types.void(_tile, _f, _i, _i, _i, _i)
ZERO = np.float32(0.0)


class Converters(NamedTuple):
    """Of a dtype. load_columns makes tile[e, r] = factor * x[r, e], load_rows tile[r, e]; store does x[r, e]."""

    load_rows: object
    load_columns: object
    store: object


@lru_cache
def make_converters(dtype):
    """The Converters of "fp32", "fp16" or "bf16"."""
    to_float32, from_float32 = TO_FLOAT32[dtype], FROM_FLOAT32[dtype]
    pointer = _pointer_to(from_dtype(np.dtype(STORAGE[dtype])))

    @njit(LOAD, **OPTIONS)
    def load_rows(address, stride, rows, width, factor, tile):
        for r in range(rows):
            source = carray(pointer(address + r * stride), (width,))
            for e in range(width):
                tile[r, e] = to_float32(source[e]) * factor

    @njit(LOAD, **OPTIONS)
    def load_columns(address, stride, rows, width, factor, tile):
        for r in range(rows):
            source = carray(pointer(address + r * stride), (width,))
            for e in range(width):
                tile[e, r] = to_float32(source[e]) * factor

    @njit(STORE, **OPTIONS)
    def store(tile, factor, address, stride, rows, width):
        for r in range(rows):
            target = carray(pointer(address + r * stride), (width,))
            for e in range(width):
                target[e] = from_float32(tile[r, e] * factor)

    return Converters(load_rows, load_columns, store)


def _pointer_to(element):
    @intrinsic
    def pointer(typing_context, address):
        def generate(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate

    return pointer


# judge(q, dout, k_t, v_t, statistics, batch, head, q_first, kv_first, rows, count, biased, masked, derive, hide,
#       packed, probs, gradients, slopes)
JUDGE = types.void(
    _tile, _tile, _tile, _tile, types.Array(types.float32, 2, "A"), *[_i] * 6, types.boolean, types.boolean,
    types.FunctionType(DERIVE), types.FunctionType(HIDE), PACKED, _tile, _tile, _tile,
)  # fmt: skip


@njit(**OPTIONS)
def judge(q, dout, k_t, v_t, statistics, batch, head, q_first, kv_first, rows, count, biased, masked, derive, hide,
          packed, probs, gradients, slopes):  # fmt: skip
    """probs = p and gradients = ds, rows queries x count keys, zero in the columns from count to a multiple of COLS.

    q: rows x head_dim, dout: rows x head_dim_v, q times the scale (and log2(e) where no bias brings it in), which gives
    the forward's scores, with all their rounding; k_t: head_dim x keys, v_t: head_dim_v x keys; statistics: of each
    query, as `prepare` leaves them.
    """
    cols = round_up(count, COLS)
    probs[:, :] = ZERO
    gradients[:, :] = ZERO
    add_product(k_t, q, q.shape[1], 1, probs, rows, cols, k_t.shape[0])
    if biased:
        derive(probs, slopes, batch, head, q_first, kv_first, rows, count, packed)
    if masked:
        hide(probs, batch, head, q_first, kv_first, rows, count, packed)
    add_product(v_t, dout, dout.shape[1], 1, gradients, rows, cols, v_t.shape[0])
    for i in range(rows):
        log2_sum, rest, delta = statistics[0, i], statistics[1, i], statistics[2, i]
        for j in range(count):
            score = probs[i, j]
            p = ZERO if score == MINUS_INFINITY else exp2(score - log2_sum - rest)
            ds = p * (gradients[i, j] - delta)
            probs[i, j] = p
            gradients[i, j] = ZERO if p == ZERO else ds
        if biased:
            for j in range(count):
                ds = gradients[i, j]
                gradients[i, j] = ZERO if ds == ZERO else ds * slopes[i, j]
        for j in range(count, cols):
            probs[i, j], gradients[i, j] = ZERO, ZERO


@njit(**OPTIONS)
def add_weighted(a, b, by_rows, c, rows, cols, count, masked):
    """`c[j, e] += sum over t < count of b[j, t] * a[t, e]`, or of b[t, j] when not by_rows; j < rows, e < cols.

    masked: some of b are 0 for what a mask hides, where a may hold anything: no 0 * NaN arises.
    """
    if masked and has_non_finite(a, count):
        for j in range(rows):
            for t in range(count):
                weight = b[j, t] if by_rows else b[t, j]
                if weight != ZERO:
                    for e in range(cols):
                        c[j, e] += weight * a[t, e]
    elif by_rows:
        add_product(a, b, b.shape[1], 1, c, rows, cols, count)
    else:
        add_product(a, b, 1, b.shape[1], c, rows, cols, count)
