"""Which kernel a request gets on which device, and what is said of the others. No driver is asked."""

from dataclasses import replace

import pytest

import numba_fa.kernels
from numba_fa.dispatch import registry
from numba_fa.dispatch.device import CPU, HOPPER, arch_of, device_of
from numba_fa.dispatch.registry import variants
from numba_fa.dispatch.select import select
from numba_fa.errors import UnsupportedError
from numba_fa.problem.biases import ALiBi, Softcap
from numba_fa.problem.masks import Causal, KeyPadding, SlidingWindow
from numba_fa.problem.problem import Problem
from tests.dispatch.devices import AMPERE, BLACKWELL, DEVICES
from tests.problem.views import problem, request, view

NAMES = {variant.name for variant in variants()}
HALF = ["float16", "bfloat16"]


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("NUMBA_FA_BACKEND", raising=False)


def on_hopper(changes=None, mask=None, bias=None, sink_logits=None, **sizes):
    """The explanation for a request on a pretended Hopper GPU, some views' fields changed: {name: fields}."""
    asked = request(device="cuda:0", **sizes)
    for name, fields in (changes or {}).items():
        asked[name] = replace(asked[name], **fields)
    return select(Problem.from_views(**asked, mask=mask, bias=bias, sink_logits=sink_logits), HOPPER)


def refusal(asked, device):
    """The UnsupportedError of a request."""
    with pytest.raises(UnsupportedError) as caught:
        select(asked, device)
    return caught.value


@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("head_dim", [8, 64, 72, 128, 192, 256])
def test_16_bit_types_on_hopper_run_on_sm90(dtype, mask, head_dim):
    found = on_hopper(dtype=dtype, mask=mask, head_dim=head_dim)
    assert found.family == "sm90"
    assert found.refused == {}
    assert found.key.mask == mask
    assert head_dim <= found.key.head_dim < head_dim + 16
    assert found.key.head_dim % 16 == 0


def test_fp32_on_hopper_runs_on_simt():
    found = on_hopper(dtype="float32")
    assert found.family == "simt"
    assert list(found.refused) == ["forward-sm90"]
    (reason,) = found.refused["forward-sm90"]
    assert "float32" in reason
    assert "fp16" in reason
    assert "bf16" in reason


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
@pytest.mark.parametrize("offset", [2, 4, 8])
def test_a_misaligned_address_falls_to_simt(name, offset):
    found = on_hopper({name: {"pointer": (1 << 24) + offset}}, dtype="bfloat16")
    assert found.family == "simt"
    (reason,) = found.refused["forward-sm90"]
    assert f"{offset} bytes" in reason
    assert "16" in reason


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
def test_a_misaligned_stride_falls_to_simt(name):
    """68 elements of 2 bytes from head to head: 136 bytes, a multiple of 8."""
    found = on_hopper({name: {"strides": (68 * 6 * 7, 68 * 6, 68, 1)}}, dtype="float16")
    assert found.family == "simt"
    assert "8 bytes" in found.refused["forward-sm90"][0]


@pytest.mark.parametrize("strides", [(0, 192, 64, 1), (1344, 0, 64, 1), (1344, 192, 0, 1), (-1344, 192, 64, 1)])
@pytest.mark.parametrize("name", ["k", "v"])
def test_zero_and_negative_strides_fall_to_simt(name, strides):
    found = on_hopper({name: {"strides": strides}}, dtype="bfloat16")
    assert found.family == "simt"
    assert "2 bytes" in found.refused["forward-sm90"][0]


def test_a_stride_along_an_axis_of_length_1_does_not_matter():
    assert on_hopper({"q": {"strides": (3, 384, 64, 1)}}, dtype="bfloat16", batch=1).family == "sm90"


def test_no_keys_fall_to_simt():
    found = on_hopper(dtype="bfloat16", seqlen_k=0)
    assert found.family == "simt"
    assert "seqlen_k is 0" in found.refused["forward-sm90"][0]


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_100a"])
def test_other_gpus_run_simt_alone(arch, dtype):
    assert DEVICES[arch].families == ("simt",)
    found = select(problem(dtype=dtype, device="cuda:0"), DEVICES[arch])
    assert found.family == "simt"
    assert any(arch in reason for reason in found.refused["forward-sm90"])


