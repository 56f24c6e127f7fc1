"""Warpgroup matrix products (PTX ISA, "wgmma"): 64 rows x n columns, float32 accumulators in registers.

A product starts here and is finished by the matching wait: in between its registers must not be read. The wait takes
and returns the fragment, so that no compiler can move a reader in front of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from numba_fa.ptx.core import F32, assembly, cast, floats, make, pack, tied_assembly, unpack

OPERAND = {"fp16": "f16", "bf16": "bf16"}  # a dtype's name in the instruction
# An opening that makes `one` a true predicate: "accumulate". Its negation starts a product from zero.
_OPEN = "{\n.reg .pred one;\n.reg .b64 da, db;\nsetp.eq.b32 one, 0, 0;\nwgmma.fence.sync.aligned;"
_CLOSE = "wgmma.commit_group.sync.aligned;\n}"


def make_gemm_ss(n: int, steps: int, dtype: str, a_step: Callable[[int], int], b_step: Callable[[int], int]) -> Any:
    """gemm(a_descriptor, b_descriptor) -> fragment = A @ B^T, both K-major in shared memory, k = 16 * steps.

    a_step(k), b_step(k): what step k adds to a descriptor, in units of 16 bytes. dtype: "f16" or "bf16".
    """
    return _gemm_from_shared("gemm_ss", n, steps, dtype, a_step, b_step, transposed=0)


def make_gemm_tt(n: int, steps: int, dtype: str, a_step: Callable[[int], int], b_step: Callable[[int], int]) -> Any:
    """gemm(a_descriptor, b_descriptor) -> fragment = A^T @ B, A (k, 64) and B (k, n), both MN-major in shared memory.

    Arguments as of `make_gemm_ss`.
    """
    return _gemm_from_shared("gemm_tt", n, steps, dtype, a_step, b_step, transposed=1)


def _gemm_from_shared(
    name: str, n: int, steps: int, dtype: str, a_step: Callable[[int], int], b_step: Callable[[int], int], transposed: int
) -> Any:
    """The product of two operands in shared memory; transposed: 1 where both lie across the summed axis."""
    count = n // 2
    registers = _registers(0, count)
    lines = [_OPEN, ".reg .pred zero;", "setp.ne.b32 zero, 0, 0;"]
    for k in range(steps):
        lines += [
            f"add.s64 da, ${count}, {a_step(k)};",
            f"add.s64 db, ${count + 1}, {b_step(k)};",
            f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{dtype}.{dtype} {registers}, da, db, "
            f"{'one' if k else 'zero'}, 1, 1, {transposed}, {transposed};",
        ]
    text = "\n".join([*lines, _CLOSE])
    constraints = ",".join(["=f"] * count + ["l", "l", "~{memory}"])

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        descriptors = [cast(builder, value, "l") for value in args]
        result = assembly(builder, ir.LiteralStructType([F32] * count), descriptors, text, constraints, effects=True)
        return pack(context, builder, signature.return_type, unpack_struct(builder, result, count))

    return make(name, 2, lambda *_: floats(count), generate, parameters=(n, steps, dtype, a_step, b_step))


def make_gemm_rs(n: int, steps: int, dtype: str, b_step: Callable[[int], int]) -> Any:
    """gemm(fragment, a_words, b_descriptor) -> fragment + A @ B, A packed in registers, B MN-major in shared memory."""
    count, inputs = n // 2, 4 * steps
    registers = _registers(0, count)
    lines = [_OPEN]
    for k in range(steps):
        lines += [
            f"add.s64 db, ${count + inputs}, {b_step(k)};",
            f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{dtype}.{dtype} {registers}, "
            f"{_registers(count + 4 * k, 4)}, db, one, 1, 1, 1;",
        ]
    text = "\n".join([*lines, _CLOSE])

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [*unpack(builder, args[1]), cast(builder, args[2], "l")]
        result = tied_assembly(builder, unpack(builder, args[0]), values, "r" * inputs + "l", text)
        return pack(context, builder, signature.return_type, result)

    return make("gemm_rs", 3, lambda *_: floats(count), generate, parameters=(n, steps, dtype, b_step))


def make_wait(count: int, pending: int) -> Any:
    """wait(fragment) -> fragment, once at most `pending` younger groups of products are still under way."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        text = f"wgmma.wait_group.sync.aligned {pending};"
        result = tied_assembly(builder, unpack(builder, args[0]), [], "", text)
        return pack(context, builder, signature.return_type, result)

    return make("wgmma_wait", 1, lambda *_: floats(count), generate, parameters=(count, pending))


def unpack_struct(builder: Any, value: Any, count: int) -> list[Any]:
    """The members of an LLVM struct value."""
    return [builder.extract_value(value, i) for i in range(count)]


def _registers(first: int, count: int) -> str:
    return "{" + ", ".join(f"${i}" for i in range(first, first + count)) + "}"
