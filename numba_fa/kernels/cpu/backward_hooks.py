"""The program's part of the backward's tiles, behind function pointers, as `hooks.py` is the forward's.

A tile of scores holds queries x keys here.
"""

from functools import lru_cache

import numpy as np
from numba import njit, types
from numba.np.numpy_support import from_dtype

from numba_fa.flash.program import make_bias_slice, make_program
from numba_fa.kernels.cpu.dual import derivative_of, register_alias, seed, value_of
from numba_fa.kernels.cpu.hooks import LOG2_E, MINUS_INFINITY, OPTIONS, device, users_errors
from numba_fa.kernels.cpu.launch_arguments import PACKED, make_unpack, unpack_as
from numba_fa.kernels.cpu.stand_ins import TANH

_LOG2_E = np.float32(LOG2_E)
_i, _tile = types.int64, types.Array(types.float32, 2, "C")
# hide(scores, batch, head, q_first, kv_first, queries, keys, packed)
HIDE = types.void(_tile, _i, _i, _i, _i, _i, _i, PACKED)
# derive(scores, slopes, batch, head, q_first, kv_first, queries, keys, packed)
DERIVE = types.void(_tile, _tile, _i, _i, _i, _i, _i, _i, PACKED)
# gather(gradients, batch, head, q_first, kv_first, queries, keys, packed, packed gradient of the parameter)
GATHER = types.void(_tile, _i, _i, _i, _i, _i, _i, PACKED, PACKED)

register_alias(*TANH)


@lru_cache(maxsize=1024)
def make_hide(mask, tokens):
    """hide of a mask: sets the scores of keys that their query does not see to -inf."""
    with users_errors(mask, "none"):
        visible, unpack = make_program(mask, "none", device).visible, make_unpack(tokens)

        @njit(HIDE, **OPTIONS)
        def hide(scores, batch, head, q_first, kv_first, queries, keys, packed):
            aux = unpack(packed)
            for i in range(queries):
                for j in range(keys):
                    if not visible(batch, head, q_first + i, kv_first + j, aux):
                        scores[i, j] = MINUS_INFINITY

        return hide


@lru_cache(maxsize=1024)
def make_derive(mask, bias, tokens):
    """derive of a key: from scaled scores to biased ones times log2(e), and their derivatives by the scaled ones.

    None where there is no bias. CompileError for a user's function that cannot be differentiated.
    """
    with users_errors(mask, bias):
        modify, unpack = make_program(mask, bias, device).modify, make_unpack(tokens)
        if modify is None:
            return None

        @njit(DERIVE, **OPTIONS)
        def derive(scores, slopes, batch, head, q_first, kv_first, queries, keys, packed):
            aux = unpack(packed)
            for i in range(queries):
                for j in range(keys):
                    at = np.uint64(j)  # unsigned, so that no index is taken to count from the end
                    found = modify(seed(scores[i, at]), batch, head, q_first + i, kv_first + j, aux)
                    scores[i, at] = value_of(found) * _LOG2_E
                    slopes[i, at] = derivative_of(found)

        return derive


@lru_cache(maxsize=1024)
def make_parameter(mask, bias, n, tokens, dtype):
    """(derive, gather, its BiasSlice) for the gradient of bias n's parameter, which is summed up in `dtype`.

    derive: as of `make_derive`, but the derivatives are by what bias n gave. gather adds, from the gradients of what
    bias n gave, to the parameter's.
    """
    with users_errors(mask, bias):
        piece, unpack = make_bias_slice(mask, bias, n, device), make_unpack(tokens)
        axes = types.Array(from_dtype(np.dtype(dtype)), len(piece.axes), "A")
        return _derive_after(piece, unpack), _gather(piece, unpack, unpack_as([axes])), piece


def _derive_after(piece, unpack):
    until, after = piece.until, piece.after or device(_same)

    @njit(DERIVE, **OPTIONS)
    def derive(scores, slopes, batch, head, q_first, kv_first, queries, keys, packed):
        aux = unpack(packed)
        for i in range(queries):
            for j in range(keys):
                at = np.uint64(j)
                given = until(scores[i, at], batch, head, q_first + i, kv_first + j, aux)
                found = after(seed(given), batch, head, q_first + i, kv_first + j, aux)
                scores[i, at] = value_of(found) * _LOG2_E
                slopes[i, at] = derivative_of(found)

    return derive


def _same(score, b, h, q_idx, kv_idx, aux):
    return score


def _gather(piece, unpack, unpack_gradient):
    factor, place = piece.factor, piece.place

    @njit(GATHER, **OPTIONS)
    def gather(gradients, batch, head, q_first, kv_first, queries, keys, packed, packed_gradient):
        aux = unpack(packed)
        (gradient,) = unpack_gradient(packed_gradient)
        for i in range(queries):
            for j in range(keys):
                at = place(batch, head, q_first + i, kv_first + j, aux)
                gradient[at] += gradients[i, j] * factor(batch, head, q_first + i, kv_first + j, aux)

    return gather


@njit(DERIVE, **OPTIONS)
def derive_none(scores, slopes, batch, head, q_first, kv_first, queries, keys, packed):
    """Where there is no bias."""


@njit(GATHER, **OPTIONS)
def gather_none(gradients, batch, head, q_first, kv_first, queries, keys, packed, packed_gradient):
    """Where no parameter's gradient is wanted."""
