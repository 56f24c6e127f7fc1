"""emulate: an attention call whose GPU kernel runs here, thread by thread, through dispatch's own grid and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.adapters.given import Given, common_library, views_of
from numba_fa.dispatch import device as devices
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.registry import variants
from numba_fa.dispatch.variant import Arrays, TensorMap, Variant
from numba_fa.emulator import memory
from numba_fa.emulator.estimate import seconds
from numba_fa.emulator.run import run_kernel
from numba_fa.emulator.trace import Trace
from numba_fa.errors import ProblemError, UnsupportedError
from numba_fa.jit import KernelSource
from numba_fa.kernels.cpu.variant import numpy_view
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.biases import Bias
from numba_fa.problem.masks import Mask
from numba_fa.problem.problem import Problem
from numba_fa.tile.layout import SHARED_LIMIT


class Emulated(NamedTuple):
    """What `emulate` returns: out like q, lse float32 (batch, heads, seqlen_q), and what happened."""

    out: np.ndarray
    lse: np.ndarray
    trace: Trace


def emulate(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    mask: Mask | str | None = None,
    bias: Bias | Sequence[Bias] | None = None,
    sink_logits: np.ndarray | None = None,
    scale: float | None = None,
    family: str | None = None,
    seed: int = 0,
    tile: tuple[int, int, int] | None = None,
    multiprocessors: int = devices.HOPPER.multiprocessors,
    limit_s: float = 120.0,
) -> Emulated:
    """`attention` of NumPy arrays by a Hopper GPU's kernel, run on the CPU one greenlet a CUDA thread. Needs no GPU.

    The arguments up to `scale` are those of `attention`; every array is NumPy's (bfloat16 by ml_dtypes). family: "sm90",
    "simt", or the one that a Hopper GPU would get. seed: the order in which threads take turns; the result does not
    depend on it, or the kernel is wrong. tile: (queries, keys, stages) in place of the tuned ones. multiprocessors:
    of the assumed GPU; few let a block take several tiles. limit_s: longest run wanted.

    Raises what `attention` raises; ProblemError also for a tile the family cannot have, and for a call that would take
    longer than limit_s, with an estimate; EmulationError (Deadlock, HazardError) where the kernel does what the hardware
    does not allow.
    """
    given = Given(mask, bias, sink_logits)
    library = common_library(given, q=q, k=k, v=v)
    if library.name != "numpy":
        raise ProblemError([f"arrays of {library.name}; emulate takes NumPy arrays"])
    arrays = _apart([np.asarray(x) for x in (q, k, v)])
    views = views_of(library, *arrays)
    mask, bias, sink_logits = given.viewed()
    problem = Problem.from_views(*views, mask=mask, bias=bias, sink_logits=sink_logits, scale=scale)
    device = replace(devices.HOPPER, multiprocessors=multiprocessors)
    variant = _variant(problem, device, family)
    key = _tiled(variant.configure(problem), tile)
    source = variant.factory()(key)
    if source.shared_bytes > SHARED_LIMIT:
        raise ProblemError([f"tile {tile} takes {source.shared_bytes} bytes of shared memory; there are {SHARED_LIMIT}"])
    _check_time(seconds(problem, key), limit_s)

    q, _, v = arrays[:3]
    out = np.full((*q.shape[:3], v.shape[3]), np.nan, q.dtype)
    lse = np.full((problem.batch, problem.heads, problem.seqlen_q), np.nan, np.float32)
    call = Arrays(*views, library.view(out), library.view(lse))
    values = (*variant.arguments(problem, key, device, call), *(variant.program(problem) if variant.programmed else ()))
    pointers = {array.ctypes.data: array for array in (*arrays, out, lse)}
    trace = run_kernel(source, variant.grid(problem, key, device), _arguments(source, values, pointers), seed=seed)
    trace.title = key.slug
    return Emulated(out, lse, trace)


def _apart(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays, copied where a pointer alone would not tell which is meant, or where a stride is negative."""
    found: dict[int, tuple[Any, Any]] = {}
    result = []
    for array in arrays:
        layout = (array.shape, array.strides)
        if found.setdefault(array.ctypes.data, layout) != layout or min(array.strides, default=0) < 0:
            array = array.copy()
        result.append(array)
    return result


def _variant(problem: Problem, device: devices.Device, family: str | None) -> Variant:
    """The first that computes the problem, of the family asked for."""
    gpu = [variant for variant in variants() if variant.family in device.families]
    if family is not None and family not in {variant.family for variant in gpu}:
        raise ProblemError([f"family {family!r}; allowed: {', '.join(variant.family for variant in gpu)}"])
    refused = {}
    for variant in gpu:
        refused[variant.name] = variant.not_supported(problem, device)
        if family not in (None, variant.family):
            refused[variant.name].append(f"family {family} is asked for")
        if not refused[variant.name]:
            return variant
    raise UnsupportedError(f"no kernel computes {problem.summary}", refused)


def _tiled(key: DispatchKey, tile: tuple[int, int, int] | None) -> DispatchKey:
    """The key with another tile; ProblemError where the family has none such."""
    if tile is None:
        return key
    if len(tile) != 3 or not all(isinstance(n, int) and n > 0 for n in tile):
        raise ProblemError([f"tile {tile!r}; (queries, keys, stages) is wanted"])
    block_m, block_n, stages = tile
    faults = []
    if key.family == "sm90":
        if block_m not in (128, 192):
            faults.append(f"{block_m} queries a tile; 128 or 192 are wanted, 64 a consumer warpgroup")
        if block_n % 16 or block_n > 256:
            faults.append(f"{block_n} keys a tile; a multiple of 16 up to 256 is wanted")
    else:
        faults += [f"{n} {what} a tile; a multiple of 16 is wanted" for n, what in ((block_m, "queries"), (block_n, "keys"))
                   if n % 16]  # fmt: skip
    if faults:
        raise ProblemError(faults)
    return replace(key, block_m=block_m, block_n=block_n, stages=stages)


def _check_time(estimate: float, limit_s: float) -> None:
    if estimate > limit_s:
        raise ProblemError(
            [f"emulating this takes about {estimate:.0f} s, limit_s is {limit_s:g}; take fewer queries, keys or heads, or "
             "raise limit_s"]
        )  # fmt: skip


def _arguments(
    source: KernelSource, values: tuple[Any, ...], pointers: dict[int, np.ndarray]
) -> tuple[Any, ...]:
    """Launch arguments as the emulator takes them: addresses and views become the NumPy arrays that they are of."""
    space = memory.GlobalMemory()

    def turned(token: str, value: Any) -> Any:
        if isinstance(value, TensorMap):
            return memory.TensorMap(pointers[value.view.pointer], value.rows, value.columns)
        if isinstance(value, ArrayView):
            return numpy_view(value, {})
        if token == "pointer":
            return space.pointer(pointers[value]) if value else 0
        return pointers[value] if token.endswith("*") else value

    tokens = (*source.signature, *source.program)
    return tuple(turned(*pair) for pair in zip(tokens, values, strict=True))
