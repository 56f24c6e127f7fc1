"""How long an emulation takes, roughly, from what was measured on one core of a server of 2024."""

from __future__ import annotations

from numba_fa.dispatch.key import DispatchKey
from numba_fa.problem.problem import Problem

# Seconds: of a Hopper block's tile of queries; of a consumer's 64 queries by 128 keys; of one function of one score.
_TILE, _STEP, _FUNCTION = 0.04, 0.015, 2e-6
# Of a portable block; of one product of two numbers; of one score beside its products.
_BLOCK, _PRODUCT, _SCORE = 0.05, 3.5e-6, 1.6e-4


def seconds(problem: Problem, key: DispatchKey) -> float:
    """An upper estimate: no tile of keys is taken to be hidden whole, but half of them under a causal mask."""
    tiles = -(-problem.seqlen_q // key.block_m) * problem.heads * problem.batch
    keys = -(-problem.seqlen_k // key.block_n) * key.block_n
    scores = tiles * key.block_m * keys
    if problem.mask.name == "causal" and problem.seqlen_q == problem.seqlen_k:
        scores //= 2
    # One function for each bias, one for the mask; the plain masks are asked on a few tiles only.
    functions = len(problem.biases) + (problem.mask.name not in ("full", "causal"))
    judged = scores * functions * _FUNCTION
    if key.family == "sm90":
        return tiles * _TILE + scores / (64 * 128) * _STEP * max(1.0, (key.head_dim + key.head_dim_v) / 256) + judged
    return tiles * _BLOCK + scores * (2 * key.widest * _PRODUCT + _SCORE) + judged
