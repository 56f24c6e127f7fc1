"""Straight-line operations on accumulator fragments.

Thread t of a warpgroup holds of a 64 x n tile the rows r0 = 16 * (t // 32) + t % 32 // 4 and r1 = r0 + 8. Register i
is of row r1 when i & 2, and of column 8 * (i // 4) + 2 * (t % 4) + i % 2 (PTX ISA, wgmma accumulator layout). Values
that belong to a row come in pairs, (r0's, r1's).
"""

from __future__ import annotations

from typing import Any

from numba.cuda import types

from numba_fa.ptx.core import F32, I32, VOID, assembly, cast, floats, ir, make, pack, unpack, words

_PACK = {"fp16": "cvt.rn.f16x2.f32 $0, $2, $1;", "bf16": "cvt.rn.bf16x2.f32 $0, $2, $1;"}


def row_of(register: int) -> int:
    """0 when a register is of the thread's first row, 1 when of its second."""
    return register // 2 % 2


def column_of(register: int) -> int:
    """A register's column, less the 2 * (t % 4) that differs between threads."""
    return register // 4 * 8 + register % 2


def make_zeros(count: int) -> Any:
    """zeros() -> fragment."""
    return make(
        "zeros", 0, lambda: floats(count),
        lambda context, builder, signature, args: pack(
            context, builder, signature.return_type, [ir.Constant(F32, 0.0)] * count
        ),
        parameters=(count,),
    )  # fmt: skip


def make_row_max(count: int, *, nan: bool = False) -> Any:
    """row_max(fragment, start0, start1) -> (max of row r0 and start0, max of row r1 and start1).

    nan: one NaN makes the maximum NaN; else numbers are preferred.
    """
    text = "max.NaN.f32 $0, $1, $2;" if nan else "max.f32 $0, $1, $2;"

    def maximum(builder: Any, a: Any, b: Any) -> Any:
        return assembly(builder, F32, [a, b], text, "=f,f,f", effects=False)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = unpack(builder, args[0])
        result = [maximum(builder, _fold(builder, values, row, maximum), args[1 + row]) for row in (0, 1)]
        return pack(context, builder, signature.return_type, result)

    return make("row_max", 3, lambda *_: floats(2), generate, parameters=(count, nan))


def make_row_sum(count: int) -> Any:
    """row_sum(fragment) -> (sum of row r0, sum of row r1), of this thread's columns."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = unpack(builder, args[0])
        result = [_fold(builder, values, row, lambda build, a, b: build.fadd(a, b)) for row in (0, 1)]
        return pack(context, builder, signature.return_type, result)

    return make("row_sum", 1, lambda *_: floats(2), generate, parameters=(count,))


def make_exponential(count: int) -> Any:
    """exponential(fragment, scale, shift0, shift1) -> 2 ** (fragment * scale - shift of the row)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        minus = [builder.fsub(ir.Constant(F32, -0.0), shift) for shift in args[2:]]
        result = []
        for i, value in enumerate(unpack(builder, args[0])):
            operands = [value, args[1], minus[row_of(i)]]
            power = assembly(builder, F32, operands, "fma.rn.ftz.f32 $0, $1, $2, $3;", "=f,f,f,f", effects=False)
            result.append(assembly(builder, F32, [power], "ex2.approx.ftz.f32 $0, $1;", "=f,f", effects=False))
        return pack(context, builder, signature.return_type, result)

    return make("exponential", 4, lambda *_: floats(count), generate, parameters=(count,))


def make_scale_rows(count: int) -> Any:
    """scale_rows(fragment, factor0, factor1) -> fragment with each row multiplied by its factor."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = unpack(builder, args[0])
        result = [builder.fmul(value, args[1 + row_of(i)]) for i, value in enumerate(values)]
        return pack(context, builder, signature.return_type, result)

    return make("scale_rows", 3, lambda *_: floats(count), generate, parameters=(count,))


def make_scale_and_lift(count: int) -> Any:
    """scale_and_lift(fragment, scale, lift) -> fragment * scale + lift."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = [builder.fma(value, args[1], args[2]) for value in unpack(builder, args[0])]
        return pack(context, builder, signature.return_type, result)

    return make("scale_and_lift", 3, lambda *_: floats(count), generate, parameters=(count,))