@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_the_cpu_runs_cpu_alone(dtype):
    found = select(problem(dtype=dtype), CPU)
    assert found.family == "cpu"
    assert set(found.refused) == NAMES - {"forward-cpu"}


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_float64_is_unsupported(device):
    error = refusal(problem(dtype="float64"), device)
    assert isinstance(error, NotImplementedError)
    assert set(error.reasons) == NAMES
    assert all(any("float64" in reason for reason in reasons) for reasons in error.reasons.values())
    assert "head_dim 64, mask full" in error.nearest
    assert all(name in str(error) for name in NAMES)
    assert error.nearest in str(error)


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_fp8_is_unsupported_not_wrong(device):
    error = refusal(problem(dtype="float8_e4m3fn"), device)
    assert set(error.reasons) == NAMES


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_head_dim_264_is_unsupported_and_256_is_nearest(device, dtype):
    error = refusal(problem(dtype=dtype, head_dim=264, mask="causal"), device)
    assert set(error.reasons) == NAMES
    assert all(any("head_dim 264" in reason and "256" in reason for reason in why) for why in error.reasons.values())
    short = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    assert error.nearest.startswith(f"{short}, head_dim 256, mask causal (forward-")
    assert "head_dim 264" in error.summary


def test_the_nearest_cell_is_one_that_runs_on_the_device():
    assert "forward-cpu" in refusal(problem(head_dim=264), CPU).nearest
    assert "forward-simt" in refusal(problem(head_dim=264, dtype="bfloat16"), AMPERE).nearest
    assert "forward-sm90" in refusal(problem(head_dim=264, dtype="bfloat16"), HOPPER).nearest


@pytest.mark.parametrize(("axis", "sizes"), [("heads", {"heads": 65536, "heads_kv": 1}), ("batch", {"batch": 65536})])
def test_more_than_a_grid_takes(axis, sizes):
    error = refusal(problem(dtype="float32", device="cuda:0", **sizes), HOPPER)
    assert f"{axis} 65536, above the 65535" in "".join(error.reasons["forward-simt"])


@pytest.mark.parametrize(("axis", "sizes"), [("heads", {"heads": 65536, "heads_kv": 1}), ("batch", {"batch": 65536})])
def test_the_nearest_cell_is_not_the_one_refused(axis, sizes):
    """Naming what was asked for as the nearest that is supported helps nobody."""
    nearest = refusal(problem(dtype="float32", device="cuda:0", **sizes), HOPPER).nearest
    assert nearest is None or axis in nearest


def test_float64_is_nearest_to_float32_where_float32_runs():
    """On Hopper the sm90 variant comes first but lacks fp32; half precision is further from float64."""
    assert refusal(problem(dtype="float64", device="cuda:0"), HOPPER).nearest.startswith("fp32")


EVERYTHING = Causal() & (KeyPadding(view((2,), "int32", "cuda:0")) | SlidingWindow(3))
SLOPES = ALiBi(view((6,), device="cuda:0"))


def test_masks_and_biases_are_in_the_key():
    found = on_hopper(dtype="bfloat16", mask=EVERYTHING, bias=[Softcap(30.0), SLOPES], sink_logits=SLOPES.slopes)
    assert found.family == "sm90"
    assert (found.key.mask, found.key.bias) == ("all2+causal+any2+padding+window", "softcap+alibi+sink")


def limited(monkeypatch, **changes):
    """The sm90 variant alone, declaring less."""
    variant = replace(variants()[0], **changes)
    monkeypatch.setattr(registry, "_VARIANTS", {variant.name: variant})


