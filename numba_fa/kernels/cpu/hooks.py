"""The program's part of a tile, behind function pointers: a new mask or bias compiles these and not the kernel.

Each hook takes its program's launch arguments packed (`launch_arguments.pack`), unpacks them and calls the program's
functions on valid indices alone. A tile of scores holds keys x queries.
"""

import math
from functools import lru_cache

import numpy as np
from numba import njit, types

from numba_fa.kernels.cpu.launch_arguments import make_unpack

LOG2_E = math.log2(math.e)
MINUS_INFINITY = np.float32(-np.inf)

OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}, "nogil": True}
_i, PACKED, _scores = types.int64, types.Array(types.int64, 1, "C"), types.Array(types.float32, 2, "C")
# next_keys(batch, head, q_first, q_last, kv_last, block_n, packed)
NEXT_KEYS = types.int64(_i, _i, _i, _i, _i, _i, PACKED)
# hide, modify(scores, batch, head, q_first, kv_first, keys, queries, packed)
ON_TILE = types.void(_scores, _i, _i, _i, _i, _i, _i, PACKED)


def device(function):
    """What a program's functions are compiled by: called from hooks only, so without wrappers for other callers."""
    return njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)


@lru_cache(maxsize=None)
def make_next_keys(program):
    """`next_keys` of a mask: the last key up to kv_last in whose tile of block_n keys some query sees something.

    Returns 2 * key + 1 when every query sees that tile's keys up to it, else 2 * key; negative when no key is left.
    """
    unpack, reach, whole = make_unpack(program.tokens), program.reach, program.whole

    @njit(NEXT_KEYS, **OPTIONS)
    def next_keys(batch, head, q_first, q_last, kv_last, block_n, packed):
        aux = unpack(packed)
        last = min(kv_last, np.int64(reach(batch, head, q_first, q_last, kv_last, aux)))
        if last < 0:
            return -1
        seen = whole(batch, head, q_first, q_last, last // block_n * block_n, last, aux)
        return 2 * last + (1 if seen else 0)

    return next_keys


@lru_cache(maxsize=None)
def make_hide(program):
    """`hide` of a mask: set the scores of keys that their query does not see to -inf."""
    unpack, visible = make_unpack(program.tokens), program.visible

    @njit(ON_TILE, **OPTIONS)
    def hide(scores, batch, head, q_first, kv_first, keys, queries, packed):
        aux = unpack(packed)
        for j in range(keys):
            for i in range(queries):
                if not visible(batch, head, q_first + i, kv_first + j, aux):
                    scores[j, i] = MINUS_INFINITY

    return hide


@lru_cache(maxsize=None)
def make_modify(program):
    """`modify` of biases: from scaled scores to biased ones times log2(e), which the softmax in base 2 takes."""
    unpack, modify_score, log2_e = make_unpack(program.tokens), program.modify, np.float32(LOG2_E)

    @njit(ON_TILE, **OPTIONS)
    def modify(scores, batch, head, q_first, kv_first, keys, queries, packed):
        aux = unpack(packed)
        for j in range(keys):
            for i in range(queries):
                score = modify_score(scores[j, i], batch, head, q_first + i, kv_first + j, aux)
                scores[j, i] = np.float32(score) * log2_e

    return modify


@njit(ON_TILE, **OPTIONS)
def leave(scores, batch, head, q_first, kv_first, keys, queries, packed):
    """`modify` of no bias, where log2(e) is in the queries already."""
