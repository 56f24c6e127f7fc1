"""From a problem's variant and key to a kernel that is compiled, loaded and ready to launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba_fa.adapters.linker import load_beside_older
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import Variant
from numba_fa.problem.problem import Problem

if TYPE_CHECKING:
    from numba_fa.build.loader import LoadedKernel


def loaded(key: DispatchKey, variant: Variant, device: Device) -> LoadedKernel:
    """The kernel on a GPU, compiled where the store has none. What compiles is imported then, and no sooner."""
    from numba_fa.build import loader

    load_beside_older()
    return loader.load(key, variant, device)


def prepared(problem: Problem, variant: Variant, key: DispatchKey, device: Device, by_graph: bool = False) -> Any:
    """prepare(arguments) -> launch(addresses, stream) of a variant's kernel: `build.launch.make_prepare`.

    by_graph: as of that.
    """
    from numba_fa.build.launch import make_prepare

    signature = variant.signature(key.dtype) + (problem.program_tokens if variant.programmed else ())
    grid = variant.grid(problem, key, device)
    return make_prepare(loaded(key, variant, device), signature, grid, device, variant.early, by_graph)
