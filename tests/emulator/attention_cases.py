"""Small attention problems for emulated kernels, and what they must give, in float64 NumPy."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import ml_dtypes
import numpy as np

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.emulator import FlatPointer, GlobalMemory, TensorMap, run_kernel

DTYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32}


class Case(NamedTuple):
    """Sizes of a problem, the mask, and the seed of data and thread order; head_dim_v 0: as head_dim."""

    seqlen_q: int
    seqlen_k: int
    mask: str = "full"
    dtype: str = "bf16"
    head_dim: int = 64
    heads: int = 1
    heads_kv: int = 1
    batch: int = 1
    seed: int = 0
    head_dim_v: int = 0

    def __str__(self):
        return "-".join(map(str, self))

    @property
    def scale(self):
        return self.head_dim**-0.5

    @property
    def columns(self):
        """Of a row of V, O or dO."""
        return self.head_dim_v or self.head_dim

    @property
    def facts(self):
        """What grids and arguments ask of a problem."""
        return self._asdict() | {"head_dim_v": self.columns, "scale": self.scale}


def inputs(case):
    """Standard normal q, k, v (batch, seqlen, heads, head_dim) in the case's dtype."""
    rng = np.random.default_rng(case.seed)
    sizes = ((case.seqlen_q, case.heads), (case.seqlen_k, case.heads_kv), (case.seqlen_k, case.heads_kv))
    widths = (case.head_dim, case.head_dim, case.columns)
    shapes = [(case.batch, seqlen, heads, width) for (seqlen, heads), width in zip(sizes, widths)]
    return [rng.standard_normal(shape).astype(DTYPES[case.dtype]) for shape in shapes]


def expected(case, q, k, v):
    """(out, lse) of softmax attention, bottom-right causal; rows that see nothing give 0 and -inf."""
    group = case.heads // case.heads_kv
    q, k, v = (x.astype(np.float64).transpose(0, 2, 1, 3) for x in (q, k, v))
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = q @ k.transpose(0, 1, 3, 2) * case.scale
    if case.mask == "causal":
        i, j = np.arange(case.seqlen_q)[:, None], np.arange(case.seqlen_k)[None, :]
        scores = np.where(j <= i + case.seqlen_k - case.seqlen_q, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    out = weights @ v / np.where(total == 0, 1, total)
    return out.transpose(0, 2, 1, 3), lse


def key_of(case, family, block_m, block_n, stages):
    """The dispatch key; head_dim padded to 16 for sm90, as dispatch does."""
    step = 16 if family == "sm90" else 1
    head_dim, head_dim_v = (-(-width // step) * step for width in (case.head_dim, case.columns))
    return DispatchKey("fwd", family, case.dtype, head_dim, case.mask, block_m, block_n, stages, head_dim_v=head_dim_v)


def emulate(case, family, block_m, block_n, stages, arrays, multiprocessors=132, factory=None):
    """(out, lse, trace) of the family's forward, or `factory`, by its own variant's grid and arguments."""
    if family == "sm90":
        from numba_fa.kernels.sm90.forward import make_forward
        from numba_fa.kernels.sm90.variant import FORWARD
    else:
        from numba_fa.kernels.simt.forward import make_forward
        from numba_fa.kernels.simt.variant import FORWARD
    key = key_of(case, family, block_m, block_n, stages)
    out = np.full((*arrays[0].shape[:3], case.columns), np.nan, arrays[0].dtype)
    lse = np.full((case.batch, case.heads, case.seqlen_q), np.nan, np.float32)
    memory = GlobalMemory()
    problem = SimpleNamespace(**case.facts, biases=())
    q, k, v, o = (_view(x) for x in (*arrays, out))
    views = SimpleNamespace(q=q, k=k, v=v, out=o, lse_pointer=memory.pointer(lse))
    device = Device("emulated", 0, "sm_90a", multiprocessors)
    arguments = [_argument(value) for value in FORWARD.arguments(problem, key, device, views)]
    source = (factory or make_forward)(key)
    if case.mask == "causal":
        arguments.append(case.seqlen_k - case.seqlen_q)
    trace = run_kernel(source, FORWARD.grid(problem, key, device), tuple(arguments), seed=case.seed)
    return out, lse, trace


def _view(array):
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return SimpleNamespace(array=array, shape=array.shape, strides=strides, pointer=array)


def _argument(value):
    """A variant's launch argument as the emulator takes it."""
    if hasattr(value, "view") and hasattr(value, "rows"):
        return TensorMap(value.view.array, value.rows, value.columns)
    if isinstance(value, np.ndarray):
        return FlatPointer(value, np.float32 if value.itemsize == 4 else np.uint16)
    return value


def assert_attention(case, out, lse, arrays, tolerance):
    """out to a relative Frobenius error of `tolerance`, lse to 2e-3; rows that see nothing exactly."""
    truth, truth_lse = expected(case, *arrays)
    result = out.astype(np.float64)
    empty = ~np.isfinite(truth_lse)
    assert np.array_equal(~np.isfinite(lse), empty)
    assert np.all(lse[empty] == -math.inf)
    np.testing.assert_allclose(lse[~empty], truth_lse[~empty], atol=2e-3)
    assert np.all(result.transpose(0, 2, 1, 3)[empty] == 0)
    assert np.linalg.norm(result - truth) <= tolerance * np.linalg.norm(truth)
