"""The variants there are, best first within an operation."""

from __future__ import annotations

from collections.abc import Iterator

from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import Variant

_VARIANTS: dict[str, Variant] = {}


def register(variant: Variant) -> None:
    """Add a variant; a name stands for one variant only."""
    if _VARIANTS.setdefault(variant.name, variant) is not variant:
        raise ValueError(f"variant {variant.name!r} is registered already")


def variants(task: str = "fwd") -> tuple[Variant, ...]:
    """The variants that are chosen from for a task, "fwd" or "bwd", in the order of preference."""
    return tuple(variant for variant in _VARIANTS.values() if variant.task == task)


def variant_of(key: DispatchKey) -> Variant:
    """The variant whose kernel `key` specialises; KeyError when there is none."""
    op = key.op.rstrip("0123456789")  # which bias, if any
    there = [variant for variant in _VARIANTS.values() if variant.op == op]
    for variant in there:
        if variant.family == key.family:
            return variant
    raise KeyError(f"no variant makes {key.slug}; families: {', '.join(v.family for v in there)}")


def keys(
    families: tuple[str, ...] = ("sm90", "simt"), tasks: tuple[str, ...] = ("fwd", "bwd")
) -> Iterator[DispatchKey]:
    """Every key that the variants of `families` for `tasks` are tuned for, each once."""
    from numba_fa.dispatch.tuning import tuned_keys

    chosen = [variant for task in tasks for variant in variants(task) if variant.family in families]
    yield from dict.fromkeys(key for variant in chosen for key in tuned_keys(variant))
