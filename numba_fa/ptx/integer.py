"""Integer arithmetic that Numba would widen: its `//` divides 64-bit integers, in a routine with a dozen registers."""

from numba_fa.ptx.core import Op, define

# a / b of 32-bit integers that are not negative
quotient = define(Op("quotient", "rr", "div.s32 $0, $1, $2;", "r", effects=False), twin=lambda a, b: int(a) // int(b))
# The same number, of which the compiler knows nothing: what is computed from it is computed again where it is used, not
# kept in registers from before a loop.
opaque = define(Op("opaque", "r", "mov.b32 $0, $1;", "r"), twin=lambda value: int(value))
