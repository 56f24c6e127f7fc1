"""Choosing a variant for a problem, and saying why."""

from __future__ import annotations

from dataclasses import dataclass

from numba_fa import env
from numba_fa.dispatch.device import Device
from numba_fa.dispatch.key import NO_BIAS, DispatchKey
from numba_fa.dispatch.measured import path_for
from numba_fa.dispatch.registry import variants
from numba_fa.dispatch.tuning import measured_tile, on_device
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
        if measured_tile(self.key, self.device):
            lines.append(f"  tile     measured here: {path_for(self.device.name)}")
        return "\n".join(lines + [f"  not {name}: {'; '.join(why)}" for name, why in self.refused.items()])


def select(problem: Problem, device: Device, task: str = "fwd", deterministic: bool = False) -> Explanation:
    """The first variant that computes `problem` on `device`; UnsupportedError names every variant's reasons.

    task: "fwd" or "bwd". deterministic: only variants whose results are bit-equal from run to run.
    """
    refused: dict[str, list[str]] = {}
    forced = env.backend()
    for variant in variants(task):
        reasons = variant.not_supported(problem, device)
        if deterministic and not variant.deterministic:
            reasons.append("it adds up in no fixed order")
        if forced and variant.family != forced:
            reasons.append(f"NUMBA_FA_BACKEND is {forced}")
        if not reasons:
            return Explanation(problem, device, variant, on_device(variant.configure(problem), device), refused)
        refused[variant.name] = reasons
    what = {"fwd": "", "bwd": "the gradients of "}[task]
    summary = f"no kernel computes {what}{problem.summary}"
    families = sorted({variant.family for variant in variants(task)})
    if forced and forced not in families:
        summary += f"; NUMBA_FA_BACKEND is {forced}, allowed: {', '.join(families)}"
    raise UnsupportedError(summary, refused, _nearest(problem, device, forced, task))


def _nearest(problem: Problem, device: Device, forced: str | None, task: str) -> str | None:
    """The closest cell that a variant on this device declares: fewest changes, then dtype by size, then head_dim.

    None when the very cell is declared: then sizes or alignment stand in the way, of which the reasons tell.
    """
    best: tuple[tuple[int, int, int], str] | None = None
    for variant in variants(task):
        if variant.family not in device.families or (forced and variant.family != forced):
            continue
        rank, cell = _closest(problem, variant)
        if not rank[0]:
            return None
        if best is None or rank < best[0]:
            best = rank, f"{cell} ({variant.name})"
    return best[1] if best else None


def _closest(problem: Problem, variant: Variant) -> tuple[tuple[int, int, int], str]:
    """(changes, bytes an element, columns) from `problem` to the nearest that `variant` declares, and that in words."""
    itemsizes = {dtype.name: dtype.itemsize for dtype in DTYPES.values()}
    size, dim = problem.dtype.itemsize, problem.head_dim
    dtype = min(variant.dtypes, key=lambda name: (name != problem.dtype.name, abs(itemsizes[name] - size)))
    head_dim, head_dim_v = (min(variant.head_dims, key=lambda n: abs(n - d)) for d in (dim, problem.head_dim_v))
    kinds, mask = problem.mask.kinds, problem.mask.name
    if not set(kinds) <= set(variant.masks):
        mask = "causal" if "causal" in kinds and "causal" in variant.masks else variant.masks[0]
    kept = [bias.name for bias in problem.biases if bias.kind in variant.biases]
    kept += ["sink"] if problem.sink_logits and variant.sink else []
    bias = "+".join(kept) or NO_BIAS
    changed = (
        dtype != problem.dtype.name, head_dim != dim, problem.own_head_dim_v and head_dim_v != problem.head_dim_v,
        mask != problem.mask.name, bias != problem.bias_name,
    )  # fmt: skip
    values = f" (v's {head_dim_v})" if problem.own_head_dim_v else ""
    words = f"{dtype}, head_dim {head_dim}{values}, mask {mask}" + ("" if problem.bias_name == NO_BIAS else f", bias {bias}")
    return (sum(changed), abs(itemsizes[dtype] - size), abs(head_dim - dim) + abs(head_dim_v - problem.head_dim_v)), words
