"""What masks and biases share: parameters read by index, and rules bound to their lengths and parameters."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


def lookup(array, *index):
    """`array[index]` for integer arrays that broadcast, one an axis; an axis of size 1 stands for its every index.

    Returns an array of the broadcast shape of the indices in array's dtype.
    """
    array = np.asarray(array)
    return array[tuple(i if size > 1 else np.zeros_like(i) for i, size in zip(index, array.shape, strict=True))]


class Bound(NamedTuple):
    """A mask or bias with its lengths and parameters filled in: what `attention` calls.

    Of a mask, `(b, h, q_idx, kv_idx) -> bool array`; of a bias, `(score, b, h, q_idx, kv_idx) -> score`.
    """

    rule: Callable
    seqlen_q: int
    seqlen_k: int
    params: dict

    def __call__(self, *cell):
        """The rule at these cells."""
        return self.rule(*cell, self.seqlen_q, self.seqlen_k, **self.params)


def bind(rule, seqlen_q, seqlen_k, **params):
    """`rule`, a function of `masks.py` or `biases.py`, for these lengths and parameters: a `Bound`."""
    return Bound(rule, seqlen_q, seqlen_k, params)
