"""Masks as declarations. Each has a namesake in `flash/masks.py` (device) and `reference/masks.py` (truth)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Full:
    """Every query sees every key."""

    kind: ClassVar[str] = "full"

    def last_key(self, q_idx: int, seqlen_q: int, seqlen_k: int) -> int:
        """The last key that query `q_idx` sees; below 0 when it sees none."""
        return seqlen_k - 1


@dataclass(frozen=True)
class Causal:
    """Query i sees key j when j <= i + seqlen_k - seqlen_q: the last query sees the last key (bottom-right)."""

    kind: ClassVar[str] = "causal"

    def last_key(self, q_idx: int, seqlen_q: int, seqlen_k: int) -> int:
        """The last key that query `q_idx` sees; below 0 when it sees none."""
        return min(seqlen_k - 1, q_idx + seqlen_k - seqlen_q)


Mask = Full | Causal
MASKS: dict[str, Mask] = {mask.kind: mask for mask in (Full(), Causal())}


def mask_named(mask: Mask | str | None) -> Mask | None:
    """The mask meant by an object, a name or None (full); None when nothing is meant."""
    if mask is None:
        return MASKS["full"]
    if isinstance(mask, str):
        return MASKS.get(mask)
    return mask if isinstance(mask, (Full, Causal)) else None
