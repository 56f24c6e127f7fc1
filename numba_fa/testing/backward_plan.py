"""The Hopper backward launched by itself, before `api` knows of it: its kernels compiled, loaded and run in order."""

from __future__ import annotations

from typing import Any

from numba_fa.build.launch import make_launch
from numba_fa.build.loader import load
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.kernels.sm90.backward_run import STAGES, Gradients, main_key, rows_bytes, sums_bytes, tiles_of
from numba_fa.problem.tokens import tokens_of


class BackwardPlan:
    """The three kernels, compiled and loaded, for one problem (`problem/problem.py`) on one device."""

    def __init__(self, problem: Any, device: Device, key: DispatchKey | None = None, grid: int | None = None) -> None:
        """key: the main kernel's, the table's by default. grid: its blocks, as many as is best by default."""
        self.problem = problem
        self.key = key or main_key(problem.dtype.name, problem.head_dim, problem.mask.name, problem.bias_name)
        self._launches = []
        for stage in STAGES:
            stage_key = stage.key(self.key)
            program = tokens_of(stage_key.mask, stage_key.bias) if stage.programmed else ()
            blocks = (grid, 1, 1) if grid and stage.name == "bwd" else stage.grid(problem, stage_key, device)
            kernel: Any = load(stage_key, stage, device)  # type: ignore[arg-type]
            self._launches.append((stage, stage_key, make_launch(kernel, stage.signature + program, blocks, device)))

    @property
    def rows_bytes(self) -> int:
        return rows_bytes(self.problem, self.key)

    @property
    def sums_bytes(self) -> int:
        return sums_bytes(self.problem, self.key)

    @property
    def tickets(self) -> int:
        return tiles_of(self.problem, self.key)

    def run(self, arrays: Gradients, stream: int, only: tuple[str, ...] = ()) -> None:
        """Launch the kernels, or `only` those named, on a stream. Allocates no device memory."""
        for stage, key, launch in self._launches:
            if not only or stage.name in only:
                arguments = stage.arguments(self.problem, key, arrays)
                launch(arguments + self.problem.program_arguments if stage.programmed else arguments, stream)
