"""Approximate float32 arithmetic of the special-function units, and exact maximum."""

from numba_fa.ptx.core import Op, define

ex2_approx = define(Op("ex2_approx", "f", "ex2.approx.ftz.f32 $0, $1;", "f", effects=False))
lg2_approx = define(Op("lg2_approx", "f", "lg2.approx.ftz.f32 $0, $1;", "f", effects=False))
rcp_approx = define(Op("rcp_approx", "f", "rcp.approx.ftz.f32 $0, $1;", "f", effects=False))
fmax = define(Op("fmax", "ff", "max.f32 $0, $1, $2;", "f", effects=False))
