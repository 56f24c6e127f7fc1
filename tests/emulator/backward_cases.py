"""Small gradients for the emulated backward, and what they must be, in float64 NumPy."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.variant import GradientArrays
from numba_fa.emulator import GlobalMemory, TensorMap, run_kernel
from numba_fa.kernels.sm90.backward_variant import BACKWARD, FINISH, PREPROCESS, main_key, rooms
from tests.emulator.attention_cases import DTYPES
from tests.kernels.programs import Sizes, causal, full

STEP = 1e-5  # of the central differences that differentiate a bias


class Arrays(NamedTuple):
    """Inputs of a backward in the case's dtype; lse float32."""

    q: Any
    k: Any
    v: Any
    dout: Any
    out: Any
    lse: Any


class Truth(NamedTuple):
    """float64 results of both passes."""

    out: Any
    lse: Any
    dq: Any
    dk: Any
    dv: Any


class Problem:
    """A case with the mask and the biases (`tests/kernels/programs.py`) that it is computed under."""

    def __init__(self, case, mask=None, *biases):
        self.case = case
        self.sizes = Sizes(case.batch, case.heads, case.seqlen_q, case.seqlen_k)
        self.mask = (mask or {"full": full, "causal": causal}[case.mask])(self.sizes)
        self.biases = [bias(self.sizes) for bias in biases]

    @property
    def key(self):
        """The main kernel's."""
        names = [bias.text for bias in self.biases]
        case = self.case
        return main_key(case.dtype, case.head_dim, self.mask.text, "+".join(names) or "none", case.columns)

    @property
    def aux(self):
        """Launch arguments as the emulator takes them."""
        parts = [pair for part in (self.mask, *self.biases) for pair in zip(part.tokens, part.aux)]
        return tuple(x.view(ml_dtypes.bfloat16) if ":bfloat16:" in token else x for token, x in parts)

    def bend(self, scores):
        """The biased scores, and their derivatives by the scores."""
        def biased(x):
            for bias in self.biases:
                x = bias.meaning(x)
            return x

        return biased(scores), (biased(scores + STEP) - biased(scores - STEP)) / (2 * STEP)

    def truth(self, q, k, v, dout, dlse=0.0):
        """Both passes in float64; rows that see nothing give 0, -inf and no gradient."""
        group = self.case.heads // self.case.heads_kv
        q, k, v, dout = (np.asarray(x, np.float64).transpose(0, 2, 1, 3) for x in (q, k, v, dout))
        wide_k, wide_v = (np.repeat(x, group, axis=1) for x in (k, v))
        scores, slopes = self.bend(q @ wide_k.swapaxes(2, 3) * self.case.scale)
        seen = np.broadcast_to(self.mask.meaning, scores.shape)
        lse = np.logaddexp.reduce(np.where(seen, scores, -np.inf), axis=-1, keepdims=True)
        weights = np.where(seen, np.exp(scores - np.where(np.isfinite(lse), lse, 0)), 0)
        out = weights @ wide_v
        delta = (dout * out).sum(-1, keepdims=True) - np.asarray(dlse)[..., None]
        ds = weights * (dout @ wide_v.swapaxes(2, 3) - delta) * slopes * self.case.scale
        dk, dv = (
            x.reshape(x.shape[0], self.case.heads_kv, group, *x.shape[2:]).sum(2)
            for x in (ds.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ dout)
        )
        back = (x.transpose(0, 2, 1, 3) for x in (ds @ wide_k, dk, dv))
        return Truth(out.transpose(0, 2, 1, 3), lse[..., 0], *back)


def inputs(problem):
    """(arrays, their truth): q, k, v, dout standard normal, out and lse as a forward leaves them."""
    case = problem.case
    rng, dtype = np.random.default_rng(case.seed), DTYPES[case.dtype]
    lengths = ((case.seqlen_q, case.heads), *[(case.seqlen_k, case.heads_kv)] * 2, (case.seqlen_q, case.heads))
    widths = (case.head_dim, case.head_dim, case.columns, case.columns)
    q, k, v, dout = (rng.standard_normal((case.batch, *n, width)).astype(dtype) for n, width in zip(lengths, widths))
    truth = problem.truth(q, k, v, dout)
    return Arrays(q, k, v, dout, truth.out.astype(dtype), truth.lse.astype(np.float32)), truth


def emulate(problem, arrays, *, tile=None, op="bwd", blocks=None, dlse=None, seed=None):
    """Run the three kernels, the main one of kind `op` on its own grid or so many blocks. Returns dq, dk, dv, trace."""
    case, key = problem.case, replace(problem.key, op=op)
    if tile:
        key = replace(key, block_m=tile[0], block_n=tile[1], stages=tile[2])
    memory = GlobalMemory()
    sizes = SimpleNamespace(**case.facts)
    room = {name: np.full(size // 4, np.nan, np.float32) for name, size in rooms(sizes, key).items()}
    dq, dk, dv = (np.full_like(x, np.nan) for x in (arrays.q, arrays.k, arrays.v))
    views = GradientArrays(
        *[_view(x, memory) for x in (arrays.q, arrays.k, arrays.v, arrays.out, arrays.dout, arrays.lse)],
        None if dlse is None else _view(dlse, memory), *[_view(x, memory) for x in (dq, dk, dv)],
        rooms={name: memory.pointer(array) for name, array in room.items()},
    )  # fmt: skip
    device = Device("emulated", 0, "sm_90a", 132)
    for stage, stage_key in zip((PREPROCESS, BACKWARD, FINISH), BACKWARD.stages(key, frozenset("qkv")), strict=True):
        arguments = [_argument(value) for value in stage.arguments(sizes, stage_key, device, views)]
        arguments += problem.aux if stage.programmed else ()
        grid = (blocks, 1, 1) if blocks and stage.programmed else stage.grid(sizes, stage_key, device)
        trace = run_kernel(stage.factory()(stage_key), grid, tuple(arguments), seed=case.seed if seed is None else seed,
                           early=stage.early)  # fmt: skip
        if stage.programmed:
            main = trace
    return dq, dk, dv, main


def assert_gradients(results, truth, tolerance):
    """Relative Frobenius errors of at most `tolerance`; where queries see or keys are seen by nothing, exactly 0."""
    alone = {"dq": np.isneginf(truth.lse).swapaxes(1, 2)} | dict.fromkeys(("dk", "dv"), np.all(truth.dv == 0, axis=-1))
    for name, result, expected in zip(("dq", "dk", "dv"), results, truth[2:], strict=False):
        result = np.asarray(result, np.float64)
        assert np.isfinite(result).all(), name
        error = np.linalg.norm(result - expected)
        assert error <= tolerance * np.linalg.norm(expected) + 1e-4, (name, error, np.linalg.norm(expected))
        assert np.all(result[alone[name]] == 0), name


def _view(array, memory):
    strides = tuple(stride // array.itemsize for stride in array.strides)
    pointer = memory.strided_pointer(array)
    return SimpleNamespace(array=array, shape=array.shape, strides=strides, pointer=pointer, itemsize=array.itemsize)


def _argument(value):
    return TensorMap(value.view.array, value.rows, value.columns) if hasattr(value, "view") else value
