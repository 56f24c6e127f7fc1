"""A warpgroup matrix product whose operands both lie across the summed axis (see `ptx/wgmma.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from numba_fa.ptx.core import F32, assembly, cast, floats, make, pack
from numba_fa.ptx.wgmma import _CLOSE, _OPEN, _registers, unpack_struct


def make_gemm_tt(n: int, steps: int, dtype: str, a_step: Callable[[int], int], b_step: Callable[[int], int]) -> Any:
    """gemm(a_descriptor, b_descriptor) -> fragment = A^T @ B, A (k, 64) and B (k, n) in shared memory, k = 16 * steps.

    a_step(k), b_step(k): what step k adds to a descriptor, in units of 16 bytes. dtype: "f16" or "bf16".
    """
    count = n // 2
    registers = _registers(0, count)
    lines = [_OPEN, ".reg .pred zero;", "setp.ne.b32 zero, 0, 0;"]
    for k in range(steps):
        lines += [
            f"add.s64 da, ${count}, {a_step(k)};",
            f"add.s64 db, ${count + 1}, {b_step(k)};",
            f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{dtype}.{dtype} {registers}, da, db, "
            f"{'one' if k else 'zero'}, 1, 1, 1, 1;",
        ]
    text = "\n".join([*lines, _CLOSE])
    constraints = ",".join(["=f"] * count + ["l", "l", "~{memory}"])

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        descriptors = [cast(builder, value, "l") for value in args]
        result = assembly(builder, ir.LiteralStructType([F32] * count), descriptors, text, constraints, effects=True)
        return pack(context, builder, signature.return_type, unpack_struct(builder, result, count))

    return make("gemm_tt", 2, lambda *_: floats(count), generate,
                parameters=(n, steps, dtype, a_step, b_step))  # fmt: skip