@pytest.mark.parametrize(("changes", "asked", "reason", "nearest"), [
    ({"masks": ("full", "causal")}, {"mask": EVERYTHING}, "mask padding, not one of full, causal", "mask causal ("),
    ({"masks": ("full",)}, {"mask": SlidingWindow(3)}, "mask window, not one of full", "mask full ("),
    ({"biases": ("softcap",)}, {"bias": [SLOPES, Softcap(3.0)]}, "bias alibi, not one of softcap", "bias softcap ("),
    ({"biases": ()}, {"bias": SLOPES}, "bias alibi, not one of none", "mask full, bias none ("),
    ({"sink": False}, {"sink_logits": SLOPES.slopes}, "sink_logits", "mask full, bias none ("),
])  # fmt: skip
def test_what_a_variant_does_not_declare_is_refused(monkeypatch, changes, asked, reason, nearest):
    limited(monkeypatch, **changes)
    error = refusal(problem(dtype="bfloat16", device="cuda:0", **asked), HOPPER)
    assert any(reason in why for why in error.reasons["forward-sm90"])
    assert nearest in error.nearest


def test_what_is_declared_is_not_named_as_nearest(monkeypatch):
    limited(monkeypatch, alignment=1 << 20)
    assert refusal(problem(dtype="bfloat16", device="cuda:0", mask=EVERYTHING, bias=SLOPES), HOPPER).nearest is None


@pytest.mark.parametrize("dtype", HALF)
def test_a_forced_family_is_obeyed(monkeypatch, dtype):
    monkeypatch.setenv("NUMBA_FA_BACKEND", "simt")
    found = on_hopper(dtype=dtype)
    assert found.family == "simt"
    assert found.refused == {"forward-sm90": ["NUMBA_FA_BACKEND is simt"]}


def test_a_forced_family_that_cannot_is_an_error(monkeypatch):
    monkeypatch.setenv("NUMBA_FA_BACKEND", "sm90")
    error = refusal(problem(dtype="float32", device="cuda:0"), HOPPER)
    assert "NUMBA_FA_BACKEND is sm90" in error.reasons["forward-simt"]
    assert any("float32" in reason for reason in error.reasons["forward-sm90"])
    assert "(forward-sm90)" in error.nearest
    assert set(refusal(problem(), CPU).reasons) == NAMES


def test_a_forced_family_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("NUMBA_FA_BACKEND", "sm91")
    error = refusal(problem(dtype="bfloat16", device="cuda:0"), HOPPER)
    assert error.nearest is None
    assert all("NUMBA_FA_BACKEND is sm91" in reasons for reasons in error.reasons.values())


def test_an_empty_backend_forces_nothing(monkeypatch):
    monkeypatch.setenv("NUMBA_FA_BACKEND", "")
    assert on_hopper(dtype="bfloat16").family == "sm90"


def test_an_explanation_reads_as_text():
    text = str(on_hopper(dtype="float32"))
    for word in ("float32 full attention on cuda:0", "sm_90a", "fwd-simt-fp32-d64-full", "not forward-sm90: dtype"):
        assert word in text


@pytest.mark.parametrize(("capability", "arch"), [((8, 0), "sm_80"), ((8, 9), "sm_89"), ((9, 0), "sm_90a"),
                                                  ((10, 0), "sm_100a"), ((12, 0), "sm_120a")])  # fmt: skip
def test_arch_of(capability, arch):
    assert arch_of(*capability) == arch


def test_the_cpu_needs_no_driver():
    assert device_of("cpu") is CPU
    assert CPU.families == ("cpu",)


def test_hopper_prefers_its_own_kernels_and_blackwell_has_none():
    assert HOPPER.families == ("sm90", "simt")
    assert "sm90" not in BLACKWELL.families


def test_the_best_variant_comes_first():
    assert [variant.family for variant in variants()] == ["sm90", "simt", "cpu"]
    assert numba_fa.kernels.FORWARD_SM90 is variants()[0]


@pytest.mark.parametrize("length", ["seqlen_q", "seqlen_k"])
def test_positions_that_functions_cannot_tell_apart_are_refused(length):
    long = replace(on_hopper(bias=Softcap(5.0), dtype="bfloat16").problem, **{length: (1 << 22) + 1})
    with pytest.raises(UnsupportedError, match="4194305 with biases or a mask function"):
        select(long, HOPPER)
    assert select(replace(long, biases=()), HOPPER).family == "sm90"
