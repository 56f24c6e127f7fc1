"""map_scores and keep_visible: what is left in the machine code, and the emulator's twins."""

import math
import re

import numpy as np
import pytest
from numba.cuda import types

from numba_fa.build.compiler import _capability, _compiling_for, _link, _lower
from numba_fa.emulator.translate import Translator
from numba_fa.jit import TOKENS, KernelSource, cuda, device
from numba_fa.ptx.core import F32, I32, floats, ir, make, pack, unpack
from numba_fa.ptx.elementwise import (
    index,
    make_chain,
    make_keep,
    make_map,
    make_map_both,
    make_map_gradient,
    real,
    scalars,
    to_float32,
    to_int32,
)
from numba_fa.ptx.fragment import column_of, row_of

COUNT = 64


def _load(context, builder, signature, args):
    cells = [builder.load(builder.gep(args[0], [ir.Constant(I32, i)])) for i in range(COUNT)]
    return pack(context, builder, signature.return_type, cells)


def _store(context, builder, signature, args):
    for i, value in enumerate(unpack(builder, args[1])):
        builder.store(value, builder.gep(args[0], [ir.Constant(I32, i)]))
    return context.get_dummy_value()


load = make("load_fragment", 1, lambda *_: floats(COUNT), _load, twin=lambda memory: np.array(memory))
store = make("store_fragment", 2, lambda *_: types.void, _store, twin=lambda memory, values: memory.__setitem__(..., values))


@pytest.fixture
def tokens(monkeypatch):
    """Launch arguments that no kernel has yet."""
    for dtype in (types.float32, types.float16, types.bfloat16, types.int32):
        for ndim in (1, 2, 4):
            monkeypatch.setitem(TOKENS, f"{dtype}:{ndim}", types.Array(dtype, ndim, "A"))


def kernel(operation, aux):
    """Loads a fragment, applies `operation`, stores it. aux: TOKENS names of its last arguments (at least one)."""
    names = ", ".join(f"x{i}" for i in range(len(aux)))
    text = f"""def element_test(p, b, h, q, kv, limit, {names}):
    first = np.int32(kv + 2 * (cuda.threadIdx.x & 3))
    row = np.int32(q + cuda.threadIdx.x)
    store(p, operation(load(p), b, h, row, row + 8, first, limit, ({names},)))
"""
    scope = {"np": np, "cuda": cuda, "load": load, "store": store, "operation": operation}
    exec(text, scope)
    return KernelSource(scope["element_test"], ("float32*", "int32", "int32", "int32", "int32", "int32", *aux), 128, 0)


def alibi(score, b, h, q, kv, aux):
    slopes, off = aux
    return score - slopes[b, h] * abs(q + off - kv)


def softcap(score, b, h, q, kv, aux):
    (cap,) = aux
    return cap * math.tanh(score / cap)


def window(b, h, q, kv, aux):
    low, high = aux
    return q + low <= kv and kv <= q + high


def dense(score, b, h, q, kv, aux):
    return score + aux[0][b, h, q, kv]


def decayed(score, b, h, q, kv, aux):
    if kv > q:
        return -math.inf
    distance = (q - kv) * 0.125
    return score * aux[0] - (math.log1p(distance) if distance > 1 else distance**2)


def buckets(score, b, h, q, kv, aux):
    """T5's, as one writes them: constants of every kind."""
    distance = abs(q - kv)
    start, scale = 16, 16 / math.log(128 / 16)
    bucket = distance if distance < start else min(start + int(math.log(distance / start) * scale), 31)
    return score + aux[0][bucket] * (0.5 if h < 4 else 0.25)


CASES = {
    "alibi": (make_map, alibi, ("float32:2", "int32"), 4.0),
    "softcap": (make_map, softcap, ("float32",), 3.2),
    "dense": (make_map, dense, ("__nv_bfloat16:4",), 6.0),
    "window": (make_keep, window, ("int32", "int32"), 5.0),
    "buckets": (make_map, buckets, ("float32:1",), 32.0),
    "decayed": (make_map, decayed, ("float32",), 60.0),
}
IGNORED = ("ld.", "st.", ".param", ".reg", ".loc", "mov", "//")


def lowered(source, lto):
    with _compiling_for(_capability("sm_90a")):
        return _lower(source, "sm_90a", lto)


def instructions(source):
    """(PTX of a kernel, its lines that are arithmetic)."""
    text = lowered(source, lto=False).get_asm_str(cc=_capability("sm_90a"))
    body = text[text.index(".visible .entry") :]
    lines = [line.strip() for line in body.splitlines() if line.startswith("\t")]
    return body, [line for line in lines if not line.startswith(IGNORED)]


@pytest.mark.parametrize("name", CASES)
def test_few_instructions_are_left(name, tokens):
    factory, function, aux, most = CASES[name]
    source = kernel(factory(COUNT, device(function), fast=True), aux)
    _, log = _link(lowered(source, lto=True).get_ltoir(cc=_capability("sm_90a")), "sm_90a")
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log
    body, lines = instructions(source)
    assert "call" not in body and ".f64" not in "".join(lines) and "local" not in body
    # 64-bit integers are addresses; conversions from integers are of launch arguments
    assert len([line for line in lines if re.match(r"cvt\.rn\.f32\.s", line)]) <= 2
    if name not in ("dense", "buckets"):
        assert len([line for line in lines if re.search(r"\.[su]64", line)]) < 30
    assert len(lines) / COUNT < most, "\n".join(lines[-40:])


