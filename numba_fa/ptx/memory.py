"""Shared addresses and words, global stores and reinterpreted bits."""

from typing import Any

import numpy as np
from numba.cuda import types

from numba_fa.ptx.core import I32, I64, Op, assembly, define, make

st_global_f32 = define(Op("st_global_f32", "lf", "st.global.f32 [$0], $1;"))
# A 32-bit word of shared memory, by its shared address: what threads tell each other beside their barriers.
st_shared_u32 = define(Op("st_shared_u32", "rr", "st.shared.u32 [$0], $1;"))
ld_shared_u32 = define(Op("ld_shared_u32", "r", "ld.shared.u32 $0, [$1];", "r"))
bits_to_float = define(
    Op("bits_to_float", "r", "mov.b32 $0, $1;", "f", effects=False),
    twin=lambda bits: np.uint32(int(bits) & 0xFFFFFFFF).view(np.float32),
)
float_to_bits = define(
    Op("float_to_bits", "f", "mov.b32 $0, $1;", "r", effects=False),
    twin=lambda value: int(np.float32(value).view(np.int32)),
)


def _generate_shared_address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    address = builder.ptrtoint(array.data, I64)
    return builder.trunc(assembly(builder, I64, [address], "cvta.to.shared.u64 $0, $1;", "=l,l", effects=False), I32)


# The 32-bit shared-window address of a shared array's first byte.
shared_address = make("shared_address", 1, lambda array: types.int32, _generate_shared_address)


# A 16-bit float's pattern, in the low half of a word, as float32; and back, rounding to nearest even.
half_to_float = define(
    Op("half_to_float", "r", "{\n.reg .b16 h, z;\nmov.b32 {h, z}, $1;\ncvt.f32.f16 $0, h;\n}", "f", effects=False),
    twin=lambda pattern: np.float32(np.uint16(int(pattern) & 0xFFFF).view(np.float16)),
)
float_to_half = define(
    Op("float_to_half", "f", "{\n.reg .b16 h;\ncvt.rn.f16.f32 h, $1;\ncvt.u32.u16 $0, h;\n}", "r", effects=False),
    twin=lambda value: 0x7FFF if value != value else int(np.float16(value).view(np.uint16)),
)
