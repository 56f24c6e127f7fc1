"""Attention backward on the CPU: the gradients of q, k, v, of biases' parameters and of sinks, wanted ones alone."""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from numba_fa.kernels.cpu import backward_tasks as tasks
from numba_fa.kernels.cpu.backward_hooks import derive_none, gather_none, make_derive, make_hide, make_parameter
from numba_fa.kernels.cpu.backward_tile import judge, make_converters
from numba_fa.kernels.cpu.hooks import LOG2_E, make_next_keys
from numba_fa.kernels.cpu.launch_arguments import pack
from numba_fa.kernels.cpu.running import run_tasks
from numba_fa.problem.tokens import tokens_of

_NONE = np.empty((0, 0, 0), np.float32)


def backward_of(key):
    """The backward for a DispatchKey. Compiled once for all dtypes; its hooks once a mask and bias.

    Returns run(q, k, v, out, dout, lse, dlse, dq, dk, dv, dsink, dbias, scale, aux) on NumPy arrays: q, dq (batch,
    seqlen_q, heads, head_dim), k, dk (batch, seqlen_k, heads_kv, head_dim), out and dout like q, v and dv like k, but
    with head_dim_v, any strides with the last axis contiguous, all float32, or float16, or uint16 bit patterns of
    bfloat16; lse, dlse (batch, heads, seqlen_q) float32. dlse may be None, and any of dq, dk, dv, dsink that is not
    wanted. dsink (heads,) float32. dbias: an entry a bias, None or float32 zeros of the shape of its parameter in aux,
    which are added to: with strides 0 where the parameter is broadcast. aux: as of the forward. The results do not
    depend on the number of threads.

    CompileError for a bias that cannot be differentiated; FunctionError by run where a user's function raises.
    """
    return _Backward(key)


class _Call(NamedTuple):
    """What tasks of one call share: a key's mask and bias, then in their order what `backward_tasks.TASK` describes."""

    texts: tuple
    sizes: tasks.Sizes
    places: np.ndarray
    lse: np.ndarray
    dlse: np.ndarray
    rows: np.ndarray
    packed: np.ndarray
    packed_gradient: np.ndarray
    next_keys: object
    hide: object
    derive: object
    gather: object
    load_rows: object
    load_columns: object
    store: object
    judge: object
    factor: np.float32
    scale: np.float32

    def run(self, task, count):
        """All tasks of a kind."""
        run_tasks(tasks.make_runner(), (task, *self[1:]), count, self.texts)


class _Backward:
    def __init__(self, key):
        self.key, self.tokens = key, tokens_of(key.mask, key.bias)
        self.next_keys = make_next_keys(key.mask, self.tokens)
        self.hide = make_hide(key.mask, self.tokens)
        self.derive = make_derive(key.mask, key.bias, self.tokens)

    def __call__(self, q, k, v, out, dout, lse, dlse, dq, dk, dv, dsink, dbias, scale, aux):
        """Write the gradients that have a place; see `backward_of`."""
        key, biased = self.key, self.derive is not None
        sizes = tasks.Sizes(
            *q.shape[:2], k.shape[1], q.shape[2], *k.shape[2:], v.shape[3], key.block_m, key.block_n, int(biased), fused=0
        )
        scale = np.float32(scale)
        call = _Call(
            (key.mask, key.bias), sizes, np.array([_place(x) for x in (q, k, v, out, dout, dq, dk, dv)], np.int64), lse,
            _NONE if dlse is None else dlse, np.empty((3, *lse.shape), np.float32), pack(self.tokens, aux),
            np.zeros(1, np.int64), self.next_keys, self.hide, self.derive or derive_none, gather_none,
            *make_converters(key.dtype), judge, scale if biased else np.float32(scale * LOG2_E), scale,
        )  # fmt: skip
        call.run(tasks.prepare, sizes.batch * sizes.heads)
        if dsink is not None:
            dsink[:] = _sink_gradient(aux[-1], lse, call.rows[2])
        _run_matrices(call, dq is not None, dk is not None or dv is not None)
        for n, gradient in enumerate(dbias or ()):
            if gradient is not None:
                self._run_parameter(call, n, gradient)

    def _run_parameter(self, call, n, gradient):
        """Add to the gradient of bias n's parameter, in float64 where many scores share an element."""
        key, sizes = self.key, call.sizes
        own = [1 if stride == 0 or length == 1 else length for stride, length in zip(gradient.strides, gradient.shape)]
        corner = gradient[tuple(slice(length) for length in own)]  # every element once
        alone = own == [sizes.batch, sizes.heads, sizes.seqlen_q, sizes.seqlen_k]
        sums = corner if alone else np.zeros(corner.shape, np.float64)
        derive, gather, piece = make_parameter(key.mask, key.bias, n, self.tokens, sums.dtype.name)
        axes = dict(zip(piece.axes, own))
        whole = dict(
            b=sizes.batch, h=sizes.heads, q=-(-sizes.seqlen_q // sizes.block_m), k=-(-sizes.seqlen_k // sizes.block_n)
        )
        parts = {axis: blocks if axes.get(axis, 1) > 1 else 1 for axis, blocks in whole.items()}
        spread = np.broadcast_to(sums, gradient.shape)
        call._replace(
            sizes=sizes._replace(own_batch=parts["b"], own_heads=parts["h"], own_q=parts["q"], own_k=parts["k"]),
            packed_gradient=pack((f"array:{sums.dtype.name}:{sums.ndim}",), (spread,)),
            derive=derive, gather=gather, factor=call.scale,
        ).run(tasks.parameter_task, int(np.prod(list(parts.values()))))  # fmt: skip
        if not alone:
            corner += sums.astype(np.float32)


def _place(x):
    """An array's row of `places`."""
    return (0, 0, 0, 0) if x is None else (x.ctypes.data, *x.strides[:3])


def _sink_gradient(logits, lse, deltas):
    """The gradients of sink_logits, -sum of exp(sink - lse) * delta over batches and queries."""
    logits = logits.astype(np.float64)[None, :, None]
    with np.errstate(invalid="ignore"):
        weights = np.where(np.isneginf(logits), 0.0, np.exp(logits - lse))
    return -np.where(weights == 0, 0.0, weights * deltas).sum((0, 2))


def _run_matrices(call, wants_q, wants_keys):
    """dq, dk and dv. Tasks of whole heads compute each tile once, and are taken where they keep the threads busy.

    Otherwise dq has tasks of its own: 7 products a tile in place of 5. Both take the same sums in the same order.
    """
    sizes, threads = call.sizes, get_num_threads()
    sequences = sizes.batch * sizes.heads_kv
    if wants_q and wants_keys and 5 * threads * -(-sequences // threads) <= 7 * sequences:
        call._replace(sizes=sizes._replace(fused=1)).run(tasks.keys_task, sequences)
        return
    if wants_keys:
        call.run(tasks.keys_task, sequences * -(-sizes.seqlen_k // sizes.block_n))
    if wants_q:
        call.run(tasks.queries_task, sizes.batch * sizes.heads * -(-sizes.seqlen_q // sizes.block_m))
