"""Every mask and bias compiles for a GPU with no GPU here, users' functions among them."""

import pytest

from numba_fa.build.compiler import compile_kernel
from numba_fa.kernels.sm90.variant import FORWARD
from numba_fa.testing.programs import PROGRAMS, Sizes
from numba_fa.tile.layout import SHARED_LIMIT

SIZES = Sizes(1, 1024, 1024, 4)
SPILLED = {"dense-fp16": 8, "block-causal": 44}  # bytes a thread, of those kernels that spill


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_hopper_forward(program):
    artifact = compile_kernel(FORWARD.key_for("bf16", 128, *PROGRAMS[program](SIZES).names), FORWARD.factory(), "sm_90a")
    assert max(artifact.stack, artifact.spill_stores, artifact.spill_loads) <= SPILLED.get(program, 0)
    assert artifact.shared_bytes <= SHARED_LIMIT and artifact.registers * artifact.threads <= 65536
