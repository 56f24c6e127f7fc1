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


def variants(op: str = "fwd") -> tuple[Variant, ...]:
    """The variants of an operation, in the order of preference."""
    return tuple(variant for variant in _VARIANTS.values() if variant.op == op)


def variant_of(key: DispatchKey) -> Variant:
    """The variant whose kernel `key` specialises; KeyError when there is none."""
    for variant in variants(key.op):
        if variant.family == key.family:
            return variant
    raise KeyError(f"no variant makes {key.slug}; families: {', '.join(v.family for v in variants(key.op))}")


def keys(families: tuple[str, ...] = ("sm90", "simt")) -> Iterator[DispatchKey]:
    """Every key that the variants of `families` are tuned for."""
    from numba_fa.dispatch.tuning import tuned_keys

    for variant in _VARIANTS.values():
        if variant.family in families:
            yield from tuned_keys(variant)
