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


def make_column_exponential(count: int) -> Any:
    """column_exponential(fragment, scale, address) -> 2 ** (fragment * scale - the column's value)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = cast(builder, args[2], "r")
        values, result = unpack(builder, args[0]), []
        for j in range(count // 4):
            minus = [builder.fsub(ir.Constant(F32, -0.0), value) for value in _column_pair(builder, address, j)]
            for i in range(4):
                operands = [values[4 * j + i], args[1], minus[i % 2]]
                power = assembly(builder, F32, operands, "fma.rn.ftz.f32 $0, $1, $2, $3;", "=f,f,f,f", effects=False)
                result.append(assembly(builder, F32, [power], "ex2.approx.ftz.f32 $0, $1;", "=f,f", effects=False))
        return pack(context, builder, signature.return_type, result)

    return make("column_exponential", 3, lambda *_: floats(count), generate, parameters=(count,))


def make_column_gradient(count: int) -> Any:
    """column_gradient(weights, products, address) -> weights * (products - the column's value)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = cast(builder, args[2], "r")
        weights, products, result = unpack(builder, args[0]), unpack(builder, args[1]), []
        for j in range(count // 4):
            pair = _column_pair(builder, address, j)
            for i in range(4 * j, 4 * j + 4):
                result.append(builder.fmul(weights[i], builder.fsub(products[i], pair[i % 2])))
        return pack(context, builder, signature.return_type, result)

    return make("column_gradient", 3, lambda *_: floats(count), generate, parameters=(count,))


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


def _column_pair(builder: Any, address: Any, j: int) -> tuple[Any, Any]:
    """The two float32 of this thread's columns in the j-th group of eight columns."""
    result = ir.LiteralStructType([F32, F32])
    text = f"ld.shared.v2.f32 {{$0, $1}}, [$2 + {32 * j}];"
    pair = assembly(builder, result, [address], text, "=f,=f,r,~{memory}", effects=True)
    return builder.extract_value(pair, 0), builder.extract_value(pair, 1)
