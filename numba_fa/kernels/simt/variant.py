"""The portable GPU forward as dispatch sees it."""

from __future__ import annotations

import math
from functools import partial

from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.tuning import key_for
from numba_fa.dispatch.variant import BIASES, MASKS, Arrays, Variant, position_limits
from numba_fa.problem.problem import Problem

_LOG2_E = math.log2(math.e)


def signature(dtype: str) -> tuple[str, ...]:
    """Parameter kinds: q, k, v, out, lse; batch, seqlen and head strides of each of the four; lengths; the scale."""
    element = "float32*" if dtype == "fp32" else "uint16*"
    return (*[element] * 4, "pointer", *["int64"] * 12, *["int32"] * 4, "float32")


def _grid(problem: Problem, key: DispatchKey, device: Device) -> tuple[int, int, int]:
    return (-(-problem.seqlen_q // key.block_m), problem.heads, problem.batch)


def _arguments(problem: Problem, key: DispatchKey, device: Device, arrays: Arrays) -> tuple[object, ...]:
    views = (arrays.q, arrays.k, arrays.v, arrays.out)
    return (
        *[view.pointer for view in views],
        arrays.lse_pointer,
        *[stride for view in views for stride in view.strides[:3]],
        problem.heads,
        problem.heads_kv,
        problem.seqlen_q,
        problem.seqlen_k,
        problem.scale if problem.biases else problem.scale * _LOG2_E,
    )


def _limits(problem: Problem) -> list[str]:
    most = 65535
    large = [
        f"{name} {value}, above the {most} that a launch grid's axis takes"
        for name, value in (("heads", problem.heads), ("batch", problem.batch))
        if value > most
    ]
    return large + position_limits(problem)


FORWARD = Variant(
    name="forward-simt",
    op="fwd",
    family="simt",
    dtypes=("fp32", "fp16", "bf16"),
    head_dims=range(8, 257, 8),
    masks=MASKS,
    alignment=1,
    source="numba_fa.kernels.simt.forward:make_forward",
    signature=signature,
    key_for=partial(key_for, "fwd", "simt"),
    grid=_grid,
    arguments=_arguments,
    limits=_limits,
    biases=BIASES,
    sink=True,
    programmed=True,
)
