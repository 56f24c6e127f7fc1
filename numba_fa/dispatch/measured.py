"""The user's own table of tiles: what `numba-fa tune` measured on a GPU, kept beside the compiled kernels.

One JSON file a GPU, `tuning-<name>.json`: its name, date, versions and command, and a row for each kind of call measured.
A row speaks for exactly what was measured, in either 16-bit dtype.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba_fa import env
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.tiles import Tile
from numba_fa.errors import StoreWarning

FORMAT = 1
Cell = tuple[str, int, int, str, str]


@dataclass(frozen=True)
class MeasuredRow:
    """The fastest tile of a kind of call; head_dim_v 0: as head_dim. speeds: of every tile measured, by its name in a
    slug, over the tile of before."""

    family: str
    head_dim: int
    mask: str
    bias: str
    tile: Tile
    speeds: dict[str, float] = field(default_factory=dict, hash=False)
    head_dim_v: int = 0

    @property
    def cell(self) -> Cell:
        """What it speaks for."""
        return self.family, self.head_dim, self.head_dim_v or self.head_dim, self.mask, self.bias


@dataclass(frozen=True)
class MeasuredTable:
    """What was measured on one GPU, when, with what, and by which command."""

    gpu: str
    date: str
    command: str
    versions: dict[str, str] = field(hash=False)
    rows: tuple[MeasuredRow, ...]

    def tile_for(self, key: DispatchKey) -> Tile | None:
        """The tile measured for calls like the key's."""
        cell = cell_of(key)
        return next((row.tile for row in self.rows if row.cell == cell), None)

    def joined(self, rows: Iterable[MeasuredRow]) -> tuple[MeasuredRow, ...]:
        """This table's rows with `rows` in place of those for the same cells."""
        kept = {row.cell: row for row in self.rows} | {row.cell: row for row in rows}
        return tuple(kept[cell] for cell in sorted(kept))


def cell_of(key: DispatchKey) -> Cell:
    """(family, head_dim, head_dim_v, mask, bias) of a key."""
    return key.family, key.head_dim, key.head_dim_v, key.mask, key.bias


def row_for(key: DispatchKey, tile: Tile, speeds: dict[str, float]) -> MeasuredRow:
    """The row that gives calls like the key's this tile."""
    head_dim_v = 0 if key.head_dim_v == key.head_dim else key.head_dim_v
    return MeasuredRow(key.family, key.head_dim, key.mask, key.bias, tile, speeds, head_dim_v)


def path_for(gpu: str) -> Path:
    """Where the table of a GPU of this name is kept."""
    return env.cache_dir() / f"tuning-{re.sub('[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"


def table_for(gpu: str) -> MeasuredTable | None:
    """The table of a GPU of this name, or None; read once a process."""
    return _read(path_for(gpu), gpu) if env.own_tuning() else None


def write(table: MeasuredTable) -> Path:
    """Keep a table, whole or not at all; later look-ups in this process see it."""
    path = path_for(table.gpu)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump({"format": FORMAT} | asdict(table), stream, indent=1)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _read.cache_clear()
    return path


def parse(text: str) -> MeasuredTable:
    """The table in a file's text; ValueError when it holds none."""
    try:
        found = json.loads(text)
        if found.pop("format") != FORMAT:
            raise ValueError("another format")
        rows = tuple(MeasuredRow(**row | {"tile": _tile(row["tile"])}) for row in found.pop("rows"))
        return MeasuredTable(**found, rows=rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no table of tiles: {error}") from error


@lru_cache
def _read(path: Path, gpu: str) -> MeasuredTable | None:
    try:
        table = parse(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        warnings.warn(f"{path} is ignored: {error}; `numba-fa tune` writes it anew", StoreWarning, stacklevel=2)
        return None
    return table if table.gpu == gpu else None


def _tile(values: Any) -> Tile:
    tile = Tile(*values)
    if not all(type(value) is int and value > 0 for value in tile):
        raise ValueError(f"{values} is no tile")
    return tile
