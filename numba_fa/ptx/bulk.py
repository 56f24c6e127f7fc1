"""Bulk copies of plain memory: loads that an mbarrier counts, and float32 sums into global memory.

Addresses and sizes are multiples of 16 bytes. A sum is of this thread's bulk group, as a TMA store is (`ptx/tma.py`).
"""

from numba_fa.ptx.core import Op, define

# destination in shared memory, global source, bytes, mbarrier
bulk_load = define(
    Op("bulk_load", "rlrr", "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], $2, [$3];")
)
# global destination, source in shared memory, bytes: each float32 is added where it goes
bulk_reduce_add = define(
    Op("bulk_reduce_add", "lrr", "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [$0], [$1], $2;")
)
