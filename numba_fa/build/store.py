"""Compiled kernels kept on disk, with a layer of memory in front.

A folder holds one file an artifact, `<slug>--<arch>--<fingerprint>.kernel`, and two folders: `tmp/` for
writes under way and `quarantine/` for files that were not what their name says.

- A write goes to `tmp/`, is synced and then renamed, so a reader sees all of it or none, and a killed writer
  leaves only a file in `tmp/`, removed an hour later. Writers of one key write the same code: the last wins.
- A read checks the checksum and that the file was written for the fingerprint asked for, which stands for the
  slug and the architecture too.
- Past `max_bytes` the least recently used files go. Use is the modification time, set on every read from
  disk, because access times are off on many file systems.
- Another such folder in it, `skeletons`, holds kernels without their users' functions (`build/skeleton.py`).
- Where the folder cannot be written, artifacts live in memory and one `StoreWarning` a process says so.

cuda.core's `FileStreamProgramCache` renames and evicts alike, but names its files by hash alone, lists no
keys and gives no path to move to quarantine; importing it costs 0.2 s and the driver's bindings, even for a
listing.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba_fa import env
from numba_fa.build import fingerprint
from numba_fa.build.artifact import Artifact, CorruptArtifact
from numba_fa.errors import StoreWarning

SUFFIX = ".kernel"
QUARANTINE_LIMIT = 16
STALE_SECONDS = 3600.0
# File names end at 255 bytes: 64 are the fingerprint's, 11 the separators' and the suffix's, 20 the time's in
# quarantine, which leaves 160 for slug and architecture.
_SLUG_CHARACTERS = 140


@dataclass(frozen=True)
class Entry:
    """One stored artifact, for a person: slug as in the file name, size in bytes and last use.

    `used` is in seconds since 1970; `path` is None for an artifact held in memory only.
    """

    slug: str
    arch: str
    size: int
    used: float
    path: Path | None


class Store:
    """Artifacts by slug and architecture, up to `max_bytes`, in the folder `path` (None: in memory only).

    `root` is the package folder whose sources the keys stand for. `kind` is what is stored: `Artifact`, or another
    class with its slug, arch, size, to_bytes and from_bytes. Safe under threads and processes; no method raises for
    what the disk does.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, max_bytes: int, root: Path = fingerprint.PACKAGE, kind: Any = Artifact
    ):
        self.path = None if path is None else Path(path).absolute()
        self.max_bytes = max_bytes
        self._root = root
        self._memory = _Memory(max_bytes)
        self._folder = None if self.path is None else _Folder(self.path, max_bytes, kind)

    def get(self, slug: str, arch: str, extra: bytes = b"") -> Any:
        """The artifact stored for `slug` on `arch`, or None. `extra` as in `fingerprint.fingerprint`."""
        key = fingerprint.fingerprint(slug, arch, extra, self._root)
        artifact = self._memory.get(key)
        if artifact is None and self._folder is not None:
            artifact = self._folder.read(slug, arch, key)
            if artifact is not None:
                self._memory.put(key, artifact)
        return artifact

    def put(self, artifact: Any, extra: bytes = b"") -> None:
        """Keep `artifact` in memory, and on disk unless sources were edited since this process read them."""
        key = fingerprint.fingerprint(artifact.slug, artifact.arch, extra, self._root)
        self._memory.put(key, artifact)
        if self._folder is not None and fingerprint.sources_unchanged(self._root):
            self._folder.write(artifact, key)

    def clear(self) -> int:
        """Remove every artifact, from memory and disk, and empty the quarantine; how many artifacts went."""
        held = self._memory.clear()
        if self._folder is None:
            return held
        filed = self._folder.writable
        removed = self._folder.clear()
        return removed if filed else held

    def size(self) -> int:
        """Bytes of the artifacts stored: on disk, or in memory where no folder can be written."""
        return sum(entry.size for entry in self.entries())

    def entries(self) -> list[Entry]:
        """The artifacts on disk or, where no folder can be written, in memory; the last used first."""
        folder = self._folder
        found = folder.entries() if folder is not None and folder.writable else self._memory.entries()
        return sorted(found, key=lambda entry: entry.used, reverse=True)


def default_store() -> Store:
    """The store that the environment names now: one object for the same folder, switch and size."""
    return _store_for(env.cache_dir() if env.cache_enabled() else None, env.cache_bytes())


