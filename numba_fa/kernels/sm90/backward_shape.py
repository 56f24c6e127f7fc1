"""Shapes of the Hopper backward: everything that follows from a dispatch key by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from numba_fa.dispatch.key import NO_BIAS
from numba_fa.kernels.sm90.operands import Operands
from numba_fa.tile.layout import ATOM_COLUMNS, ATOM_ROW_BYTES, SWIZZLE_ALIGNMENT

# Barriers, in bytes from their start. Of two slots or consumers the second lies 8 bytes on. Ring slots hold Q first and
# dO second, each with a FULL and an EMPTY; TOLD says that the slot's message is there (`backward_scout.py`).
K_FULL, V_FULL, KV_EMPTY, DS_FULL, DS_EMPTY, DQ_FULL, DQ_EMPTY, DQ_MESSAGE = 0, 8, 16, 24, 40, 56, 72, 88
P_FULL, P_EMPTY, ORDER, ADDED, DONE, TICKET, RING = 96, 104, 112, 128, 144, 160, 176
SLOT, SECOND, EMPTY, TOLD = 40, 8, 16, 32


@dataclass(frozen=True)
class BackwardShape(Operands):
    """Sizes and shared-memory offsets, in bytes unless named otherwise.

    With block_n 128 two consumers own 64 keys each, dK and dV of them in registers, which head_dim 128 just allows
    (`backward_consumer.py`). With block_n 64 one consumer has their dV, the other their dK (`backward_split.py`). A tile
    of dQ is two parts, one a consumer: 64 queries each where block_m is 128, else some of the columns of 64 queries.
    """

    @property
    def threads(self) -> int:
        return 384

    @property
    def registers(self) -> tuple[int, int]:
        """Registers a thread of the first warpgroup and of the consumers; in all what 384 threads are launched with, 168.

        Masks and biases whose verdicts on tiles take more than the consumers can spare leave these 232.
        """
        plain = self.key.mask in ("full", "causal", "document") and not self.key.bias.startswith("t5")
        return (24, 240) if plain or self.key.widest > 192 else (40, 232)

    @property
    def split(self) -> bool:
        """Whether dV and dK are different consumers'."""
        return self.key.block_n == 64

    @property
    def asks_head(self) -> bool:
        """Whether mask or biases may ask which head a score is of."""
        return self.key.mask not in ("full", "causal") or self.key.bias not in (NO_BIAS, "sink")

    @property
    def direct(self) -> bool:
        """Whether the consumers add dQ to global memory themselves, from registers.

        Where there is no room to leave it in, and with 128 queries a tile, which ask more of shared memory (head_dim 64:
        1.04 to 1.06 times as fast; head_dim 128: 0.94 to 0.97 times; H200, 2026-11-27), but for masks with which it spills.
        """
        quicker = self.by_rows and self.key.mask in ("full", "causal")
        return self.split or self.ordered or quicker or self.key.op == "bwd_red"

    @property
    def ordered(self) -> bool:
        """Whether dQ is summed up in an order of its own, so that results are equal from run to run."""
        return self.key.op == "bwd_det"

    @property
    def by_rows(self) -> bool:
        """Whether the consumers' parts of dQ are rows of the tile, not columns."""
        return self.key.block_m == 128

    @property
    def dq_columns(self) -> tuple[int, int]:
        """Columns of each part of a tile of dQ; its rows are 64. Parts begin at atoms, or halve the only one."""
        if self.by_rows:
            return (self.key.head_dim, self.key.head_dim)
        if self.split and self.atoms > 1:
            first = ATOM_COLUMNS * (self.atoms // 2)
            return (first, self.key.head_dim - first)
        return (ATOM_COLUMNS * self.atoms // 2,) * 2

    @property
    def second_columns(self) -> int:
        """From K's first column to the first of dQ's second part, in bytes of shared memory."""
        atom, within = divmod(self.dq_columns[0], ATOM_COLUMNS)
        return atom * self.kv_atom + 2 * within

    @property
    def dq_bytes(self) -> tuple[int, int]:
        """Each part of a tile of dQ, in float32."""
        first, second = self.dq_columns
        return 256 * first, 256 * second

    @property
    def room_bytes(self) -> int:
        """A consumer's room for its part of dQ, and at the end for its dV, then dK. A split kernel has none."""
        return 0 if self.split else max(self.dq_bytes[0], max(self.atoms, self.v_atoms) * 64 * ATOM_ROW_BYTES)

    @property
    def q_bytes(self) -> int:
        """One slot of Q."""
        return self.atoms * self.q_atom

    @property
    def do_bytes(self) -> int:
        """One slot of dO."""
        return self.v_atoms * self.q_atom

    @property
    def k_bytes(self) -> int:
        return self.atoms * self.kv_atom

    @property
    def v_bytes(self) -> int:
        return self.v_atoms * self.kv_atom

    @property
    def ds_bytes(self) -> int:
        """One of two buffers for dS: keys by queries, in atoms of 64 queries."""
        return self.key.block_n * self.key.block_m * 2

    @property
    def p_bytes(self) -> int:
        """P, handed from one consumer to the other."""
        return self.ds_bytes if self.split else 0

    @property
    def row_bytes(self) -> int:
        """LSE, or delta, of one tile of queries."""
        return self.key.block_m * 4

    @property
    def v_offset(self) -> int:
        return self.k_bytes

    @property
    def q_offset(self) -> int:
        return self.v_offset + self.v_bytes

    @property
    def do_offset(self) -> int:
        return self.q_offset + self.key.stages * self.q_bytes

    @property
    def ds_offset(self) -> int:
        return self.do_offset + self.key.stages * self.do_bytes

    @property
    def dq_offset(self) -> int:
        """The consumers' rooms; a split kernel uses those of K and V at the end."""
        return self.ds_offset + 2 * self.ds_bytes

    @property
    def p_offset(self) -> int:
        return self.dq_offset + 2 * self.room_bytes

    @property
    def lse_offset(self) -> int:
        return self.p_offset + self.p_bytes

    @property
    def delta_offset(self) -> int:
        return self.lse_offset + self.key.stages * self.row_bytes

    @property
    def barrier_offset(self) -> int:
        return self.delta_offset + self.key.stages * self.row_bytes

    @property
    def message_offset(self) -> int:
        """From the barriers to the first slot's message; 16 bytes a slot."""
        return RING + SLOT * self.key.stages

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory, with what rounding its start up to the swizzle's alignment may take."""
        return SWIZZLE_ALIGNMENT + self.barrier_offset + self.message_offset + 16 * self.key.stages
