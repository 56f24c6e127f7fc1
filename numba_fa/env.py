"""Environment variables, each read in one place; `VARIABLES` is what `numba-fa env` prints."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

VARIABLES = {
    "NUMBA_FA_CACHE_DIR": "folder of compiled kernels (default: the platform's user cache folder)",
    "NUMBA_FA_CACHE": "0 keeps compiled kernels in memory only",
    "NUMBA_FA_CACHE_BYTES": "size at which the oldest compiled kernels are evicted (default 536870912)",
    "NUMBA_FA_TUNING": "0 ignores the tiles that `numba-fa tune` measured on this GPU",
    "NUMBA_FA_BACKEND": "force one kernel family: cpu, simt or sm90",
}


def cache_dir() -> Path:
    """The folder that holds compiled kernels."""
    chosen = os.environ.get("NUMBA_FA_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("numba_fa"))


def cache_enabled() -> bool:
    """Whether compiled kernels may be kept on disk."""
    return os.environ.get("NUMBA_FA_CACHE", "1") != "0"


def cache_bytes() -> int:
    """Bytes that the store's kernels may take; skeletons (`build/skeleton.py`) an eighth of it besides."""
    return int(os.environ.get("NUMBA_FA_CACHE_BYTES", 512 << 20))


def own_tuning() -> bool:
    """Whether tiles that the user measured come before those of the table."""
    return os.environ.get("NUMBA_FA_TUNING", "1") != "0"


def backend() -> str | None:
    """The kernel family the user insists on, or None."""
    return os.environ.get("NUMBA_FA_BACKEND") or None


def _quick_backend() -> Callable[[], object]:
    """A function of no more than a dictionary's look-up, for every call asks: something that changes when `backend` does.

    os.environ itself encodes the name, decodes the value and takes a microsecond.
    """
    try:
        look, name = os.environ._data.get, os.environ.encodekey("NUMBA_FA_BACKEND")  # type: ignore[attr-defined]
        look(name)
        return partial(look, name)
    except Exception:  # another Python's os
        return backend


backend_mark = _quick_backend()
