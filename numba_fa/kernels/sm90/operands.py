"""How Q, K, V and dO lie in shared memory, alike for all Hopper kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.tile.layout import ATOM_COLUMNS, ATOM_ROW_BYTES, round_up


@dataclass(frozen=True)
class Operands:
    """64-column swizzle atoms of a key's tiles; sizes in bytes unless named otherwise."""

    key: DispatchKey

    @property
    def queries(self) -> int:
        """Rows of a tile of Q or dO."""
        return self.key.block_m

    @property
    def atoms(self) -> int:
        """Atoms side by side in a row of Q or K."""
        return round_up(self.key.head_dim, ATOM_COLUMNS) // ATOM_COLUMNS

    @property
    def v_atoms(self) -> int:
        """In a row of V, O or dO."""
        return round_up(self.key.head_dim_v, ATOM_COLUMNS) // ATOM_COLUMNS

    @property
    def q_atom(self) -> int:
        return self.queries * ATOM_ROW_BYTES

    @property
    def kv_atom(self) -> int:
        return self.key.block_n * ATOM_ROW_BYTES

    def of_both(self, make: Callable[[int], Any]) -> tuple[Any, Any]:
        """What is as wide as Q and K, and what is as wide as V and dO; one thing, compiled once, where they are equal."""
        once = cache(make)
        return once(self.key.head_dim), once(self.key.head_dim_v)
