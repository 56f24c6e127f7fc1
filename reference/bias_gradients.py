"""The biases' derivatives: from the gradient of a bias's result to that of its score and of its parameters.

Every function is named after its bias in `biases.py` and is `(score, dscore, b, h, q_idx, kv_idx, seqlen_q,
seqlen_k, grads, *, parameters) -> dscore`: score is what the bias was given, dscore the gradient of the loss with
respect to what it returned, both (seqlen_q, seqlen_k) of the head h of batch b, both ints. It adds to the arrays in
`grads`, one a differentiable parameter, in place, and returns the gradient with respect to score.
"""
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import biases
from .biases import four_axes, position_ahead, t5_bucket
from .parameters import Bound

EPS = np.finfo(np.float64).eps


def only_axis_or(index, size):
    """`index`, or 0 on an axis of size 1, which stands for every index."""
    return index if size > 1 else 0


def alibi(score, dscore, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, grads, *, slopes):
    """The slope's gradient is `-sum(dscore * |i + seqlen_k - seqlen_q - j|)`."""
    distance = np.abs(position_ahead(q_idx, kv_idx, seqlen_q, seqlen_k))
    grad = np.atleast_2d(grads["slopes"])  # a view
    grad[only_axis_or(b, len(grad)), only_axis_or(h, grad.shape[1])] -= (dscore * distance.astype(score.dtype)).sum()
    return dscore


def dense(score, dscore, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, grads, *, array):
    """The array's gradient is dscore, summed over the axes that the array broadcasts along."""
    grad = four_axes(grads["array"])  # a view
    head_grad = grad[only_axis_or(b, grad.shape[0]), only_axis_or(h, grad.shape[1])]
    shared = tuple(axis for axis, size in enumerate(head_grad.shape) if size == 1)
    head_grad += dscore.sum(axis=shared, keepdims=True)
    return dscore


def t5(score, dscore, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, grads, *, table, max_distance=128, bidirectional=True):
    """A bucket's gradient is the sum of dscore over the cells that read it."""
    bucket = t5_bucket(position_ahead(q_idx, kv_idx, seqlen_q, seqlen_k), len(table), max_distance, bidirectional)
    grads["table"][:, h] += np.bincount(bucket.ravel(), weights=dscore.ravel(), minlength=len(table))
    return dscore


def softcap(score, dscore, b, h, q_idx, kv_idx, seqlen_q, seqlen_k, grads, *, cap):
    """`d(cap * tanh(s / cap)) / ds = 1 - tanh(s / cap)**2`. cap is no parameter to learn."""
    return dscore * (1 - np.tanh(score / score.dtype.type(cap)) ** 2)


BACKWARDS = {biases.alibi: alibi, biases.dense: dense, biases.t5: t5, biases.softcap: softcap}
PARAMETERS = {biases.alibi: ("slopes",), biases.dense: ("array",), biases.t5: ("table",), biases.softcap: ()}


class ScoreMod(NamedTuple):
    """A user's bias with its derivative, both `(score, b, h, q_idx, kv_idx) -> array` of the score's shape."""

    function: Callable
    derivative: Callable

    def __call__(self, *cell):
        """The function at these cells."""
        return self.function(*cell)


def difference(function, score, *indices):
    """The derivative of a user's bias by central differences in float64, whatever the dtype of score.

    The step is `(eps * max(1, |score|))**(1/3)`, which balances the rounding of the scores with the third derivative of
    a function that varies on the scale of 1, as softmax does: 6e-6 for small scores, for an error near 1e-10. Unlike a
    complex step it takes any function: `abs`, `maximum` and comparisons of complex numbers lose the imaginary part
    without a word. Within a step of a kink it is a mean of both sides.
    """
    score = score.astype(np.float64)
    step = (EPS * np.maximum(1.0, np.abs(score))) ** (1 / 3)
    above, below = score + step, score - step
    return (function(above, *indices) - function(below, *indices)) / (above - below)


def zero_gradients(bias):
    """A float64 array of zeros for every differentiable parameter of a bias, by name; none for a user's function."""
    names = PARAMETERS.get(getattr(bias, "rule", None), ())
    return {name: np.zeros(np.shape(bias.params[name])) for name in names}


def bias_backward(bias, score, dscore, b, h, q_idx, kv_idx, grads):
    """The gradient with respect to `score`, what the bias was given, from that of its result.

    bias a `Bound` of `biases.py`, whose parameters' gradients are added to `grads`; or any callable that `attention`
    takes, by its attribute `derivative` where it has one, as a `ScoreMod` has, and else by `difference`. Zero stays
    zero, whatever the derivative is there: a hidden key never acts.
    """
    if isinstance(bias, Bound) and bias.rule in BACKWARDS:
        before = BACKWARDS[bias.rule](
            score, dscore, b, h, q_idx, kv_idx, bias.seqlen_q, bias.seqlen_k, grads, **bias.params
        )
    else:
        derivative = getattr(bias, "derivative", None) or functools.partial(difference, bias)
        before = dscore * np.asarray(derivative(score, b, h, q_idx, kv_idx)).astype(score.dtype)
    return np.where(dscore == 0, score.dtype.type(0), before)
