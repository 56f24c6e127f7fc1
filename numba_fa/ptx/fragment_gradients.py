"""Straight-line operations on fragments of score gradients, queries by keys; registers lie as in `ptx/fragment.py`."""

from __future__ import annotations

from typing import Any

from numba.cuda import types

from numba_fa.ptx.core import F32, VOID, assembly, cast, floats, ir, make, pack, unpack
from numba_fa.ptx.fragment import column_of, row_of


def make_add_gradient(count: int) -> Any:
    """add_gradient(totals, weights, products, value0, value1) -> totals + weights * (products - the row's value).

    A weight of 0 adds nothing, whatever the product: what a mask hides may be NaN.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        totals, weights, products = (unpack(builder, argument) for argument in args[:3])
        result = []
        for i, (total, weight, product) in enumerate(zip(totals, weights, products, strict=True)):
            more = builder.fma(weight, builder.fsub(product, args[3 + row_of(i)]), total)
            nothing = builder.fcmp_unordered("==", weight, ir.Constant(F32, 0.0))
            result.append(builder.select(nothing, total, more))
        return pack(context, builder, signature.return_type, result)

    return make("add_gradient", 5, lambda *_: floats(count), generate, parameters=(count,))


def make_store_rows(count: int, row_bytes: int) -> Any:
    """store_rows(fragment, address): to shared memory as float32, rows of `row_bytes`.

    address is of the thread: of its first row and column. Rows of 32 bytes more than a multiple of 128 go without
    conflicts of banks.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address = unpack(builder, args[0]), cast(builder, args[1], "r")
        for i in range(0, count, 2):
            offset = row_of(i) * 8 * row_bytes + 4 * column_of(i)
            text = f"st.shared.v2.f32 [$0 + {offset}], {{$1, $2}};"
            assembly(builder, VOID, [address, *values[i : i + 2]], text, "r,f,f,~{memory}", effects=True)
        return context.get_dummy_value()

    return make("store_rows", 2, lambda *_: types.void, generate, parameters=(count, row_bytes))
