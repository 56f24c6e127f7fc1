"""Sixteen bytes a thread between global memory and registers, and what is computed on them."""

from __future__ import annotations

from typing import Any

from numba.cuda import types

from numba_fa.ptx.core import F32, I32, VOID, Op, assembly, cast, define, floats, ir, make, pack, unpack, words

_LOAD = "ld.global.nc.L1::no_allocate.v4.b32 {$0, $1, $2, $3}, [$4];"
SPLIT = {  # a word -> two float32, the lower half first
    "fp16": "{\n.reg .b16 a, b;\nmov.b32 {a, b}, $2;\ncvt.f32.f16 $0, a;\ncvt.f32.f16 $1, b;\n}",
    "bf16": "shl.b32 $0, $2, 16;\nand.b32 $1, $2, 0xffff0000;",
}


def _generate_load(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    result = ir.LiteralStructType([I32] * 4)
    loaded = assembly(builder, result, [cast(builder, args[0], "l")], _LOAD, "=r,=r,=r,=r,l", effects=True)
    return pack(context, builder, signature.return_type, [builder.extract_value(loaded, i) for i in range(4)])


# load_words(address) -> 4 words of what no kernel writes meanwhile
load_words = make("load_words", 1, lambda _: words(4), _generate_load)


def make_load_quads(count: int) -> Any:
    """load_quads(address) -> fragment of `count`, of 16-byte pieces 2048 bytes apart, as `store_quads` left them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        result, values = ir.LiteralStructType([F32] * 4), []
        address = cast(builder, args[0], "l")
        for j in range(count // 4):
            text = _LOAD.replace("[$4]", f"[$4 + {2048 * j}]")
            loaded = assembly(builder, result, [address], text, "=f,=f,=f,=f,l", effects=True)
            values += [builder.extract_value(loaded, i) for i in range(4)]
        return pack(context, builder, signature.return_type, values)

    return make("load_quads", 1, lambda _: floats(count), generate, parameters=(count,))


def _generate_zero(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    zero = ir.Constant(I32, 0)
    text = "st.global.v4.b32 [$0], {$1, $1, $1, $1};"
    assembly(builder, VOID, [cast(builder, args[0], "l"), zero], text, "l,r,~{memory}", effects=True)
    return context.get_dummy_value()


# store_zero(address): 16 bytes of zeros
store_zero = make("store_zero", 1, lambda _: types.void, _generate_zero)


def make_dot(dtype: str) -> Any:
    """dot(a_words, b_words) -> float32: the sum of products of the elements that 16 bytes hold."""

    def split(builder: Any, word: Any) -> list[Any]:
        if dtype == "fp32":
            return [builder.bitcast(word, F32)]
        result = ir.LiteralStructType([F32, F32])
        pair = assembly(builder, result, [word], SPLIT[dtype], "=f,=f,r", effects=False)
        return [builder.extract_value(pair, i) for i in range(2)]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total = ir.Constant(F32, 0.0)
        for a, b in zip(unpack(builder, args[0]), unpack(builder, args[1]), strict=True):
            for x, y in zip(split(builder, a), split(builder, b), strict=True):
                total = assembly(builder, F32, [x, y, total], "fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", effects=False)
        return total

    return make("dot_words", 2, lambda *_: types.float32, generate, parameters=(dtype,))


# ld_global_f32(address) -> one float32 of what no kernel writes meanwhile
ld_global_f32 = define(Op("ld_global_f32", "l", "ld.global.nc.f32 $0, [$1];", "f"))
# ld_global_u16(address) -> a 16-bit pattern, likewise
ld_global_u16 = define(
    Op("ld_global_u16", "l", "{\n.reg .b16 h;\nld.global.nc.u16 h, [$1];\ncvt.u32.u16 $0, h;\n}", "r")
)


def make_add_quads(count: int) -> Any:
    """add_quads(fragment, address): add to global memory, as 16-byte pieces 2048 bytes apart, in no order."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, address = unpack(builder, args[0]), cast(builder, args[1], "l")
        for j in range(count // 4):
            text = f"red.relaxed.gpu.global.add.v4.f32 [$0 + {2048 * j}], {{$1, $2, $3, $4}};"
            assembly(builder, VOID, [address, *values[4 * j : 4 * j + 4]], text, "l,f,f,f,f,~{memory}", effects=True)
        return context.get_dummy_value()

    return make("add_quads", 2, lambda *_: types.void, generate, parameters=(count,))
