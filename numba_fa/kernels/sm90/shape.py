"""Shapes of the Hopper forward kernel: everything that follows from a dispatch key by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from numba_fa.dispatch.key import NO_BIAS
from numba_fa.kernels.sm90.operands import Operands
from numba_fa.tile.layout import ATOM_ROW_BYTES, SHARED_LIMIT, SWIZZLE_ALIGNMENT
from numba_fa.tile.pipeline import barrier_bytes

# Registers a thread of the producer and of the consumer warpgroups: with 128 threads each they must fit 64 Ki.
_REGISTERS = {2: (56, 224), 3: (32, 160)}


@dataclass(frozen=True)
class Shape(Operands):
    """Sizes and shared-memory offsets, all in bytes unless named otherwise, for one dispatch key."""

    @property
    def warpgroups(self) -> int:
        """Consumer warpgroups, 64 queries each."""
        return self.key.block_m // 64

    @property
    def threads(self) -> int:
        """Threads of a block: the consumers and one producer warpgroup."""
        return 128 * (self.warpgroups + 1)

    @property
    def registers(self) -> tuple[int, int]:
        """Registers a thread: (producer, consumer)."""
        return _REGISTERS[self.warpgroups]

    @property
    def pingpong(self) -> bool:
        """Whether consumers take turns at the tensor cores. Three keep them busy without."""
        return self.warpgroups == 2

    @property
    def o_atom(self) -> int:
        """From one 64-column atom of a warpgroup's output to the next."""
        return self.q_atom if self.o_in_q else 64 * ATOM_ROW_BYTES

    @property
    def o_atoms(self) -> int:
        """Atoms of a row of O that its own room holds: all; or half of them, which O then passes through in two halves.

        0: there is no such room, and O takes Q's, which costs the overlap of O's store with Q's next load.
        """
        halves = (self.v_atoms, (self.v_atoms + 1) // 2)
        fitting = [atoms for atoms in halves if self._total(1, atoms) <= SHARED_LIMIT]
        # Where Q's room does not hold a row of O there is none, and the tile does not fit.
        return fitting[0] if fitting else 0 if self.v_atoms <= self.atoms else halves[1]

    @property
    def q_bytes(self) -> int:
        """One slot of Q, of all consumers."""
        return self.atoms * self.q_atom

    @property
    def k_bytes(self) -> int:
        """One stage of K."""
        return self.atoms * self.kv_atom

    @property
    def v_bytes(self) -> int:
        """One stage of V."""
        return self.v_atoms * self.kv_atom

    @property
    def q_slots(self) -> int:
        """Slots for Q: with two, the next tile's comes under this tile.

        Consumers that take turns do that for each other: two slots made head_dim 128 slower (0.97 to 1.01), but head_dim 64,
        which has half as much to do a tile, quicker (1.03 to 1.06 at seqlen 512 and 1024, causal; H200, 2026-11-27).
        """
        alone = self.pingpong and self.atoms > 1
        return 1 if alone or self._total(2, self.v_atoms) > SHARED_LIMIT else 2

    @property
    def told(self) -> bool:
        """Whether consumers are told where a tile lies, which is quicker (1.03 at head_dim 128, 1.12 at 64, seqlen 512;
        H200, 2026-11-27) and takes registers that other masks, biases and three consumers do not leave."""
        return self.pingpong and self.key.bias == NO_BIAS and self.key.mask in ("full", "causal")

    @property
    def early(self) -> bool:
        """Whether the next tile's first product starts before this one's epilogue."""
        return self.q_slots == 2

    @property
    def hasty(self) -> bool:
        """Whether Q's room is given back with the last scores, not after their softmax: nothing else holds up the next Q."""
        return self.q_slots == 1 and 0 < self.o_atoms < self.v_atoms

    @property
    def o_in_q(self) -> bool:
        """Whether O has no room of its own and takes Q's."""
        return self.o_atoms == 0

    @property
    def held(self) -> int:
        """Held slots of the pipeline: Q's, of each consumer."""
        return self.q_slots * self.warpgroups

    @property
    def k_offset(self) -> int:
        return self.q_slots * self.q_bytes

    @property
    def v_offset(self) -> int:
        return self.k_offset + self.key.stages * self.k_bytes

    @property
    def o_offset(self) -> int:
        return 0 if self.o_in_q else self.v_offset + self.key.stages * self.v_bytes

    @property
    def barrier_offset(self) -> int:
        return self.v_offset + self.key.stages * self.v_bytes + self.o_atoms * self.q_atom

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory, with what rounding its start up to the swizzle's alignment may take."""
        return self._total(self.q_slots, self.o_atoms)

    def _total(self, slots: int, o_atoms: int) -> int:
        stages, held = self.key.stages, slots * self.warpgroups
        tiles = slots * self.q_bytes + stages * (self.k_bytes + self.v_bytes) + o_atoms * self.q_atom
        return SWIZZLE_ALIGNMENT + tiles + barrier_bytes(held, stages)
