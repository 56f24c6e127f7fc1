"""Choosing a variant for a problem, and saying why."""

from __future__ import annotations

from dataclasses import dataclass

from numba_fa import env
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.registry import variants
from numba_fa.dispatch.variant import Variant
from numba_fa.errors import UnsupportedError
from numba_fa.problem.dtypes import DTYPES
from numba_fa.problem.problem import Problem


@dataclass(frozen=True)
class Explanation:
    """What a call would run. `refused` maps each variant that was passed over to its reasons."""

    problem: Problem
    device: Device
    variant: Variant
    key: DispatchKey
    refused: dict[str, list[str]]

    @property
    def family(self) -> str:
        """The kernel family: cpu, simt or sm90."""
        return self.variant.family

    def __str__(self) -> str:
        lines = [
            self.problem.summary,
            f"  device   {self.device.name} ({self.device.arch})",
            f"  kernel   {self.key.slug}",
            f"  variant  {self.variant.name}",
        ]
        return "\n".join(lines + [f"  not {name}: {'; '.join(why)}" for name, why in self.refused.items()])


def select(problem: Problem, device: Device) -> Explanation:
    """The first variant that computes `problem` on `device`; UnsupportedError names every variant's reasons."""
    refused: dict[str, list[str]] = {}
    forced = env.backend()
    for variant in variants():
        reasons = variant.not_supported(problem, device)
        if forced and variant.family != forced:
            reasons.append(f"NUMBA_FA_BACKEND is {forced}")
        if not reasons:
            return Explanation(problem, device, variant, variant.configure(problem), refused)
        refused[variant.name] = reasons
    summary = f"no kernel computes {problem.summary}"
    families = sorted({variant.family for variant in variants()})
    if forced and forced not in families:
        summary += f"; NUMBA_FA_BACKEND is {forced}, allowed: {', '.join(families)}"
    raise UnsupportedError(summary, refused, _nearest(problem, device, forced))


def _nearest(problem: Problem, device: Device, forced: str | None) -> str | None:
    """The closest cell that a variant on this device declares: fewest changes, then dtype by size, then head_dim.

    None when the very cell is declared: then sizes or alignment stand in the way, of which the reasons tell.
    """
    wanted = (problem.dtype.name, problem.head_dim, problem.mask.kind)
    itemsizes = {dtype.name: dtype.itemsize for dtype in DTYPES.values()}
    best: tuple[tuple[int, int, int], str] | None = None
    for variant in variants():
        if variant.family not in device.families or (forced and variant.family != forced):
            continue
        for dtype, head_dim, mask in variant.cells():
            changes = sum(a != b for a, b in zip((dtype, head_dim, mask), wanted, strict=True))
            if not changes:
                return None
            resized = abs(itemsizes[dtype] - problem.dtype.itemsize)
            rank = (changes, resized, abs(head_dim - problem.head_dim))
            if best is None or rank < best[0]:
                best = rank, f"{dtype}, head_dim {head_dim}, mask {mask} ({variant.name})"
    return best[1] if best else None
