"""Shapes of the Hopper kernels for the gradients of biases' parameters, all that follows from a key by arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from numba_fa.dispatch.key import DispatchKey
from numba_fa.kernels.common.gradient_variant import bias_number, parameter_count
from numba_fa.kernels.sm90.operands import Operands
from numba_fa.tile.layout import SHARED_LIMIT, SWIZZLE_ALIGNMENT

QUERIES = 128  # a tile's, 64 for each of two warpgroups
CONSUMERS, THREADS = 256, 384  # one more warpgroup loads, the first

# Barriers, in bytes from their start. Ring slots hold K, and Q beside it, first and V, and dO, second.
Q_FULL, RING = 0, 8
SLOT, SECOND, EMPTY = 32, 8, 16
TOGETHER, APART = 1, 2  # named barriers: of all that compute; of one warpgroup, and the next of the other
_MOST_STAGES = 2


@dataclass(frozen=True)
class BiasShape(Operands):
    """Sizes and shared-memory offsets, in bytes unless named otherwise.

    key.block_m: queries a tile of the preprocess's rows; tiles here have QUERIES of them by key.block_n keys.
    """

    @property
    def resident(self) -> bool:
        """Whether a block's queries are the same at all its tiles, so that Q and dO are loaded once."""
        return self.key.op.startswith("bwd_relative")

    @property
    def queries(self) -> int:
        return QUERIES

    @property
    def q_slots(self) -> int:
        """Rooms for Q, and for dO."""
        return 1 if self.resident else self.key.stages

    @property
    def do_offset(self) -> int:
        """After Q's rooms, which are first."""
        return self.q_slots * self.atoms * self.q_atom

    @property
    def k_offset(self) -> int:
        return self.do_offset + self.q_slots * self.v_atoms * self.q_atom

    @property
    def v_offset(self) -> int:
        return self.k_offset + self.key.stages * self.atoms * self.kv_atom

    @property
    def row_bytes(self) -> int:
        """Of a row of gradients in shared memory, as `store_rows` wants it."""
        return 4 * (self.key.block_n + 8)

    @property
    def buckets(self) -> int:
        """A head's parameters, where there is a sum for each."""
        return parameter_count(self.key.bias.split("+")[bias_number(self.key)]) if self.resident else 0

    @property
    def tile_offset(self) -> int:
        """A tile of gradients in float32, unless there is one parameter, which takes none."""
        return self.v_offset + self.key.stages * self.v_atoms * self.kv_atom

    @property
    def place_offset(self) -> int:
        """Of each consumer's thread the parameter that its diagonal is of; then, of each of 8 warps, sums for all."""
        return self.tile_offset + (0 if self.buckets == 1 else QUERIES * self.row_bytes)

    @property
    def sums_offset(self) -> int:
        return self.place_offset + (4 * CONSUMERS if self.buckets > 1 else 0)

    @property
    def barrier_offset(self) -> int:
        return self.sums_offset + 32 * self.buckets

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory, with what rounding its start up to the swizzle's alignment may take."""
        return SWIZZLE_ALIGNMENT + self.barrier_offset + RING + SLOT * self.key.stages


def bias_key(key: DispatchKey, op: str) -> DispatchKey:
    """The key of the kernel `op`, which ends in a bias's number, beside the backward of `key`: the largest tile that fits.

    Gradients of a dense bias stay in registers, beside scores and products. With tiles of 128 keys most programs spill, 8 to
    36 bytes (findings 0021).
    """
    for block_n in (64, 32):
        for stages in range(_MOST_STAGES, 0, -1):
            made = replace(key, op=op, block_n=block_n, stages=stages)
            if BiasShape(made).shared_bytes <= SHARED_LIMIT:
                return made
    raise ValueError(f"{key.slug}: no tile of {op} fits shared memory")
