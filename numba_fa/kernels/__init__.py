"""Kernel families. One folder a family: a variant (host, imports no compiler) and its kernel factories."""

from numba_fa.dispatch.registry import register
from numba_fa.kernels.common.gradient_variant import PARAMETERS
from numba_fa.kernels.common.variant import BLOCK_TABLE
from numba_fa.kernels.cpu.variant import BACKWARD as BACKWARD_CPU
from numba_fa.kernels.cpu.variant import FORWARD as FORWARD_CPU
from numba_fa.kernels.simt.backward_variant import BACKWARD as BACKWARD_SIMT
from numba_fa.kernels.simt.backward_variant import PREPROCESS as PREPROCESS_SIMT
from numba_fa.kernels.simt.backward_variant import QUERIES
from numba_fa.kernels.simt.variant import FORWARD as FORWARD_SIMT
from numba_fa.kernels.sm90.backward_variant import BACKWARD as BACKWARD_SM90
from numba_fa.kernels.sm90.backward_variant import DETERMINISTIC, FINISH, PREPROCESS
from numba_fa.kernels.sm90.gradient_variant import PARAMETERS as PARAMETERS_SM90
from numba_fa.kernels.sm90.variant import FORWARD as FORWARD_SM90

for _variant in (
    FORWARD_SM90, FORWARD_SIMT, FORWARD_CPU,
    BACKWARD_SM90, DETERMINISTIC, BACKWARD_SIMT, BACKWARD_CPU,
    PREPROCESS, FINISH, PREPROCESS_SIMT, QUERIES, *PARAMETERS_SM90, *PARAMETERS, BLOCK_TABLE,
):  # fmt: skip
    register(_variant)
