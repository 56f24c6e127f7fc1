"""Every tuned Hopper kernel compiles with no GPU: no spill, no stack, and the instructions it stands for."""

import re

import pytest

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.build.compiler import compile_kernel, ptx_of
from numba_fa.build.inspect import find_disassembler, sass
from numba_fa.build.loader import artifact_for
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.registry import keys, variant_of
from numba_fa.dispatch.tuning import key_for
from numba_fa.errors import CompileError


@pytest.mark.parametrize("key", list(keys(("sm90",), ("fwd",))), ids=str)
def test_sm90_key_has_no_spill_and_no_stack(key):
    artifact = artifact_for(key, variant_of(key), "sm_90a")
    assert (artifact.stack, artifact.spill_stores, artifact.spill_loads) == (0, 0, 0)
    assert artifact.registers * artifact.threads <= 65536


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90a", "sm_120a"])
def test_simt_compiles_for_any_architecture(dtype, arch):
    key = key_for("fwd", "simt", dtype, 64, "causal")
    artifact = artifact_for(key, variant_of(key), arch)
    assert artifact.arch == arch and artifact.cubin[:4] == b"\x7fELF"
    assert (artifact.spill_stores, artifact.spill_loads) == (0, 0)
    assert artifact.shared_bytes <= 65536  # what Turing, the oldest, has


@pytest.mark.skipif(find_disassembler() is None, reason="no disassembler here")
def test_machine_code_holds_tensor_core_and_tma_instructions():
    key = DispatchKey.parse("fwd-sm90-bf16-d128-causal-m128n128s2")
    code = sass(artifact_for(key, variant_of(key), "sm_90a"))
    # 8 k-steps a product: scores before the first tile of queries, in the loop over keys, and for the next tile; output in
    # that loop and after it
    assert code.count("HGMMA.64x128x16.F32.BF16") == 8 * (3 + 2)
    for instruction in ("UTMALDG.4D", "UTMASTG.4D", "SYNCS", "USETMAXREG", "MUFU.EX2"):
        assert instruction in code, instruction
    for wasted in ("LDL", "STL"):
        assert f" {wasted}" not in code, wasted
    # What calls there are divide 64-bit integers, a few times a tile of queries (docs/findings/0003).
    assert code.count(" CALL") <= 10
    assert {name for name in re.findall(r"\$(__cuda_\w+)", code)} <= {"__cuda_sm20_div_s64", "__cuda_sm20_rem_s64"}


def test_ptx_is_readable_and_has_no_call():
    key = DispatchKey.parse("fwd-sm90-fp16-d64-full-m192n128s2")
    text = ptx_of(key, variant_of(key).factory(), "sm_90a")
    assert ".entry numba_fa_fwd_sm90_fp16_d64_full_m192n128s2" in text
    assert "wgmma.mma_async" in text and "call.uni" not in text


def test_serialised_code_is_refused(monkeypatch):
    key = key_for("fwd", "simt", "fp32", 8, "full")
    import numba_fa.build.compiler as compiler

    link = compiler._link
    monkeypatch.setattr(compiler, "_link", lambda *a: (link(*a)[0], link(*a)[1] + "ptxas info : (C7510) wgmma serialised"))
    with pytest.raises(CompileError, match="C7510"):
        compile_kernel(key, variant_of(key).factory(), "sm_90a")
