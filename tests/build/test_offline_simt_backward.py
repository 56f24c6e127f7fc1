"""The portable backward's kernels compile for GPUs old and new: no spill, and within the oldest one's shared memory."""

import pytest

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.build.compiler import compile_kernel
from numba_fa.build.inspect import find_disassembler, sass
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.tiles import TURING_BYTES
from numba_fa.kernels.simt.backward_variant import main_key, stages


def compiled(key, arch):
    return compile_kernel(key, variant_of(key).factory(), arch)


def assert_lean(artifact):
    assert (artifact.stack, artifact.spill_stores, artifact.spill_loads) == (0, 0, 0), artifact.slug
    assert artifact.shared_bytes <= TURING_BYTES, artifact.slug


@pytest.mark.parametrize(("arch", "dtype", "head_dim", "mask", "bias"), [
    ("sm_75", "bf16", 64, "causal", "none"), ("sm_75", "fp32", 256, "window", "softcap+alibi"),
    ("sm_80", "fp16", 128, "causal", "none"), ("sm_90a", "fp32", 192, "full", "t5_32_128_b"),
    ("sm_120a", "bf16", 8, "all2+causal+padding", "dense_bf16"),
])  # fmt: skip
def test_kernels_of_queries_and_keys(arch, dtype, head_dim, mask, bias):
    for key in stages(main_key(dtype, head_dim, mask, bias)):
        assert_lean(compiled(key, arch))


@pytest.mark.parametrize(("arch", "head_dim"), [("sm_75", 64), ("sm_90a", 256)])
def test_kernels_of_parameters(arch, head_dim):
    key = main_key("bf16", head_dim, "causal", "alibi+t5_32_128_b+dense_fp32+softcap+sink")
    for stage in stages(key, frozenset({"bias0", "bias1", "bias2", "sink"})):
        assert_lean(compiled(stage, arch))


@pytest.mark.skipif(find_disassembler() is None, reason="no disassembler here")
def test_a_product_costs_its_loads_alone():
    """In the loop over a tile's keys: dQ's 8 products a key under a predicate, whose loads have constant offsets."""
    code = sass(compiled(main_key("fp32", 64, "full", op="bwd_dq"), "sm_90a")).splitlines()
    last = max(i for i, line in enumerate(code) if "FFMA" in line)
    start = max(i for i in range(last) if ".L_x" in code[i])
    loop = code[start : last + 1]
    products, loads = sum("FFMA" in line for line in loop), sum("LDS" in line for line in loop)
    assert products % 8 == 0 and loads <= products and len(loop) <= 8 * products
