"""Approximate float32 arithmetic of the special-function units, and exact maximum."""

import numpy as np

from numba_fa.ptx.core import Op, define

_TINY = np.finfo(np.float32).tiny


def _flush(value):
    """float32, denormals to zero as .ftz does."""
    value = np.float32(value)
    return np.copysign(np.float32(0), value) if abs(value) < _TINY else value


ex2_approx = define(
    Op("ex2_approx", "f", "ex2.approx.ftz.f32 $0, $1;", "f", effects=False),
    twin=lambda x: _flush(np.exp2(_flush(x))),
)
lg2_approx = define(
    Op("lg2_approx", "f", "lg2.approx.ftz.f32 $0, $1;", "f", effects=False),
    twin=lambda x: np.log2(_flush(x)),
)
rcp_approx = define(
    Op("rcp_approx", "f", "rcp.approx.ftz.f32 $0, $1;", "f", effects=False),
    twin=lambda x: _flush(np.float32(1) / _flush(x)),
)
fmax_nan = define(Op("fmax_nan", "ff", "max.NaN.f32 $0, $1, $2;", "f", effects=False), twin=np.maximum)
fmax = define(Op("fmax", "ff", "max.f32 $0, $1, $2;", "f", effects=False), twin=np.fmax)
