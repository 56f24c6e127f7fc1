"""A GPU's backward as `attention_backward` would run it, emulated: dispatch's own stages, grids, arguments and rooms."""

from typing import Any, NamedTuple

import numpy as np

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.adapters.given import Given
from numba_fa.adapters.arrays import library_of
from numba_fa.dispatch.device import HOPPER
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.variant import GradientArrays
from numba_fa.emulator import FlatPointer, GlobalMemory, run_kernel
from numba_fa.kernels.cpu.variant import numpy_view
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.problem import Problem


class Gradients(NamedTuple):
    """What a backward made; None what was not wanted."""

    dq: Any
    dk: Any
    dv: Any
    dbias: tuple[Any, ...]
    dsink: Any


class Call:
    """A backward of NumPy arrays: q, k, v, dout, out (batch, seqlen, heads, head_dim), lse and dlse or None; asked: an
    `Asked` of `testing/programs.py`."""

    def __init__(self, variant, q, k, v, dout, out, lse, asked, *, dlse=None, scale=None, tile=None):
        given = Given(asked.mask, asked.biases or None, asked.sink_logits)
        mask, bias, sink = given.viewed()
        self.view = library_of(q).view
        self.arrays = {"q": q, "k": k, "v": v, "out": out, "dout": dout, "lse": lse, "dlse": dlse}
        views = [self.view(x) for x in (q, k, v)]
        self.problem = Problem.from_views(*views, mask=mask, bias=bias, sink_logits=sink, scale=scale)
        self.variant, self.sink_logits = variant, asked.sink_logits
        problem = self.problem
        key = variant.key_for(problem.dtype.name, problem.head_dim, problem.mask.name, problem.bias_name)
        self.key = key if tile is None else _tiled(key, tile)

    def run(self, wanted, seed=0):
        """`Gradients` of the wanted of "q", "k", "v", "bias0" ..., "sink"."""
        problem, wanted = self.problem, frozenset(wanted)
        made = {f"d{name}": np.full_like(self.arrays[name], np.nan) for name in "qkv" if name in wanted}
        if "sink" in wanted:
            made["dsink"] = np.full(problem.heads, np.nan, np.float32)
        dbias = [
            np.full(bias.arrays[0][1].shape, np.nan, np.float32) if f"bias{n}" in wanted else None
            for n, bias in enumerate(problem.biases)
        ]
        sizes = self.variant.rooms(problem, self.key, wanted)
        rooms = {name: np.full(size // 4, np.nan, np.float32) for name, size in sizes.items()}
        held = [*self.arrays.values(), *made.values(), *dbias, *rooms.values(), self.sink_logits]
        self.owners = {x.ctypes.data: x for x in held if x is not None and x.size}
        given = {name: self.view(x) for name, x in (self.arrays | made).items() if x is not None}
        at_bias = tuple(
            None if x is None else bias.gradient_view(self.view(x), problem) for x, bias in zip(dbias, problem.biases)
        )
        addresses = {name: room.ctypes.data for name, room in rooms.items()}
        self._launch(GradientArrays(**given, dbias=at_bias, rooms=addresses), wanted, seed)
        return Gradients(*[made.get(name) for name in ("dq", "dk", "dv")], tuple(dbias), made.get("dsink"))

    def _launch(self, arrays, wanted, seed):
        for key in self.variant.stages(self.key, wanted):
            variant = self.variant if key.op == self.key.op else variant_of(key)
            values = variant.arguments(self.problem, key, arrays)
            values += variant.program(self.problem) if variant.programmed else ()
            source = variant.factory()(key)
            assert variant.signature(key.dtype) == source.signature, key
            tokens, memory = (*source.signature, *source.program), GlobalMemory()
            arguments = tuple(self._argument(*pair, memory) for pair in zip(tokens, values, strict=True))
            run_kernel(source, variant.grid(self.problem, key, HOPPER), arguments, seed=seed)

    def _argument(self, token, value, memory):
        """A launch argument as the emulator takes it: the array that lies at an address."""
        if isinstance(value, ArrayView):
            return numpy_view(value, {})
        if token == "pointer":
            return memory.strided_pointer(self.owners[value]) if value else 0
        if token.endswith("*"):
            return FlatPointer(self.owners[value], np.float32 if token == "float32*" else np.uint16)
        return value


def _tiled(key, tile):
    from dataclasses import replace

    return replace(key, block_m=tile[0], block_n=tile[1])