GRADIENTS = {"alibi": (alibi, ("float32:2", "int32"), 2.5), "softcap": (softcap, ("float32",), 9.5)}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_straight_code(name, tokens):
    function, aux, most = GRADIENTS[name]
    multiply, both = make_map_gradient(COUNT, device(function), fast=True), make_map_both(COUNT, device(function))
    chain = make_chain(COUNT)

    @device
    def one_step(scores, b, h, row, below, first, limit, aux):
        return multiply(scores, scores, b, h, row, below, first, limit, aux)

    @device
    def two_steps(scores, b, h, row, below, first, limit, aux):
        values, slopes = both(scores, b, h, row, below, first, limit, aux)
        return chain(values, slopes)

    body, lines = instructions(kernel(one_step, aux))
    assert "call" not in body and ".f64" not in "".join(lines) and "local" not in body
    assert len(lines) / COUNT < most, "\n".join(lines[-40:])
    body, lines = instructions(kernel(two_steps, aux))
    assert "call" not in body and ".f64" not in "".join(lines) and "local" not in body


def test_twins_of_gradients():
    fragment = np.linspace(-3, 3, COUNT, dtype=np.float32)
    places = (0, 1, 100, 108, 64, 90, (np.float32(2),))
    translate = Translator().value
    values, slopes = translate(make_map_both(COUNT, device(softcap)))(fragment, *places)
    np.testing.assert_allclose(values, 2 * np.tanh(fragment / 2), rtol=1e-6)
    np.testing.assert_allclose(slopes, 1 - np.tanh(fragment / 2) ** 2, rtol=1e-5)
    outer = np.where(np.arange(COUNT) % 2, 3, 0).astype(np.float32)
    result = translate(make_map_gradient(COUNT, device(softcap)))(fragment, outer, *places)
    np.testing.assert_allclose(result, outer * slopes, rtol=1e-6)
    assert translate(make_chain(4))([0, 1, 2, 0], [np.nan, 2, 3, np.inf]).tolist() == [0, 2, 6, 0]


@pytest.mark.parametrize("clamp", [False, True])
def test_twin_of_map(clamp):
    slopes = np.array([[0.5, 0.25]], np.float32)
    twin = Translator().value(make_map(COUNT, device(alibi), clamp=clamp))
    fragment = np.arange(COUNT, dtype=np.float32)
    result = twin(fragment, 0, 1, 100, 108, 64, 90, (slopes, 3))
    for i in range(COUNT):
        key = 64 + column_of(i)
        key = min(key, 90) if clamp else key
        assert result[i] == np.float32(i - 0.25 * abs(100 + 8 * row_of(i) + 3 - key))


@pytest.mark.parametrize("bounded", [False, True])
def test_twin_of_keep(bounded):
    twin = Translator().value(make_keep(COUNT, device(window), bounded=bounded))
    result = twin(np.ones(COUNT, np.float32), 0, 0, 100, 108, 64, 101, (-20, 5))
    for i in range(COUNT):
        q, key = 100 + 8 * row_of(i), 64 + column_of(i)
        seen = q - 20 <= key <= q + 5 and (key <= 101 or not bounded)
        assert result[i] == (1 if seen else -np.inf)


def test_scalars_in_a_kernels_own_source(tokens):
    """What a kernel that loops over elements writes; its numbers stay its own afterwards."""
    score_mod = device(alibi)

    def elements(p, b, h, q, kv, slopes, off):
        aux = scalars((slopes, off))
        score = score_mod(real(p[0]), index(b), index(h), index(q), index(kv), aux)
        p[0] = to_float32(score)
        p[to_int32(index(q))] = to_float32(score + 1)

    source = KernelSource(elements, ("float32*", "int32", "int32", "int32", "int32", "float32:2", "int32"), 32, 0)
    text = lowered(source, lto=False).get_asm_str(cc=_capability("sm_90a"))
    assert "call" not in text and ".f64" not in text

    memory, translated = np.array([2.0, 0.0, 0.0], np.float32), Translator().function(elements)
    translated(memory, 0, 1, 2, 5, np.array([[0.5, 0.25]], np.float32), 1)
    assert memory.tolist() == [1.5, 0.0, 2.5]


def test_what_was_put_together_is_not_taken_apart():
    kind = ir.FunctionType(ir.VoidType(), [ir.ArrayType(F32, 3), F32])
    whole, part = (function := ir.Function(ir.Module(), kind, "f")).args
    builder = ir.IRBuilder(function.append_basic_block())
    changed = builder.insert_value(builder.insert_value(whole, ir.Constant(F32, 0.0), 2), part, 2)
    first, second, third = unpack(builder, changed)
    assert third is part and [first.opname, second.opname] == ["extractvalue"] * 2
