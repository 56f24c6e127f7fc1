"""A GPU's backward as `attention_backward` runs it, emulated: dispatch's own stages, rooms, grids and arguments."""

from dataclasses import replace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import numba_fa.kernels  # noqa: F401  (registers the variants)
import reference
from numba_fa.adapters.arrays import library_of
from numba_fa.adapters.given import Given
from numba_fa.dispatch.device import HOPPER
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.variant import GradientArrays
from numba_fa.emulator import FlatPointer, GlobalMemory, TensorMap, run_kernel
from numba_fa.kernels.cpu.variant import numpy_view
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem
from numba_fa.testing.inputs import LAYOUTS, random_qkv
from numba_fa.testing.tolerance import assert_within
from tests.declared import truth_of


class Results(NamedTuple):
    """What a backward made; None what was not wanted."""

    dq: Any
    dk: Any
    dv: Any
    dbias: tuple[Any, ...]
    dsink: Any


class Call(NamedTuple):
    """A backward of a variant under an `Asked` of `testing/programs.py`; arrays: q, k, v, out, dout, lse and maybe dlse."""

    variant: Any
    asked: Any
    arrays: dict[str, Any]
    truth: Any
    naive: Any
    tile: Any

    @property
    def problem(self):
        given = Given(self.asked.mask, self.asked.biases or None, self.asked.sink_logits)
        mask, bias, sink = given.viewed()
        return Problem.from_views(*[_view(self.arrays[name]) for name in "qkv"], mask=mask, bias=bias, sink_logits=sink)

    @property
    def key(self):
        key, (block_m, block_n) = self.variant.configure(self.problem), self.tile
        return replace(key, block_m=block_m, block_n=block_n)

    @property
    def everything(self):
        """The names of all gradients that there are."""
        biases = {f"bias{n}" for n, bias in enumerate(self.problem.biases) if bias.parameter}
        return frozenset("qkv") | biases | ({"sink"} if self.asked.sink_logits is not None else set())


def make_call(
    variant, make, sizes, heads_kv=1, head_dim=8, dtype="float32", tile=(16, 16), layout="bshd", dlse=True, seed=0,
    head_dim_v=None,
):  # fmt: skip
    """A Call of standard normal arrays, of a program made for `sizes`, and what it must give."""
    lengths = (sizes.batch, sizes.seqlen_q, sizes.seqlen_k, sizes.heads)
    q, k, v = random_qkv(*lengths, heads_kv, head_dim, dtype, seed=seed, head_dim_v=head_dim_v)
    dout, *_ = random_qkv(*lengths, heads_kv, head_dim_v or head_dim, dtype, seed=seed + 9)
    asked = make(sizes)
    meaning = truth_of(asked, sizes)
    out, lse = reference.attention(q, k, v, **meaning)
    if dlse:
        meaning["dlse"] = np.random.default_rng(seed).standard_normal(lse.shape).astype(np.float32)
    truth = reference.attention_backward(q, k, v, dout, **meaning)
    naive = reference.attention_backward_rounded(q, k, v, dout, dtype=dtype, **meaning)
    store = LAYOUTS[layout] if isinstance(layout, str) else layout
    arrays = {"q": q, "k": k, "v": v, "out": out.astype(q.dtype), "dout": dout}
    arrays = {name: store(array) for name, array in arrays.items()} | {"lse": lse.astype(np.float32)}
    return Call(variant, asked, arrays | ({"dlse": meaning["dlse"]} if dlse else {}), truth, naive, tile)


def run(call, wanted=None, seed=0):
    """Results of a call; what is written starts as NaN. wanted: names, by default all."""
    problem, wanted = call.problem, call.everything if wanted is None else frozenset(wanted)
    made = {f"d{name}": np.full_like(call.arrays[name], np.nan) for name in "qkv" if name in wanted}
    if "sink" in wanted:
        made["dsink"] = np.full(problem.heads, np.nan, np.float32)
    dbias = [
        np.full(bias.arrays[0][1].shape, np.nan, np.float32) if f"bias{n}" in wanted else None
        for n, bias in enumerate(problem.biases)
    ]
    rooms = {
        name: np.full(size // 4, np.nan, np.float32) for name, size in call.variant.rooms(problem, call.key, wanted).items()
    }
    at_bias = tuple(x if x is None else bias.gradient_view(_view(x), problem) for x, bias in zip(dbias, problem.biases))
    views = {name: _view(array) for name, array in (call.arrays | made).items()}
    arrays = GradientArrays(**views, dbias=at_bias, rooms={name: room.ctypes.data for name, room in rooms.items()})
    held = [*call.arrays.values(), *made.values(), *dbias, *rooms.values(), call.asked.sink_logits]
    _launch(call, arrays, wanted, {x.ctypes.data: x for x in held if x is not None}, seed)
    return Results(*[made.get(name) for name in ("dq", "dk", "dv")], tuple(dbias), made.get("dsink"))


def _launch(call, arrays, wanted, owners, seed):
    problem, main = call.problem, call.key
    for key in call.variant.stages(main, wanted):
        variant = call.variant if key.op == main.op else variant_of(key)
        values = variant.arguments(problem, key, HOPPER, arrays) + (variant.program(problem) if variant.programmed else ())
        source, memory = variant.factory()(key), GlobalMemory()
        assert variant.signature(key.dtype) == source.signature, key
        tokens = (*source.signature, *source.program)
        arguments = tuple(_argument(*pair, owners, memory) for pair in zip(tokens, values, strict=True))
        run_kernel(source, variant.grid(problem, key, HOPPER), arguments, seed=seed, early=variant.early)


def _argument(token, value, owners, memory):
    """A launch argument as the emulator takes it: the array that lies at an address."""
    if isinstance(value, ArrayView):
        return numpy_view(value, {})
    if token == "tensor_map":
        return TensorMap(owners[value.view.pointer], value.rows, value.columns)
    if token == "pointer":
        return memory.strided_pointer(owners[value]) if value else 0
    if token.endswith("*"):
        return FlatPointer(owners[value], np.float32 if token == "float32*" else np.uint16)
    return value


def _view(array):
    return library_of(array).view(array)


def check(call, results):
    """AssertionError unless every gradient's error is at most twice the naive one's."""
    truth, naive, dtype = call.truth, call.naive, call.arrays["q"].dtype
    for name in ("dq", "dk", "dv"):
        found = getattr(results, name)
        if found is not None:
            assert_within(found, getattr(truth, name), getattr(naive, name), dtype, name)
    if results.dsink is not None:
        assert_within(results.dsink, truth.dsink, _blurred(naive.dsink, dtype), np.float32, "dsink")
    for found, true, rounded in zip(results.dbias, truth.dbias, naive.dbias, strict=True):
        if found is not None:
            (name,) = true
            assert_within(found, true[name], _blurred(rounded[name], dtype), np.float32, name)


def _blurred(naive, dtype):
    """A few numbers, each of terms that cancel: naive ones with luck would ask for more than the dtype can give."""
    noise = max(2.0**-18, float(ml_dtypes.finfo(dtype).eps) / 8)
    return naive + noise * np.abs(naive).max() if naive.size <= 8 else naive