def make_slope_columns(count: int) -> Any:
    """slope_columns(fragment, step) -> fragment plus step times each register's column: one multiply-add by a constant."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result = []
        for i, value in enumerate(unpack(builder, args[0])):
            column = ir.Constant(F32, float(column_of(i)))
            result.append(builder.fma(args[1], column, value) if column_of(i) else value)
        return pack(context, builder, signature.return_type, result)

    return make("slope_columns", 2, lambda *_: floats(count), generate, parameters=(count,))


def make_pack(count: int, dtype: str) -> Any:
    """pack(fragment) -> count // 2 words, neighbours in a row rounded to `dtype` together."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return pack(context, builder, signature.return_type, _packed(builder, unpack(builder, args[0]), dtype))

    return make("pack", 1, lambda *_: words(count // 2), generate, parameters=(count, dtype))


def make_pack_nothing(count: int) -> Any:
    """pack_nothing(fragment, zero) -> count // 2 words, all `zero`, which is 0.

    One instruction a word, on a value that the compiler does not know: constants would be set before the branch, for all.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zero = cast(builder, args[1], "r")
        result = [builder.and_(builder.bitcast(value, I32), zero) for value in unpack(builder, args[0])[::2]]
        return pack(context, builder, signature.return_type, result)

    return make("pack_nothing", 2, lambda *_: words(count // 2), generate, parameters=(count,))


def make_stmatrix(count: int, dtype: str, first: int = 0) -> Any:
    """stmatrix(fragment, row_address, atom_bytes, swizzle, half): round to `dtype` and store into shared memory.

    What is stored: `count` registers of the fragment, from the first-th on.

    The target is a row of 64-column atoms with the 128-byte swizzle, atom_bytes apart. row_address: this lane's row in
    the first atom. swizzle: row & 7. half: which of two neighbouring 16-byte chunks this lane addresses. Sixteen
    columns an instruction (stmatrix.x4).
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        part = unpack(builder, args[0])[first : first + count]
        store_words(builder, _packed(builder, part, dtype), args[1:])
        return context.get_dummy_value()

    return make("stmatrix", 5, lambda *_: types.void, generate, parameters=(count, dtype, first))


def store_words(builder: Any, words: list[Any], places: Any) -> None:
    """Packed registers by stmatrix.x4; places: row_address, atom_bytes, swizzle, half, as of `make_stmatrix`."""
    row, atom, swizzle, half = [cast(builder, value, "r") for value in places]
    for j in range(len(words) // 4):
        chunk = builder.xor(builder.add(half, ir.Constant(I32, 2 * j % 8)), swizzle)
        address = builder.add(row, builder.shl(chunk, ir.Constant(I32, 4)))
        address = builder.add(address, builder.mul(atom, ir.Constant(I32, 2 * j // 8)))
        text = "stmatrix.sync.aligned.m8n8.x4.shared.b16 [$0], {$1, $2, $3, $4};"
        assembly(builder, VOID, [address, *words[4 * j : 4 * j + 4]], text, "r,r,r,r,r,~{memory}", effects=True)


def _packed(builder: Any, values: list[Any], dtype: str) -> list[Any]:
    pairs = zip(values[::2], values[1::2], strict=True)
    return [assembly(builder, I32, [low, high], _PACK[dtype], "=r,f,f", effects=False) for low, high in pairs]


def _fold(builder: Any, values: list[Any], row: int, combine: Any) -> Any:
    """Combine a row's registers in two chains, which halves the latency of one."""
    chains = [None, None]
    for turn, value in enumerate(value for i, value in enumerate(values) if row_of(i) == row):
        chain = chains[turn % 2]
        chains[turn % 2] = value if chain is None else combine(builder, chain, value)
    return combine(builder, *chains)
