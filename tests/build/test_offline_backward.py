"""Every kernel of the Hopper backward compiles with no GPU: no spill, no stack, and the instructions it stands for."""

from dataclasses import replace

import pytest

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.build.compiler import compile_kernel
from numba_fa.build.inspect import find_disassembler, sass
from numba_fa.dispatch.registry import variant_of
from numba_fa.kernels.sm90.backward_variant import BACKWARD, FINISH, PREPROCESS, main_key
from numba_fa.tile.layout import SHARED_LIMIT


def compiled(stage, key):
    before, main, after = BACKWARD.stages(key, frozenset("qkv"))
    own = {"bwd_pre": before, "bwd_fin": after}.get(stage.op, main)
    return compile_kernel(own, stage.factory(), "sm_90a")


def assert_lean(artifact):
    assert (artifact.stack, artifact.spill_stores, artifact.spill_loads) == (0, 0, 0)
    assert artifact.registers * artifact.threads <= 65536 and artifact.shared_bytes <= SHARED_LIMIT


@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 144, 192, 256])
def test_main_kernel(head_dim, mask):
    assert_lean(compiled(BACKWARD, main_key("fp16" if head_dim % 64 else "bf16", head_dim, mask)))


@pytest.mark.parametrize("op", ["bwd_det", "bwd_red"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_other_ways_to_sum_up_dq(head_dim, op):
    artifact = compiled(BACKWARD, replace(main_key("bf16", head_dim, "causal"), op=op))
    assert artifact.spill_stores <= 8  # the scout's, once a tile of keys


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize(
    ("mask", "bias"),
    [("window", "none"), ("document", "none"), ("all2+causal+padding", "none"), ("prefix", "none"), ("causal", "alibi"),
     ("causal", "softcap"), ("causal", "softcap+alibi"), ("full", "t5_32_128_b")],
)  # fmt: skip
def test_masks_and_biases(head_dim, mask, bias):
    artifact = compiled(BACKWARD, main_key("bf16", head_dim, mask, bias))
    if head_dim == 256 and mask not in ("full", "causal", "document"):
        assert artifact.spill_stores <= 24  # the scout's, once a tile of keys
    else:
        assert_lean(artifact)


@pytest.mark.parametrize("stage", [PREPROCESS, FINISH], ids=lambda stage: stage.name)
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 192, 256])
def test_small_kernels(stage, head_dim):
    artifact = compiled(stage, main_key("bf16", head_dim, "full"))
    assert_lean(artifact)
    assert artifact.registers * artifact.threads * 3 <= 65536  # blocks enough to hide memory's latency


@pytest.mark.skipif(find_disassembler() is None, reason="no disassembler here")
def test_machine_code_holds_tensor_core_and_bulk_instructions():
    code = sass(compiled(BACKWARD, main_key("bf16", 128, "causal")))
    for instruction in ("HGMMA.64x64x16.F32.BF16", "HGMMA.64x128x16.F32.BF16", "UTMALDG.4D", "UTMASTG.4D", "UBLKCP",
                        "UBLKRED", "STSM.16.M88.4", "MUFU.EX2", "USETMAXREG"):  # fmt: skip
        assert instruction in code, instruction
    for wasted in (" LDL", " STL", " CALL"):
        assert wasted not in code, wasted


@pytest.mark.parametrize("head_dims", [(64, 0), (128, 0), (192, 128), (256, 0)], ids=str)
@pytest.mark.parametrize(("mask", "bias", "n"), [
    ("causal", "alibi", 0), ("full", "t5_32_128_b", 0), ("causal", "dense_bf16", 0), ("full", "dense_fp32+softcap", 0),
    ("all2+causal+padding", "alibi+t5_32_128_b+dense_fp32+softcap", 1),
])  # fmt: skip
def test_kernels_of_parameters(head_dims, mask, bias, n):
    key = main_key("bf16", head_dims[0], mask, bias, head_dims[1])
    made = [stage for stage in BACKWARD.stages(key, frozenset({f"bias{n}"})) if stage.op.endswith(str(n))]
    assert made[0].family == "sm90"
    for stage in made:
        assert_lean(compile_kernel(stage, variant_of(stage).factory(), "sm_90a"))
