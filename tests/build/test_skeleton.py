"""Kernels made of an earlier one's skeleton: the same machine code as compiled whole, and compiled whole when in doubt."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from numba.cuda.core.bytecode import FunctionIdentity

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.build import compiler
from numba_fa.build.compiler import compile_kernel
from numba_fa.build.skeleton import Skeleton
from numba_fa.build.store import Store
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.tuning import key_for
from numba_fa.errors import CompileError, StoreWarning
from numba_fa.kernels.sm90.backward_variant import main_key
from numba_fa.problem.biases import ScoreMod
from numba_fa.problem.masks import MaskMod

SLOPES, TABLE = np.zeros(4, np.float32), np.zeros((4, 8), np.float16)


def squared(x):
    return x * x


def bent(score, b, h, q_idx, kv_idx):
    return score - squared(0.01 * (q_idx - kv_idx))


def gated(score, b, h, q_idx, kv_idx):
    return math.tanh(score) if kv_idx % 2 else score * math.sin(0.1 * q_idx)


def near(score, b, h, q_idx, kv_idx, offset, slopes):
    return score - slopes[h] * abs(q_idx + offset - kv_idx)


def bowed(score, b, h, q_idx, kv_idx, offset, slopes):
    return score + slopes[h] * abs(q_idx - kv_idx) * 0.5 - 0.25 * (kv_idx - offset)


def looked_up(score, b, h, q_idx, kv_idx, table):
    return score + table[h, kv_idx % 8]


def looked_up_twice(score, b, h, q_idx, kv_idx, table):
    return score * table[b, q_idx % 8] - table[h, kv_idx % 8]


def whole_number(score, b, h, q_idx, kv_idx):
    return q_idx - kv_idx


def odd(b, h, q_idx, kv_idx, period):
    return (q_idx + kv_idx) % period == 1


def close(b, h, q_idx, kv_idx, width):
    return (abs(q_idx - kv_idx) < width) | (kv_idx == h)


def forward(declared, head_dim=64, family="sm90"):
    names = (declared.name, "none") if isinstance(declared, MaskMod) else ("causal", declared.name)
    return key_for("fwd", family, "bf16", head_dim, *names)


def backward(declared):
    names = (declared.name, "none") if isinstance(declared, MaskMod) else ("causal", declared.name)
    return main_key("bf16", 64, *names)


def stacked(declared):
    """Two functions, the second of what the first makes."""
    return replace(forward(declared), bias="+".join([ScoreMod(bent).name, declared.name]))


@pytest.fixture
def wholes(monkeypatch):
    """The kernels that were typed and lowered whole, as it happens."""
    seen, real = [], compiler._lower
    monkeypatch.setattr(compiler, "_lower", lambda source, *rest, **more: seen.append(source) or real(source, *rest, **more))
    return seen


@pytest.fixture
def skeletons(tmp_path):
    return Store(tmp_path, 1 << 24, kind=Skeleton)


def compiled(key, skeletons=None):
    return compile_kernel(key, variant_of(key).factory(), "sm_80" if key.family == "simt" else "sm_90a", skeletons)


@pytest.mark.parametrize(("key_of", "first", "second"), [
    (forward, ScoreMod(bent), ScoreMod(gated)), (backward, ScoreMod(bent), ScoreMod(gated)),
    (forward, ScoreMod(near, 0, SLOPES), ScoreMod(bowed, 0, SLOPES)),
    (backward, ScoreMod(looked_up, TABLE), ScoreMod(looked_up_twice, TABLE)),
    (forward, MaskMod(odd, 3), MaskMod(close, 3)), (backward, MaskMod(odd, 3), MaskMod(close, 3)),
    (stacked, ScoreMod(looked_up, TABLE), ScoreMod(looked_up_twice, TABLE)),
    (lambda declared: forward(declared, 32, "simt"), ScoreMod(gated), ScoreMod(bent)),
], ids=lambda value: getattr(value, "__name__", None) or value.function.__name__)  # fmt: skip
def test_the_same_machine_code_with_one_function_compiled(key_of, first, second, skeletons, wholes, monkeypatch):
    compiled(key_of(first), skeletons)
    monkeypatch.setattr(FunctionIdentity, "_unique_ids", itertools.count(1))  # as another process names functions
    quick = compiled(key_of(second), Store(skeletons.path, 1 << 24, kind=Skeleton))
    assert len(wholes) == 1
    assert compiled(key_of(second)) == quick and len(wholes) == 2


@pytest.mark.parametrize(("first", "second"), [
    ((bent, bent), (bent, gated)), ((bent, gated), (gated, gated)), ((gated, bent), (bent, gated)),
], ids=["one to two", "two to one", "swapped"])  # fmt: skip
def test_the_same_function_twice_and_others(first, second, skeletons):
    """A function that stands in two places is compiled once; where two stood, or will stand, that must not be mixed up."""

    def key(functions):
        names = [ScoreMod(function).name for function in functions]
        return key_for("fwd", "simt", "bf16", 16, "causal", "+".join(names))

    compiled(key(first), skeletons)
    assert compiled(key(second), skeletons) == compiled(key(second))


def test_no_name_is_defined_twice(skeletons, monkeypatch):
    """Numba numbers functions from 1 in each process; NVVM would take one of two and say nothing."""
    texts, real = [], compiler._ltoir
    monkeypatch.setattr(compiler, "_ltoir", lambda modules, arch: texts.append(modules) or real(modules, arch))
    compiled(forward(ScoreMod(near, 0, SLOPES)), skeletons)
    monkeypatch.setattr(FunctionIdentity, "_unique_ids", itertools.count(1))
    compiled(forward(ScoreMod(bowed, 0, SLOPES)), skeletons)
    before, after = [re.findall(r'^define [^@]*@"([^"]+)"', "\n".join(modules), re.MULTILINE) for modules in texts]
    fresh = set(after) - set(before) - {after[0]}
    assert len(set(after)) == len(after) and fresh and all(name.endswith("_new") for name in fresh)


def test_another_kind_of_result_is_compiled_whole_and_kept_beside(skeletons, wholes):
    real, whole = ScoreMod(bent), ScoreMod(whole_number)
    compiled(forward(real), skeletons)
    assert compiled(forward(whole), skeletons) == compiled(forward(whole)) and len(wholes) == 3
    for declared in (ScoreMod(gated), ScoreMod(lambda s, b, h, i, j: i + j)):
        compiled(forward(declared), skeletons)
    assert len(wholes) == 3


@pytest.mark.parametrize("declared", [
    ScoreMod(near, 0, SLOPES), ScoreMod(lambda s, b, h, i, j: s + i * 0.5), MaskMod(close, 3), ScoreMod(looked_up, TABLE),
], ids=["aux", "line", "mask", "array"])  # fmt: skip
def test_another_shape_of_call_has_a_skeleton_of_its_own(declared, skeletons, wholes):
    compiled(forward(ScoreMod(bent)), skeletons)
    compiled(forward(declared), skeletons)
    assert len(wholes) == 2 and len(skeletons.entries()) == 2


def test_a_kernel_of_builtin_parts_leaves_none(skeletons):
    compiled(key_for("fwd", "simt", "fp32", 16, "causal", "alibi"), skeletons)
    assert skeletons.entries() == []


def test_a_damaged_skeleton_is_not_used(skeletons, wholes):
    compiled(forward(ScoreMod(bent)), skeletons)
    (entry,) = skeletons.entries()
    blob = bytearray(entry.path.read_bytes())
    blob[-100] ^= 1
    entry.path.write_bytes(blob)
    with pytest.warns(StoreWarning, match="checksum"):
        found = compiled(forward(ScoreMod(gated)), Store(skeletons.path, 1 << 24, kind=Skeleton))
    assert len(wholes) == 2 and compiled(forward(ScoreMod(gated))) == found


@pytest.mark.parametrize("spoil", [
    lambda entry, holes, modules: (entry, [holes[0]._replace(arguments=["Unheard"])], modules),
    lambda entry, holes, modules: (entry, [holes[0]._replace(number=9)], modules),
    lambda entry, holes, modules: (entry, [holes[0]._replace(symbol="elsewhere")], modules),
    lambda entry, holes, modules: (entry, holes, ["no LLVM", *modules[1:]]),
], ids=["types", "number", "symbol", "text"])  # fmt: skip
def test_a_skeleton_that_does_not_fit_is_not_used(spoil, skeletons, wholes, monkeypatch):
    monkeypatch.setattr(Skeleton, "content", property(lambda self, real=Skeleton.content.fget: spoil(*real(self))))
    compiled(forward(ScoreMod(bent)), skeletons)
    found = compiled(forward(ScoreMod(gated)), skeletons)
    assert len(wholes) == 2 and compiled(forward(ScoreMod(gated))) == found


def test_a_mistake_is_told_as_ever(skeletons):
    compiled(forward(ScoreMod(bent)), skeletons)
    with pytest.raises(CompileError, match="knows no add"):
        compiled(forward(ScoreMod(lambda s, b, h, i, j: s + "a")), skeletons)


def test_a_missing_derivative_is_told_as_ever(skeletons):
    """It is missed by the backward's kernel alone."""
    declared = ScoreMod(lambda s, b, h, i, j: s + (s // 2) % 3)
    told = []
    for store in (None, skeletons):
        compiled(backward(ScoreMod(bent)), store)
        with pytest.raises(CompileError) as caught:
            compiled(backward(declared), store)
        told.append(str(caught.value))
    assert told[0] == told[1] and "derivative" in told[0]


def test_a_skeleton_of_another_key_is_refused():
    from numba_fa.build.artifact import CorruptArtifact

    skeleton = Skeleton.of("slug", "sm_90a", "entry", [], ["text", 0])
    assert Skeleton.from_bytes(skeleton.to_bytes("key"), "key") == skeleton
    assert skeleton.content == ("entry", [], ["text", 0])
    with pytest.raises(CorruptArtifact, match="written for key"):
        Skeleton.from_bytes(skeleton.to_bytes("key"), "other")
