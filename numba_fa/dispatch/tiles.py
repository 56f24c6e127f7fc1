"""What a tile takes of a multiprocessor, by arithmetic: which tiles a family can have, and the one to start from.

A small model of what the kernels' own shapes say (`kernels/sm90/shape.py`, `kernels/simt/forward.py`), which dispatch
does not import; `tests/dispatch/test_tiles.py` holds the two together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from numba_fa.dispatch.key import DispatchKey, HeadDims

MOST_COLUMNS = 256  # the widest head that a kernel takes
HOPPER_BYTES = 232448  # shared memory that a block may use on sm_90
TURING_BYTES = 65536  # and on the oldest GPU there are kernels for

# sm90: 64 queries a consumer warpgroup; registers a thread of 2 or 3 of them, of which a thread keeps some to itself.
_REGISTERS = {128: 224, 192: 160}
_SPARE = 32
_ATOM_COLUMNS, _ATOM_ROW_BYTES, _ALIGNMENT = 64, 128, 1024
_SIDE = 16  # simt: threads along either axis of a block
_SIMT_REGISTERS = 72  # of those counted here; above it, measured, the compiler spills


class Tile(NamedTuple):
    """block_m queries by block_n keys, stages deep."""

    block_m: int
    block_n: int
    stages: int

    def __str__(self) -> str:
        return f"m{self.block_m}n{self.block_n}s{self.stages}"


def tile_of(key: DispatchKey) -> Tile:
    """The tile in a key."""
    return Tile(key.block_m, key.block_n, key.stages)


def with_tile(key: DispatchKey, tile: Tile) -> DispatchKey:
    """The key with another tile."""
    return replace(key, block_m=tile.block_m, block_n=tile.block_n, stages=tile.stages)


def shared_bytes(family: str, dims: HeadDims, tile: Tile) -> int:
    """Dynamic shared memory of a block, in bytes."""
    if family == "sm90":
        return _sm90_bytes(dims, tile, *_sm90_room(dims, tile))
    if family == "simt":
        width = _round_up(max(dims), _SIDE) + 1
        return 4 * ((tile.block_m + tile.block_n) * width + tile.block_m * (tile.block_n + 1))
    return 0


def registers(family: str, dims: HeadDims, tile: Tile) -> tuple[int, int]:
    """(registers a thread needs for scores, weights, output and itself, registers it may have)."""
    if family == "sm90":
        # 64 rows over 128 threads: half a column each in float32, and weights in 16 bits.
        return dims.head_dim_v // 2 + 3 * tile.block_n // 4 + _SPARE, _REGISTERS.get(tile.block_m, 0)
    if family == "simt":
        rows = tile.block_m // _SIDE
        return rows * (tile.block_n // _SIDE + -(-max(dims) // _SIDE) + 2) + _SPARE, _SIMT_REGISTERS
    return 0, 0


def fits(family: str, dims: HeadDims, tile: Tile, limit: int) -> bool:
    """Whether a multiprocessor of `limit` bytes of shared memory a block has room for the tile."""
    needed, allowed = registers(family, dims, tile)
    return needed <= allowed and shared_bytes(family, dims, tile) <= limit


def candidates(family: str, dims: HeadDims, limit: int) -> list[Tile]:
    """Every tile worth a measurement; none where the family has no kernel that wide."""
    if max(dims) > MOST_COLUMNS or family not in _LIMITS:
        return []
    if family == "cpu":
        return [CPU_TILE]
    return [tile for tile in _grid(family, dims, limit) if fits(family, dims, tile, limit)]


def default_tile(family: str, dims: HeadDims, limit: int = 0) -> Tile | None:
    """The tile to use unmeasured, within `limit` bytes of shared memory (0: the family's own limit); None: none fits.

    sm90: three consumers where a head is narrow, else two; up to 128 keys; a deeper ring only where O keeps room of its
    own. simt: the most scores a block.
    """
    limit = min(limit or MOST_BYTES, _LIMITS.get(family, 0)) if family != "cpu" else 0
    tiles = candidates(family, dims, limit)
    if family == "sm90":
        return max(tiles, key=lambda tile: _sm90_rank(dims, tile), default=None)
    return max(tiles, key=lambda tile: (tile.block_m * tile.block_n, tile.block_m), default=None)


CPU_TILE = Tile(128, 64, 1)
MOST_BYTES = 1 << 30
_LIMITS = {"sm90": HOPPER_BYTES, "simt": TURING_BYTES, "cpu": 0}


def _grid(family: str, dims: HeadDims, limit: int) -> list[Tile]:
    if family == "simt":
        return [Tile(m, n, 1) for m in (16, 32, 64, 128) for n in (16, 32, 64, 128)]
    found = []
    for block_m in _REGISTERS:
        for block_n in range(48, 177, 16):
            deep = [Tile(block_m, block_n, stages) for stages in (2, 3, 4)]
            possible = [tile for tile in deep if shared_bytes("sm90", dims, tile) <= limit]
            found += possible[:1] + possible[1:][-1:]
    return found


def _sm90_rank(dims: HeadDims, tile: Tile) -> tuple[int, ...]:
    queries = tile.block_m == (192 if max(dims) <= 64 else 128)
    _, o_atoms = _sm90_room(dims, tile)
    return queries, tile.block_n <= 128, tile.block_n, tile.stages if o_atoms == _atoms(dims.head_dim_v) else -tile.stages


def _sm90_room(dims: HeadDims, tile: Tile) -> tuple[int, int]:
    """(slots for Q, atoms of a row that O's own room holds: all, half or, where O takes Q's room, none)."""
    q_atoms, atoms = map(_atoms, dims)
    two = (tile.block_m == 192 or q_atoms == 1) and _sm90_bytes(dims, tile, 2, atoms) <= HOPPER_BYTES
    own = [some for some in (atoms, (atoms + 1) // 2) if _sm90_bytes(dims, tile, 1, some) <= HOPPER_BYTES]
    # Q's room must hold a row of O; else O has half a row of its own, and with that the tile does not fit.
    return 2 if two else 1, own[0] if own else 0 if q_atoms >= atoms else (atoms + 1) // 2


def _sm90_bytes(dims: HeadDims, tile: Tile, slots: int, o_atoms: int) -> int:
    q_atoms, v_atoms = map(_atoms, dims)
    atom_rows = (slots * tile.block_m + tile.stages * tile.block_n) * q_atoms + tile.stages * tile.block_n * v_atoms
    barriers = 16 * slots * (tile.block_m // 64) + (32 + 16) * tile.stages
    return _ALIGNMENT + (atom_rows + o_atoms * tile.block_m) * _ATOM_ROW_BYTES + barriers


def _atoms(head_dim: int) -> int:
    return -(-head_dim // _ATOM_COLUMNS)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
