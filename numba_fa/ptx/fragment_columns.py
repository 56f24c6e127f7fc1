"""Straight-line operations on accumulator fragments whose columns carry the values: transposed score tiles.

Registers lie as in `ptx/fragment.py`: of row r0 or r1 = r0 + 8, and of column 8 * (i // 4) + 2 * (t % 4) + i % 2. A
vector of one float32 a column lies in shared memory; its address is of the thread, 8 * (t % 4) bytes past its start.
"""

from __future__ import annotations

from typing import Any

from numba.cuda import types

from numba_fa.ptx.core import F32, I32, VOID, assembly, cast, floats, ir, make, pack, unpack
from numba_fa.ptx.fragment import column_of, row_of, store_words
from numba_fa.ptx.vector import SPLIT


def make_keep_from(count: int) -> Any:
    """keep_from(fragment, start0, start1) -> fragment with -inf where a column lies before its row's start.

    The starts are of the thread: the row's start less the tile's first column less 2 * (t % 4).
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        starts = [cast(builder, args[1], "r"), cast(builder, args[2], "r")]
        kept = [
            builder.select(
                builder.icmp_signed(">=", ir.Constant(I32, column_of(i)), starts[row_of(i)]),
                value,
                ir.Constant(F32, float("-inf")),
            )
            for i, value in enumerate(unpack(builder, args[0]))
        ]
        return pack(context, builder, signature.return_type, kept)

    return make("keep_from", 3, lambda *_: floats(count), generate, parameters=(count,))


def make_column_values(count: int) -> Any:
    """column_values(address) -> of each of the thread's columns, of a fragment of `count`, its value: count // 2 of them.

    By itself, so that a kernel can ask for them before it waits for the fragment: beside a running product, which reads
    shared memory too, they take long.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, values = cast(builder, args[0], "r"), []
        result = ir.LiteralStructType([F32, F32])
        for j in range(count // 4):
            text = f"ld.shared.v2.f32 {{$0, $1}}, [$2 + {32 * j}];"
            pair = assembly(builder, result, [address], text, "=f,=f,r,~{memory}", effects=True)
            values += [builder.extract_value(pair, half) for half in range(2)]
        return pack(context, builder, signature.return_type, values)

    return make("column_values", 1, lambda *_: floats(count // 2), generate, parameters=(count,))


def make_column_exponential(count: int) -> Any:
    """column_exponential(fragment, scale, values) -> 2 ** (fragment * scale - the column's value)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        fragment, result = unpack(builder, args[0]), []
        minus = [builder.fsub(ir.Constant(F32, -0.0), value) for value in unpack(builder, args[2])]
        for i, value in enumerate(fragment):
            operands = [value, args[1], minus[_column(i)]]
            power = assembly(builder, F32, operands, "fma.rn.ftz.f32 $0, $1, $2, $3;", "=f,f,f,f", effects=False)
            result.append(assembly(builder, F32, [power], "ex2.approx.ftz.f32 $0, $1;", "=f,f", effects=False))
        return pack(context, builder, signature.return_type, result)

    return make("column_exponential", 3, lambda *_: floats(count), generate, parameters=(count,))


def make_column_gradient(count: int) -> Any:
    """column_gradient(weights, products, values) -> weights * (products - the column's value)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        weights, products, values = (unpack(builder, argument) for argument in args)
        result = [
            builder.fmul(weight, builder.fsub(product, values[_column(i)]))
            for i, (weight, product) in enumerate(zip(weights, products, strict=True))
        ]
        return pack(context, builder, signature.return_type, result)

    return make("column_gradient", 3, lambda *_: floats(count), generate, parameters=(count,))


def _column(i: int) -> int:
    """Which of the thread's columns a fragment's register is of: four registers are two columns of two rows."""
    return i // 4 * 2 + i % 2


def make_stmatrix_words(count: int) -> Any:
    """stmatrix_words(words, row_address, atom_bytes, swizzle, half): store `count` packed registers, as `stmatrix` does."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store_words(builder, unpack(builder, args[0]), args[1:])
        return context.get_dummy_value()

    return make("stmatrix_words", 5, lambda *_: types.void, generate, parameters=(count,))


def make_store_quads(count: int) -> Any:
    """store_quads(fragment, address): to shared memory in 16-byte pieces, 2048 bytes from piece to piece.

    address is of the thread, 16 * t bytes past the room's start: a warpgroup's pieces lie side by side.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address = unpack(builder, args[0]), cast(builder, args[1], "r")
        for j in range(count // 4):
            text = f"st.shared.v4.f32 [$0 + {QUAD_STEP * j}], {{$1, $2, $3, $4}};"
            assembly(builder, VOID, [address, *values[4 * j : 4 * j + 4]], text, "r,f,f,f,f,~{memory}", effects=True)
        return context.get_dummy_value()

    return make("store_quads", 2, lambda *_: types.void, generate, parameters=(count,))


def make_share_words(count: int) -> Any:
    """share_words(words, address): `count` packed registers to shared memory, laid out as by `store_quads`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address = unpack(builder, args[0]), cast(builder, args[1], "r")
        for j in range(count // 4):
            text = f"st.shared.v4.b32 [$0 + {QUAD_STEP * j}], {{$1, $2, $3, $4}};"
            assembly(builder, VOID, [address, *values[4 * j : 4 * j + 4]], text, "r,r,r,r,r,~{memory}", effects=True)
        return context.get_dummy_value()

    return make("share_words", 2, lambda *_: types.void, generate, parameters=(count,))


def make_shared_values(count: int, dtype: str) -> Any:
    """shared_values(address) -> fragment of `count` from the count // 2 words that `share_words` left there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, values = cast(builder, args[0], "r"), []
        result, pair = ir.LiteralStructType([I32] * 4), ir.LiteralStructType([F32, F32])
        for j in range(count // 8):
            text = f"ld.shared.v4.b32 {{$0, $1, $2, $3}}, [$4 + {QUAD_STEP * j}];"
            loaded = assembly(builder, result, [address], text, "=r,=r,=r,=r,r,~{memory}", effects=True)
            for i in range(4):
                word = builder.extract_value(loaded, i)
                both = assembly(builder, pair, [word], SPLIT[dtype], "=f,=f,r", effects=False)
                values += [builder.extract_value(both, half) for half in range(2)]
        return pack(context, builder, signature.return_type, values)

    return make("shared_values", 1, lambda _: floats(count), generate, parameters=(count, dtype))


# From one 16-byte piece of a thread to its next: 128 threads of 16 bytes.
QUAD_STEP = 2048

