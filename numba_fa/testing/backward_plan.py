"""A backward with a chosen main kernel and grid on torch's CUDA tensors, whose kernels can be run one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any


class BackwardPlan:
    """The Hopper backward of q, k, v with the library's own out and LSE. results: dq, dk, dv; at first NaN."""

    def __init__(
        self, q: Any, k: Any, v: Any, dout: Any, mask: Any, op: str = "bwd", grid: int | None = None, bias: Any = None
    ) -> None:
        """op: the main kernel's kind, "bwd", "bwd_det" or "bwd_red". grid: its blocks, as many as is best by default."""
        import torch

        import numba_fa
        from numba_fa.adapters.arrays import library_of
        from numba_fa.adapters.given import Given
        from numba_fa.backward import plan_for
        from numba_fa.dispatch.gradient_plan import addresses_of
        from numba_fa.dispatch.variant import GradientArrays
        from numba_fa.kernels.sm90.backward_variant import BACKWARD
        from numba_fa.problem.problem import Problem

        library = library_of(q)
        self.inputs = (q, k, v, dout, *numba_fa.attention(q, k, v, mask=mask, bias=bias, return_lse=True))
        at_q, at_k, at_v, at_dout, at_out, at_lse = map(library.view, self.inputs)
        viewed = Given(mask, bias, None).viewed()
        self._problem = Problem.from_views(at_q, at_k, at_v, mask=viewed.mask, bias=viewed.bias)
        self.key = replace(BACKWARD.configure(self._problem), op=op)
        variant = replace(BACKWARD, op=op)
        if grid is not None:
            variant = replace(variant, grid=lambda problem, key, device: (grid, 1, 1))
        self._plan = plan_for(self._problem, variant, self.key, frozenset("qkv"))
        self.results = [torch.full_like(x, float("nan")) for x in (q, k, v)]
        self.rooms = {
            name: torch.empty(size, dtype=torch.uint8, device=q.device) for name, size in self._plan.rooms.items()
        }
        rooms = {name: room.data_ptr() for name, room in self.rooms.items()}
        dq, dk, dv = map(library.view, self.results)
        self._arrays = GradientArrays(at_q, at_k, at_v, at_out, at_dout, at_lse, dq=dq, dk=dk, dv=dv, rooms=rooms)
        self._addresses = addresses_of(self._problem, self._arrays)
        self._plans: dict[tuple[str, ...], Any] = {}
        self._stream = lambda: library.stream(q)

    def run(self, only: tuple[str, ...] = ()) -> None:
        """Launch the kernels, or `only` those of these ops, on the current stream. Allocates no device memory."""
        kernels = tuple(kernel for kernel in self._plan.kernels if not only or kernel.key.op in only)
        plan = self._plans.get(only) or self._plans.setdefault(only, replace(self._plan, kernels=kernels))
        stream = self._stream()
        for launch in plan.ready(self._problem, self._arrays):
            launch(self._addresses, stream)