def skeleton_store() -> Store:
    """The one of `Skeleton`s that goes with `default_store`, in a folder in its own and an eighth of its size."""
    from numba_fa.build.skeleton import Skeleton

    path = env.cache_dir() / "skeletons" if env.cache_enabled() else None
    return _store_for(path, env.cache_bytes() // 8, Skeleton)


@lru_cache
def _store_for(path: Path | None, max_bytes: int, kind: Any = Artifact) -> Store:
    return Store(path, max_bytes, kind=kind)


class _Memory:
    """Artifacts by key, the least recently used leaving first; the last one put stays whatever its size."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[Artifact, float]] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> Artifact | None:
        with self._lock:
            if key not in self._held:
                return None
            artifact, _ = self._held.pop(key)
            self._held[key] = artifact, time.time()
            return artifact

    def put(self, key: str, artifact: Artifact) -> None:
        with self._lock:
            if key in self._held:
                self._bytes -= self._held.pop(key)[0].size
            self._held[key] = artifact, time.time()
            self._bytes += artifact.size
            while self._bytes > self._max_bytes and len(self._held) > 1:
                _, (oldest, _) = self._held.popitem(last=False)
                self._bytes -= oldest.size

    def clear(self) -> int:
        with self._lock:
            count = len(self._held)
            self._held.clear()
            self._bytes = 0
            return count

    def entries(self) -> list[Entry]:
        with self._lock:
            return [Entry(a.slug, a.arch, a.size, used, None) for a, used in self._held.values()]


class _Folder:
    """The files of a store. Every `OSError` becomes a miss or the process's one warning."""

    def __init__(self, path: Path, max_bytes: int, kind: Any):
        self._path = path
        self._kind = kind
        self._max_bytes = max_bytes
        self.writable = True
        self._refused: set[str] = set()

    def read(self, slug: str, arch: str, key: str) -> Any:
        """The artifact filed under `key`, or None; a file that holds anything else goes to quarantine."""
        file = self._file(slug, arch, key)
        if file.name in self._refused:
            return None
        try:
            artifact = self._kind.from_bytes(file.read_bytes(), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (CorruptArtifact, IsADirectoryError) as fault:
            self._quarantine(file, fault)
            return None
        except OSError as error:
            _warn_degraded(self._path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return artifact

    def write(self, artifact: Artifact, key: str) -> None:
        """File `artifact` under `key`, then evict. After one failure no other write is tried."""
        if not self.writable:
            return
        file = self._file(artifact.slug, artifact.arch, key)
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_whole(file, artifact.to_bytes(key), self._path / "tmp")
        except OSError as error:
            if file.is_file():  # a reader holds it open on Windows, or it is another user's: the same code
                return
            self.writable = False
            _warn_degraded(self._path, error)
            return
        self._refused.discard(file.name)
        self._evict()
        _remove_stale(self._path / "tmp")

    def clear(self) -> int:
        """Remove every entry, quarantined file and stale write; how many entries went."""
        removed = sum(_remove(file) for file, _ in self._listing())
        _keep_newest(self._path / "quarantine", 0)
        _remove_stale(self._path / "tmp")
        self.writable = True  # a full disk has room again
        return removed

    def entries(self) -> list[Entry]:
        """The files named like an entry, unopened, in no order."""
        found = []
        for file, stat in self._listing():
            slug, arch, _ = _parts(file.name)
            found.append(Entry(slug, arch, stat.st_size, stat.st_mtime, Path(file.path)))
        return found

    def _listing(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """Each file named like an entry; one that another process removes meanwhile is left out."""
        for file in _scan(self._path):
            if _parts(file.name):
                with contextlib.suppress(OSError):
                    yield file, file.stat()

    def _file(self, slug: str, arch: str, key: str) -> Path:
        """Where `key` is filed. Characters that some file system refuses become underscores."""
        words = re.sub(r"[^A-Za-z0-9._-]", "_", slug)[:_SLUG_CHARACTERS]
        return self._path / f"{words}--{arch}--{key}{SUFFIX}"

    def _quarantine(self, file: Path, fault: Exception) -> None:
        """Move `file` out of the way and warn; where it cannot be moved, never read it again."""
        folder = self._path / "quarantine"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            os.replace(file, folder / f"{file.name}.{time.time_ns()}")
            outcome = f"it was moved to {folder}"
        except FileNotFoundError:  # another process has moved it, and has warned
            return
        except OSError as error:
            self._refused.add(file.name)
            outcome = f"it is ignored, since it cannot be moved ({error})"
        _keep_newest(folder, QUARANTINE_LIMIT)
        message = f"{file}: {fault}; {outcome}, and the kernel will be compiled anew"
        warnings.warn(message, StoreWarning, stacklevel=4)

    def _evict(self) -> None:
        """Remove the least recently used entries until the rest fit in `max_bytes`."""
        oldest_first = sorted(self._listing(), key=lambda listed: listed[1].st_mtime_ns)
        excess = sum(stat.st_size for _, stat in oldest_first) - self._max_bytes
        for file, stat in oldest_first:
            if excess <= 0:
                return
            _remove(file)
            excess -= stat.st_size


def _write_whole(file: Path, blob: bytes, folder: Path) -> None:
    """Write `blob` to a new file in `folder`, sync it and rename it to `file`; on failure leave nothing."""
    folder.mkdir(mode=0o700, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(blob)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, file)
    except BaseException:
        _remove(name)
        raise


def _parts(name: str) -> list[str]:
    """Slug, architecture and key in an entry's file name; none in any other name."""
    parts = name.removesuffix(SUFFIX).rsplit("--", 2)
    return parts if name.endswith(SUFFIX) and len(parts) == 3 else []


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The plain files of `folder`; none where it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        yield from (file for file in found if file.is_file(follow_symlinks=False))


def _remove(file: str | os.PathLike[str]) -> bool:
    """Whether `file` was there and could be removed."""
    with contextlib.suppress(OSError):
        os.unlink(file)
        return True
    return False


def _remove_stale(folder: Path) -> None:
    """Remove the files of `folder` not written for an hour: their writers must be dead."""
    for file in _scan(folder):
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < time.time() - STALE_SECONDS:
                os.unlink(file)


def _keep_newest(folder: Path, count: int) -> None:
    """Remove all but the `count` files of `folder` moved there last, by the time that ends their names."""
    files = sorted(_scan(folder), key=lambda file: file.name.rpartition(".")[2], reverse=True)
    for file in files[count:]:
        _remove(file)


_degraded = threading.Event()


def _warn_degraded(path: Path, error: OSError) -> None:
    """Say once a process that artifacts are in memory only, and what to set."""
    if _degraded.is_set():
        return
    _degraded.set()
    warnings.warn(
        f"compiled kernels stay in memory: the folder {path} cannot be used ({error}); "
        "set NUMBA_FA_CACHE_DIR to a writable folder, or NUMBA_FA_CACHE=0 to accept this",
        StoreWarning,
        stacklevel=4,
    )
